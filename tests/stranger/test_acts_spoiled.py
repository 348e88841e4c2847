"""Reviewers' acts that section 9 of the page refuses, each by name, and such as it lets be."""

from collections.abc import Callable
from typing import Any

import pytest

from stranger.acts import faults
from stranger.acts_again import (
    ANNE,
    ANNE_AGAIN,
    BEN_AS_WITNESS,
    HONEST,
    Log,
    again,
    body,
    for_a_person,
    more,
    opened,
    removed,
    requiring,
    said,
    sealed,
)
from stranger.leaves import parse_leaf
from stranger.wire import b64

TWO, ONE_NO, CORRECTED, LATE = HONEST
NO, VOTE = "A" * 43, {"approval": "four-eyes", "role": "reviewer"}
SIXTH = {"hash": "", "seq": "6"}
Spoil = Callable[[Log], object]
Spoils = dict[str, tuple[str, Spoil]]


def read(log: Log, here: Callable[[int], bool] = lambda seq: True) -> list[str]:
    """What the reader finds, of the records that are here."""
    leaves, hashes = sealed(log)
    there = [parse_leaf(leaf) for seq, leaf in enumerate(leaves) if here(seq)]
    return faults(there, lambda seq: hashes[seq] if seq < len(hashes) else None)


def put(at: int = -1, **fields: object) -> Spoil:
    """Into a body."""
    return lambda log: body(log, at).update(fields)


def say(**fields: object) -> Spoil:
    """In the last payload."""
    return lambda log: said(log).update(fields)


def both(**fields: object) -> Spoil:
    """In the last payload and its body."""
    return together(inside(lambda b: b, **fields), say(**fields))


def inside(find: Callable[[Any], Any], **fields: object) -> Spoil:
    """Into something of the last body."""
    return lambda log: find(body(log)).update(fields)


def kind(name: str, at: int = -1) -> Spoil:
    """Another type."""
    return lambda log: log[at].update(type=name)


def together(*parts: Spoil) -> Spoil:
    """One after the other."""
    return lambda log: [part(log) for part in parts]


def beside(log: Log) -> None:
    """Another vote beside the last act."""
    body(log)["beside"].append(dict(SIXTH))


def by_two_keys(log: Log) -> None:
    """Anne's second key has another API key."""
    body(log, 3).update(reviewer="anne", vkey=ANNE_AGAIN.vkey.line)
    said(log)["reviewer"] = ANNE_AGAIN.vkey.line
    body(log)["reviewer"] = "anne"


def registered_again(log: Log) -> None:
    """Ben's key is none any more, and then again one; the act rests on what was before."""
    fields = dict(body(log, 3))
    removed(log, 7, 3)
    more(log, 8, "OVERRIDE", fields)


def first(value: Any) -> Any:
    """The signature of an envelope."""
    return value["envelope"]["signatures"][0]


