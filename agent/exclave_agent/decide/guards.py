"""Guards: look at what was asked before anybody is asked, as the policy obliges.

They look in threads of their own, few at a time: what they look at may be long, and is somebody
else's text. MUST: what cannot be looked at counts as the worst that could be found in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from exclave_agent.errors import AgentError, InputRefused, NoTarget, Overloaded, Unavailable
from exclave_agent.ports import ActiveRelease, ModelSet, RedactionKeys
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.guards import injection, personal
from exclave_policy.guards.checks import NAMES, CompiledValidator, Failure, Material
from exclave_policy.guards.personal import Finding, TooLong
from exclave_policy.kinds.redactions import Redaction
from exclave_policy.kinds.validators import (
    ConfidenceCheck,
    GroundedCheck,
    InjectionCheck,
    PersonalCheck,
    SchemaCheck,
    Validator,
)
from exclave_policy.model import Request
from exclave_policy.schema import CONTENT, activation

from . import entities
from .authorize import UNSEEN, Seen
from .calls import Call, EmbedCall, GenerateCall, InferCall, RerankCall
from .notes import Notes
from .plan import Choice, Plan
from .redact import Redacted, applying, redacted
from .texts import request_as, said, texts_of

THREADS = 2
MAX_POLICIES = 4
"""Policies of live and leased releases whose documents are kept compiled."""
MAX_WAITING = 64
"""Looks that wait for a thread; more are turned away."""
_QUICK = 4096
"""Characters up to which a validator without a slow check is done before a thread would start."""
_SLOW = (PersonalCheck, GroundedCheck, InjectionCheck, SchemaCheck)
_STRICTNESS = {"refuse": 0, "escalate": 1, "fall_back": 2}

T = TypeVar("T")


class NoKeys:
    """Nothing keeps secrets here."""

    def key(self, name: str) -> bytes:
        """See `ports.RedactionKeys`."""
        raise NoTarget(
            "a redaction of the policy makes keyed tokens, and nothing here keeps secrets",
            code="secret_missing",
        )


@dataclass(frozen=True, slots=True)
class Failed:
    """A validator that is enforced, and what it found."""

    validator: Validator
    failure: Failure

    @property
    def words(self) -> str:
        """What it found, after what was looked at; without any of that."""
        found = self.failure
        return (
            f"did not pass validator {self.validator.name}: {found.check} check "
            f"{found.place + 1}: {found.reason}"
        )


def strictest(failed: Sequence[Failed]) -> Failed | None:
    """Whose `otherwise` holds: refuse before escalate before fall_back."""
    return min(failed, key=lambda each: _STRICTNESS[each.validator.otherwise], default=None)


def unseen(validator: Validator, error: AgentError) -> Failure:
    """What a validator found that could not look. One that is only watched ends nothing.

    Raises: `error`, of one that is enforced.
    """
    if validator.mode == "enforce":
        raise error
    name = NAMES[type(validator.checks[0])]
    return Failure(validator.name, name, 0, f"it could not be looked at ({error.code})")


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What is made of one policy, once."""

    policy: CompiledPolicy
    validators: Mapping[str, CompiledValidator]
    content: frozenset[str]
    """Of `CONTENT`: what any of its conditions sees."""


def _compiled(policy: CompiledPolicy) -> _Compiled:
    validators = {name: CompiledValidator(each) for name, each in policy.validators.items()}
    names = policy.names.union(
        *(each.names for each in validators.values()),
        *(
            target.when.names
            for route in policy.routes.values()
            for target in route.targets
            if target.when is not None
        ),
    )
    return _Compiled(policy, validators, names & CONTENT)


