"""Whether this machine and its engines have a CUDA device, and the reason where not."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def no_cuda() -> str:
    """Why there is no CUDA device here; "": there is one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver: libcuda.so.1 is not there"
    count = ctypes.c_int()
    if (code := driver.cuInit(0)) != 0:
        return f"the NVIDIA driver does not start: cuInit answers {code}"
    driver.cuDeviceGetCount(ctypes.byref(count))
    return "" if count.value else "the NVIDIA driver knows no device"


@cache
def no_cuda_llama() -> str:
    """Why llama.cpp cannot use CUDA here; "": it can."""
    if reason := no_cuda():
        return reason
    from llama_cpp import llama_cpp

    if not llama_cpp.llama_supports_gpu_offload():
        return "llama-cpp-python is built without CUDA: packaging/build_llama_wheel.py --cuda"
    return ""


@cache
def no_cuda_onnx() -> str:
    """Why onnxruntime cannot use CUDA here; "": it can."""
    if reason := no_cuda():
        return reason
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "onnxruntime is the CPU's: install onnxruntime-gpu"
    return ""
