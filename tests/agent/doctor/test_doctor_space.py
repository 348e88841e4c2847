"""Room: what the active release and its successor take, on disk and in memory."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_agent.doctor import space
from exclave_agent.doctor.gguf import read_shape
from exclave_agent.doctor.machine import Space
from exclave_agent.releases.fetch import RESERVE
from exclave_testing.doctor import Patient, model, patient, release, running, said

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("free", "result"), [(3 * GB, "ok"), (GB // 2, "warn"), (RESERVE - 1, "fail")]
)
def test_before_the_first_release(tmp_path: Path, free: int, result: str) -> None:
    who = patient(tmp_path / "home")
    who.machine.room = Space(free, 1_000_000, 2_000_000)
    (check,) = space.disk(who.site())
    assert check.result == result


@pytest.mark.parametrize(
    ("free", "here", "result"),
    [
        (5 * GB, True, "ok"),
        (3 * GB, True, "warn"),  # the successor does not fit
        (7 * GB, False, "warn"),  # what is missing fits, the successor does not
        (3 * GB, False, "fail"),  # what is missing of the active one does not
    ],
)
async def test_the_successor_counts_and_what_is_missing(
    tmp_path: Path, free: int, here: bool, result: str
) -> None:
    who = patient(tmp_path / "home")
    entry = model("m", b"weights", length=4 * GB)
    await release(who.home, entry, files=[b"weights"] if here else [])
    who.machine.room = Space(free, 1_000_000, 2_000_000)
    (check,) = space.disk(who.site())
    assert check.result == result
    assert "a successor of release 3" in check.detail


@pytest.mark.parametrize(
    ("inodes", "free", "results"),
    [(2_000, 900, {"inodes": "warn"}), (2_000, 10, {"inodes": "fail"}), (0, 0, {})],
)
def test_inodes(tmp_path: Path, inodes: int, free: int, results: dict[str, str]) -> None:
    who = patient(tmp_path / "home")
    who.machine.room = Space(9 * GB, free, inodes)
    assert said(list(space.disk(who.site()))) == {**results, "disk": "ok"}


# --- memory -------------------------------------------------------------------------------


async def _with_model(tmp_path: Path, length: int) -> Patient:
    who = patient(tmp_path / "home")
    await release(who.home, model("m", b"weights", length=length))
    return who


@pytest.mark.parametrize(
    ("length", "result"), [(10 * GB, "ok"), (13 * GB, "warn"), (17 * GB, "fail")]
)
async def test_memory_for_all_models(tmp_path: Path, length: int, result: str) -> None:
    who = await _with_model(tmp_path, length)  # 12 of 16 GB are available
    (check,) = space.memory(who.site())
    assert check.result == result


async def test_models_that_do_not_fit_together_are_loaded_by_turns(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    two = [model(name, name.encode(), length=10 * GB) for name in ("a", "b")]
    await release(who.home, *two)
    (check,) = space.memory(who.site())
    assert check.result == "warn"
    assert "by turns" in check.detail


@pytest.mark.parametrize(
    ("mib", "result"), [(0, None), (12_000, None), (4_000, "fail"), (99_000, "warn")]
)
async def test_a_budget_below_the_largest_model_or_above_the_machine(
    tmp_path: Path, mib: int, result: str | None
) -> None:
    who = await _with_model(tmp_path, 10 * GB)
    site = replace(who.site(), settings=replace(who.site().settings, ram_budget_mib=mib))
    assert said(list(space.memory(site))).get("memory budget") == result


async def test_parameters_of_the_agents_own_do_not_hide_the_engines(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    plain = model("m", b"x", runtime="llama", n_ctx=1024)
    warm = model("m", b"x", runtime="llama", n_ctx=1024, keep_warm=True, price_currency="EUR")
    assert space.model_need(who.site(), plain) == space.model_need(who.site(), warm)
    assert space.model_need(who.site(), model("far", b"x", runtime="remote")) == 0
    assert space.model_need(who.site(), model("soft", b"xyz", runtime="lora")) == 3


async def test_what_is_loaded_is_not_asked_for_twice(tmp_path: Path) -> None:
    who = await _with_model(tmp_path, 13 * GB)
    digest = model("m", b"weights").sha256
    who.status = running(models=[{"name": "m", "digest": digest, "network": "none"}])
    (check,) = space.memory(who.site())
    assert check.result == "ok"
    assert "are loaded" in check.detail


async def test_a_workers_limit_below_its_model(tmp_path: Path) -> None:
    who = await _with_model(tmp_path, 5 * GB)
    who.under_systemd(worker={"MemoryMax": str(4 * GB)})
    checks = list(space.memory(who.site()))
    assert said(checks) == {"memory limit": "fail", "memory": "ok"}
    assert "4.0 GB" in checks[0].detail
    who.under_systemd(worker={"MemoryMax": "infinity"})
    assert said(list(space.memory(who.site()))) == {"memory": "ok"}


async def test_contexts_are_counted_from_the_files_header(tmp_path: Path) -> None:
    data = _gguf(
        ("general.architecture", 8, "llama"),
        ("llama.block_count", 4, 30),
        ("llama.embedding_length", 4, 576),
        ("llama.attention.head_count", 4, 9),
        ("llama.attention.head_count_kv", 4, 3),
        ("llama.context_length", 4, 8192),
    )
    who = patient(tmp_path / "home")
    entry = model("m", data, runtime="llama", n_ctx=1024, n_parallel=4)
    await release(who.home, entry, files=[data])
    a_token = 30 * 3 * 2 * (576 // 9) * 2
    rest = len(data) + space.WORKER_BYTES
    assert space.model_need(who.site(), entry) == a_token * 1024 * 4 + rest
    default = model("m", data, runtime="llama")
    assert space.model_need(who.site(), default) == a_token * 2048 * 8 + rest


# --- the header ---------------------------------------------------------------------------


def _value(kind: int, value: object) -> bytes:
    if kind == 8:
        data = str(value).encode()
        return struct.pack("<Q", len(data)) + data
    if kind == 9:
        assert isinstance(value, list)
        return struct.pack("<IQ", 4, len(value)) + b"".join(struct.pack("<I", one) for one in value)
    return struct.pack("<I", value)


def _gguf(*pairs: tuple[str, int, object]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs))
    return head + b"".join(
        _value(8, key) + struct.pack("<I", kind) + _value(kind, value) for key, kind, value in pairs
    )


def test_a_hybrid_models_largest_layer_counts() -> None:
    shape = read_shape(
        _gguf(
            ("general.architecture", 8, "x"),
            ("x.block_count", 4, 2),
            ("x.embedding_length", 4, 8),
            ("x.attention.head_count", 4, 4),
            ("x.attention.head_count_kv", 9, [0, 2]),
            ("x.attention.key_length", 4, 16),
            ("x.attention.value_length", 4, 16),
        )
    )
    assert shape is not None
    assert (shape.token_bytes, shape.trained) == (2 * 2 * 32 * 2, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"not a model at all, just text that goes on for a while",
        _gguf(("general.architecture", 8, "x")),
        _gguf(("general.architecture", 8, "x"), ("x.block_count", 4, 2))[:-3],
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60) + b"\x00" * 4096,
        _gguf(("a", 4, 1)).replace(struct.pack("<I", 4) + struct.pack("<I", 1), b"\x63\0\0\0"),
    ],
)
def test_whatever_is_no_header_is_no_shape(data: bytes) -> None:
    assert read_shape(data) is None
