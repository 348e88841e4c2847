"""Degrade: the answer when no target of a route may or can give one, or when what one gave is for
people to see first. Never a way around them."""

from __future__ import annotations

from typing import TypeVar

from exclave_agent.errors import AgentError, ApprovalNeeded, NoTarget, RequestError
from exclave_agent.ports import Clock, Referral, Referrals, Terms
from exclave_policy.kinds.validators import Validator
from exclave_protocol.approval import Requirement

from .infer import durable
from .jobs import Answer, Job
from .plan import Plan
from .underway import Underway

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


class Handover:
    """Hands decisions over to people. MUST: the caller is told so only once it is durable."""

    def __init__(self, referrals: Referrals | None, clock: Clock) -> None:
        """`referrals` None: nothing here keeps them."""
        self._referrals = referrals
        self._clock = clock

    async def stand_in(self, decision: Underway, plan: Plan) -> Answer:
        """The canned answer of the route, or its word that a person has been asked.

        Raises: StorageError; NoTarget when nothing keeps referrals here.
        """
        otherwise = plan.otherwise
        if otherwise.answer is not None:
            return _canned(otherwise.answer, "canned")
        assert otherwise.person is not None, "the route has an answer"
        await self._refer(decision, plan)
        return _canned(otherwise.person, "person")

    async def escalate(self, decision: Underway, plan: Plan, validator: Validator) -> Answer:
        """What the caller is told while a person looks at what a validator did not let pass.

        Raises: as `stand_in`.
        """
        decision.entry.notes.escalated = validator.name
        await self._refer(decision, plan, guard=validator.name)
        return _canned(validator.told, "person")

    async def hold_back(self, decision: Underway, plan: Plan, job: Job[E]) -> Answer:
        """What the caller is told while a complete answer waits for those who must approve it.
        The answer is in the record, and in nobody's hands.

        Raises: as `stand_in`; ApprovalNeeded where no words can stand in for the answer.
        """
        assert decision.choice is not None, "somebody answered"
        names = decision.entry.notes.approvals = decision.choice.obligations.approvals
        known = [decision.release.policy.approvals[name] for name in names]
        decision.entry.notes.requires = tuple(
            Requirement(each.name, each.version, each.count, each.separate) for each in known
        )
        await self._refer(decision, plan, approvals=names)
        told = decision.release.policy.approvals[names[0]].told
        if not job.takes(told):
            raise ApprovalNeeded(
                f"the answer is made and waits for people (approval {names[0]}): it is in the "
                "record under this decision, and was not given to anybody",
                approval=names[0],
                decision_id=decision.call.decision,
            )
        return _canned(told, "approval")

    async def _refer(
        self, decision: Underway, plan: Plan, approvals: tuple[str, ...] = (), guard: str = ""
    ) -> None:
        if self._referrals is None:
            raise NoTarget("this decision is for a person, and nothing here keeps referrals")
        assert decision.intent is not None, "what is handed over is on record"
        await durable(decision.intent)
        now = self._clock.now_ns()
        known = [decision.release.policy.approvals[name] for name in approvals]
        terms = tuple(
            Terms(
                each.name,
                each.version,
                tuple(sorted(each.roles)),
                each.count,
                each.separate,
                each.told,
            )
            for each in known
        )
        # Of several the shortest: what one of them does not allow any more is not allowed.
        expires = min((each.expires_seconds for each in known), default=0)
        await self._referrals.add(
            Referral(
                decision.call.decision,
                plan.name,
                now,
                approvals,
                guard,
                terms,
                now + expires * 10**9 if expires else 0,
            )
        )


def _canned(text: str, degraded: str) -> Answer:
    return Answer("stop", text, None, text=text, degraded=degraded)
