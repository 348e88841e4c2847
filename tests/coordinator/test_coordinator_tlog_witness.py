"""The witness as others see it: every status of C2SP tlog-witness, over a real socket."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from exclave_coordinator.errors import StorageError
from exclave_protocol.checkpoint import verify_cosignature
from exclave_protocol.note import sign, split_note
from exclave_protocol.pb import admin_pb2, audit_pb2
from exclave_protocol.witness import AddCheckpoint
from exclave_testing.coordinator import (
    TIMEOUT,
    AgentLog,
    Member,
)
from exclave_testing.witness_http import Asked, asking
from exclave_testing.witnesses import OutsideTree

LIE = hashlib.sha256(b"lie").digest()


@pytest.fixture
async def member(asked: Asked) -> Member:
    """An agent of acme."""
    await asked.centre.tenant("acme")
    return await asked.centre.enroll("acme", "north")


async def _uploaded(member: Member, count: int) -> AgentLog:
    log = member.log()
    log.add(count)
    request = audit_pb2.AppendRequest(epoch=1, first_seq=0, leaves=log.leaves)
    await member.audit.Append(request, timeout=TIMEOUT)
    return log


def _of(log: AgentLog, old: int, new: int) -> AddCheckpoint:
    return AddCheckpoint(old, tuple(log.proof(old, new)), log.checkpoint(new))


async def test_200_cosigns_an_outside_log_and_what_extends_it(
    asked: Asked, outside: OutsideTree
) -> None:
    old = 0
    for size in (0, 1, 7, 8, 20):
        answer = await asked.post(outside.request(old, size))
        assert answer.status_code == 200, answer.text
        text = split_note(outside.note(size))[0]
        at = verify_cosignature(text, answer.content, asked.key)
        assert abs(at - asked.centre.clock.now()) < 10
        old = size
    bodies = await asked.leaves()
    assert [body["size"] for body in bodies] == ["0", "1", "7", "8", "20"]
    assert bodies[-1] == {
        "origin": outside.origin,
        "size": "20",
        "root": outside.tree.root().hex(),
        "cosigned_at": str(at),
    }


async def test_200_an_agent_s_log_by_http_and_grpc_alike(asked: Asked, member: Member) -> None:
    log = await _uploaded(member, 9)
    assert (await asked.post(_of(log, 0, 4))).status_code == 200
    request = audit_pb2.WitnessRequest(
        epoch=1, old_size=4, consistency_proof=log.proof(4, 6), checkpoint=log.checkpoint(6)
    )
    await member.audit.Witness(request, timeout=TIMEOUT)
    answer = await asked.post(_of(log, 6, 9))
    assert answer.status_code == 200
    verify_cosignature(split_note(log.checkpoint(9))[0], answer.content, asked.key)
    head = await member.audit.Head(audit_pb2.HeadRequest(epoch=1))
    assert head.witnessed_size == 9
    assert answer.content in head.checkpoint
    # One leaf for each, whichever way it came.
    assert [(b["origin"], b["size"]) for b in await asked.leaves()] == [
        (log.origin, size) for size in ("4", "6", "9")
    ]


async def test_repeated_soon_is_the_same_line_and_no_leaf(
    asked: Asked, outside: OutsideTree
) -> None:
    first = await asked.post(outside.request(0))
    again = [await asked.post(outside.request(20)) for _ in range(3)]
    assert {answer.content for answer in again} == {first.content}
    assert len(await asked.leaves()) == 1
    asked.centre.clock.offset += 61
    later = await asked.post(outside.request(20))
    assert later.status_code == 200
    assert later.content != first.content
    assert len(await asked.leaves()) == 2


async def test_400_malformed(asked: Asked, outside: OutsideTree) -> None:
    good = outside.request(0).encode()
    for body in (
        b"",
        b"old 0\n",
        good[1:],
        good.replace(b"old 0", b"old 00"),
        good.replace(b"\n\n", b"\n", 1),
        good.replace(b"\n20\n", b"\n020\n"),
        good[:-1],
        b"old 0\n\n" + sign("log.example/one\n20\n", [outside.key]),
    ):
        answer = await asked.post(body)
        assert answer.status_code == 400, body
        assert answer.headers["content-type"].startswith("text/plain")
    # The old size is above the checkpoint's, whatever was cosigned.
    assert await asked.status(AddCheckpoint(5, (), outside.note(4))) == 400
    assert await asked.leaves() == []


async def test_403_no_trusted_signature(asked: Asked, outside: OutsideTree) -> None:
    forged = OutsideTree(outside.origin, "another key", 20)
    assert await asked.status(forged.request(0)) == 403
    note = outside.note()
    # Name and key id are the log's, the signature is not.
    text, (signature,) = split_note(note)
    broken = bytes([signature.data[0] ^ 1]) + signature.data[1:]
    line = type(signature)(signature.name, signature.key_id, broken).line()
    bad = text.encode() + b"\n" + line
    assert await asked.status(AddCheckpoint(0, (), bad)) == 403
    # Others' signatures are passed over, and not kept: they are anybody's words.
    strange = OutsideTree("strange.example/x").key.signature(text).line()
    assert await asked.status(AddCheckpoint(0, (), note + strange)) == 200
    kept = await asked.centre.read(lambda tx: tx.witnessing.log(outside.origin))
    assert kept.checkpoint == note


async def test_404_unknown_origin(asked: Asked, member: Member) -> None:
    log = await _uploaded(member, 3)
    for origin in (
        "unknown.example/x",
        "example.org/acme/north/e2",
        "example.org/acme/north/e01",
        "example.org/acme/north/1",
        "example.org/acme/north/e1/e1",
        "example.org/acme/south/e1",
        "example.org/_operators/coordinator/e1",
        "example.org/_witness/coordinator/e1",
        "example.org/acme/north/e" + "9" * 30,
    ):
        assert await asked.status(OutsideTree(origin, size=3).request(0)) == 404, origin
    assert await asked.status(_of(log, 0, 3)) == 200


async def test_403_a_banned_agent_s_log(asked: Asked, member: Member) -> None:
    log = await _uploaded(member, 3)
    await asked.centre.admin.BanAgent(admin_pb2.AgentRequest(tenant="acme", agent="north"))
    answer = await asked.post(_of(log, 0, 3))
    assert (answer.status_code, answer.text) == (403, "checkpoint: the log's agent is banned\n")


async def test_409_names_the_size(asked: Asked, outside: OutsideTree) -> None:
    await asked.post(outside.request(0, 8))
    for old, new in ((0, 20), (7, 20), (9, 20), (20, 20)):
        answer = await asked.post(outside.request(old, new))
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "text/x.tlog.size"
        assert answer.content == b"8\n"
    assert await asked.status(outside.request(8)) == 200


async def test_422_what_does_not_follow(asked: Asked, outside: OutsideTree) -> None:
    empty = outside.note(0, root=LIE)
    assert await asked.status(AddCheckpoint(0, (), empty)) == 422
    assert await asked.status(AddCheckpoint(0, (LIE,), outside.note(8))) == 422
    await asked.post(outside.request(0, 8))
    for proof in ((), (LIE,) * 2, outside.proof(8)[:-1], outside.proof(7)):
        assert await asked.status(AddCheckpoint(8, proof, outside.note())) == 422
    assert await asked.status(AddCheckpoint(8, outside.proof(8, 20), outside.note(root=LIE))) == 422
    assert await asked.status(AddCheckpoint(8, (LIE,), outside.note(8))) == 422
    # None of this says that the log lies: whoever asks may have sent another's checkpoint.
    assert (await asked.centre.read(lambda tx: tx.witnessing.log(outside.origin))).fork is None
    fork = outside.note(8, root=LIE)
    for _ in range(2):
        assert await asked.status(AddCheckpoint(8, (), fork)) == 422
    assert await asked.status(outside.request(8)) == 200
    # Of one size the log signed two roots: both notes are kept, also when it grows.
    kept = await asked.centre.read(lambda tx: tx.witnessing.log(outside.origin))
    assert kept.fork == (outside.note(8), fork)
    assert [body["size"] for body in await asked.leaves()] == ["8", "20"]


async def test_422_of_an_agent_is_evidence_only_where_the_agent_signed_it(
    asked: Asked, member: Member
) -> None:
    log = await _uploaded(member, 6)
    assert await asked.status(AddCheckpoint(0, (LIE,), log.checkpoint(6))) == 422
    assert await asked.centre.read(lambda tx: tx.logs.evidence(member.agent)) == []
    lie = log.checkpoint(6, root=LIE)
    strange = OutsideTree("strange.example/x").key.signature(split_note(lie)[0]).line()
    for note in (lie, lie + strange):
        assert await asked.status(AddCheckpoint(0, (), note)) == 422
    kept = await asked.centre.read(lambda tx: tx.logs.evidence(member.agent))
    assert [(e.kind, e.data) for e in kept] == [("root", lie)]


async def test_424_leaves_first(asked: Asked, member: Member) -> None:
    log = await _uploaded(member, 3)
    log.add(2)
    assert await asked.status(_of(log, 0, 5)) == 424


async def test_extension_lines_are_cosigned_for_outside_logs_alone(
    asked: Asked, outside: OutsideTree, member: Member
) -> None:
    text = split_note(outside.note(8))[0] + "an extension\n"
    answer = await asked.post(AddCheckpoint(0, (), sign(text, [outside.key])))
    assert answer.status_code == 200
    signature = answer.content.decode().split(" ")
    assert signature[1] == asked.key.name
    text += "x" * 4096 + "\n"
    assert await asked.status(AddCheckpoint(8, (), sign(text, [outside.key]))) == 400
    log = await _uploaded(member, 3)
    text = split_note(log.checkpoint())[0] + "an extension\n"
    assert await asked.status(AddCheckpoint(0, (), sign(text, [log.key]))) == 400


async def test_503_and_500_what_is_our_fault(
    asked: Asked, outside: OutsideTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = asked.centre.up.parts.store
    for fault, status in ((StorageError("the disk broke"), 503), (RuntimeError("secret"), 500)):

        async def broken(*_given: Any, fault: Exception = fault) -> None:
            raise fault

        with monkeypatch.context() as patch:
            patch.setattr(store, "write", broken)
            answer = await asked.post(outside.request(0))
        assert answer.status_code == status
        assert "secret" not in answer.text
    assert await asked.status(outside.request(0)) == 200


async def test_two_keys_of_one_origin_are_both_trusted(tmp_path: Path) -> None:
    one, two = OutsideTree(size=9), OutsideTree(seed="next", size=9)
    async with asking(tmp_path / "home", one, two) as asked:
        assert await asked.status(one.request(0, 4)) == 200
        assert await asked.status(two.request(4)) == 200


async def test_concurrent_requests_never_roll_back(asked: Asked, outside: OutsideTree) -> None:
    answers = await asyncio.gather(*(asked.post(outside.request(0, n)) for n in range(1, 21)))
    assert sorted(a.status_code for a in answers).count(200) == 1
    assert {a.status_code for a in answers} == {200, 409}
    bodies = await asked.leaves()
    assert len(bodies) == 1
    stored = await asked.centre.read(lambda tx: tx.witnessing.log(outside.origin))
    assert str(stored.size) == bodies[0]["size"]


async def test_sizes_outlive_a_restart(tmp_path: Path, outside: OutsideTree) -> None:
    for old, new in ((0, 8), (8, 20)):
        async with asking(tmp_path / "home", outside) as asked:
            if old:
                assert (await asked.post(outside.request(0, new))).content == b"8\n"
            assert await asked.status(outside.request(old, new)) == 200
            assert len(await asked.leaves()) == (2 if old else 1)


async def test_other_paths_and_methods(asked: Asked) -> None:
    assert (await asked.http.get("/add-checkpoint")).status_code == 405
    assert (await asked.http.post("/", content=b"")).status_code == 404
    answer = await asked.post(b"", headers={"content-encoding": "gzip"})
    assert answer.status_code == 400


async def test_it_is_counted(asked: Asked, outside: OutsideTree) -> None:
    await asked.post(outside.request(0))
    await asked.post(b"")
    registry = asked.centre.up.parts.metrics.registry
    name = "exclave_coordinator_witness_requests_total"
    assert registry.get_sample_value(name, {"status": "200"}) == 1
    assert registry.get_sample_value(name, {"status": "400"}) == 1
