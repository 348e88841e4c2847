"""Cache: answers that were given before to the same request, and where the policy says so, to a
similar one.

A request is the same when everything that can change its answer is: tenant, release, policy,
model and adapted base by name and digest (one file may be two models, under other parameters),
data class, messages or prompt, tools, sampling, schema and grammar. In one such model equal
messages make equal prompt tokens, so nothing has to be tokenized to compare.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from exclave_agent.errors import AgentError, StorageError
from exclave_agent.ports import (
    ActiveRelease,
    Clock,
    CompletionStore,
    Generate,
    KeptCompletion,
    Message,
    ModelInfo,
    Sampling,
)
from exclave_policy.kinds.caching import CachePolicy, Semantic
from exclave_protocol.canonical import CanonicalError, JsonValue, encode

from .bodies import decimal
from .cached import Completion, completion_form, completion_of, request_form
from .calls import GenerateCall
from .semantic import MAX_CANDIDATES, nearest, pack, question_of

_log = logging.getLogger(__name__)

FORMAT = 1
"""Of the kept values: another one makes other keys."""
ROW_BYTES = 256
"""What an entry takes besides its values: hashes, numbers, the index's own."""
MAX_ENTRIES = 100_000
"""Entries, whatever the policy allows in bytes: the index of all of them is in memory."""
MAX_VALUE = 4 << 20
"""Bytes of one value; a longer answer is not kept."""
_KEPT_FINISHES = ("stop", "length", "tool_calls")
_PENDING_VECTORS = 1024


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A kept answer that fits a request."""

    completion: Completion
    cache: Literal["exact", "semantic"]
    similarity: str = ""
    """Of the two questions, a decimal, for the record; "" when they are the same."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request's answer is kept."""

    key: bytes
    scope: bytes
    question: str
    """To be embedded; "" without a scope."""


