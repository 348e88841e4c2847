"""The load of the language-model benchmarks: prompts, callers in closed loops, and their figures.

Needs nothing but the standard library and httpx (and our ports for `over_runtime`), so that
bench/gpu.py can use it on a bare machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from exclave_agent.ports import Delta, Finished, Generate, Message, Sampling

if TYPE_CHECKING:
    from exclave_agent.ports import ModelSet

MAX_TOKENS = 48

TEXTS = (
    "Summarise this claim in one sentence and propose a remediation: the blender arrived with a "
    "cracked jar, the packaging was intact, it was bought twelve days ago for 89 dollars.",
    "Rewrite for a passenger notice: due to a defective switch north of the river the trains of "
    "line four end at the museum until about half past six this evening.",
    "What should a night guard check first when the cold store alarm rings, the door is shut and "
    "the thermometer inside reads two degrees above its limit?",
    "Explain to a new colleague why invoices above five thousand are approved by two people, and "
    "what happens when one of them is on leave at the end of a quarter.",
    "List the risks in this plan: one technician drives to three wind parks in a day, replaces a "
    "sensor at each, and reports by telephone because the portal is down.",
    "Turn these notes into a short letter: tenant wrote twice, heating cold since Monday, boiler "
    "inspected, valve stuck, part ordered, arrives Thursday, apologies.",
    "Compare renting and buying a forklift for a warehouse that needs it nine days in a month and "
    "has no place to charge it indoors before the summer.",
    "Describe for the shift log what happened: pump two lost pressure at 03:10, pump three took "
    "over by itself, no water was lost, the seal of pump two is worn.",
)

EXAMPLES = (
    ("the jar of a blender is cracked, bought twelve days ago", "replace", "within 30 days"),
    ("a kettle leaks at the spout after two years of use", "repair at cost", "past the warranty"),
    ("the parcel never came and the carrier lost its number", "send again", "ours until received"),
    ("one shoe of a pair is a size smaller than the other", "replace", "not as ordered"),
    ("the colour of a lamp is not liked by the customer", "return, unused", "a change of mind"),
    ("a charger smells burnt and is warm when not in use", "recall, report", "safety comes first"),
    ("a gift card shows no balance though it was never used", "refer", "needs the ledger"),
    ("the customer asks for a discount on the next order", "decline", "no claim is made"),
    ("a chair's leg broke in the first week under a child", "replace, report", "safety, new"),
    ("the manual is missing and the language is the wrong one", "send manual", "nothing is broken"),
    ("a drill was returned with marks of heavy use on it", "decline", "used beyond a trial"),
    ("two invoices came for one and the same order number", "refer", "needs the ledger"),
    ("a jacket lost its colour in the first wash, as labelled", "refund", "not fit for use"),
    ("the box was open and a screw bag is not in it", "send part", "cheaper than a return"),
    ("a garden hose burst at the third use in mild weather", "replace", "within 30 days"),
    ("the customer wants the invoice in another name", "refer", "needs the ledger"),
    ("an oven glove let the heat through and burnt a hand", "recall, report", "safety first"),
    ("a book has forty pages twice and forty not at all", "replace", "not as ordered"),
)


def shared_prefix() -> str:
    """A system message with a block of examples: about 600 tokens, computed once if ever."""
    head = (
        "You handle claims for a shop. Name the remedy and give the reason in one sentence. Be "
        "brief and friendly, promise nothing else, and never ask for a card number. Examples:\n"
    )
    blocks = [
        f"Claim: {claim}.\nRemedy: {remedy}.\nReason: {reason}.\n"
        for claim, remedy, reason in EXAMPLES
    ]
    return head + "\n".join(blocks)


@dataclass(frozen=True)
class Prompt:
    """What one caller asks."""

    text: str
    system: str = ""

    def messages(self) -> tuple[tuple[str, str], ...]:
        """(role, content)."""
        return (*((("system", self.system),) if self.system else ()), ("user", self.text))


Workload = Callable[[int], Prompt]


def unrelated(number: int) -> Prompt:
    """Prompts that share nothing at their beginning, so that no cache of prefixes helps."""
    return Prompt(f"Case {number * 7919 % 100_003}: {TEXTS[number % len(TEXTS)]}")


def shared(number: int) -> Prompt:
    """Unrelated questions behind one long beginning."""
    return Prompt(unrelated(number).text, shared_prefix())


WORKLOADS: dict[str, Workload] = {"unrelated": unrelated, "shared prefix": shared}


@dataclass(frozen=True)
class Ways:
    """How a request is put: what a server knows of it beside its prompt."""

    max_tokens: int = MAX_TOKENS
    batch: bool = False
    """It can wait (`x-exclave-priority: batch`); peers have no such thing."""
    caller: str = "a"
    """Who asks: servers with keys get this caller's."""


