"""Genuine pieces in a wrong place: another record's values, tenant's head, or epoch's hashes."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_protocol import layout
from exclave_protocol.canonical import JsonValue, encode
from exclave_protocol.checkpoint import cosign
from exclave_protocol.disclosure import b64url, make
from exclave_protocol.errors import EvidenceError
from exclave_protocol.evidence import Report, Verdict, verify_bundle, verify_disclosure
from exclave_protocol.leaf import encode_leaf
from exclave_protocol.logcheck import Foreign
from exclave_protocol.note import SigningKey, add_signature, parse_lines, sign
from exclave_protocol.opened import make_disclosure_file, parse_opening
from exclave_testing.attacks import attack
from exclave_testing.bundles import (
    DOMAIN,
    START,
    Log,
    altered,
    bundle_of,
    honest,
    honest_logs,
    private_key,
    rezip,
    secrets,
    spec_of,
    tamper,
    unzip,
    witness_key,
    write,
)
from exclave_testing.standalone import standalone

PIN = witness_key().vkey
LOG = "logs/edge-1/e1"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Honest and whole."""
    return honest(tmp_path / "honest.zip")


def check(path: Path, verdict: Verdict, *words: str) -> Report:
    """Verify; the verdict must be this one, and the failed steps must say these words."""
    report = verify_bundle(path, witness_vkey=PIN)
    assert report.verdict is verdict, report.to_text()
    assert standalone().ask(path, PIN)["report"] == report.to_json(), "as one file it says the same"
    said = "\n".join(step.detail for step in report.steps if not step.ok)
    assert all(word in said for word in words), said
    return report


# --- disclosures --------------------------------------------------------------------------------


def opened(bundle: Path, seq: int, *disclosures: str, leaf: bytes | None = None) -> Verdict:
    """The verdict on a disclosure file that was put together by hand."""
    log = honest_logs()[0]
    value: dict[str, JsonValue] = {
        "schema": "exclave.disclosure/v1",
        "log": log.origin,
        "seq": str(seq),
        "leaf": b64url(leaf or log.leaves[seq]),
        "disclosures": list(disclosures),
    }
    path = bundle.with_name("opened.json")
    path.write_bytes(encode(value))
    return verify_disclosure(path, bundle, witness_vkey=PIN).verdict


def test_a_disclosure_of_the_record_itself(bundle: Path) -> None:
    """Without this, nothing below would prove anything."""
    prompt, context = secrets(honest_logs()[0].origin, 4)
    assert opened(bundle, 4, prompt.encoded, context.encoded) is Verdict.WITNESSED


@attack("B41")
def test_values_are_swapped_between_two_records(bundle: Path) -> None:
    origin = honest_logs()[0].origin
    ours, theirs = secrets(origin, 4)[0], secrets(origin, 6)[0]
    for seq, item in ((4, theirs), (6, ours)):
        with pytest.raises(EvidenceError, match="did not commit to this value of prompt"):
            opened(bundle, seq, item.encoded)
    # The value's own record, under the other's number.
    with pytest.raises(EvidenceError, match="log or seq are not those of its leaf"):
        opened(bundle, 4, theirs.encoded, leaf=honest_logs()[0].leaves[6])


@attack("B42")
def test_a_value_under_another_salt_or_name(bundle: Path) -> None:
    prompt, _ = secrets(honest_logs()[0].origin, 4)
    for forged in (
        make("prompt", prompt.value, bytes(32)),
        make("context", prompt.value, prompt.salt),
        make("prompt", [{"role": "user", "content": "another"}], prompt.salt),
    ):
        with pytest.raises(EvidenceError, match="did not commit"):
            opened(bundle, 4, forged.encoded)


@attack("B43")
def test_a_record_is_made_to_fit_the_value(bundle: Path) -> None:
    """With the agent's key or without it: the tree has another hash at this seq."""
    log = honest_logs()[0]
    forged = make("prompt", "whatever suits", bytes(32))
    leaf = replace(parse_opening(file_of(log, 4)).record, sd=(forged.digest,))
    assert opened(bundle, 4, forged.encoded, leaf=encode_leaf(leaf)) is Verdict.INVALID


def file_of(log: Log, seq: int) -> bytes:
    return make_disclosure_file(log.leaves[seq], [secrets(log.origin, seq)[0].encoded])