class Cache:
    """`load` it before the first `lookup`; on the event loop only."""

    def __init__(self, store: CompletionStore, clock: Clock, tenant: str) -> None:
        self._store = store
        self._clock = clock
        self._tenant = tenant
        self._index: OrderedDict[bytes, KeptCompletion] = OrderedDict()
        """The least recently used first."""
        self._scopes: dict[bytes, int] = {}
        """Entries of each scope."""
        self._vectors: OrderedDict[str, bytes] = OrderedDict()
        """By decision, from its lookup until its answer is kept."""
        self.bytes = 0
        """What the entries take."""

    def __len__(self) -> int:
        return len(self._index)

    async def load(self) -> None:
        """Drop what is over, take up the rest. Raises: StorageError."""
        await self._store.sweep(self._clock.now_ns())
        for kept in await self._store.index():
            self._add(kept)

    async def sweep(self) -> None:
        """Drop what has expired and what belongs to erased subjects; a chore.

        Raises: StorageError.
        """
        for key in await self._store.sweep(self._clock.now_ns()):
            self._remove(key)

    async def lookup(
        self,
        release: ActiveRelease,
        call: GenerateCall,
        request: Generate,
        info: ModelInfo,
        guards: Sequence[str] = (),
    ) -> CachedAnswer | None:
        """The answer that was kept for this request; None: there is none, or it must not be used.
        `guards`: the validators and redactions that stand between it and the caller; an answer
        that others stood before is another answer, and one to a similar question passed none.

        A store or an embedding model that fails is a miss, and logged.
        """
        policy = release.policy.cache
        if policy is None or not usable(policy, call, request, info):
            return None
        place = self._place(policy, release, call, request, info, guards)
        if place is None:
            return None
        try:
            if (found := await self._get(place.key)) is not None:
                return CachedAnswer(found, "exact")
            if policy.semantic is not None and place.scope in self._scopes:
                return await self._similar(policy.semantic, release, call, place)
        except AgentError as error:
            _log.warning("the completion cache was left out: %s", error.message)
        return None

    async def keep(
        self,
        release: ActiveRelease,
        call: GenerateCall,
        request: Generate,
        info: ModelInfo,
        answer: Completion,
        guards: Sequence[str] = (),
        most_seconds: int | None = None,
    ) -> bool:
        """Keep an answer that is complete, valid, recorded and of `info`'s model; whether it was.

        Call it neither for a cancelled nor for a degraded answer, nor for one from the cache. A
        store that fails keeps nothing, which is logged: the answer itself has been given.
        `most_seconds`: for which values of its class are kept; None: no limit.
        """
        policy = release.policy.cache
        if policy is None or not usable(policy, call, request, info):
            return False
        place = self._place(policy, release, call, request, info, guards)
        if place is None or answer.finish not in _KEPT_FINISHES:
            return False
        try:
            value = encode(completion_form(answer))
            vector = b""
            if policy.semantic is not None and place.scope:
                vector = await self._vector(policy.semantic, release, call, place)
            seconds = policy.ttl_seconds
            if most_seconds is not None:
                seconds = min(seconds, most_seconds)
            expires = self._clock.now_ns() + seconds * 1_000_000_000
            return await self._put(policy, call.subject, place, value, vector, expires)
        except CanonicalError:
            return False  # text that has no one form, such as half a character
        except AgentError as error:
            _log.warning("an answer was not kept in the completion cache: %s", error.message)
            return False

    # --- entries ------------------------------------------------------------------------------

    async def _get(self, key: bytes) -> Completion | None:
        kept = self._index.get(key)
        if kept is None:
            return None
        value = None
        if kept.expires_ns > self._clock.now_ns():
            value = await self._store.get(key)
        if value is None:  # expired, or its subject was erased
            if self._index.get(key) is kept:
                self._remove(key)
                await self._store.drop([key])
            return None
        if key in self._index:
            self._index.move_to_end(key)
        return completion_of(value)

    async def _put(
        self,
        policy: CachePolicy,
        subject: str,
        place: _Place,
        value: bytes,
        vector: bytes,
        expires: int,
    ) -> bool:
        size, limit = ROW_BYTES + len(value) + len(vector), policy.max_mib << 20
        if len(value) > MAX_VALUE or size > limit:
            return False
        kept = KeptCompletion(place.key, place.scope if vector else b"", size, expires)
        # Counted before it is written, so that many at once do not exceed the bound together.
        self._remove(place.key)
        self._add(kept)
        victims = self._overflow(limit)
        try:
            drop = [one.key for one in victims]
            await self._store.put(kept, subject, value, vector, drop=drop)
        except StorageError:
            if self._index.get(kept.key) is kept:  # and not another answer to the same
                self._remove(kept.key)
            for one in reversed(victims):
                self._add(one)
                self._index.move_to_end(one.key, last=False)
            raise
        return True

    def _overflow(self, limit: int) -> list[KeptCompletion]:
        """Take out the least recently used until the rest fits."""
        victims: list[KeptCompletion] = []
        while self._index and (self.bytes > limit or len(self._index) > MAX_ENTRIES):
            oldest = next(iter(self._index.values()))
            self._remove(oldest.key)
            victims.append(oldest)
        return victims

    def _add(self, kept: KeptCompletion) -> None:
        self._index[kept.key] = kept
        self.bytes += kept.size
        if kept.scope:
            self._scopes[kept.scope] = self._scopes.get(kept.scope, 0) + 1

    def _remove(self, key: bytes) -> None:
        kept = self._index.pop(key, None)
        if kept is None:
            return
        self.bytes -= kept.size
        if kept.scope:
            self._scopes[kept.scope] -= 1
            if not self._scopes[kept.scope]:
                del self._scopes[kept.scope]

    # --- similar questions ----------------------------------------------------------------------

    async def _similar(
        self, semantic: Semantic, release: ActiveRelease, call: GenerateCall, place: _Place
    ) -> CachedAnswer | None:
        vector = await self._vector(semantic, release, call, place)
        if not vector:
            return None
        self._vectors[call.decision] = vector  # for `keep`, if this is a miss
        while len(self._vectors) > _PENDING_VECTORS:
            self._vectors.popitem(last=False)
        threshold = float(semantic.threshold)
        judge = partial(_judge, vector=vector, threshold=threshold)
        found = await self._store.similar(place.scope, MAX_CANDIDATES, judge)
        if found is None:
            return None
        key, similarity = found
        completion = await self._get(key)
        if completion is None:
            return None
        self._vectors.pop(call.decision, None)
        # Cut, not rounded: the record never says more than there was.
        return CachedAnswer(completion, "semantic", decimal(int(similarity * 10_000) / 10_000))

    async def _vector(
        self, semantic: Semantic, release: ActiveRelease, call: GenerateCall, place: _Place
    ) -> bytes:
        known = self._vectors.pop(call.decision, None)
        if known is not None:
            return known
        model = release.models.models().get(semantic.embed_model)
        if model is None or "embed" not in model.actions or model.remote:
            # A question must not leave the machine only because its answer might be here.
            _log.warning(
                "the cache's embed_model is no local model of this release that embeds: "
                "similar questions are not looked up"
            )
            return b""
        found = await release.models.embed(semantic.embed_model, [place.question])
        return pack(found.vectors[0])

    # --- keys -----------------------------------------------------------------------------------

    def _place(
        self,
        policy: CachePolicy,
        release: ActiveRelease,
        call: GenerateCall,
        request: Generate,
        info: ModelInfo,
        guards: Sequence[str],
    ) -> _Place | None:
        """None: the request has no canonical form."""
        base = release.models.models().get(info.base) if info.base else None
        about: dict[str, JsonValue] = {
            "format": FORMAT,
            "tenant": self._tenant,
            "release": release.digest,
            "policy": release.policy_digest,
            "model": [info.name, info.sha256],
            "base": [info.base, "" if base is None else base.sha256],
            "action": call.action,
            "data_class": call.data_class,
            "subject": call.subject if policy.share == "subject" else None,
            "request": request_form(request),
        }
        if guards:
            about["guards"] = list(guards)
        question = None
        if (
            not guards
            and policy.semantic is not None
            and call.data_class in policy.semantic.data_classes
        ):
            question = question_of(request)
        try:
            key = self._tag(about)
            if question is None:
                return _Place(key, b"", "")
            # Similar questions of one subject and one caller only, whatever the policy shares: a
            # similar answer tells something of another one's question, an equal one nothing that
            # is new; and the subject is a name that callers choose.
            without = replace(request, messages=(*request.messages[:-1], Message("user", "")))
            about |= {
                "subject": call.subject,
                "caller": call.caller.key_id,
                "request": request_form(without),
                "similar": True,
            }
            return _Place(key, self._tag(about), question)
        except CanonicalError:
            return None

    def _tag(self, about: dict[str, JsonValue]) -> bytes:
        return self._store.tag(hashlib.sha256(encode(about)).digest())


def usable(policy: CachePolicy, call: GenerateCall, request: Generate, info: ModelInfo) -> bool:
    """Whether the cache has to do with this request at all.

    Log probabilities are not kept, so requests for them are always computed.
    """
    if call.cache == "off" or not policy.covers(info.name, call.data_class):
        return False
    if request.sampling.top_logprobs is not None:
        return False
    return call.cache == "force" or deterministic(request.sampling)


def deterministic(sampling: Sampling) -> bool:
    """Whether the same request is meant to have the same answer."""
    return sampling.temperature == 0 or sampling.seed is not None


def _judge(
    candidates: Iterator[tuple[bytes, bytes]], *, vector: bytes, threshold: float
) -> tuple[bytes, float] | None:
    return nearest(candidates, vector, threshold)
