"""Runtimes: models in worker processes, without network, one frame per decode step.

The agent's process imports `supervisor` and `frames`; the engines (llama_cpp, onnxruntime,
numpy) are imported by `worker` alone, in its own process.
"""
