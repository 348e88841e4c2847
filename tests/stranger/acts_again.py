"""Honest logs of the vectors with reviewers' acts, opened and signed again by fresh keys."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from stranger.build import Key
from stranger.notes import WITNESS
from stranger.tree import leaf_hash
from stranger.wire import b64, canonical, parse, unb64

VECTOR: Any = json.loads((Path(__file__).parents[1] / "vectors" / "approval.json").read_text())
CASES: dict[str, Any] = {case["name"]: case for case in VECTOR["cases"]}
HONEST = [name for name, case in CASES.items() if case["holds"]]
ANNE, BEN = Key("anne", seed="reviewer anne"), Key("ben", seed="reviewer ben")
ANNE_AGAIN = Key("anne", seed="reviewer anne, another key")
BEN_AS_WITNESS = Key("ben", WITNESS, "reviewer ben")
KEYS = {key.vkey.line: key for key in (ANNE, BEN, ANNE_AGAIN, BEN_AS_WITNESS)}
OF = {"anne": ANNE, "ben": BEN}
Log = list[Any]
"""Leaves as JSON, payloads opened. A hash or a signature that is empty is made when sealed."""


def body(log: Log, seq: int = -1) -> Any:
    """The body of a record."""
    return log[seq]["body"]


def said(log: Log, seq: int = -1) -> Any:
    """The payload of an act."""
    return body(log, seq)["envelope"]["payload"]


def references(fields: Any) -> Iterator[Any]:
    """What an act names by seq and hash."""
    if fields.get("envelope"):
        payload = fields["envelope"]["payload"]
        yield from (payload[name] for name in ("intent", "result"))
    yield from filter(None, (fields.get("registered"), *fields.get("beside", ())))


def opened(name: str) -> Log:
    """An honest log, with fresh keys in place of its reviewers'."""
    log = [json.loads(line) for line in CASES[name]["leaves"]]
    for leaf in log:
        fields = leaf["body"]
        if fields.get("what") == "reviewer":
            fields["vkey"] = OF[fields["reviewer"]].vkey.line
        if fields.get("envelope"):
            payload: Any = parse(unb64(fields["envelope"]["payload"]))
            payload["reviewer"] = OF[fields["reviewer"]].vkey.line
            fields["envelope"]["payload"] = payload
            fields["envelope"]["signatures"][0]["sig"] = ""
        for named in references(fields):
            named["hash"] = ""
    return log


def requiring(log: Log, **fields: object) -> None:
    """Other requirements, in RESULT and in all acts."""
    for leaf in log:
        for each in leaf["body"].get("requires", ()):
            each.update(fields)


def _sign(fields: Any) -> None:
    """By the key that the payload names; `before` is what stands in front of the payload."""
    envelope = fields["envelope"]
    key = KEYS[envelope["payload"]["reviewer"]]
    data = envelope.pop("before", "").encode() + canonical(envelope["payload"])
    kind = envelope["payloadType"].encode()
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(data), data)
    envelope["payload"] = b64(data)
    for each in envelope["signatures"]:
        each["sig"] = each["sig"] or b64(key.private.sign(message))


def sealed(given: Log) -> tuple[list[bytes], list[bytes]]:
    """The exact leaves, and their hashes."""
    leaves: list[bytes] = []
    hashes: list[bytes] = []
    for seq, leaf in enumerate(deepcopy(given)):
        for named in references(leaf["body"]):
            at = int(named["seq"])
            named["hash"] = named["hash"] or (hashes[at].hex() if at < seq else "0" * 64)
        if leaf["body"].get("envelope"):
            _sign(leaf["body"])
        leaf |= {"seq": str(seq), "prev": hashes[-1].hex() if hashes else "0" * 64}
        leaves.append(canonical(leaf))
        hashes.append(leaf_hash(leaves[-1]))
    return leaves, hashes


def more(log: Log, seq: int, kind: str, fields: Any) -> None:
    """Put in a record, and move what lies behind it."""
    for leaf in log[seq:]:
        for named in references(leaf["body"]):
            if int(named["seq"]) >= seq:
                named["seq"] = str(int(named["seq"]) + 1)
    log.insert(seq, {**deepcopy(log[1]), "type": kind, "body": deepcopy(fields)})


def again(log: Log, seq: int) -> None:
    """Put a copy of a record behind the last."""
    log.append(deepcopy(log[seq]))


def removed(log: Log, seq: int, registered: int) -> None:
    """Say at a seq that the key of a registration is none any more."""
    more(log, seq, "OVERRIDE", {**body(log, registered), "stands": False})


def for_a_person(log: Log) -> None:
    """The first act is about what was handed to a person, and is the last of the log."""
    del log[7:]
    body(log, 5).update(approvals=[], requires=[], degraded="person")
    vote = {"approval": "", "role": "reviewer"}
    body(log).update(counts=[vote], requires=[], stands="released")
