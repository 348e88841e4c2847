"""Real servers as remote models: this agent itself over HTTP, and llama.cpp's own server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from exclave_agent.api.server import serving
from exclave_agent.errors import RemoteFailed, TooManyTokens
from exclave_agent.ports import Generate, Message, Sampling
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_protocol.endpoint import EndpointTimeouts
from exclave_testing.endpoints import Opened, ask, document, text_of
from exclave_testing.local_api import ANALYST, GUEST, LocalApi
from exclave_testing.models import smollm2_path
from exclave_testing.obliged import obliging, redaction

PATIENT = EndpointTimeouts(10_000, 60_000, 110_000)
SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel = 2048, 2
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    made = Opened(tmp_path)
    yield made
    await made.runtime.close()


@pytest.fixture
async def agent() -> AsyncIterator[tuple[LocalApi, str]]:
    """Another agent's API, on a real socket."""
    async with LocalApi().open() as api, serving(api.app, port=0) as listening:
        yield api, f"{listening.base_url}/v1"


def words(max_tokens: int, text: str = "say it") -> Generate:
    return Generate("remote", Sampling(max_tokens), (Message("user", text),), caller="cafe0001")


# --- this agent ------------------------------------------------------------------------------


async def test_an_agent_asks_another(opened: Opened, agent: tuple[LocalApi, str]) -> None:
    api, url = agent
    model = opened.model(document(url, model="small"), ANALYST)
    deltas, end = await ask(model, words(5))
    assert text_of(deltas) == "the quick brown fox jumps"
    assert (end.reason, end.completion_tokens) == ("length", 5)
    assert end.prompt_tokens == 3
    assert api.outcomes() == [("answered", "")]
    assert api.models.requests[0].caller != "cafe0001"


async def test_the_other_agents_record_and_policy_count(
    opened: Opened, agent: tuple[LocalApi, str]
) -> None:
    api, url = agent
    labelled = document(url, model="small", headers={"x-exclave-data-class": "restricted"})
    with pytest.raises(RemoteFailed) as caught:
        await ask(opened.model(labelled, ANALYST), words(5))
    assert caught.value.code == "remote_unauthorized"
    assert api.outcomes()[0][0] == "denied"
    with pytest.raises(RemoteFailed):
        await ask(opened.model(document(url, model="small"), GUEST), words(5))
    with pytest.raises(RemoteFailed) as caught:
        await ask(opened.model(document(url, model="absent"), ANALYST), words(5))
    assert caught.value.code == "remote_refused"
    with pytest.raises(RemoteFailed) as caught:
        await ask(opened.model(document(url, model="small"), "exk_wrong"), words(5))
    assert caught.value.code == "remote_unauthorized"


async def test_its_context_is_told_as_ours(opened: Opened, agent: tuple[LocalApi, str]) -> None:
    _, url = agent
    with pytest.raises(TooManyTokens):
        await ask(opened.model(document(url, model="small"), ANALYST), words(8, "a " * 400))


async def test_completions_and_embeddings_of_an_agent(
    opened: Opened, agent: tuple[LocalApi, str]
) -> None:
    _, url = agent
    model = opened.model(document(url, model="small"), ANALYST)
    deltas, end = await ask(model, Generate("remote", Sampling(3), prompt="go on"))
    assert (text_of(deltas), end.completion_tokens) == ("the quick brown", 3)
    found = await model.embed(["a b", "c"])
    assert len(found.vectors) == 2 and found.prompt_tokens > 0
    for vector in found.vectors:
        assert abs(sum(value * value for value in vector) - 1) < 1e-5


async def test_eight_at_a_time(opened: Opened, agent: tuple[LocalApi, str]) -> None:
    api, url = agent
    model = opened.model(document(url, model="small", max_concurrency=4), ANALYST)
    answers = await asyncio.gather(*(ask(model, words(n + 1)) for n in range(8)))
    assert [end.completion_tokens for _, end in answers] == list(range(1, 9))
    assert len(api.results()) == 8


