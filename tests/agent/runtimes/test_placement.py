"""Parameters that are the agent's own: prices, what is kept warm, what an adapter adapts."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave_agent.errors import ModelLoadFailed
from exclave_agent.ports import ModelSpec, Price
from exclave_agent.runtimes.placement import arrange

EURO: dict[str, int | str | bool] = {
    "price_currency": "EUR",
    "price_input": "0.15",
    "price_output": "0.6",
}


def spec(name: str = "m", runtime: str = "llama", **parameters: int | str | bool) -> ModelSpec:
    return ModelSpec(name, runtime, Path("/nowhere") / name, name.ljust(64, "0"), parameters)


def test_the_worker_gets_only_what_is_its_own() -> None:
    (wanted,), remote = arrange([spec(n_ctx=64, keep_warm=True, **EURO)])
    assert wanted.load().parameters == {"n_ctx": 64}
    assert wanted.keep_warm
    assert wanted.names[0].price == Price("EUR", 150_000, 600_000)
    assert remote == []


def test_without_prices_nothing_is_known_and_free_is_a_price() -> None:
    assert arrange([spec()])[0][0].names[0].price is None
    free = {**EURO, "price_input": "0", "price_output": "0.000001"}
    assert arrange([spec(**free)])[0][0].names[0].price == Price("EUR", 0, 1)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({**EURO, "price_currency": "euro"}, "price_currency"),
        ({**EURO, "price_input": "-1"}, "price_input"),
        ({**EURO, "price_input": "cheap"}, "price_input"),
        ({**EURO, "price_input": "1e3"}, "price_input"),
        ({**EURO, "price_input": "NaN"}, "price_input"),
        ({**EURO, "price_input": " 1"}, "price_input"),
        ({**EURO, "price_output": "0.0000001"}, "price_output"),
        ({**EURO, "price_output": "1" * 30}, "price_output"),
        ({**EURO, "price_output": 3}, "price_output"),
        ({"price_input": "1", "price_output": "1"}, "price_currency"),
        ({"price_currency": "EUR", "price_input": "1"}, "price_output"),
        ({"keep_warm": "yes"}, "keep_warm"),
    ],
)
def test_what_is_wrong_is_named(parameters: dict[str, int | str | bool], names: str) -> None:
    with pytest.raises(ModelLoadFailed, match=f"model m: .*{names}"):
        arrange([spec(**parameters)])


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({}, "base"),
        ({"base": "other"}, "base: .*other"),
        ({"base": "onnx"}, "base"),
        ({"base": "m", "scale": "strong"}, "scale"),
        ({"base": "m", "scale": "1000"}, "scale"),
        ({"base": "m", "n_ctx": 64}, "n_ctx"),
        ({"base": "m", "keep_warm": True}, "keep_warm"),
    ],
)
def test_adapters_that_do_not_work_are_named(
    parameters: dict[str, int | str | bool], says: str
) -> None:
    with pytest.raises(ModelLoadFailed, match=f"model soft: .*{says}"):
        arrange([spec(), spec("onnx", "onnx"), spec("soft", "lora", **parameters)])


def test_one_adapter_under_two_names_is_loaded_once_and_has_one_scale() -> None:
    first = ModelSpec("first", "lora", Path("/a"), "ab" * 32, {"base": "m"})
    second = ModelSpec("second", "lora", Path("/a"), "ab" * 32, {"base": "m", **EURO})
    (wanted,), _ = arrange([spec(), first, second])
    assert [one.sha256 for one in wanted.load().adapters] == ["ab" * 32]
    assert [one.spec.name for one in wanted.names] == ["m", "first", "second"]
    assert wanted.names[2].price is not None
    other = ModelSpec("second", "lora", Path("/a"), "ab" * 32, {"base": "m", "scale": "2"})
    with pytest.raises(ModelLoadFailed, match="model second: scale"):
        arrange([spec(), first, other])


def test_more_adapters_than_a_worker_takes_are_refused() -> None:
    many = [spec(f"a{n}x", "lora", base="m") for n in range(17)]
    with pytest.raises(ModelLoadFailed, match="17 adapters"):
        arrange([spec(), *many])


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ModelLoadFailed, match="twice"):
        arrange([spec(), spec(runtime="onnx")])


def test_estimates_grow_with_the_file_and_the_declared_context(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(bytes(1 << 20))

    def ram(**parameters: int | str | bool) -> int:
        one = ModelSpec("m", "llama", path, "aa" * 32, parameters)
        return arrange([one])[0][0].estimate(has_gpu=False).ram

    assert ram(n_ctx=4096) > ram(n_ctx=512) > 1 << 20
    gpu = arrange([ModelSpec("m", "llama", path, "aa" * 32)])[0][0]
    assert gpu.estimate(has_gpu=True).vram > 0
    kept_off = ModelSpec("m", "llama", path, "aa" * 32, {"n_gpu_layers": 0})
    assert arrange([kept_off])[0][0].estimate(has_gpu=True).vram == 0
