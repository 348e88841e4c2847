"""What a forger may do to a bundle, one attack a test, each with the verdict it must get.

The forger holds the zip and rewrites SHA256SUMS with what he changes; where a test says so he
also holds the agent's key, or the coordinator's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_protocol import layout
from exclave_protocol.bundle import LogSpec
from exclave_protocol.canonical import JsonValue, encode
from exclave_protocol.checkpoint import CosignerKey, cosign, sign_checkpoint
from exclave_protocol.epoch import link
from exclave_protocol.evidence import Report, Verdict, verify_bundle
from exclave_protocol.leaf import LeafType
from exclave_protocol.logcheck import Foreign
from exclave_protocol.note import SigningKey, TermKey, add_signature, split_note
from exclave_testing.attacks import attack
from exclave_testing.bundles import (
    DOMAIN,
    START,
    STEP,
    Log,
    altered,
    bundle_of,
    honest,
    honest_logs,
    private_key,
    rezip,
    spec_of,
    tamper,
    unzip,
    witness_key,
    write,
)
from exclave_testing.standalone import standalone

PIN = witness_key().vkey
LOG = "logs/edge-1/e1"
ORIGIN = f"{DOMAIN}/acme/edge-1/e1"
RECORDS = f"{LOG}/records/000000000000.jsonl"

Files = dict[str, bytes]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Honest and whole."""
    return honest(tmp_path / "honest.zip")


def said(report: Report) -> str:
    """Everything the failed steps say."""
    return "\n".join(step.detail for step in report.steps if not step.ok)


def check(path: Path, verdict: Verdict, *words: str, pin: str | None = PIN) -> Report:
    """Verify; the verdict must be this one, and the failed steps must say these words."""
    report = verify_bundle(path, witness_vkey=pin)
    assert report.verdict is verdict, report.to_text()
    assert standalone().ask(path, pin)["report"] == report.to_json(), "as one file it says the same"
    for word in words:
        assert word in said(report)
    return report


def test_the_honest_bundle_is_witnessed(bundle: Path) -> None:
    assert check(bundle, Verdict.WITNESSED).verdict.exit_code == 0


# --- one byte, in every kind of file ----------------------------------------------------

KINDS = [
    layout.MANIFEST,
    layout.SUMS,
    layout.BY_HAND,
    layout.COMPLETENESS,
    layout.WITNESS_KEY,
    "keys/edge-1.e1.vkey",
    "keys/_operators.e1.vkey",
    f"{LOG}/checkpoint",
    f"{LOG}/hashes",
    RECORDS,
    "logs/edge-2/e2/records/000000000000.jsonl",
    "operators/e1/checkpoint",
    "operators/e1/hashes",
    "operators/e1/records/000000000000.jsonl",
]


