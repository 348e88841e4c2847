"""Link: the only room that speaks gRPC; everything else sees ports and typed errors.

Modules import grpc at their top and are themselves imported by `run` and `join` only, so that
`--help` stays fast.
"""
