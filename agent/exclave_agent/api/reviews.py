"""Decisions that wait for people: what a reviewer sees and signs, and what the asker gets.

A reviewer's program fetches a decision, checks that the text is what the records give, signs a
statement over the text's digest with the reviewer's own key, and posts that (docs/reviews.md).
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

import msgspec

from exclave_agent.errors import NoSuchReview
from exclave_agent.ports import Caller, Referral
from exclave_agent.review.case import Done
from exclave_agent.review.desk import Desk, View
from exclave_protocol.approval import Stands
from exclave_protocol.leaf import format_time
from exclave_protocol.shown import FIELDS

from .exchange import Exchange
from .parse import parse

SCHEMA: Final = "exclave.review/v1"
_ID: Final = 32


class _Act(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is posted. Attributes are the fields of docs/reviews.md."""

    envelope: msgspec.Raw
    shown: str
    answer: str | None = None


_ACT = msgspec.json.Decoder(_Act)


class Reviews:
    """The handlers."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def waiting(self, exchange: Exchange) -> None:
        """`GET /v1/reviews`: what the caller may act on; no values."""
        found = await self._desk.waiting(_caller(exchange))
        await exchange.respond_json(200, {"reviews": [_listed(each) for each in found]})

    async def view(self, exchange: Exchange) -> None:
        """`GET /v1/reviews/<decision>`: with its values."""
        view = await self._desk.view(_caller(exchange), _decision(exchange))
        await exchange.respond_json(200, _viewed(view), [(b"cache-control", b"no-store")])

    async def take(self, exchange: Exchange) -> None:
        """`POST /v1/reviews/<decision>`: a signed act."""
        caller, decision = _caller(exchange), _decision(exchange)
        act = parse(_ACT, await exchange.body())
        taken = await self._desk.take(caller, decision, bytes(act.envelope), act.shown, act.answer)
        body = {"decision": decision, "stands": str(taken.stands), "record": taken.seq}
        await exchange.respond_json(200, body)

    async def answer(self, exchange: Exchange) -> None:
        """`GET /v1/reviews/<decision>/answer`: for whoever asked."""
        decision = _decision(exchange)
        found = await self._desk.answer(_caller(exchange), decision)
        body: dict[str, Any] = {"decision": decision, "stands": str(found.stands)}
        if found.stands is Stands.WAITING:
            await exchange.respond_json(202, body | {"told": found.told})
            return
        body |= {"answer": found.answer, "corrected": found.corrected}
        await exchange.respond_json(200, body, [(b"cache-control", b"no-store")])


def _caller(exchange: Exchange) -> Caller:
    assert exchange.caller is not None, "the gate lets nobody else in"
    return exchange.caller


def _decision(exchange: Exchange) -> str:
    """Raises: NoSuchReview (not an id)."""
    found = exchange.path_params["decision"]
    if len(found) != _ID or not found.isascii() or not found.isalnum():
        raise NoSuchReview("no decision of that id waits for people")
    return found


def _listed(referral: Referral) -> dict[str, Any]:
    expires = referral.expires_ns
    return {
        "decision": referral.decision,
        "route": referral.route or None,
        "since": format_time(referral.created_ns),
        "expires": format_time(expires) if expires else None,
        "approvals": [
            {"approval": each.approval, "version": each.version, "count": each.count}
            for each in referral.terms
        ],
        "guard": referral.guard or None,
    }


def _viewed(view: View) -> dict[str, Any]:
    case = view.case
    answer = case.answer
    return {
        "schema": SCHEMA,
        **_listed(view.referral),
        "intent": b64encode(case.intent.data).decode(),
        "result": b64encode(case.result.data).decode(),
        "acts": [b64encode(_data(each)).decode() for each in case.done],
        "disclosures": [
            item.encoded for name, item in case.intent.disclosures.items() if name in FIELDS
        ],
        "answer": None if answer is None else answer.encoded,
        "requires": [each.to_json() for each in view.requires],
        "shown": view.shown.encoded,
    }


def _data(done: Done) -> bytes:
    return done.record.data
