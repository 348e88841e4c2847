"""Whole bundles: what two readers say who have only the page in common."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from stranger import tree
from stranger.build import (
    DOMAIN,
    GUIDE,
    NOW,
    WITNESS_KEY,
    Book,
    Draft,
    Key,
    cosign,
    draft,
    pack,
    seal,
)
from stranger.manifest import GUIDE as GUIDE_DIGEST
from stranger.manifest import parse_manifest
from stranger.notes import TERM, WITNESS
from stranger.proofs import verify_proof
from stranger.reader import EXITS, Brought, verify
from stranger.tampers import CASES, Case
from stranger.tampers_all import LOADED
from stranger.wire import Refused, b64, b64url, canonical

# One process for all of them: each line of its input is a command line of exclave-verify's.
DRIVER = """
import contextlib, io, json, runpy, sys
for line in sys.stdin:
    sys.argv = ["exclave-verify", *json.loads(line)]
    code = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            runpy.run_module("exclave_protocol", run_name="__main__")
        except SystemExit as ended:
            code = ended.code
    print(json.dumps(code), flush=True)
"""
# What the page forbids and exclave-verify lets pass, or says otherwise.


@dataclass(frozen=True)
class Theirs:
    """exclave-verify, and nothing known of it but its command line."""

    process: subprocess.Popen[str]
    folder: Path

    def run(self, *arguments: str) -> int:
        """Its exit code."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return int(json.loads(self.process.stdout.readline()))

    def file(self, name: str, data: bytes) -> str:
        """A file for it to read."""
        path = self.folder / name
        path.write_bytes(data)
        return str(path)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    proto = str(Path(__file__).parents[2] / "proto")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([proto, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        yield Theirs(process, tmp_path_factory.mktemp("bundles"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_readers_say_the_same(case: Case, theirs: Theirs) -> None:
    data = case.make(draft())
    report = verify(data)
    assert report.verdict == case.verdict, report.found
    assert theirs.run(theirs.file("bundle.zip", data)) == EXITS[case.verdict]


def test_there_are_many_ways() -> None:
    assert LOADED and len({case.name for case in CASES}) == len(CASES) >= 30
    assert {case.verdict for case in CASES} == set(EXITS)


def test_the_guide_is_that_of_the_frozen_bundle() -> None:
    vectors = Path(__file__).parents[1] / "vectors"
    frozen = json.loads((vectors / "bundle.json").read_text())["sha256"]["VERIFY.md"]
    assert frozen == GUIDE_DIGEST, "another version's: copy VERIFY.md here, and its digest"
    assert GUIDE.read_bytes().startswith(b"# How to verify")


def honest() -> bytes:
    """The story as it was."""
    return pack(seal(draft().files()))


def test_the_frozen_manifest_is_one() -> None:
    vectors = Path(__file__).parents[1] / "vectors"
    manifest = parse_manifest(
        json.loads((vectors / "bundle.json").read_text())["manifest.json"].encode()
    )
    assert [log.origin for log in manifest.logs] == [
        "exclave.test/acme/edge-1/e1",
        "exclave.test/acme/edge-2/e1",
        "exclave.test/acme/edge-2/e2",
        "exclave.test/_operators/coordinator/e1",
    ]


def test_what_the_auditor_pins(theirs: Theirs) -> None:
    data = honest()
    bundle = theirs.file("bundle.zip", data)
    other = Key(WITNESS_KEY.vkey.name, WITNESS, "another").vkey
    book = draft().book("edge-1")
    log, absent = Key(book.origin, TERM, "x").vkey, Key(f"{DOMAIN}/acme/no/e1", TERM).vkey
    for brought, flags, verdict in (
        (Brought(WITNESS_KEY.vkey), ["--witness-key", WITNESS_KEY.vkey.line], "WITNESSED"),
        (Brought(other), ["--witness-key", other.line], "UNANCHORED"),
        (Brought(log_keys=[book.key.vkey]), ["--log-key", book.key.vkey.line], "WITNESSED"),
        (Brought(log_keys=[log]), ["--log-key", log.line], "INVALID"),
        (Brought(log_keys=[absent]), ["--log-key", absent.line], "WITNESSED"),
    ):
        assert verify(data, brought).verdict == verdict
        assert theirs.run(bundle, *flags) == EXITS[verdict]


def brought_notes() -> dict[str, tuple[bytes, str]]:
    """Checkpoints that a tenant might have kept."""
    book, top = draft().book("edge-1"), bytes(32)
    further, created = book.text(99, top), NOW + 10_000
    by_another = Key(book.origin, TERM, "x")
    return {
        "agrees": (book.signed(3), "WITNESSED"),
        "contradicts": (book.signed(3, top), "DIVERGED"),
        "further": (book.signed(99, top), "WITNESSED"),
        "further-cosigned": (
            book.signed(99, top) + cosign(further, created).encode(),
            "INCOMPLETE",
        ),
        "further-later": (
            book.signed(99, top) + cosign(further, created + 1).encode(),
            "WITNESSED",
        ),
        "another-log": (Book("edge-9").signed(1), "INCOMPLETE"),
        "unsigned": (f"{further}\n{cosign(further, NOW)}".encode(), "INVALID"),
        "another-key": (
            f"{further}\n{by_another.line(by_another.sign(further))}".encode(),
            "INVALID",
        ),
    }


@pytest.mark.parametrize("name", brought_notes())
def test_what_the_tenant_kept(name: str, theirs: Theirs) -> None:
    note, verdict = brought_notes()[name]
    data = honest()
    assert verify(data, Brought(checkpoints=[note])).verdict == verdict
    bundle, kept = theirs.file("bundle.zip", data), theirs.file("kept", note)
    assert theirs.run(bundle, "--checkpoint", kept) == EXITS[verdict]


def test_what_the_tenant_kept_is_no_checkpoint(theirs: Theirs) -> None:
    bundle, kept = theirs.file("bundle.zip", honest()), theirs.file("kept", b"nothing\n")
    assert theirs.run(bundle, "--checkpoint", kept) in (EXITS["INVALID"], 2)


def test_a_cell_that_is_a_boolean(theirs: Theirs) -> None:
    story = draft()
    story.book("edge-1").append("INTENT", {"action": True})
    assert theirs.run(theirs.file("bundle.zip", pack(seal(story.files())))) == 0


def test_the_page_for_people_is_opaque_to_this_reader(theirs: Theirs) -> None:
    files = draft().files() | {"report.html": b"<p>believe me</p>"}
    data = pack(seal(files))
    assert verify(data).verdict == "WITNESSED"
    assert theirs.run(theirs.file("bundle.zip", data)) == EXITS["INVALID"]


def disclosed() -> tuple[Draft, dict[str, object]]:
    """A bundle, and a file that opens one field of its last record."""
    story = draft()
    book = story.book("edge-1")
    encoded = b64url(canonical([b64url(bytes(32)), "prompt", "hello"]))
    digest = b64url(sha256(encoded.encode()).digest())
    book.append(
        "INTENT", {"decision": "d-9"}, sd=[digest, *(b64url(bytes([n]) * 32) for n in (1, 2))]
    )
    fields: dict[str, object] = {
        "disclosures": [encoded],
        "leaf": b64url(book.leaves[-1]),
        "log": book.origin,
        "schema": "exclave.disclosure/v1",
        "seq": str(len(book.leaves) - 1),
    }
    return story, fields


def test_disclosures(theirs: Theirs) -> None:
    story, fields = disclosed()
    data = pack(seal(story.files()))
    bundle = theirs.file("bundle.zip", data)
    other = b64url(canonical([b64url(bytes(32)), "prompt", "hullo"]))
    twice = [*fields["disclosures"], *fields["disclosures"]]  # type: ignore[misc]
    for spoilt, verdict in (
        ({}, "WITNESSED"),
        ({"seq": "3"}, "INVALID"),
        ({"disclosures": [other]}, "INVALID"),
        ({"disclosures": twice}, "INVALID"),
        ({"log": story.book("edge-2").origin}, "INVALID"),
        ({"leaf": b64url(story.book("edge-1").leaves[0]), "seq": "0"}, "INVALID"),
    ):
        opened = canonical(fields | spoilt)
        assert verify(data, Brought(disclosures=[opened])).verdict == verdict, spoilt
        flags = ("--disclosure", theirs.file("opened.json", opened))
        assert theirs.run(bundle, *flags) == EXITS[verdict], spoilt


def proof_of_a_record(seq: int, note: bytes | None = None) -> bytes:
    """A proof of edge-1's record."""
    book = draft().book("edge-1")
    path = "".join(f"{b64(part)}\n" for part in tree.prove(seq, book.hashes))
    head = f"c2sp.org/tlog-proof@v1\nextra {b64(book.leaves[seq])}\nindex {seq}\n{path}\n"
    return head.encode() + (note or book.cosigned())


def proofs() -> dict[str, tuple[bytes, str]]:
    """Proofs of a record, and what is to be said of them."""
    book = draft().book("edge-1")
    good = proof_of_a_record(3)
    foreign = f"extra {b64(draft().book('edge-2').leaves[3])}".encode()
    return {
        "good": (good, "WITNESSED"),
        "first": (proof_of_a_record(0), "WITNESSED"),
        "uncosigned": (proof_of_a_record(3, book.signed(book.covered)), "UNANCHORED"),
        "index": (good.replace(b"index 3", b"index 2"), "INVALID"),
        "no-leaf": (b"\n".join(good.split(b"\n")[:1] + good.split(b"\n")[2:]), "INVALID"),
        "short-path": (b"\n".join(good.split(b"\n")[:3] + good.split(b"\n")[4:]), "INVALID"),
        "key-of-another-log": (
            proof_of_a_record(3, draft().book("edge-2").cosigned()),
            "UNANCHORED",
        ),
        "leaf-of-another-log": (good.replace(good.split(b"\n")[1], foreign), "INVALID"),
        "tail": (good + b"\n", "INVALID"),
    }


@pytest.mark.parametrize("name", proofs())
def test_a_proof_of_a_record(name: str, theirs: Theirs) -> None:
    data, verdict = proofs()[name]
    key = draft().book("edge-1").key.vkey
    try:
        mine = "WITNESSED" if verify_proof(data, key, [WITNESS_KEY.vkey]) else "UNANCHORED"
    except Refused:
        mine = "INVALID"
    assert mine == verdict
    flags = ("--log-key", key.line, "--witness-key", WITNESS_KEY.vkey.line)
    assert theirs.run("--proof", theirs.file("proof", data), *flags) == EXITS[verdict]
