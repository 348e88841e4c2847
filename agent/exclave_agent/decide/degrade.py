"""Degrade: the answer when no target of a route may or can give one. Never a way around them."""

from __future__ import annotations

from typing import TypeVar

from exclave_agent.errors import AgentError, NoTarget, RequestError
from exclave_agent.ports import Clock, Referral, Referrals

from .calls import Call
from .infer import durable
from .jobs import Answer, Job
from .overlap import IntentTask
from .route import Plan

E = TypeVar("E")


def nobody(plan: Plan, error: AgentError | None) -> AgentError:
    """Why a decision is refused. `error`: of the last attempt; None: nobody was asked.

    A model that was asked for by its own name keeps its own error, and so does a request that
    the caller can mend.
    """
    if error is not None and (plan.implicit or isinstance(error, RequestError)):
        return error
    if error is None and plan.too_long is not None and not plan.choices:
        return plan.too_long
    after = getattr(error, "retry_after", None)
    return NoTarget(
        "no model of this route may or can answer now: try again later", retry_after=after
    )


def stands_in(plan: Plan, job: Job[E]) -> bool:
    """Whether the route has words for when nobody can answer, which this request can do with: a
    caller that asked for JSON of some schema must not be given anything else."""
    otherwise = plan.otherwise
    words = otherwise.person if otherwise.answer is None else otherwise.answer
    return words is not None and job.takes(words)


async def stand_in(
    plan: Plan, call: Call, intent: IntentTask, referrals: Referrals | None, clock: Clock
) -> Answer:
    """The canned answer, or the word that a person has been asked, once that is durable.

    Raises: StorageError; NoTarget when nothing keeps referrals here.
    """
    otherwise = plan.otherwise
    if otherwise.answer is not None:
        return _canned(otherwise.answer, "canned")
    assert otherwise.person is not None, "the route has an answer"
    if referrals is None:
        raise NoTarget("this route hands over to a person, and nothing here keeps referrals")
    await durable(intent)
    await referrals.add(Referral(call.decision, plan.name, clock.now_ns()))
    return _canned(otherwise.person, "person")


def _canned(text: str, degraded: str) -> Answer:
    return Answer("stop", text, None, text=text, degraded=degraded)