Ask = Callable[[Prompt, Ways], AsyncIterator[int]]
"""A prompt -> the tokens generated, as counts: one when they arrive, corrected at the end."""


@dataclass
class Turn:
    """One server's figures for one load in one round."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    """Seconds to the first token of each request."""

    @property
    def rate(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0


def quantile(values: Sequence[float], at: float) -> float:
    """By rank; 0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(len(values) * at))] if values else 0.0


async def take_turn(
    ask: Ask, workload: Workload, clients: int, requests: int, offset: int, ways: Ways | None = None
) -> Turn:
    """`clients` callers share `requests` prompts; each sends its next when it has its answer."""
    turn = Turn()
    waiting = iter(range(offset, offset + requests))
    ways = ways or Ways()

    async def call() -> None:
        for number in waiting:
            started = time.perf_counter()
            first = True
            async for tokens in ask(workload(number), ways):
                if first:
                    turn.first.append(time.perf_counter() - started)
                    first = False
                turn.tokens += tokens

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(call())
    turn.seconds = time.perf_counter() - started
    return turn


def over_http(
    client: httpx.AsyncClient, base_url: str, keys: dict[str, str], model: str, **extra: Any
) -> Ask:
    """Ask an OpenAI-compatible server, streaming. `keys`: caller -> API key, "" for all others;
    `extra` goes into every body."""

    async def ask(prompt: Prompt, ways: Ways) -> AsyncIterator[int]:
        body = {
            "model": model,
            "messages": [{"role": role, "content": text} for role, text in prompt.messages()],
            "max_tokens": ways.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **extra,
        }
        headers = {"authorization": f"Bearer {keys.get(ways.caller) or keys['']}"}
        if ways.batch:
            headers["x-exclave-priority"] = "batch"
        url = f"{base_url}/v1/chat/completions"
        counted, usage = 0, None
        async with client.stream("POST", url, json=body, headers=headers) as answer:
            if answer.status_code != 200:
                said = (await answer.aread())[:500]
                raise RuntimeError(f"{base_url} answers {answer.status_code}: {said!r}")
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                usage = chunk.get("usage") or usage
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    counted += 1
                    yield 1
        if usage is not None:
            # A chunk may hold several tokens: what the server counted is exact.
            yield usage["completion_tokens"] - counted

    return ask


def over_runtime(models: ModelSet, model: str) -> Ask:
    """Ask the scheduler itself."""

    async def ask(prompt: Prompt, ways: Ways) -> AsyncIterator[int]:
        request = Generate(
            model,
            Sampling(max_tokens=ways.max_tokens, temperature=0),
            tuple(Message(role, text) for role, text in prompt.messages()),
            caller=ways.caller,
            priority="batch" if ways.batch else "interactive",
        )
        counted = 0
        async for event in models.generate(request):
            if isinstance(event, Delta):
                counted += 1
                yield 1
            elif isinstance(event, Finished):
                yield event.completion_tokens - counted

    return ask


def await_http(url: str, seconds: float, process: subprocess.Popen[str] | None = None) -> None:
    """Until it answers 200. Raises: RuntimeError when it does not in time, or has ended."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            raise RuntimeError(f"{url} does not answer" + (": its server ended" if ended else ""))
        time.sleep(0.1)


Turns = dict[tuple[str, str, int], list[Turn]]
"""(workload, server, clients) -> a turn of each round."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much of it."""

    clients: Sequence[int]
    rounds: int
    requests: Callable[[int], int]
    """Clients -> requests of one turn."""
    workloads: Sequence[str] = tuple(WORKLOADS)
    max_tokens: int = MAX_TOKENS


