"""Models for tests: the real language model (its absence is an error, never a skip), tiny ONNX."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_path() -> Path:
    """$EXCLAVE_TEST_GGUF, else the user's cache. Raises: FileNotFoundError saying how to get it."""
    named = os.environ.get("EXCLAVE_TEST_GGUF")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = (
        Path(named) if named else Path(cache).expanduser() / "exclave" / "models" / SMOLLM2
    ).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `make test`, which fetches it")
    return path


def sha256_of(path: Path) -> str:
    """The file's digest, as a release would name it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_onnx(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    constants: Sequence[Any] = (),
) -> Path:
    """An ONNX file of `nodes`; signatures are name -> (element type, shape)."""
    import onnx

    def values(signature: Mapping[str, tuple[int, Sequence[int | str]]]) -> list[Any]:
        return [
            onnx.helper.make_tensor_value_info(name, kind, list(shape))
            for name, (kind, shape) in signature.items()
        ]

    graph = onnx.helper.make_graph(
        list(nodes), "test", values(inputs), values(outputs), list(constants)
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def double_and_total_onnx(path: Path) -> Path:
    """x FP32 [n, 4] -> y = 2x [n, 4], total = the sum of each row [n, 1]."""
    import onnx

    floats = onnx.TensorProto.FLOAT
    return write_onnx(
        path,
        [
            onnx.helper.make_node("Add", ["x", "x"], ["y"]),
            onnx.helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1),
        ],
        {"x": (floats, ["n", 4])},
        {"y": (floats, ["n", 4]), "total": (floats, ["n", 1])},
        [onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])],
    )