def flip(data: bytes, place: int) -> bytes:
    """One bit changed."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@attack("B1")
@pytest.mark.parametrize("resum", [False, True], ids=["accident", "forger"])
@pytest.mark.parametrize("where", [0.0, 0.4, 0.999], ids=["start", "middle", "end"])
@pytest.mark.parametrize("name", KINDS)
def test_one_byte_flipped(
    bundle: Path, tmp_path: Path, name: str, where: float, resum: bool
) -> None:
    def change(files: Files) -> None:
        files[name] = flip(files[name], int(where * len(files[name])))

    if name == layout.SUMS and resum:
        return  # the forger's new SHA256SUMS is the honest one
    path = tamper(bundle, tmp_path / "bad.zip", change, resum=resum)
    # A flip in SHA256SUMS shows at the file whose line it hit.
    check(path, Verdict.INVALID, "" if name == layout.SUMS else name)


def test_a_flipped_registration_is_found_by_its_sum(bundle: Path, tmp_path: Path) -> None:
    name = "logs/edge-1/registration.json"
    path = tamper(
        bundle,
        tmp_path / "bad.zip",
        lambda files: files.update({name: flip(files[name], 3)}),
        resum=False,
    )
    check(path, Verdict.INVALID, name)


def test_a_byte_flipped_inside_the_zip_is_located(bundle: Path, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    place = data.index(RECORDS.encode()) + len(RECORDS) + 400  # inside the compressed records
    bad = tmp_path / "bad.zip"
    bad.write_bytes(flip(data, place))
    check(bad, Verdict.INVALID, RECORDS)


@attack("B2")
def test_an_altered_record_is_named_by_log_and_seq(bundle: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        files[RECORDS] = files[RECORDS].replace(b"answered", b"rejected", 2)

    path = tamper(bundle, tmp_path / "bad.zip", change)
    check(path, Verdict.INVALID, f"{ORIGIN} seq 3 ({RECORDS})", f"{ORIGIN} seq 5 (")


# --- records dropped, moved, invented ---------------------------------------------------


def lines(files: Files, name: str = RECORDS) -> list[bytes]:
    """The records of one file."""
    return files[name].splitlines(keepends=True)


@attack("B3")
def test_a_record_dropped_from_the_middle(bundle: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        kept = lines(files)
        files[RECORDS] = b"".join(kept[:4])
        files[f"{LOG}/records/000000000005.jsonl"] = b"".join(kept[5:])

    path = tamper(bundle, tmp_path / "bad.zip", change)
    # completeness.json still says that nothing is missing: a lie, hence INVALID.
    check(path, Verdict.INVALID, "completeness.json", "seq 4 of the range missing")


@attack("B4")
def test_a_record_dropped_and_admitted(tmp_path: Path) -> None:
    log = Log("edge-1").fill(12)
    spec = spec_of(log)
    spec = altered(spec, records=[(seq, leaf) for seq, leaf in spec.records if seq not in (4, 7)])
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    report = check(path, Verdict.INCOMPLETE, "seq 4 of the range missing", "seq 7 of the range")
    assert report.verdict.exit_code == 5


@attack("B5")
def test_a_record_dropped_and_the_rest_moved_up(bundle: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        kept = lines(files)
        files[RECORDS] = b"".join(kept[:4] + kept[5:])

    path = tamper(bundle, tmp_path / "bad.zip", change)
    check(path, Verdict.INVALID, f"{ORIGIN} seq 4")


@attack("B6")
def test_two_records_exchanged(bundle: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        kept = lines(files)
        kept[4], kept[6] = kept[6], kept[4]
        files[RECORDS] = b"".join(kept)

    path = tamper(bundle, tmp_path / "bad.zip", change)
    check(path, Verdict.INVALID, f"{ORIGIN} seq 4", f"{ORIGIN} seq 6")


@attack("B7")
def test_a_record_told_twice(bundle: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        files[f"{LOG}/records/000000000004.jsonl"] = lines(files)[4]

    path = tamper(bundle, tmp_path / "bad.zip", change)
    check(path, Verdict.INVALID, "overlap")


@attack("B8")
def test_the_tail_cut_off_with_its_hashes(bundle: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        files[RECORDS] = b"".join(lines(files)[:8])
        files[f"{LOG}/hashes"] = files[f"{LOG}/hashes"][: 8 * 32]
        files[layout.MANIFEST] = files[layout.MANIFEST].replace(b'"12"', b'"8"')

    path = tamper(bundle, tmp_path / "bad.zip", change)
    check(path, Verdict.INVALID, "size 12 where the manifest says 8")


@attack("B9")
def test_the_tail_cut_off_under_an_older_cosigned_checkpoint(tmp_path: Path) -> None:
    # The coordinator shows an old checkpoint and hides what came after: the tenant, who holds
    # a newer cosigned one, shows that the bundle stops short, and that it is no fork.
    log = Log("edge-1").fill(12)
    spec = altered(spec_of(log, witnessed=8), uploaded=8)
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    brought = [Foreign("tenant", log.cosigned())]
    report = verify_bundle(path, witness_vkey=PIN, checkpoints=brought)
    assert report.verdict is Verdict.INCOMPLETE
    assert "the witness saw size 12 at" in said(report)
    younger = replace(bundle_of([spec]), created_ns=START * 10**9)
    path = write(younger, tmp_path / "younger.zip")
    report = verify_bundle(path, witness_vkey=PIN, checkpoints=brought)
    assert report.verdict is Verdict.WITNESSED
    assert "tenant reaches to size 12, beyond this bundle" in report.to_text()


@attack("B10")
def test_records_beyond_the_cosigned_checkpoint(tmp_path: Path) -> None:
    log = Log("edge-1").fill(12)
    spec = spec_of(log, end=12, witnessed=8)
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.INCOMPLETE, "4 records lie beyond the cosigned checkpoint of size 8")


@attack("B11")
def test_a_broken_chain_beyond_the_checkpoint(tmp_path: Path) -> None:
    log, other = Log("edge-1").fill(12), Log("edge-1").fill(8)
    other.append(LeafType.BOOT, {"other": True})
    other.fill(12)
    spec = spec_of(log, end=12, witnessed=8)
    records = [(seq, (other if seq == 9 else log).leaves[seq]) for seq, _ in spec.records]
    path = write(bundle_of([altered(spec, records=records)]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, f"{ORIGIN} seq 9", "does not continue")


def test_leaves_that_the_witness_never_saw_may_lie_in_a_closed_range(tmp_path: Path) -> None:
    log = Log("edge-1").fill(12)
    spec = spec_of(log, witnessed=8)
    late = START + 100 * STEP
    path = write(bundle_of([spec], time_to=late), tmp_path / "b.zip")
    check(path, Verdict.INCOMPLETE, "4 leaves came after the cosigned checkpoint")
    report = check(write(bundle_of([spec]), tmp_path / "open.zip"), Verdict.WITNESSED)
    assert "not part of this bundle" in report.to_text()


# --- the range --------------------------------------------------------------------------


def ranged(log: Log, first: int, end: int) -> tuple[int, int]:
    """The time range that covers exactly these seqs."""
    return START + first * STEP, START + end * STEP


@pytest.mark.parametrize(("first", "end"), [(0, 12), (3, 7), (1, 12), (0, 1), (5, 5), (11, 12)])
def test_an_honest_part_is_witnessed(tmp_path: Path, first: int, end: int) -> None:
    log = Log("edge-1").fill(12)
    time_from, time_to = ranged(log, first, end)
    spec = bundle_of([spec_of(log, first=first, end=end)], time_from=time_from, time_to=time_to)
    check(write(spec, tmp_path / "b.zip"), Verdict.WITNESSED)


@attack("B12")
@pytest.mark.parametrize(("first", "end", "left"), [(4, 7, 3), (3, 6, 6), (7, 7, 6)])
def test_a_range_cut_short_shows_at_its_edge(
    tmp_path: Path, first: int, end: int, left: int
) -> None:
    log = Log("edge-1").fill(12)
    time_from, time_to = ranged(log, 3, 7)
    spec = bundle_of([spec_of(log, first=first, end=end)], time_from=time_from, time_to=time_to)
    path = write(spec, tmp_path / "b.zip")
    check(path, Verdict.INCOMPLETE, f"seq {left} is dated in the range but was left out")


@attack("B13")
@pytest.mark.parametrize("gone", [0, 2, 7])
def test_the_records_that_bound_the_range_cannot_be_left_out(tmp_path: Path, gone: int) -> None:
    log = Log("edge-1").fill(12)
    time_from, time_to = ranged(log, 3, 7)
    spec = spec_of(log, first=3, end=7)
    spec = altered(spec, records=[(seq, leaf) for seq, leaf in spec.records if seq != gone])
    path = write(bundle_of([spec], time_from=time_from, time_to=time_to), tmp_path / "b.zip")
    check(path, Verdict.INCOMPLETE, f"seq {gone} missing: it bounds the range")


@attack("B14")
def test_an_epoch_left_out(tmp_path: Path) -> None:
    logs = [spec_of(log) for log in honest_logs() if (log.agent, log.epoch) != ("edge-2", 1)]
    check(write(bundle_of(logs), tmp_path / "b.zip"), Verdict.INCOMPLETE, "epoch 1 is not here")


def second_epoch(body: dict[str, JsonValue] | None = None, kind: LeafType = LeafType.EPOCH) -> Log:
    """An epoch 2 whose seq 1 says this."""
    log = Log("edge-2", epoch=2).fill(1)
    log.append(kind, body or {})
    return log.fill(6)


def of_two_epochs(second: Log, size: int = 5) -> list[LogSpec]:
    """A bundle's logs: an agent's first epoch up to `size`, and a second one."""
    return [spec_of(Log("edge-2").fill(5), witnessed=size), spec_of(second)]


@attack("B55")
def test_an_epoch_that_continues_nothing(tmp_path: Path) -> None:
    path = write(bundle_of(of_two_epochs(second_epoch(kind=LeafType.BOOT))), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "not an EPOCH that links the epoch before")


@attack("B56")
@pytest.mark.parametrize("name", ["origin", "size", "root"])
def test_an_epoch_that_continues_something_else(tmp_path: Path, name: str) -> None:
    before = Log("edge-2").fill(5)
    head = link(before.checkpoint(), b"")
    other = link(Log("edge-2", seed="x").fill(4).checkpoint(), b"") | {"origin": ORIGIN}
    second = second_epoch({"previous": head | {name: other[name]}})
    path = write(bundle_of(of_two_epochs(second)), tmp_path / "b.zip")
    check(path, Verdict.INVALID, f"EPOCH links another {name}")


@attack("B57")
def test_an_epoch_cut_short_under_the_next(tmp_path: Path) -> None:
    """The coordinator shows an older cosigned head of the former epoch than the one it ended at."""
    second = second_epoch({"previous": link(Log("edge-2").fill(5).checkpoint(), b"")})
    path = write(bundle_of(of_two_epochs(second, size=3)), tmp_path / "b.zip")
    check(path, Verdict.INCOMPLETE, "EPOCH links another size")


@attack("B58")
def test_an_epoch_grown_after_the_next_began(tmp_path: Path) -> None:
    second = second_epoch({"previous": link(Log("edge-2").fill(4).checkpoint(), b"")})
    path = write(bundle_of(of_two_epochs(second)), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "EPOCH links another size")


@attack("B59")
@pytest.mark.parametrize("first", [0, 3])
def test_the_record_that_links_an_epoch_cannot_be_left_out(tmp_path: Path, first: int) -> None:
    spec = spec_of(Log("edge-2", epoch=2).fill(6), first=first)
    spec = altered(spec, records=[item for item in spec.records if item[0] != 1])
    logs = [spec_of(Log("edge-2").fill(5)), spec]
    path = write(bundle_of(logs), tmp_path / "b.zip")
    check(path, Verdict.INCOMPLETE, "seq 1")


# --- terms ------------------------------------------------------------------------------


def test_terms_may_change(tmp_path: Path) -> None:
    log = Log("edge-1", term=7).fill(12)
    spec = spec_of(log, seen=[Log("edge-1", term=3).fill(5).signed()])
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    assert "in term 7" in check(path, Verdict.WITNESSED).to_text()


@attack("B60")
def test_a_fork_by_another_term_of_the_same_log(tmp_path: Path) -> None:
    """A clone signs with a key of its own; the log's key certified both."""
    clone = rewritten(9)
    clone.term = 8
    spec = spec_of(Log("edge-1").fill(12), seen=[clone.signed()])
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.DIVERGED, "the log's key signed another root at size 9")


