"""Reviewers' acts that hold, and what somebody with the agent's own key may write instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from exclave_protocol.approval import Act, Place, Review, Stands
from exclave_protocol.leaf import LeafType

from .acts import ASKER, ONE, Acts, ready, secret, swapped, vkey

ANSWER = secret("answer", "no", 7)

HONEST: dict[str, Callable[[], Acts]] = {
    "two approve": lambda: ready().act("anne").act("ben", stands=Stands.RELEASED, beside=["anne"]),
    "one refuses": lambda: ready().act("anne").act("ben", Act.REFUSE, Stands.REFUSED),
    "a correction, approved": lambda: (
        ready()
        .act("anne")
        .act("ben", Act.CORRECT, answer=ANSWER)
        .act("anne", stands=Stands.RELEASED, beside=["ben"], answer=ANSWER)
    ),
    "nobody in time": lambda: ready().act("anne").expire(),
    "a person answers": lambda: ready(()).act("anne", Act.CORRECT, Stands.RELEASED, answer=ANSWER),
    "removed, and registered again": lambda: (
        ready(ONE)
        .register("anne", stands=False)
        .register("anne")
        .act("anne", stands=Stands.RELEASED)
    ),
}


def _lone(by: str = "", **more: object) -> Acts:
    return ready(ONE).act("anne", stands=Stands.RELEASED, by=by, **more)  # type: ignore[arg-type]  # the act's own


FORGED: dict[str, tuple[Callable[[], Acts], str]] = {
    "another key signs": (
        lambda: _lone(by="mallory", said=lambda r: replace(r, reviewer="mallory")),
        "not a registered reviewer's",
    ),
    "under another's name": (
        lambda: _lone(stated=lambda s: replace(s, reviewer=vkey("ben"))),
        "not enough",
    ),
    "nobody was registered": (
        lambda: Acts(ONE).ask().act("anne", stands=Stands.RELEASED),
        "no reviewer is registered",
    ),
    "a removed reviewer": (
        lambda: ready(ONE).register("anne", stands=False).act("anne", stands=Stands.RELEASED),
        "not a registered reviewer's",
    ),
    "a registration that was ended and renewed": (
        lambda: (
            ready(ONE)
            .register("anne", stands=False)
            .register("anne", remember=False)
            .act("anne", stands=Stands.RELEASED)
        ),
        "any more",
    ),
    "a role that the reviewer lacks": (
        lambda: _lone(said=lambda r: replace(r, counts=(("four-eyes", "lead"),))),
        "no such role",
    ),
    "whoever asked approves": (
        lambda: Acts(ONE).register("anne", key=ASKER).ask().act("anne", stands=Stands.RELEASED),
        "whoever asked",
    ),
}
CHANGED: dict[str, tuple[Callable[[], Acts], str]] = {
    "a refusal becomes an approval": (
        lambda: ready(ONE).act(
            "anne",
            Act.REFUSE,
            Stands.RELEASED,
            said=lambda r: replace(r, act=Act.APPROVE, answer=ready().held.digest),
        ),
        "signed something else",
    ),
    "another answer": (
        lambda: _lone(said=lambda r: replace(r, answer=ANSWER.digest)),
        "signed something else",
    ),
    "another decision": (
        lambda: _lone(said=lambda r: replace(r, decision="e" * 32)),
        "signed something else",
    ),
    "an answer that nobody made": (
        lambda: _lone(answer=ANSWER),
        "not that of the decision",
    ),
    "what was shown is not committed to": (lambda: _lone(commits=False), "what was shown"),
    "a correction that is not committed to": (
        lambda: ready(ONE).act("anne", Act.CORRECT, Stands.RELEASED),
        "corrected answer is not committed to",
    ),
    "a correction as an approval": (
        lambda: ready(ONE).act(
            "anne", Act.CORRECT, Stands.RELEASED, answer=ANSWER, kind=LeafType.APPROVAL
        ),
        "what an OVERRIDE does",
    ),
}
PLACES: dict[str, tuple[Callable[[], Acts], str]] = {
    "another INTENT": (
        lambda: _lone(stated=lambda s: replace(s, intent=swapped(s.intent))),
        "another record than that of",
    ),
    "another RESULT": (
        lambda: _lone(stated=lambda s: replace(s, result=swapped(s.result))),
        "another record than that of",
    ),
    "a RESULT that does not wait": (
        lambda: _lone(stated=lambda s: replace(s, result=s.intent, intent=Place(0, bytes(32)))),
        "other records than those",
    ),
    "another registration": (
        lambda: _lone(said=lambda r: replace(r, registered=_swap(r))),
        "another record than that of",
    ),
    "a registration to come": (
        lambda: _lone(said=lambda r: replace(r, registered=Place(99, bytes(32)))),
        "what comes after it",
    ),
}
COUNTED: dict[str, tuple[Callable[[], Acts], str]] = {
    "one instead of two": (
        lambda: ready().act("anne", stands=Stands.RELEASED),
        "not what the acts add up to",
    ),
    "two by one": (
        lambda: ready().act("anne").act("anne", stands=Stands.RELEASED, beside=["anne"]),
        "or twice",
    ),
    "an act for another answer": (
        lambda: (
            ready()
            .act("anne")
            .act("ben", Act.CORRECT, Stands.RELEASED, answer=ANSWER, beside=["anne"])
        ),
        "for another answer",
    ),
    "an act that was none": (
        lambda: ready().act(
            "anne",
            stands=Stands.RELEASED,
            said=lambda r: replace(r, beside=(r.registered,) if r.registered else ()),
        ),
        "no act stands for",
    ),
    "fewer are required": (
        lambda: ready().act("anne", stands=Stands.RELEASED, said=lambda r: replace(r, requires=())),
        "requires something else",
    ),
    "one is enough, says the act": (
        lambda: ready().act(
            "anne", stands=Stands.RELEASED, said=lambda r: replace(r, requires=ONE)
        ),
        "requires something else",
    ),
    "one person by two keys": (
        lambda: (
            ready()
            .act("anne")
            .register("anne", stands=False)
            .register("anne", seed="anne again")
            .act("anne", stands=Stands.RELEASED, beside=["anne"])
        ),
        "or twice",
    ),
    "one person by two names": (
        lambda: (
            ready()
            .act("anne")
            .register("anna", key="key-anne")
            .act("anna", stands=Stands.RELEASED, beside=["anne"])
        ),
        "or twice",
    ),
    "time that names an answer": (
        lambda: ready().expire(said=lambda r: replace(r, answer=ANSWER.digest)),
        "says who",
    ),
    "time that is up twice": (lambda: ready().expire().expire(), "does not wait"),
    "time for something else": (
        lambda: ready().expire(said=lambda r: replace(r, requires=ONE)),
        "requires something else",
    ),
    "it counts for something else": (
        lambda: _lone(said=lambda r: replace(r, counts=(("lead", "reviewer"),))),
        "nobody asked for",
    ),
    "after it was refused": (
        lambda: (
            ready(ONE).act("anne", Act.REFUSE, Stands.REFUSED).act("ben", stands=Stands.RELEASED)
        ),
        "does not wait",
    ),
    "after it expired": (
        lambda: ready(ONE).expire().act("ben", stands=Stands.RELEASED),
        "does not wait",
    ),
    "a refusal that refuses nothing": (
        lambda: ready().act("anne", Act.REFUSE, Stands.WAITING),
        "a refusal refuses",
    ),
    "time that releases": (lambda: ready().expire(Stands.RELEASED), "in time is refused"),
}


def _swap(review: Review) -> Place:
    assert review.registered is not None
    return swapped(review.registered)