async def measure(
    asks: dict[str, Ask],
    plan: Plan,
    *,
    over: Callable[[], bool] = lambda: False,
    into: Turns | None = None,
) -> Turns:
    """All turns of all servers in alternation, after a warm-up that is not counted. `over` is
    asked before each load: what is there by then is returned. `into` is filled as it goes."""
    turns: Turns = {} if into is None else into
    ways = Ways(plan.max_tokens)
    for ask in asks.values():
        for name in plan.workloads:
            await take_turn(ask, WORKLOADS[name], 2, 2, 90_000, ways)
    for number in range(plan.rounds):
        # Who begins changes, since a machine that warms up or throttles favours one place.
        names = list(asks)
        names = names[number % len(names) :] + names[: number % len(names)]
        for workload in plan.workloads:
            for load in plan.clients:
                if over():
                    return turns
                for name in names:
                    # Every turn has prompts that no server has seen: theirs cache whole ones.
                    offset = 10_000 * number + 100 * load
                    turn = await take_turn(
                        asks[name], WORKLOADS[workload], load, plan.requests(load), offset, ways
                    )
                    turns.setdefault((workload, name, load), []).append(turn)
                    print(
                        f"round {number + 1}: {workload}, {name}, {load} clients: "
                        f"{turn.rate:.1f} tokens/s",
                        flush=True,
                    )
    return turns


def complete(turns: Turns) -> Turns:
    """Without the last round of whoever was served more of them than others at the same load."""
    fewest: dict[tuple[str, int], int] = {}
    for (workload, _, load), each in turns.items():
        fewest[workload, load] = min(fewest.get((workload, load), len(each)), len(each))
    return {
        (workload, name, load): each[: fewest[workload, load]]
        for (workload, name, load), each in turns.items()
    }


def ratio(turns: Turns, workload: str, ours: str, theirs: str, load: int) -> float:
    """Tokens a second: median over the rounds of ours divided by theirs in the same round."""
    pairs = zip(turns[workload, ours, load], turns[workload, theirs, load], strict=True)
    return statistics.median(a.rate / b.rate for a, b in pairs)


def first_token_ratio(turns: Turns, workload: str, ours: str, theirs: str, load: int) -> float:
    """p95 of the time to the first token: median over the rounds of ours divided by theirs."""
    pairs = zip(turns[workload, ours, load], turns[workload, theirs, load], strict=True)
    return statistics.median(quantile(a.first, 0.95) / quantile(b.first, 0.95) for a, b in pairs)


def rows(turns: Turns) -> list[dict[str, Any]]:
    """One row for each workload, load and server."""
    table = []
    for (workload, name, load), each in sorted(
        turns.items(), key=lambda item: (item[0][0], item[0][2], item[0][1])
    ):
        firsts = [first for turn in each for first in turn.first]
        table.append(
            {
                "workload": workload,
                "server": name,
                "clients": load,
                "tokens/s": statistics.median(turn.rate for turn in each),
                "best": max(turn.rate for turn in each),
                "worst": min(turn.rate for turn in each),
                "first token p50 ms": 1000 * quantile(firsts, 0.5),
                "first token p95 ms": 1000 * quantile(firsts, 0.95),
                "tokens": sum(turn.tokens for turn in each),
            }
        )
    return table


def ratio_rows(turns: Turns, ours: str, theirs: str) -> list[dict[str, Any]]:
    """One row for each workload and load that both served."""
    return [
        {
            "ratio": f"{ours} / {theirs}",
            "workload": workload,
            "clients": load,
            "of tokens/s": ratio(turns, workload, ours, theirs, load),
            "of first token p95": first_token_ratio(turns, workload, ours, theirs, load),
        }
        for workload, name, load in sorted(turns)
        if name == ours and (workload, theirs, load) in turns
    ]
