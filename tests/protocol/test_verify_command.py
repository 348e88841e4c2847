"""`exclave-verify` as an auditor runs it: another process, no packages but cryptography."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from exclave_protocol.errors import EvidenceError
from exclave_protocol.evidence import Verdict, verify_disclosure
from exclave_protocol.opened import make_disclosure_file, parse_opening
from exclave_testing.bundles import (
    Log,
    bundle_of,
    honest,
    honest_logs,
    secrets,
    spec_of,
    tamper,
    witness_key,
    write,
)

# Refuses every import but the standard library's, cryptography's and our protocol core's.
RUN = """
import sys

ALLOWED = {"cryptography", "exclave_protocol", "_cffi_backend", "_openssl"}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in ALLOWED and root not in sys.stdlib_module_names:
            raise ImportError("refused: " + name)
        if name.startswith("exclave_protocol.pb"):
            raise ImportError("refused: " + name)
        return None


sys.meta_path.insert(0, Refuse())
from exclave_protocol.__main__ import main

code = main(sys.argv[1:])
foreign = {name.partition(".")[0] for name in sys.modules} & {
    "msgspec", "grpc", "google", "tuf", "securesystemslib", "yaml", "numpy", "click", "rich"
}
assert not foreign, foreign
sys.exit(code)
"""


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command with nothing but what the base install has."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return honest(tmp_path / "bundle.zip")


def test_an_honest_bundle(bundle: Path) -> None:
    done = command(bundle, "--witness-key", witness_key().vkey)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("verdict: WITNESSED\n")
    assert "\n 6.1  " in done.stdout
    assert "witness key pinned by you" in done.stdout


def test_json(bundle: Path) -> None:
    done = command(bundle, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["exit_code"], report["verdict"]) == (0, 0, "WITNESSED")
    assert all(step["ok"] for step in report["steps"])
    assert any("witness key from the bundle" in line for line in report["trust"])


def test_every_verdict_has_its_exit_code(bundle: Path, tmp_path: Path) -> None:
    log = Log("edge-1").fill(6)
    bad = tamper(bundle, tmp_path / "bad.zip", lambda f: f.update({"VERIFY.md": b"x"}))
    fork = spec_of(log, seen=[Log("edge-1", epoch=1).fill(2).signed()])
    other = Log("edge-1").fill(1)
    other.leaves[0] = other.leaves[0].replace(b'"version":"1"', b'"version":"2"')
    diverged = write(bundle_of([spec_of(log, seen=[other.signed()])]), tmp_path / "fork.zip")
    alone = write(bundle_of([spec_of(log, note=log.signed())]), tmp_path / "alone.zip")
    short = write(bundle_of([spec_of(log, end=6, witnessed=4)]), tmp_path / "short.zip")
    agreeing = write(bundle_of([fork]), tmp_path / "agreeing.zip")
    codes = [command(path).returncode for path in (agreeing, bad, diverged, alone, short)]
    assert codes == [0, 1, 3, 4, 5]
    assert [verdict.exit_code for verdict in Verdict] == [1, 3, 4, 5, 0]


def test_keys_and_checkpoints_from_files(bundle: Path, tmp_path: Path) -> None:
    log = honest_logs()[0]
    (tmp_path / "witness.vkey").write_text(witness_key().vkey + "\n")
    (tmp_path / "tenant.note").write_bytes(log.signed(5))
    done = command(
        bundle,
        "--witness-key",
        f"@{tmp_path / 'witness.vkey'}",
        "--log-key",
        log.vkey,
        "--checkpoint",
        tmp_path / "tenant.note",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"key of {log.origin} pinned by you" in done.stdout
    assert "1 further signed checkpoints agree" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: bundle"),
        (["missing.zip"], "missing.zip: No such file"),
        (["BUNDLE", "--witness-key", "nonsense"], "pinned key: vkey"),
        (["BUNDLE", "--log-key", "@missing.vkey"], "missing.vkey: No such file"),
        (["BUNDLE", "--disclosure", "missing.json"], "missing.json: No such file"),
        (["BUNDLE", "--unknown"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_two(bundle: Path, arguments: list[str], message: str) -> None:
    done = command(*[bundle if item == "BUNDLE" else item for item in arguments])
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_the_exit_codes() -> None:
    done = command("--help")
    assert done.returncode == 0
    for verdict in Verdict:
        assert f"  {verdict.exit_code}  {verdict}" in done.stdout


# --- disclosures --------------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """The prompt of seq 2, and nothing else."""
    log = honest_logs()[0]
    path = tmp_path / "opened.json"
    prompt, _ = secrets(log.origin, 2)
    path.write_bytes(make_disclosure_file(log.leaves[2], [prompt.encoded]))
    return path


def test_one_field_is_shown_and_no_other(bundle: Path, opened: Path) -> None:
    done = command(bundle, "--disclosure", opened)
    assert done.returncode == 0, done.stdout
    assert "the secret of seq 2" in done.stdout
    assert "1 further fields of this record stay closed" in done.stdout
    _, context = secrets(honest_logs()[0].origin, 2)
    assert context.encoded not in opened.read_text()


def test_a_value_that_the_record_never_committed_to(bundle: Path, opened: Path) -> None:
    log = honest_logs()[0]
    other, _ = secrets(log.origin, 4)
    value = json.loads(opened.read_text())
    value["disclosures"] = [other.encoded]
    opened.write_text(json.dumps(value, separators=(",", ":"), sort_keys=True))
    done = command(bundle, "--disclosure", opened)
    assert done.returncode == 1
    assert "did not commit to this value of prompt" in done.stderr
    with pytest.raises(EvidenceError, match="did not commit"):
        make_disclosure_file(log.leaves[2], [other.encoded])


def test_a_record_that_the_tree_does_not_hold(bundle: Path, tmp_path: Path) -> None:
    log = Log("edge-1", seed="other").fill(3)
    prompt, _ = secrets(log.origin, 2)
    path = tmp_path / "forged.json"
    path.write_bytes(make_disclosure_file(log.leaves[2], [prompt.encoded]))
    report = verify_disclosure(path, bundle)
    assert report.verdict is Verdict.INVALID
    assert "the bundle's tree holds another record there" in report.steps[-1].detail


def test_a_record_beyond_the_bundle(bundle: Path, tmp_path: Path) -> None:
    log = Log("edge-1").fill(40)
    prompt, _ = secrets(log.origin, 38)
    path = tmp_path / "late.json"
    path.write_bytes(make_disclosure_file(log.leaves[38], [prompt.encoded]))
    assert verify_disclosure(path, bundle).verdict is Verdict.INCOMPLETE


def test_a_record_outside_the_range_is_under_the_tree_all_the_same(tmp_path: Path) -> None:
    log = Log("edge-1").fill(12)
    path, file = tmp_path / "b.zip", tmp_path / "o.json"
    write(bundle_of([spec_of(log, first=0, end=1)]), path)
    prompt, context = secrets(log.origin, 8)
    file.write_bytes(make_disclosure_file(log.leaves[8], [context.encoded, prompt.encoded]))
    step = verify_disclosure(file, path).steps[-1]
    assert step.ok
    assert "context = []" in step.detail


def test_a_disclosure_of_an_altered_bundle_is_worth_nothing(
    bundle: Path, opened: Path, tmp_path: Path
) -> None:
    bad = tamper(bundle, tmp_path / "bad.zip", lambda f: f.update({"VERIFY.md": b"x"}))
    assert verify_disclosure(opened, bad).verdict is Verdict.INVALID
    unreadable = tmp_path / "unreadable.zip"
    unreadable.write_bytes(b"x")
    assert verify_disclosure(opened, unreadable).verdict is Verdict.INVALID


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "exclave.disclosure/v2"},
        {"seq": "3"},
        {"log": "other"},
        {"leaf": "!"},
        {"leaf": "AAAA"},
        {"leaf": "A" * 200_000},
        {"disclosures": []},
        {"disclosures": {}},
        {"disclosures": [1]},
        {"disclosures": ["!"]},
        {"extra": 1},
    ],
)
def test_malformed_disclosure_files_are_refused(opened: Path, change: dict[str, object]) -> None:
    value = json.loads(opened.read_text()) | change
    with pytest.raises(EvidenceError):
        parse_opening(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())


def test_a_field_opened_twice_or_none_is_refused() -> None:
    log = honest_logs()[0]
    prompt, _ = secrets(log.origin, 2)
    for encoded in ([], [prompt.encoded, prompt.encoded]):
        with pytest.raises(EvidenceError, match="opens nothing, or one field twice"):
            make_disclosure_file(log.leaves[2], encoded)