class Guards:
    """What the release's policy obliges to look at; one for all decisions."""

    def __init__(self, keys: RedactionKeys) -> None:
        self._keys = keys
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="guards")
        self._running = 0
        self._closed = False
        self._known: tuple[_Compiled, ...] = ()

    def close(self) -> None:
        """Start nothing more; what waits for a thread is told so."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _of(self, policy: CompiledPolicy) -> _Compiled:
        """What a policy's documents were compiled to; decisions of a former release go on."""
        for known in self._known:
            if known.policy is policy:
                return known
        made = _compiled(policy)
        self._known = (made, *self._known[: MAX_POLICIES - 1])
        return made

    async def run(self, work: Callable[[], T]) -> T:
        """In a thread. Raises: Overloaded, Unavailable, and what `work` raises."""
        if self._closed:
            raise _stopping()
        if self._running >= THREADS + MAX_WAITING:
            raise Overloaded("too many texts wait to be looked at by guards: try again later")
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise _stopping() from None  # the thread was taken from it, and nobody left
            raise
        finally:
            self._running -= 1

    # --- what conditions see ---------------------------------------------------------------------

    async def sense(self, release: ActiveRelease, call: Call) -> Seen:
        """What is in what was asked, where a condition of the policy wants to know.

        Raises: InputRefused when it is too long to be looked at; Overloaded.
        """
        content = self._of(release.policy).content
        if not content:
            return UNSEEN
        try:
            return await self.run(lambda: _seen(call, content))
        except TooLong:
            raise _too_long("data", call) from None

    # --- validators of the input -----------------------------------------------------------------

    async def admit(
        self,
        release: ActiveRelease,
        call: Call,
        request: Request,
        asked: Sequence[str],
        plan: Plan,
        notes: Notes,
    ) -> Failed | None:
        """Hold the input to every validator that the name asked for obliges to (`asked`), and
        take out of the plan those targets whose own find something.

        Returns what ends the decision, if anything does. Raises: Overloaded.
        """
        compiled = self._of(release.policy).validators
        known: dict[str, Failed | None] = {}

        async def worst(names: Sequence[str]) -> Failed | None:
            for name in names:
                if name not in known:
                    known[name] = await self._input(compiled[name], call, request, notes)
            return strictest([found for name in names if (found := known[name]) is not None])

        first = await worst(asked)
        if first is not None:
            return first
        kept: list[Choice] = []
        for choice in plan.choices:
            failed = await worst(choice.obligations.validators)
            if failed is None:
                kept.append(choice)
            else:
                plan.skip(choice.place, "input_refused")
                first = first or failed
        plan.choices = kept
        return None if kept else first

    async def _input(
        self, compiled: CompiledValidator, call: Call, request: Request, notes: Notes
    ) -> Failed | None:
        if compiled.validator.stage != "input":
            return None
        material = Material(said(call), values=activation(request, compiled.names))
        try:
            failure = await self.failure(compiled, material)
        except AgentError as error:
            failure = unseen(compiled.validator, error)
        if failure is None:
            notes.passed(compiled.validator)
            return None
        notes.failed(compiled.validator, failure, "")
        enforced = compiled.validator.mode == "enforce"
        return Failed(compiled.validator, failure) if enforced else None

    async def failure(self, compiled: CompiledValidator, material: Material) -> Failure | None:
        """What of it fails, of the checks that ask no model."""
        slow = any(isinstance(each, _SLOW) for each in compiled.validator.checks)
        if not slow and len(material.text) + len(material.asked) <= _QUICK:
            return compiled.check(material)
        return await self.run(lambda: compiled.check(material))

    # --- what targets are shown, and held to -----------------------------------------------------

    async def prepare(self, release: ActiveRelease, call: Call, plan: Plan) -> None:
        """Give each target the call as it may see it, and the validators of its answer; take out
        those that it must not be sent to.

        Raises: InputRefused, Unavailable: why none is left, when redactions leave none.
        """
        compiled = self._of(release.policy).validators
        made: dict[tuple[str, ...], Redacted | AgentError] = {}
        kept: list[Choice] = []
        error: AgentError | None = None
        for choice in plan.choices:
            _arm(choice, call, compiled)
            documents = applying(release.policy, choice.obligations, choice.info)
            names = tuple(each.name for each in documents)
            if names and names not in made:
                made[names] = await self._outcome(release.models, call, documents)
            outcome = made.get(names)
            if isinstance(outcome, AgentError):
                plan.skip(choice.place, "redaction")
                error = error or outcome
                continue
            if outcome is not None:
                choice.redacted = outcome
                if choice.request is not None and isinstance(outcome.call, GenerateCall):
                    choice.sent = request_as(outcome.call, choice.request)
            kept.append(choice)
        plan.choices = kept
        if error is not None and not kept:
            raise error

    async def _outcome(
        self, models: ModelSet, call: Call, documents: Sequence[Redaction]
    ) -> Redacted | AgentError:
        """The call without what they look for, or why it must not be sent."""
        name = documents[0].name
        try:
            if isinstance(call, InferCall):
                return InputRefused(
                    f"redaction {name} stands before this model, and tensors cannot be redacted",
                    guard=name,
                    decision_id=call.decision,
                )
            made: Redacted = Redacted(call)
            for document in documents:
                name = document.name
                made = await self._step(models, made, document)
                if made.refused is not None:
                    return InputRefused(
                        f"what was sent holds {made.refused[1]}, which redaction {name} does not "
                        "let pass: remove it",
                        guard=name,
                        decision_id=call.decision,
                    )
        except TooLong:
            return _too_long(name, call)
        except AgentError as error:
            return error
        except ValueError:
            return NoTarget(
                f"the model of redaction {name} did not answer in the form that is documented",
                code="redaction_failed",
            )
        return made

    async def _step(self, models: ModelSet, before: Redacted, document: Redaction) -> Redacted:
        found: dict[str, Sequence[Finding]] = {}
        if document.entities:
            for text in dict.fromkeys(texts_of(before.call)):
                found[text] = await entities.found(models, document.entities, text)
        key = self._keys.key(document.key) if document.tokens == "keyed" else b""
        return await self.run(lambda: redacted(before, document, key, found))


def _arm(choice: Choice, call: Call, compiled: Mapping[str, CompiledValidator]) -> None:
    """Vectors and scores say nothing that a validator could read."""
    if isinstance(call, EmbedCall | RerankCall):
        return
    found = (compiled[name] for name in choice.obligations.validators)
    choice.validators = tuple(each for each in found if each.validator.stage == "output")
    request = choice.request
    if request is None or request.sampling.top_logprobs is not None:
        return
    checks = (check for each in choice.validators for check in each.validator.checks)
    if any(isinstance(check, ConfidenceCheck) for check in checks):
        sampling = replace(request.sampling, top_logprobs=0)  # the chosen tokens' own
        choice.request = replace(request, sampling=sampling)


def _seen(call: Call, names: frozenset[str]) -> Seen:
    """Raises: TooLong."""
    kinds: tuple[str, ...] = ()
    score = 0
    if "data.personal" in names:
        found = {kind for text in texts_of(call) for kind in personal.kinds_in(text)}
        kinds = tuple(sorted(found))
    if "data.injection" in names:
        score = injection.score(said(call))
    return Seen(kinds, score)


def _stopping() -> Unavailable:
    return Unavailable("the agent is stopping: ask again when it is back", retry_after=1.0)


def _too_long(guard: str, call: Call) -> InputRefused:
    return InputRefused(
        f"what was sent is longer than guard {guard} can look at: send less at once",
        guard=guard,
        decision_id=call.decision,
    )
