"""The gRPC services: every request enters here and every error leaves through one table."""