# --- llama.cpp's own server ------------------------------------------------------------------


async def answering(url: str) -> None:
    """Return once the server takes requests: it says where it listens a little before."""
    async with httpx.AsyncClient() as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(f"{url}/health")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


@pytest.fixture
async def llama_server() -> AsyncIterator[str]:
    """Its URL; a process of its own, as it would be."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVER,
        str(smollm2_path()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        async with asyncio.timeout(60):
            while not (line := (await process.stdout.readline()).decode()).startswith("http"):
                assert line, "llama.cpp's server did not start"
            await answering(line.strip())
        yield f"{line.strip()}/v1"
    finally:
        process.kill()
        await process.wait()


@pytest.mark.model
async def test_llama_cpps_server(opened: Opened, llama_server: str) -> None:
    model = opened.model(document(llama_server, model="smollm2", secret="", timeouts=PATIENT))
    greedy = Sampling(max_tokens=12, temperature=0.0, seed=1, top_k=40, repeat_penalty=1.1)
    request = Generate("remote", greedy, (Message("user", "Name three colours."),))
    deltas, end = await ask(model, request)
    again, _ = await ask(model, request)
    assert text_of(deltas).strip() and text_of(again) == text_of(deltas)
    assert end.prompt_tokens > 5 and 1 <= end.completion_tokens <= 12
    assert end.reason in ("stop", "length")
    assert len(deltas) > 1, "it comes in pieces"

    said, end = await ask(model, Generate("remote", Sampling(4, temperature=0.0), prompt="1, 2, 3"))
    assert text_of(said) and end.completion_tokens <= 4

    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    chosen = Sampling(max_tokens=48, temperature=0.0, json_schema=json.dumps(schema))
    said, _ = await ask(model, Generate("remote", chosen, (Message("user", "Pick a colour."),)))
    assert json.loads(text_of(said))["colour"] in ("red", "blue")


@pytest.mark.model
async def test_leaving_llama_cpps_server_early(opened: Opened, llama_server: str) -> None:
    model = opened.model(
        document(
            llama_server,
            model="smollm2",
            secret="",
            timeouts=PATIENT,
            max_concurrency=1,
            max_waiting=0,
        )
    )
    long = Generate("remote", Sampling(400), (Message("user", "Tell a very long story."),))
    events = model.generate(long)
    assert await anext(events)
    await events.aclose()
    deltas, _ = await ask(model, words(3))
    assert text_of(deltas)


# --- two agents, each with its policy and its record -------------------------------------------


@contextlib.asynccontextmanager
async def relay(opened: Opened, url: str, **fields: Any) -> AsyncIterator[LocalApi]:
    """An agent whose one model is the other agent's."""
    opened.keys.set("main", ANALYST)
    spec = opened.spec(document(url, model="small", actions=("chat",), **fields), "cloud")
    async with (
        Supervisor(clock=SystemClock(), rng=SystemRng(), remote=opened.runtime) as supervisor,
        LocalApi().open() as api,
    ):
        models = await supervisor.load([spec])
        assert api.releases.active is not None
        api.releases.active = replace(api.releases.active, models=models)
        yield api
        await models.close()


def chat(text: str, **more: object) -> dict[str, object]:
    return {"model": "cloud", "messages": [{"role": "user", "content": text}], **more}


async def test_two_agents_in_a_row(opened: Opened, agent: tuple[LocalApi, str]) -> None:
    far, url = agent
    async with relay(opened, url) as near, near.client() as client:
        labelled = {"x-exclave-data-class": "public"}
        told = await client.post(
            "/v1/chat/completions", json=chat("hi", max_tokens=4), headers=labelled
        )
        assert told.status_code == 200, told.text
        answer = told.json()
        assert answer["choices"][0]["message"]["content"] == "the quick brown fox"
        assert answer["usage"]["completion_tokens"] == 4
        assert (near.outcomes(), far.outcomes()) == ([("answered", "")], [("answered", "")])

        # What its document does not list stays here, and the other agent never hears of it.
        refused = await client.post(
            "/v1/chat/completions",
            json=chat("the patient is called Mabuse", max_tokens=4),
            headers={"x-exclave-data-class": "medical"},
        )
        assert refused.status_code >= 400
        assert len(far.results()) == 1 and len(far.models.requests) == 1
        assert "Mabuse" not in refused.text and b"Mabuse" not in near.public_bytes()