@attack("B61")
def test_a_term_that_another_log_certified(tmp_path: Path) -> None:
    log = Log("edge-1").fill(12)
    other = Log("edge-9").key
    assert isinstance(other, TermKey)
    forged = replace(log.key, certificate=replace(other.certificate, origin=log.origin))
    note = add_signature(
        sign_checkpoint(log.checkpoint(), replace(forged, private=other.private)),
        split_note(log.cosigned())[1][-1].line(),
    )
    path = write(bundle_of([spec_of(log, note=note)]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "term does not verify")


@attack("B62")
def test_the_plain_line_of_a_term_alone(tmp_path: Path) -> None:
    """Without its certificate nobody knows whose key that is."""
    log = Log("edge-1").fill(12)
    text, signatures = split_note(log.cosigned())
    note = text.encode() + b"\n" + b"".join(s.line() for s in signatures[1:])
    path = write(bundle_of([spec_of(log, note=note)]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "not signed by any known key")


@attack("B63")
def test_a_log_downgraded_to_a_key_without_terms(tmp_path: Path) -> None:
    """Whoever has the log's key at rest signs with it, as if there were no terms."""
    log = Log("edge-1").fill(12)
    plain = SigningKey(log.origin, log.private)
    line = cosign(log.checkpoint().text(), witness_key(), START)
    note = add_signature(sign_checkpoint(log.checkpoint(), plain), line)
    spec = altered(spec_of(log, note=note), vkey=plain.vkey)
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "not the key of")


def test_a_bundle_without_agents(tmp_path: Path) -> None:
    check(write(bundle_of([]), tmp_path / "b.zip"), Verdict.INCOMPLETE, "no agent's log")


# --- completeness -----------------------------------------------------------------------


@attack("B17")
@pytest.mark.parametrize(
    "lie", ["missing", "missing_count", "dangling_count", "uploaded", "records"]
)
def test_a_forged_completeness(bundle: Path, tmp_path: Path, lie: str) -> None:
    def change(files: Files) -> None:
        value = json.loads(files[layout.COMPLETENESS])
        value["logs"][0][lie] = [["1", "1"]] if lie == "missing" else "77"
        files[layout.COMPLETENESS] = encode(value)

    path = tamper(bundle, tmp_path / "bad.zip", change)
    check(path, Verdict.INVALID, "completeness.json: says other than what the records show")


def test_an_intent_without_result_is_noted_not_doubted(tmp_path: Path) -> None:
    path = write(bundle_of([spec_of(Log("edge-1").fill(7))]), tmp_path / "b.zip")
    assert "1 INTENT without RESULT" in check(path, Verdict.WITNESSED).to_text()


def test_a_clock_set_back_is_noted_not_doubted(tmp_path: Path) -> None:
    log = Log("edge-1").fill(6)
    log.append(LeafType.HEARTBEAT, {}, at=STEP)
    path = write(bundle_of([spec_of(log)]), tmp_path / "b.zip")
    text = check(path, Verdict.WITNESSED).to_text()
    assert "clock went back 1 times, first at seq 6" in text


# --- history rewritten with the agent's key ---------------------------------------------


def rewritten(size: int = 12) -> Log:
    """The same log told differently from seq 2 on, chained and hashed anew."""
    log = Log("edge-1").fill(2)
    log.append(LeafType.INTENT, {"decision": "0" * 32, "action": "embed"})
    return log.fill(size)


@attack("B19")
def test_history_rewritten_under_the_old_checkpoint(tmp_path: Path) -> None:
    spec = spec_of(rewritten(), note=Log("edge-1").fill(12).cosigned())
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "their root is not the one in the checkpoint")