ASKED = put(3, key="aaaaaaaa")
SPOILT: Spoils = {
    # 1: they parse, and the key has signed
    "another signature": (TWO, inside(first, sig=b64(bytes(64)))),
    "no signature": (TWO, inside(lambda b: b["envelope"], signatures=[])),
    "two signatures": (
        TWO,
        lambda log: body(log)["envelope"]["signatures"].append({"keyid": "0" * 64, "sig": ""}),
    ),
    "another payload type": (TWO, inside(lambda b: b["envelope"], payloadType="text/json")),
    "no envelope": (TWO, put(envelope=None)),
    "another schema": (TWO, say(schema="exclave.approval/v2")),
    "a field more in the payload": (TWO, say(more=1)),
    "a time that is none": (TWO, say(time="2027-01-15T08:00:00Z")),
    "a payload that is not canonical": (TWO, inside(lambda b: b["envelope"], before=" ")),
    "a payload that is too long": (TWO, both(answer="A" * 4_096)),
    "a witness's key": (
        TWO,
        together(put(3, vkey=BEN_AS_WITNESS.vkey.line), say(reviewer=BEN_AS_WITNESS.vkey.line)),
    ),
    "a body without stands": (TWO, lambda log: body(log).pop("stands")),
    "another act": (TWO, both(act="accept")),
    "it stands as nothing known": (TWO, put(stands="approved")),
    "a count of none": (TWO, inside(lambda b: b["requires"][0], count=0)),
    "time releases": (LATE, put(stands="released")),
    "time waits": (LATE, put(stands="waiting")),
    "time overrides": (LATE, together(kind("OVERRIDE"), put(what="answer"))),
    "an act after time was up": (LATE, lambda log: again(log, 6)),
    # 2: payload and leaf agree
    "another log": (TWO, say(log="exclave.test/acme/edge-2/e1")),
    "another decision": (TWO, say(decision="e" * 32)),
    "another answer in the payload": (TWO, say(answer=NO)),
    "another name": (TWO, put(reviewer="anne")),
    "RESULT before INTENT": (
        TWO,
        say(intent={"hash": "", "seq": "5"}, result={"hash": "", "seq": "4"}),
    ),
    "RESULT behind the act": (TWO, say(result={"hash": "", "seq": "8"})),
    "a correction that is an APPROVAL": (CORRECTED, kind("APPROVAL", 7)),
    "an approval that is an OVERRIDE": (TWO, together(kind("OVERRIDE"), put(what="answer"))),
    "a refusal with an answer": (ONE_NO, both(answer=NO)),
    "an approval of nothing": (TWO, both(answer=None)),
    # 3: commitments
    "nothing was shown": (TWO, lambda log: log[-1].pop("sd")),
    "a correction without its answer": (
        CORRECTED,
        lambda log: log[7].update(sd=[said(log, 7)["shown"]]),
    ),
    # 4: hashes
    "another INTENT": (TWO, say(intent={"hash": "1" * 64, "seq": "4"})),
    "another RESULT": (TWO, say(result={"hash": "1" * 64, "seq": "5"})),
    "another registration": (TWO, inside(lambda b: b["registered"], hash="1" * 64)),
    "another vote": (TWO, inside(lambda b: b["beside"][0], hash="1" * 64)),
    "beside itself": (TWO, inside(lambda b: b["beside"][0], seq="7")),
    # 5: the reviewer
    "somebody else's registration": (TWO, inside(lambda b: b["registered"], seq="2")),
    "a registration that is none": (TWO, inside(lambda b: b["registered"], seq="1")),
    "a key that is none any more": (TWO, lambda log: removed(log, 7, 3)),
    "a role that the reviewer has not": (TWO, inside(lambda b: b["counts"][0], role="admin")),
    # 6: the decision
    "nothing waits": (TWO, put(5, approvals=[], degraded="")),
    "after a refusal": (ONE_NO, lambda log: again(log, 6)),
    "after a release": (TWO, lambda log: again(log, 6)),
    "another requirement": (TWO, inside(lambda b: b["requires"][0], approval="eight-eyes")),
    "no requirement": (TWO, put(requires=[])),
    "a requirement too few": (TWO, put(5, approvals=["four-eyes", "legal"])),
    "counts for something else": (TWO, inside(lambda b: b["counts"][0], approval="eight-eyes")),
    "who asked approves": (TWO, ASKED),
    "who asked corrects": (CORRECTED, ASKED),
    "a RESULT that is none": (TWO, say(result=SIXTH)),
    "an INTENT that is none": (TWO, say(intent={"hash": "", "seq": "1"})),
    "a RESULT of another decision": (TWO, put(5, decision="e" * 32)),
    "counts for an Approval, where a person was to answer": (
        TWO,
        together(for_a_person, lambda log: body(log).update(counts=[VOTE])),
    ),
    "counts for nothing, where a person was to answer": (
        TWO,
        together(for_a_person, lambda log: body(log).update(counts=[])),
    ),
    # 7: beside
    "a vote for another answer": (CORRECTED, beside),
    "a vote twice": (TWO, beside),
    "one reviewer twice": (
        TWO,
        together(
            say(reviewer=ANNE.vkey.line),
            put(reviewer="anne", registered={"hash": "", "seq": "2"}),
        ),
    ),
    "a vote that is none": (TWO, inside(lambda b: b["beside"][0], seq="1")),
    "an answer that nobody made": (
        TWO,
        together(both(answer=NO), put(beside=[], stands="waiting")),
    ),
    "a correction that is not beside": (CORRECTED, put(beside=[], stands="waiting")),
    "one is enough, says the act": (
        TWO,
        together(put(beside=[]), inside(lambda b: b["requires"][0], count=1)),
    ),
    # 8: what stands
    "a refusal that waits": (ONE_NO, put(stands="waiting")),
    "a refusal that releases": (ONE_NO, put(stands="released")),
    "an approval that refuses": (TWO, put(stands="refused")),
    "released alone": (TWO, put(beside=[])),
    "waits though all are there": (TWO, put(stands="waiting")),
    "two where three are required": (TWO, inside(lambda b: b["requires"][0], count=3)),
}
SPOILT |= {
    "time gives an answer": (LATE, put(answer=NO)),
    "time has a reviewer": (LATE, put(reviewer="anne")),
    "time counts": (LATE, put(counts=[VOTE])),
    "time has a vote beside it": (LATE, put(beside=[SIXTH])),
    "time requires something else": (LATE, inside(lambda b: b["requires"][0], approval="eight")),
    "time is up twice": (LATE, lambda log: again(log, 7)),
    "time is up for what does not wait": (
        LATE,
        together(put(5, approvals=[], degraded=""), lambda log: log.pop(6)),
    ),
    "an APPROVAL with what": (TWO, put(what="answer")),
    "what a key was before it was none": (TWO, registered_again),
    "an INTENT of another decision": (TWO, put(4, decision="e" * 32)),
    "a RESULT of another INTENT": (TWO, put(5, intent="3")),
    "one reviewer twice, by two keys": (TWO, by_two_keys),
}
FINE: Spoils = {
    "who asked refuses": (ONE_NO, ASKED),
    "who asked approves, where that may be": (
        TWO,
        together(ASKED, lambda log: requiring(log, separate=False)),
    ),
    "one is enough": (
        TWO,
        together(put(beside=[]), lambda log: log.pop(6), lambda log: requiring(log, count=1)),
    ),
    "a person was to answer": (TWO, for_a_person),
    "the key of a vote is none any more": (TWO, lambda log: removed(log, 7, 2)),
}
BEFORE = [(name, since) for name in HONEST for since in range(1, 9)]


@pytest.mark.parametrize("name", HONEST)
def test_what_nobody_spoilt_holds(name: str) -> None:
    assert read(opened(name)) == []


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_spoilt_is_refused(name: str) -> None:
    case, spoil = SPOILT[name]
    log = opened(case)
    spoil(log)
    assert read(log) != []


@pytest.mark.parametrize("name", FINE)
def test_what_the_page_allows_holds(name: str) -> None:
    case, spoil = FINE[name]
    log = opened(case)
    spoil(log)
    assert read(log) == []


@pytest.mark.parametrize(("name", "since"), BEFORE)
def test_what_lies_before_the_records_refuses_nothing(name: str, since: int) -> None:
    assert read(opened(name), lambda seq: seq == 0 or seq >= since) == []
