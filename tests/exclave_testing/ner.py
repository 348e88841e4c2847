"""A small real model that labels words: a list of names, as an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def gazetteer_onnx(path: Path, labels: Mapping[str, str]) -> Path:
    """`words` BYTES [n] -> `labels` BYTES [n]: each word's own label, "O" for all others."""
    import onnx

    text = onnx.TensorProto.STRING
    node = onnx.helper.make_node(
        "LabelEncoder",
        ["words"],
        ["labels"],
        domain="ai.onnx.ml",
        keys_strings=list(labels),
        values_strings=list(labels.values()),
        default_string="O",
    )
    graph = onnx.helper.make_graph(
        [node],
        "gazetteer",
        [onnx.helper.make_tensor_value_info("words", text, ["n"])],
        [onnx.helper.make_tensor_value_info("labels", text, ["n"])],
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 2)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