@attack("B20")
def test_history_rewritten_and_signed_again_has_no_witness(tmp_path: Path) -> None:
    log = rewritten()
    path = write(bundle_of([spec_of(log, note=log.signed())]), tmp_path / "b.zip")
    assert check(path, Verdict.UNANCHORED, "no cosignature by").verdict.exit_code == 4


@attack("B21")
def test_history_rewritten_with_the_old_cosignature_pasted_on(tmp_path: Path) -> None:
    _, signatures = split_note(Log("edge-1").fill(12).cosigned())
    note = add_signature(rewritten().signed(), signatures[-1].line())
    path = write(bundle_of([spec_of(rewritten(), note=note)]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, f"{LOG}/checkpoint: signature by {DOMAIN}/witness does not verify")


@attack("B22")
@pytest.mark.parametrize("size", [12, 7])
def test_history_rewritten_by_agent_and_coordinator_together(tmp_path: Path, size: int) -> None:
    # Both keys are the forger's; one checkpoint that left the machine before proves the fork.
    path = write(bundle_of([spec_of(rewritten())]), tmp_path / "b.zip")
    check(path, Verdict.WITNESSED)
    brought = [Foreign("tenant.note", Log("edge-1").fill(12).signed(size))]
    report = verify_bundle(path, witness_vkey=PIN, checkpoints=brought)
    assert report.verdict is Verdict.DIVERGED
    assert f"tenant.note: the log's key signed another root at size {size}" in said(report)
    assert report.verdict.exit_code == 3


@attack("B23")
def test_a_fork_that_the_coordinator_kept_as_evidence(tmp_path: Path) -> None:
    spec = spec_of(Log("edge-1").fill(12), seen=[rewritten(9).signed()])
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.DIVERGED, f"{LOG}/seen/0001.checkpoint: the log's key signed another root")


