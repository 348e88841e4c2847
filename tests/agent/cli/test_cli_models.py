"""`exclave-agent models`: the plan as a table and as JSON, and what `status` says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exclave_agent import cli, overview
from exclave_agent.cli import control
from exclave_agent.cli.models import for_people
from exclave_agent.cli.status import _attention
from exclave_agent.ports import MemoryPlan, Placement, RuntimeStats

MIB = 1 << 20


def placed(name: str, **fields: Any) -> Placement:
    given: dict[str, Any] = {
        "runtime": "llama",
        "sha256": "aa" * 32,
        "state": "loaded",
        "device": "cpu",
        "ram_bytes": 612 * MIB,
        "vram_bytes": 0,
        "resident_bytes": 518 * MIB,
        "keep_warm": False,
        "in_use": 1,
        "idle_seconds": 0.0,
        "reload_seconds": 0.94,
        "stats": RuntimeStats(prefix_bytes=12 * MIB),
    }
    return Placement(name, **{**given, **fields})


PLAN = MemoryPlan(
    12_040 * MIB,
    0,
    (
        placed("smollm2", keep_warm=True),
        placed(
            "fraud",
            runtime="onnx",
            state="evicted",
            ram_bytes=141 * MIB,
            resident_bytes=0,
            in_use=0,
            idle_seconds=84.2,
            reload_seconds=0.3,
            stats=RuntimeStats(),
        ),
    ),
)


def test_the_table_is_the_one_of_the_guide() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    assert f"```text\n{for_people(overview.memory(PLAN))}\n```" in guide


def test_gpus_remote_models_and_degraded_ones() -> None:
    plan = MemoryPlan(
        1000 * MIB,
        200 * MIB,
        (
            placed("slow", degraded="no GPU is there", device="cuda", vram_bytes=50 * MIB),
            placed("far", runtime="remote", state="remote", device="remote"),
        ),
    )
    shown = for_people(overview.memory(plan)).splitlines()
    assert shown[2].split() == ["far", "remote", "remote", "remote", *["-"] * 7]
    assert shown[3:] == [
        "slow is degraded: no GPU is there",
        "budget: 612 MiB of 1,000 MiB of memory, 50 MiB of 200 MiB of GPU memory",
    ]
    nothing = for_people(overview.memory(MemoryPlan(MIB, 0, ())))
    assert nothing == "no models\nbudget: 0 of 1 MiB of memory"


def test_json_and_an_agent_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = overview.memory(PLAN)
    monkeypatch.setattr(control, "status", lambda _: {"memory": memory})
    words = ["models", "--json", "--home", str(tmp_path)]
    cli.cli.main(words, standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads(json.dumps(memory))
    assert shown["models"][0]["stats"]["prefix_bytes"] == 12 * MIB
    monkeypatch.setattr(control, "status", lambda _: None)
    with pytest.raises(SystemExit) as caught:
        cli.cli.main(words, standalone_mode=False)
    assert caught.value.code == 3
    assert "no agent runs" in capsys.readouterr().err


def test_status_tells_what_is_not_as_it_should_be() -> None:
    plan = MemoryPlan(
        MIB,
        0,
        (
            placed("good"),
            placed("slow", degraded="no GPU is there"),
            placed("out", state="evicted"),
            placed("dying", state="held back"),
        ),
    )
    assert _attention(overview.memory(plan)["models"]) == [
        "slow is degraded: no GPU is there",
        "out: not loaded, comes back when asked for (exclave-agent models)",
        "dying: its worker keeps dying and is held back",
    ]
