"""Tensors of the wire as arrays of the model, and back: views over the same bytes, not copies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import LoadError, Refused

_TYPES: dict[str, tuple[str, Any]] = {
    "tensor(bool)": ("BOOL", np.dtype("?")),
    "tensor(uint8)": ("UINT8", np.dtype("u1")),
    "tensor(uint16)": ("UINT16", np.dtype("<u2")),
    "tensor(uint32)": ("UINT32", np.dtype("<u4")),
    "tensor(uint64)": ("UINT64", np.dtype("<u8")),
    "tensor(int8)": ("INT8", np.dtype("i1")),
    "tensor(int16)": ("INT16", np.dtype("<i2")),
    "tensor(int32)": ("INT32", np.dtype("<i4")),
    "tensor(int64)": ("INT64", np.dtype("<i8")),
    "tensor(float16)": ("FP16", np.dtype("<f2")),
    "tensor(float)": ("FP32", np.dtype("<f4")),
    "tensor(double)": ("FP64", np.dtype("<f8")),
    "tensor(string)": ("BYTES", np.dtype(object)),
}
"""onnxruntime's names -> Open Inference Protocol datatype, numpy dtype."""

_DTYPES = dict(_TYPES.values())

Array = NDArray[Any]


def signature(one: Any) -> frames.SignatureFrame:
    """An input or output as onnxruntime describes it. Raises: LoadError."""
    known = _TYPES.get(one.type)
    if known is None:
        raise LoadError(f"{one.name}: {one.type} has no Open Inference Protocol datatype")
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in one.shape]
    return frames.SignatureFrame(one.name, known[0], shape)


def to_array(tensor: frames.TensorFrame, expected: frames.SignatureFrame) -> Array:
    """A view of the request's bytes as the model wants them.

    Raises: Refused naming the input whose datatype, shape or size is not the signature's.
    """
    where = f"inputs.{tensor.name}"
    if tensor.datatype != expected.datatype:
        raise Refused(
            "invalid_value",
            f"{where}: datatype {tensor.datatype}, the model wants {expected.datatype}",
            param=where,
        )
    if not _fits(tensor.shape, expected.shape):
        raise Refused(
            "invalid_value",
            f"{where}: shape {list(tensor.shape)}, the model wants {list(expected.shape)} "
            "(-1: any size)",
            param=where,
        )
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return _strings(tensor.data, count, where).reshape(tensor.shape)
    dtype = _DTYPES[tensor.datatype]
    if len(tensor.data) != count * dtype.itemsize:
        raise Refused(
            "invalid_value",
            f"{where}: {len(tensor.data)} bytes, shape {list(tensor.shape)} of "
            f"{tensor.datatype} takes {count * dtype.itemsize}",
            param=where,
        )
    if tensor.datatype == "BOOL" and (np.frombuffer(tensor.data, dtype=np.uint8) > 1).any():
        raise Refused("invalid_value", f"{where}: a BOOL is neither 0 nor 1", param=where)
    return np.ndarray(tensor.shape, dtype, tensor.data)


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    if len(shape) != len(wanted):
        return False
    # A loop: this runs for every request, and a generator costs more than all of the rest.
    for size, want in zip(shape, wanted, strict=True):  # noqa: SIM110
        if want not in (-1, size):
            return False
    return True


def _strings(data: memoryview, count: int, where: str) -> Array:
    """BYTES: each element is its length (u32, little-endian) and its UTF-8."""
    values: list[str] = []
    at = 0
    try:
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            raw = bytes(data[at + 4 : at + 4 + size])
            if at + 4 > len(data) or len(raw) != size:
                raise Refused("invalid_value", f"{where}: a BYTES element is cut", param=where)
            values.append(raw.decode("utf-8"))
            at += 4 + size
    except UnicodeDecodeError:
        raise Refused(
            "invalid_value", f"{where}: a BYTES element is not UTF-8", param=where
        ) from None
    if len(values) != count:
        raise Refused(
            "invalid_value",
            f"{where}: {len(values)} BYTES elements, the shape takes {count}",
            param=where,
        )
    array = np.empty(count, dtype=object)
    array[:] = values
    return array


def to_tensor(name: str, datatype: str, array: Array) -> frames.TensorFrame:
    """An output for the wire: little-endian, row-major; a view of the array where it is that."""
    return split(name, datatype, array, [len(array) if array.ndim else 1])[0]


def split(name: str, datatype: str, array: Array, rows: Sequence[int]) -> list[frames.TensorFrame]:
    """An output of several requests, cut into each one's `rows`: views, not copies."""
    cut = _cut_bytes if datatype == "BYTES" else _cut
    inner = list(array.shape[1:])
    shapes = [[count, *inner] for count in rows] if array.ndim else [[]]
    parts = cut(array, datatype, rows)
    return [
        frames.TensorFrame(name, datatype, shape, data)
        for shape, data in zip(shapes, parts, strict=True)
    ]


def _cut(array: Array, datatype: str, rows: Sequence[int]) -> Iterator[memoryview]:
    flat = np.ascontiguousarray(array, dtype=_DTYPES[datatype]).reshape(-1).view(np.uint8).data
    # One view of the whole is cut: an array for each request would cost more than its row.
    total = sum(rows)
    width = len(flat) // total if total else 0
    at = 0
    for count in rows:
        end = at + count * width
        yield flat[at:end]
        at = end


def _cut_bytes(array: Array, _: str, rows: Sequence[int]) -> Iterator[memoryview]:
    values = array.reshape(-1)
    total = sum(rows)
    width = len(values) // total if total else 0
    at = 0
    for count in rows:
        end = at + count * width
        encoded = [_bytes(value) for value in values[at:end]]
        yield memoryview(b"".join(len(raw).to_bytes(4, "little") + raw for raw in encoded))
        at = end


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8")