@attack("B24")
def test_two_checkpoints_that_exclude_each_other_beyond_the_bundle(tmp_path: Path) -> None:
    log, fork = Log("edge-1").fill(20), rewritten(20)
    spec = spec_of(Log("edge-1").fill(12), seen=[log.signed(), fork.signed()])
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.DIVERGED, "another root at size 20")


def test_older_checkpoints_that_agree(tmp_path: Path) -> None:
    log = Log("edge-1").fill(12)
    spec = spec_of(log, seen=[log.signed(5), log.signed(12), log.signed(0)])
    check(write(bundle_of([spec]), tmp_path / "b.zip"), Verdict.WITNESSED)


@attack("B25")
def test_an_unsigned_fork_proves_nothing_against_the_agent(tmp_path: Path) -> None:
    forged = Log("edge-1", seed="impostor").fill(9)
    spec = spec_of(Log("edge-1").fill(12), seen=[forged.signed()])
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "seen/0001.checkpoint: note: not signed by any known key")


# --- keys and signatures ----------------------------------------------------------------


@attack("B26")
def test_the_whole_bundle_forged_with_other_keys(tmp_path: Path) -> None:
    impostor = witness_key("impostor")
    log = Log("edge-1", seed="impostor").fill(12)
    spec = bundle_of([spec_of(log, note=log.cosigned(witness=impostor))], witness=impostor.vkey)
    path = write(spec, tmp_path / "b.zip")
    check(path, Verdict.UNANCHORED, "no cosignature")
    report = check(path, Verdict.WITNESSED, pin=None)
    assert "witness key from the bundle" in report.trust[0]
    assert "pin it with --witness-key" in report.trust[0]
    honest_key = Log("edge-1").vkey
    pinned = verify_bundle(path, log_vkeys=[honest_key])
    assert pinned.verdict is Verdict.INVALID
    assert "not the key that you pinned" in said(pinned)