async def test_the_far_agent_never_sees_what_is_redacted(
    opened: Opened, agent: tuple[LocalApi, str]
) -> None:
    """Over a real socket: its prompt, and its record, hold tokens; the caller has the values."""
    far, url = agent
    mail, card = "ada@example.org", "4111 1111 1111 1111"
    async with relay(opened, url) as near, near.client() as client:
        near.set_policy(
            obliging(redactions=["hidden"], notices=["Made elsewhere."]),
            redaction("email", "card", refuse=["card"]),
        )
        far.runtimes.reply = lambda request: ("write", " to <EMA", "IL_1>", " now")
        asked = chat(f"Who is {mail}?", max_tokens=5)
        labelled = {"x-exclave-data-class": "public"}
        told = await client.post("/v1/chat/completions", json=asked, headers=labelled)
        assert told.status_code == 200, told.text
        answer = told.json()["choices"][0]["message"]["content"]
        assert answer == f"write to {mail} now"
        assert told.headers["x-exclave-notice"] == "Made elsewhere."
        assert "<EMAIL_1>" in str(far.models.requests[-1]) and mail not in str(far.models.requests)
        assert mail.encode() not in far.public_bytes() + near.public_bytes()

        refused = await client.post(
            "/v1/chat/completions", json=chat(f"pay {card}", max_tokens=5), headers=labelled
        )
        assert (refused.status_code, refused.headers["x-exclave-guard"]) == (422, "hidden")
        assert refused.json()["error"]["code"] == "input_refused"
        assert card not in refused.text and len(far.models.requests) == 1


async def test_a_secret_is_in_nothing_that_is_kept_or_told(
    opened: Opened, agent: tuple[LocalApi, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Used, refused and missing: neither log, record, values, metrics nor answers hold it."""
    caplog.set_level(logging.DEBUG)
    _, url = agent
    canary = "sk-canary-7c1f0a9d44e2"
    forms = (canary, canary.encode().hex(), base64.b64encode(canary.encode()).decode()[:-4])
    async with relay(opened, url) as near, near.client() as client:
        labelled = {"x-exclave-data-class": "public"}
        told = [await client.post("/v1/chat/completions", json=chat("hi"), headers=labelled)]
        opened.keys.set("main", canary)  # which the far agent does not know
        told.append(await client.post("/v1/chat/completions", json=chat("hi"), headers=labelled))
        assert [each.status_code for each in told] == [200, 502]
        (grant,) = near.log.of_type("INTENT")[-1].body["grants"]  # type: ignore[misc]  # JSON
        assert "'use_secret', 'name': 'main'" in str(grant), "by name, and recorded"
        kept = [
            caplog.text,
            *(each.text + str(each.headers) for each in told),
            str(near.log.drafts),
            near.public_bytes().decode(),
            near.metrics.render().decode(),
            str(near.releases.active),
        ]
    kept += [
        path.read_bytes().decode("latin-1") for path in opened.home.rglob("*") if path.is_file()
    ]
    assert not [form for form in forms for text in kept if form in text]


async def test_the_far_agents_failure_is_one_of_a_remote_model(
    opened: Opened, agent: tuple[LocalApi, str]
) -> None:
    far, url = agent
    async with relay(opened, url) as near, near.client() as client:
        far.releases.active = None
        told = await client.post("/v1/chat/completions", json=chat("hi", max_tokens=4))
        assert told.status_code >= 500
        assert near.outcomes()[-1][0] != "answered"
        opened.keys.remove("main")
        assert near.releases.active is not None
        assert "secret set main" in near.releases.active.models.models()["cloud"].degraded
