"""GPUs and engines: expected, there, allowed, large enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave_agent.doctor import devices, engines
from exclave_agent.doctor.machine import Stat, User
from exclave_testing.doctor import Patient, model, patient, release, running, said

SMI = "24564, 23000, 550.54.15\n"
ALLOWED = {"PrivateDevices": "no", "DeviceAllow": "char-nvidia rw", "DevicePolicy": "closed"}
VIDEO = 44


def machine(tmp_path: Path, *, cuda: bool, node: bool) -> Patient:
    who = patient(tmp_path / "home")
    who.under_systemd(worker=ALLOWED)
    who.machine.users["exclave-worker"] = User("exclave-worker", 991, frozenset({991, VIDEO}))
    if cuda:
        for path in ("/opt/exclave/runtimes/cuda", "/opt/exclave/runtimes/cuda/llama_cpp"):
            who.machine.files[path] = None
    if node:
        for path in ("/dev/nvidia0", "/dev/nvidiactl"):
            who.machine.stats[path] = Stat(0o020660, 0, VIDEO, 0)
        who.machine.commands["nvidia-smi"] = SMI
    return who


@pytest.mark.parametrize(
    ("cuda", "node", "result", "words"),
    [
        (False, False, "ok", "none"),
        (False, True, "ok", "the installed runtime does not use it"),
        (True, False, "warn", "exclave-runtime-cuda is installed, and no device node"),
        (True, True, "ok", "NVIDIA 25.8 GB (550.54.15)"),
    ],
)
def test_expected_or_not(tmp_path: Path, cuda: bool, node: bool, result: str, words: str) -> None:
    (check,) = devices.gpu(machine(tmp_path, cuda=cuda, node=node).site())
    assert check.result == result
    assert words in check.detail


def test_workers_that_are_kept_from_it(tmp_path: Path) -> None:
    who = machine(tmp_path, cuda=True, node=True)
    who.under_systemd()
    (check,) = devices.gpu(who.site())
    assert check.result == "warn"
    assert "keeps the devices from them" in check.detail
    assert "20-gpu.conf" in check.remedy


@pytest.mark.parametrize(
    ("mode", "group", "more", "result"),
    [
        (0o020660, VIDEO, "", "ok"),
        (0o020666, 0, "", "ok"),
        (0o020660, 0, "", "warn"),
        (0o020640, VIDEO, "", "warn"),
        (0o020660, 105, "render", "ok"),
    ],
)
def test_nodes_that_the_workers_user_may_open(
    tmp_path: Path, mode: int, group: int, more: str, result: str
) -> None:
    who = machine(tmp_path, cuda=True, node=True)
    who.machine.stats["/dev/nvidia0"] = Stat(mode, 0, group, 0)
    who.machine.groups["render"] = 105
    who.under_systemd(worker={**ALLOWED, "SupplementaryGroups": more})
    (check,) = devices.gpu(who.site())
    assert check.result == result
    if result == "warn":
        assert "exclave-worker may not open /dev/nvidia0" in check.detail


@pytest.mark.parametrize(("length", "result"), [(20, "ok"), (30, "warn")])
async def test_models_and_the_cards_memory(tmp_path: Path, length: int, result: str) -> None:
    who = machine(tmp_path, cuda=True, node=True)
    entry = model("m", b"weights", length=length * 10**9)
    await release(who.home, entry)
    assert said(list(devices.gpu(who.site()))) == {"gpu": "ok", "gpu memory": result}
    who.status = running(models=[{"name": "m", "digest": entry.sha256, "network": "none"}])
    assert said(list(devices.gpu(who.site())))["gpu memory"] == "ok"


def test_amd_cards_and_words_that_are_no_figures(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    folder = "/sys/class/drm/card1/device"
    who.machine.files |= {
        f"{folder}/mem_info_vram_total": b"17163091968\n",
        f"{folder}/mem_info_vram_used": b"1000\n",
    }
    who.machine.commands["nvidia-smi"] = "[N/A], [N/A], 550\nFailed to initialize NVML\n"
    (gpu,) = devices.read_gpus(who.machine)
    assert (gpu.kind, gpu.total, gpu.free) == ("AMD", 17163091968, 17163090968)


# --- engines ------------------------------------------------------------------------------


async def test_engines_that_the_release_names(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    await release(who.home, model("m", b"weights", runtime="llama"))
    (check,) = engines.runtimes(who.site())
    assert (check.result, check.detail) == ("ok", "llama, onnx")
    who.machine.modules.remove("llama_cpp")
    (check,) = engines.runtimes(who.site())
    assert (check.result, check.detail) == ("fail", "onnx; the release needs llama")
    assert "exclave-runtime-cpu" in check.remedy


def test_no_engine_before_any_release(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    who.machine.modules.clear()
    (check,) = engines.runtimes(who.site())
    assert check.result == "warn"


def test_a_folder_that_a_removed_package_left_is_no_runtime(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    who.machine.files |= {
        "/opt/exclave/runtimes/cuda": None,
        "/opt/exclave/runtimes/cpu": None,
        "/opt/exclave/runtimes/cpu/onnxruntime": None,
    }
    assert engines.installed(who.site()) == ["cpu"]
    assert engines.gpu_package(who.site()) == ""
    (check,) = engines.runtimes(who.site())
    assert check.detail == "llama, onnx (exclave-runtime-cpu)"