@attack("B27")
def test_the_cosignature_removed(bundle: Path, tmp_path: Path) -> None:
    note = Log("edge-1").fill(12).signed()
    path = tamper(
        bundle, tmp_path / "bad.zip", lambda files: files.update({f"{LOG}/checkpoint": note})
    )
    check(path, Verdict.UNANCHORED, f"{LOG}/checkpoint: no cosignature")


@attack("B28")
def test_the_cosignature_downgraded_to_a_plain_signature(tmp_path: Path) -> None:
    # The witness's name and key, but type 0x01: no time, no promise of consistency.
    log, plain = Log("edge-1").fill(12), SigningKey(f"{DOMAIN}/witness", private_key("witness"))
    note = add_signature(log.signed(), plain.signature(log.checkpoint().text()).line())
    path = write(bundle_of([spec_of(log, note=note)]), tmp_path / "b.zip")
    check(path, Verdict.UNANCHORED, "no cosignature")
    downgraded = write(bundle_of([spec_of(log, note=note)], witness=plain.vkey), tmp_path / "d.zip")
    check(downgraded, Verdict.INVALID, "not a cosigner's", pin=None)


@attack("B29")
def test_the_cosignature_of_another_size(tmp_path: Path) -> None:
    log = Log("edge-1").fill(12)
    _, signatures = split_note(log.cosigned(8))
    note = add_signature(log.signed(), signatures[-1].line())
    path = write(bundle_of([spec_of(log, note=note)]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "does not verify")


@attack("B30")
def test_the_agents_signature_removed(tmp_path: Path) -> None:
    log = Log("edge-1").fill(12)
    text, signatures = split_note(log.cosigned())
    note = text.encode() + b"\n" + signatures[-1].line()
    path = write(bundle_of([spec_of(log, note=note)]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, f"{LOG}/checkpoint: note: not signed by any known key")


def test_a_log_that_was_never_witnessed(tmp_path: Path) -> None:
    log = Log("edge-1").fill(6)
    spec = altered(spec_of(log, end=6, witnessed=0), checkpoint=b"")
    path = write(bundle_of([spec]), tmp_path / "b.zip")
    check(path, Verdict.UNANCHORED, "nothing vouches for these leaves")


def test_an_agent_that_has_written_nothing_yet(tmp_path: Path) -> None:
    spec = altered(spec_of(Log("edge-1"), witnessed=0), checkpoint=b"")
    check(write(bundle_of([spec]), tmp_path / "b.zip"), Verdict.WITNESSED)


def test_the_operators_log_needs_no_witness_but_a_signature(tmp_path: Path) -> None:
    agent, operators = Log("edge-1").fill(5), Log("").fill(4)
    logs = [spec_of(agent), spec_of(operators, note=operators.signed())]
    check(write(bundle_of(logs), tmp_path / "b.zip"), Verdict.WITNESSED)


def test_an_extra_signature_by_a_stranger_is_noted(tmp_path: Path) -> None:
    log = Log("edge-1").fill(5)
    stranger = SigningKey("stranger", private_key("stranger"))
    note = add_signature(log.cosigned(), stranger.signature(log.checkpoint().text()).line())
    path = write(bundle_of([spec_of(log, note=note)]), tmp_path / "b.zip")
    assert (
        "1 signatures by keys that are not known here" in check(path, Verdict.WITNESSED).to_text()
    )


# --- logs passed off as others ----------------------------------------------------------


def swap(files: Files, one: str, other: str) -> None:
    """Exchange all files of two folders."""
    ours = {name: files.pop(name) for name in list(files) if name.startswith(one)}
    theirs = {name: files.pop(name) for name in list(files) if name.startswith(other)}
    files |= {other + name.removeprefix(one): data for name, data in ours.items()}
    files |= {one + name.removeprefix(other): data for name, data in theirs.items()}


@attack("B32")
@pytest.mark.parametrize(
    ("one", "other"),
    [("logs/edge-2/e1/", "logs/edge-2/e2/"), ("logs/edge-1/e1/", "logs/edge-2/e1/")],
    ids=["epochs", "agents"],
)
@pytest.mark.parametrize("keys", [False, True])
def test_logs_exchanged(bundle: Path, tmp_path: Path, one: str, other: str, keys: bool) -> None:
    def change(files: Files) -> None:
        swap(files, one, other)
        if keys:
            for folder in (one, other):
                _, agent, epoch, _ = folder.split("/")
                source = other if folder == one else one
                _, a, e, _ = source.split("/")
                log = Log(a, epoch=int(e[1:]))
                files[f"keys/{agent}.{epoch}.vkey"] = f"{log.vkey}\n".encode()

    path = tamper(bundle, tmp_path / "bad.zip", change)
    check(path, Verdict.INVALID)


@attack("B33")
def test_a_tenants_log_passed_off_as_anothers(tmp_path: Path) -> None:
    log = Log("edge-1").fill(5)
    spec = replace(bundle_of([spec_of(log)]), tenant="other")
    check(write(spec, tmp_path / "b.zip"), Verdict.INVALID, "does not fit its domain, tenant")


@attack("B34")
def test_a_genesis_that_names_another_agent(tmp_path: Path) -> None:
    log = Log("edge-1")
    log.append(LeafType.GENESIS, {"agent": f"spiffe://{DOMAIN}/tenant/acme/agent/edge-9"})
    path = write(bundle_of([spec_of(log)]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "GENESIS names another agent")


def test_a_genesis_that_names_another_key(tmp_path: Path) -> None:
    log = Log("edge-1")
    log.append(LeafType.GENESIS, {"audit_vkey": Log("edge-1", seed="x").vkey})
    path = write(bundle_of([spec_of(log)]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, "GENESIS names another audit_vkey")


def test_a_log_without_genesis(tmp_path: Path) -> None:
    log = Log("edge-1")
    log.append(LeafType.BOOT, {})
    check(write(bundle_of([spec_of(log)]), tmp_path / "b.zip"), Verdict.INVALID, "GENESIS opens")


@attack("B35")
def test_a_leaf_that_is_witnessed_but_not_canonical(tmp_path: Path) -> None:
    log = Log("edge-1").fill(4)
    log.leaves[3] = log.leaves[3].replace(b'{"', b'{ "', 1)
    path = write(bundle_of([spec_of(log)]), tmp_path / "b.zip")
    check(path, Verdict.INVALID, f"{ORIGIN} seq 3", "not canonical")


# --- files ------------------------------------------------------------------------------


@attack("B36")
@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "logs/../../evil",
        "logs\\edge-1\\e1\\checkpoint",
        "logs/edge-1/e1/records/1.jsonl",
        "logs/edge-1/e01/checkpoint",
        "logs/Edge/e1/checkpoint",
        "run.sh",
        "logs/",
        "manifest.json\n",
        "MANIFEST.JSON",
        "logs/edge-1/e1/\u202ecp.exe",
    ],
)
def test_a_file_that_does_not_belong(bundle: Path, tmp_path: Path, name: str) -> None:
    path = tamper(bundle, tmp_path / "bad.zip", lambda files: files.update({name: b"x"}))
    check(path, Verdict.INVALID, "not a file of an audit bundle")


@attack("B15")
def test_an_agent_whose_log_was_left_out(tmp_path: Path) -> None:
    logs = [spec_of(Log("edge-1").fill(5))]
    path = write(bundle_of(logs, agents={"edge-2": START}), tmp_path / "b.zip")
    check(path, Verdict.INCOMPLETE, "agent edge-2: has been connected, but no log of it is here")


def test_an_agent_that_never_came_is_named_and_no_fault(tmp_path: Path) -> None:
    logs = [spec_of(Log("edge-1").fill(5))]
    path = write(bundle_of(logs, agents={"edge-2": 0}), tmp_path / "b.zip")
    report = verify_bundle(path, witness_vkey=PIN)
    assert report.verdict is Verdict.WITNESSED
    assert "1 agents on file were never connected and have no log: edge-2" in report.to_text()


@attack("B16")
def test_a_log_of_nobody_on_file(bundle: Path, tmp_path: Path) -> None:
    def forget(files: Files) -> None:
        value = json.loads(files[layout.MANIFEST])
        del value["agents"][0]
        files[layout.MANIFEST] = encode(value)

    path = tamper(bundle, tmp_path / "bad.zip", forget)
    check(path, Verdict.INVALID, "agent edge-1: has a log, but is not on file")


def test_a_file_of_no_log(bundle: Path, tmp_path: Path) -> None:
    name = "logs/edge-9/e1/hashes"
    path = tamper(bundle, tmp_path / "bad.zip", lambda files: files.update({name: b"x" * 32}))
    check(path, Verdict.INVALID, f"{name}: belongs to no log")


@pytest.mark.parametrize("name", [name for name in KINDS if not name.endswith(".jsonl")])
def test_a_file_removed(bundle: Path, tmp_path: Path, name: str) -> None:
    files = unzip(bundle)
    del files[name]
    path = rezip(files, tmp_path / "bad.zip", resum=name != layout.SUMS)
    check(path, Verdict.INVALID, f"{name}: missing")


def test_a_file_slipped_past_the_sums(bundle: Path, tmp_path: Path) -> None:
    name = f"{LOG}/records/000000000099.jsonl"
    path = tamper(
        bundle, tmp_path / "bad.zip", lambda files: files.update({name: b"{}\n"}), resum=False
    )
    check(path, Verdict.INVALID, f"{name}: there, but not listed")


@attack("B37")
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(schema="exclave.bundle/v2"),
        lambda m: m.update(tenant="../x"),
        lambda m: m.update(extra=1),
        lambda m: m.update(logs={}),
        lambda m: m["logs"].append(m["logs"][0]),
        lambda m: m.update(agents={}),
        lambda m: m["agents"].append(m["agents"][0]),
        lambda m: m["agents"].reverse(),
        lambda m: m["agents"][0].update(agent="../x"),
        lambda m: m["agents"][0].update(last_seen=1),
        lambda m: m["logs"][0].update(agent="_operators"),
        lambda m: m["logs"][0].update(first="5", end="4"),
        lambda m: m["logs"][0].update(end="99999"),
        lambda m: m["logs"][0].update(size="-1"),
        lambda m: m["logs"][0].update(path="operators/e1"),
        lambda m: m["logs"][0].update(kind="operators"),
        lambda m: m.update(witness_vkey="x"),
        lambda m: m.update(range={"from": "0"}),
        lambda m: m.update(created="yesterday"),
    ],
)
def test_a_manifest_that_lies_or_breaks_the_format(
    bundle: Path, tmp_path: Path, change: Callable[[dict[str, object]], None]
) -> None:
    def rewrite(files: Files) -> None:
        value = json.loads(files[layout.MANIFEST])
        change(value)
        files[layout.MANIFEST] = encode(value)

    path = tamper(bundle, tmp_path / "bad.zip", rewrite)
    check(path, Verdict.INVALID)


@attack("B31")
def test_the_witness_may_not_be_the_log(tmp_path: Path) -> None:
    log = Log("edge-1").fill(5)
    own = CosignerKey(log.origin, log.private)
    spec = bundle_of([spec_of(log, note=log.cosigned(witness=own))], witness=own.vkey)
    check(write(spec, tmp_path / "b.zip"), Verdict.INVALID, "witness", pin=None)
