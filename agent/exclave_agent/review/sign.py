"""The reviewer's side: checks what the agent shows against the records, and signs what was seen.

Pure; the agent is not trusted here. What is signed is the digest of the very text that
`Seen.text` returns, and that text is made here again from the records' own commitments.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_agent.errors import BadRequest
from exclave_protocol.approval import (
    ANSWER,
    SHOWN,
    Act,
    Place,
    Statement,
    read_requires,
)
from exclave_protocol.canonical import JsonValue
from exclave_protocol.disclosure import Disclosure, make, parse
from exclave_protocol.errors import ProtocolError
from exclave_protocol.leaf import Leaf, decode_leaf
from exclave_protocol.note import SigningKey
from exclave_protocol.shown import FIELDS, render
from exclave_protocol.tree import leaf_hash


@dataclass(frozen=True, slots=True)
class Seen:
    """A decision as the reviewer sees it."""

    decision: str
    text: str
    """To be shown in full, and nothing else."""
    shown: Disclosure
    intent: tuple[Leaf, bytes]
    """With its leaf hash."""
    result: tuple[Leaf, bytes]
    answer: Disclosure | None

    def sign(
        self,
        act: Act,
        key: SigningKey,
        private: Ed25519PrivateKey,
        *,
        time_ns: int,
        corrected: Disclosure | None = None,
    ) -> dict[str, Any]:
        """What is posted. `corrected`: the answer of a correction (`correction`).

        Raises: BadRequest (there is no answer to approve).
        """
        answer = {Act.APPROVE: self.answer, Act.CORRECT: corrected}.get(act)
        if answer is None and act is not Act.REFUSE:
            raise BadRequest("no answer waits: correct it with one of your own, or refuse")
        statement = Statement(
            self.intent[0].log,
            self.decision,
            act,
            Place(self.intent[0].seq, self.intent[1]),
            Place(self.result[0].seq, self.result[1]),
            self.shown.digest,
            None if answer is None else answer.digest,
            key.vkey,
            time_ns,
        )
        posted: dict[str, Any] = {"shown": self.shown.encoded}
        if corrected is not None:
            posted["answer"] = corrected.encoded
        return posted | {"envelope": statement.sign(private).encode()}


def correction(answer: JsonValue, salt: bytes) -> Disclosure:
    """A corrected answer. `salt`: 32 unpredictable bytes. Raises: BadRequest."""
    try:
        return make(ANSWER, answer, salt)
    except ProtocolError as error:
        raise BadRequest(error.message, param=ANSWER) from None


def look(view: Mapping[str, Any], decision: str) -> Seen:
    """Check what the agent sent. Raises: BadRequest (it contradicts itself: sign nothing)."""
    try:
        return _look(view, decision)
    except (KeyError, TypeError, AttributeError, Base64Error, ValueError):
        raise BadRequest("the agent's answer is not of the form that this version knows") from None
    except ProtocolError as error:
        raise BadRequest(f"the agent's answer does not hold: {error.message}") from None


def _look(view: Mapping[str, Any], decision: str) -> Seen:
    intent, result = _leaf(view["intent"]), _leaf(view["result"])
    acts = [_leaf(each)[0] for each in view["acts"]]
    if any(leaf.body.get("decision") != decision for leaf in (intent[0], result[0], *acts)):
        raise BadRequest("the agent's answer is about another decision: nothing was signed")
    values = [parse(str(each)) for each in view["disclosures"]]
    if any(item.digest not in intent[0].sd or item.name not in FIELDS for item in values):
        raise BadRequest("the agent shows values that are not on record: nothing was signed")
    answer = None if view["answer"] is None else parse(str(view["answer"]))
    committed = {digest for leaf in (result[0], *acts) for digest in leaf.sd}
    if answer is not None and answer.digest not in committed:
        raise BadRequest("the agent shows an answer that is not on record: nothing was signed")
    requires = read_requires(view["requires"])
    if requires != read_requires(result[0].body.get("requires", [])):
        raise BadRequest("the agent asks for less, or more, than is on record: nothing was signed")
    text = render(
        intent[0],
        result[0],
        {item.name: item.value for item in values},
        None if answer is None else answer.value,
        requires,
        acts,
    )
    shown = parse(str(view["shown"]))
    if shown.name != SHOWN or shown.value != text:
        raise BadRequest("the agent's text is not what its records give: nothing was signed")
    return Seen(decision, text, shown, intent, result, answer)


def _leaf(text: str) -> tuple[Leaf, bytes]:
    data = b64decode(text, validate=True)
    return decode_leaf(data), leaf_hash(data)