@attack("B44")
def test_a_disclosure_is_held_against_another_tenants_bundle(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "opened.json"
    path.write_bytes(file_of(Log("edge-7").fill(9), 4))
    report = verify_disclosure(path, bundle, witness_vkey=PIN)
    assert report.verdict is Verdict.INCOMPLETE
    assert "not under any checkpoint of this bundle" in report.steps[-1].detail


# --- heads --------------------------------------------------------------------------------------


@attack("B45")
def test_another_tenants_cosigned_head_is_replayed(bundle: Path, tmp_path: Path) -> None:
    """Genuine in every line: signed by its log, cosigned by the witness."""
    theirs = SigningKey(f"{DOMAIN}/other/edge-1/e1", private_key("theirs"))
    text = Log("edge-1").fill(12).checkpoint().text().replace("/acme/", "/other/")
    note = add_signature(sign(text, [theirs]), cosign(text, witness_key(), START))
    path = tamper(bundle, tmp_path / "b.zip", lambda f: f.update({f"{LOG}/checkpoint": note}))
    check(path, Verdict.INVALID, f"{LOG}/checkpoint: note: not signed by any known key")
    brought = verify_bundle(bundle, witness_vkey=PIN, checkpoints=[Foreign("theirs", note)])
    assert brought.verdict is Verdict.INCOMPLETE, "a head of a log that is not here is said to be"


@attack("B46")
def test_a_cosignature_over_another_agents_head_is_pasted_on(tmp_path: Path) -> None:
    log, other = Log("edge-1").fill(12), Log("edge-2").fill(12)
    line = cosign(other.checkpoint().text(), witness_key(), START)
    spec = spec_of(log, note=add_signature(log.signed(), line))
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, f"signature by {DOMAIN}/witness does not verify")


@attack("B47")
def test_the_time_of_the_cosignature_is_changed(tmp_path: Path) -> None:
    log = Log("edge-1").fill(12)
    line = cosign(log.checkpoint().text(), witness_key(), START)
    later = cosign(log.checkpoint().text(), witness_key(), START + 1)
    (one,), (two,) = parse_lines(line), parse_lines(later)
    mixed = replace(one, data=two.data[:8] + one.data[8:])
    spec = spec_of(log, note=add_signature(log.signed(), mixed.line()))
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "does not verify")


# --- hashes and epochs --------------------------------------------------------------------------


@attack("B48")
def test_the_hashes_of_two_epochs_are_exchanged(tmp_path: Path) -> None:
    logs = [Log("edge-1").fill(8), Log("edge-1", epoch=2).fill(8)]
    specs = [spec_of(log) for log in logs]
    swapped = [
        altered(specs[0], hashes=logs[1].hashes),
        altered(specs[1], hashes=logs[0].hashes),
    ]
    path = write(bundle_of(swapped), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "their root is not the one in the checkpoint")


@attack("B49")
def test_an_epoch_is_passed_off_as_the_one_before(tmp_path: Path) -> None:
    """Every file of epoch 2 under the names of epoch 1, and epoch 1 gone."""
    path = write(bundle_of([spec_of(Log("edge-1", epoch=2).fill(8))]), tmp_path / "e2.zip")

    def rename(files: dict[str, bytes]) -> None:
        for name in list(files):
            if "/e2/" in name or ".e2." in name:
                files[name.replace("/e2/", "/e1/").replace(".e2.", ".e1.")] = files.pop(name)
        value = json.loads(files[layout.MANIFEST])
        value["logs"][0] |= {"epoch": "1", "path": LOG, "origin": f"{DOMAIN}/acme/edge-1/e1"}
        files[layout.MANIFEST] = encode(value)

    check(tamper(path, tmp_path / "b.zip", rename), Verdict.INVALID, "not the key of")


# --- the zip ------------------------------------------------------------------------------------


@attack("B50")
def test_a_bundle_that_is_a_bomb(bundle: Path, tmp_path: Path) -> None:
    files = unzip(bundle)
    files[f"{LOG}/hashes"] = bytes(32 * 2_000_000)
    path = rezip(files, tmp_path / "bomb.zip")
    assert path.stat().st_size < 200_000
    check(path, Verdict.INVALID, "zip bomb")


@attack("B51")
def test_a_second_checkpoint_of_the_same_name(bundle: Path, tmp_path: Path) -> None:
    """Readers differ on which of two they see: nobody may see a bundle with two."""
    path = tmp_path / "twice.zip"
    path.write_bytes(bundle.read_bytes())
    with zipfile.ZipFile(path, "a") as out, pytest.warns(UserWarning, match="Duplicate"):
        out.writestr(f"{LOG}/checkpoint", Log("edge-1").fill(4).cosigned())
    check(path, Verdict.INVALID, f"{LOG}/checkpoint: stands twice")
