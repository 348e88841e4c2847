"""docs/errors.md: every item of the bad-input list names a test, and that test exists."""

from __future__ import annotations

import re

from exclave_testing.processes import ROOT

LISTED = [
    "unknown token",
    "reused token",
    "expired token",
    "certificate of another tenant",
    "banned agent",
    "unsigned release",
    "under-signed release",
    "expired release metadata",
    "rolled-back release",
    "tampered release",
    "truncated model file",
    "GGUF that crashes the loader",
    "unknown model",
    "bad JSON",
    "too many tokens",
    "no key",
    "wrong role",
    "unknown parameter",
    "not UTF-8",
    "10 MB",
    "negative and huge limits",
    "contradictory schema",
    "grammar that never terminates",
    "hostile grammar",
    "never reads",
    "thousand half-open connections",
    "full disk",
    "database file that is not ours",
    "clock stepped back",
    "leaf altered on disk",
    "lies about the tree size",
    "YAML bomb",
    "nested 1,000 deep",
    "run for seconds",
    "small stack",
    "look-alikes",
    "regular expression that explodes",
    "cases that test nothing",
]


def test_every_bad_input_has_a_test_that_names_it() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| `(tests/[^`:]+)::(\w+)` \|$", page, re.MULTILINE)
    for item in LISTED:
        assert any(item in what for what, _, _ in rows), f"docs/errors.md lacks: {item}"
    for what, file, test in rows:
        text = (ROOT / file).read_text()
        assert f"def {test}(" in text, f"{what}: {file} has no {test}"


def test_every_promise_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text()
    named = re.findall(r"`(tests/[\w/.]+?)(?:::(\w+))?`", page)
    assert len(named) >= 6, "six promises, each with its tests"
    for file, test in named:
        place = ROOT / file
        assert place.exists(), f"the threat model names {file}"
        assert not test or f"def {test}(" in place.read_text(), f"{file} has no {test}"
