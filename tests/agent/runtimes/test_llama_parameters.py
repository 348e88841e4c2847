"""The parameters that a manifest may give a GGUF model, and the page that explains them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from exclave_agent.runtimes.parameters import LlamaParameters, OnnxParameters, read_parameters

PAGE = Path(__file__).parents[3] / "docs" / "runtimes.md"
LLAMA, _, ONNX = PAGE.read_text(encoding="utf-8").partition("\n## ONNX models")


def test_the_page_lists_each_parameter_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| ", LLAMA, re.MULTILINE)
    assert {name: json.loads(value) for name, value in rows} == msgspec.structs.asdict(
        LlamaParameters()
    )


def test_the_page_lists_those_of_onnx_models_too() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| ", ONNX, re.MULTILINE)
    assert {name: json.loads(value) for name, value in rows} == msgspec.structs.asdict(
        OnnxParameters()
    )


def test_the_page_gives_the_bounds() -> None:
    text = LLAMA
    for field in msgspec.json.schema(LlamaParameters)["$defs"]["LlamaParameters"][
        "properties"
    ].items():
        name, schema = field
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        if "maximum" in schema:
            bounds = rf"(; {schema['minimum']} to {schema['maximum']}\.)"
            assert re.search(bounds, row), f"{name}: {schema['minimum']} to {schema['maximum']}"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"park_mib": -2}, "park_mib"),
        ({"batch_share": 0}, "batch_share"),
        ({"draft_tokens": 33}, "draft_tokens"),
        ({"flash_attn": "maybe"}, "flash_attn"),
        ({"cache_type": "q4"}, "cache_type"),
        ({"prefix_seconds": "long"}, "prefix_seconds"),
        ({"expect_gpu": 1}, "expect_gpu"),
    ],
)
def test_a_value_out_of_bounds_is_named(given: dict[str, int | str | bool], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        read_parameters(LlamaParameters, given)
