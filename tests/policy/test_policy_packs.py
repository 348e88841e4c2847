"""The shipped packs: every case passes, every rule is reached, the classifier is what it says."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exclave_policy.compile import compile_pack
from exclave_policy.pack import combine, encode, load_directory, unpack
from exclave_policy.workbench.cases import run_cases
from exclave_policy.workbench.lint import lint
from exclave_testing.policies import ask

PACKS = Path(__file__).parents[2] / "policies" / "packs"
NAMES = sorted(path.name for path in PACKS.iterdir() if path.is_dir())
FRAUD = PACKS / "fraud"
PREFIX = {
    "customer-support": "support",
    "eu-ai-act-high-risk": "aia",
    "gdpr-automated-decisions": "gdpr",
    "hipaa-minimum-necessary": "hipaa",
    "industrial-control": "ics",
    "retail-returns": "returns",
}
"""Of rule ids, where it is not the pack's name: of the packs of one use case."""


@pytest.mark.parametrize("name", NAMES)
def test_every_case_passes_and_every_rule_is_reached(name: str) -> None:
    pack = load_directory(PACKS / name)
    assert pack.name == name
    report = run_cases(unpack(encode(pack)))
    assert report.complete, str(report)
    assert (report.missed, report.unguarded) == ((), ()), "nor a branch or a guard left out"
    assert lint(compile_pack(pack)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_has_a_place_for_everything(name: str) -> None:
    files = load_directory(PACKS / name).files
    if name in PREFIX:
        for folder in ("policies/", "prompts/", "schemas/", "workflows/"):
            assert any(path.startswith(folder) for path in files), folder


@pytest.mark.parametrize("name", NAMES)
def test_a_packs_page_names_every_rule_and_document(name: str) -> None:
    pack = load_directory(PACKS / name)
    policy, page = compile_pack(pack), pack.files["README.md"]
    named = [rule.id for rule in policy.rules] if name in PREFIX else []
    named += [*policy.validators, *policy.redactions, *policy.approvals]
    if policy.retention is not None:
        named.append(policy.retention.name)
    assert [each for each in named if f"`{each}`" not in page] == []
    assert "complies" not in page and "compliant" not in page


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_says_what_it_is(name: str) -> None:
    pack = load_directory(PACKS / name)
    assert pack.files["README.md"].startswith(f"# {name}\n")
    assert all(rule.description for rule in compile_pack(pack).rules)
    prefix = PREFIX.get(name, name)
    assert all(rule.id.startswith(f"{prefix}-") for rule in compile_pack(pack).rules)


def test_a_change_to_a_process_waits_for_two_others() -> None:
    approval = compile_pack(load_directory(PACKS / "industrial-control")).approvals[
        "ics-two-people"
    ]
    assert (approval.count, approval.separate) == (2, True)
    assert approval.roles == {"engineer", "safety-officer"}


@pytest.mark.parametrize("name", NAMES)
def test_whoever_asked_approves_nothing(name: str) -> None:
    assert all(
        each.separate for each in compile_pack(load_directory(PACKS / name)).approvals.values()
    )


def test_the_packs_combine_and_every_case_still_passes() -> None:
    both = combine([load_directory(PACKS / "starter"), load_directory(FRAUD)], "acme")
    assert run_cases(both).complete, str(run_cases(both))
    policy = compile_pack(both)
    assert policy.evaluate(ask(model="smollm2")).rule == "starter-analyst-text"
    assert policy.evaluate(ask("infer", "fraud")).rule == "fraud-score"
    assert policy.evaluate(ask("chat", "fraud")).rule == "fraud-not-a-language-model"
    assert not policy.evaluate(ask("infer", "fraud", data_class="restricted")).allowed


# --- the classifier ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two trainings in processes of their own, with different hash seeds."""
    pytest.importorskip("sklearn", reason="the learn extra is not installed")
    folders = tuple(tmp_path_factory.mktemp("fraud") for _ in range(2))
    for seed, folder in enumerate(folders, 1):
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        command = [sys.executable, str(FRAUD / "train.py"), str(folder)]
        subprocess.run(command, check=True, timeout=100, env=environment)
    return folders[0], folders[1]


def test_training_gives_the_same_bytes_again(trained: tuple[Path, Path]) -> None:
    for name in ("model.onnx", "model.json"):
        first, second = ((folder / name).read_bytes() for folder in trained)
        assert first == second


def test_the_card_tells_the_truth(trained: tuple[Path, Path]) -> None:
    card = json.loads((trained[0] / "model.json").read_text())
    assert card["sha256"] == hashlib.sha256((trained[0] / "model.onnx").read_bytes()).hexdigest()
    assert card["dataset"]["licence"] == "CC-BY-4.0"
    readme = (FRAUD / "README.md").read_text()
    assert card["dataset"]["doi"] in readme
    assert "CC BY 4.0" in readme
    for figure in ("accuracy", "precision", "recall", "roc_auc"):
        assert f"{float(card['held_out'][figure]):.3f}" in readme
    assert float(card["held_out"]["accuracy"]) > 0.9


def rows_of_the_data() -> dict[tuple[float, ...], set[int]]:
    """Labels by feature vector, read here without train.py's own reader."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    (path,) = (base / "exclave" / "data").glob("river-*-phishing.csv.gz")
    text = gzip.decompress(path.read_bytes()).decode()
    rows: dict[tuple[float, ...], set[int]] = {}
    for *features, label in list(csv.reader(io.StringIO(text)))[1:]:
        rows.setdefault(tuple(map(float, features)), set()).add(int(label))
    return rows


def session(path: Path) -> Any:
    """The model in onnxruntime, its telemetry off."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_the_model_has_the_inputs_and_outputs_of_its_page(trained: tuple[Path, Path]) -> None:
    model = session(trained[0] / "model.onnx")
    tensors = [*model.get_inputs(), *model.get_outputs()]
    assert [(t.name, t.type, t.shape) for t in tensors] == [
        ("features", "tensor(float)", [None, 9]),
        ("label", "tensor(int64)", [None]),
        ("probabilities", "tensor(float)", [None, 2]),
    ]


def test_the_fixtures_are_held_out_rows_that_the_model_mostly_gets_right(
    trained: tuple[Path, Path],
) -> None:
    import numpy as np

    rows = json.loads((FRAUD / "fixtures.json").read_text())["rows"]
    data = rows_of_the_data()
    sys.path.insert(0, str(FRAUD))
    try:
        import train
    finally:
        sys.path.remove(str(FRAUD))
    assert all(train.held_out(row["features"]) for row in rows)
    assert all(data[tuple(row["features"])] == {row["label"]} for row in rows)
    features = np.array([row["features"] for row in rows], dtype=np.float32)
    label, probabilities = session(trained[0] / "model.onnx").run(None, {"features": features})
    right = sum(int(a) == row["label"] for a, row in zip(label, rows, strict=True))
    assert right >= 9
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
