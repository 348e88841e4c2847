"""Redaction on the decision path: what a model is shown, and what the caller gets back."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_agent.decide.cache import Cache
from exclave_agent.decide.calls import EmbedCall, InferCall, RerankCall
from exclave_agent.decide.redact import Redacted, redacted
from exclave_agent.decide.texts import rewritten, texts_of
from exclave_agent.errors import InputRefused, NoTarget, WorkerCrashed
from exclave_agent.ports import (
    Delta,
    Embeddings,
    Message,
    Scores,
    Tensor,
    TensorInfo,
    Tool,
    ToolCall,
)
from exclave_policy.guards.tokens import Tokens
from exclave_policy.kinds.redactions import Redaction
from exclave_testing.clock import FakeClock
from exclave_testing.obliged import obliging, redaction, validator
from exclave_testing.routing import ANALYST, Desk, chat, route_text
from exclave_testing.scripted import ScriptedModels, model
from exclave_testing.storage import FakeCompletionStore

CARD = "4111 1111 1111 1111"
MAIL = "ada@example.org"
MODELS = (model("cloud", runtime="remote", remote=True, endpoint="api.example.com"), model("big"))


class Keys:
    """RedactionKeys of a test."""

    def key(self, name: str) -> bytes:
        """See `ports.RedactionKeys`."""
        if name == "missing":
            raise NoTarget("no such secret", code="secret_missing")
        return name.encode().ljust(32, b"k")


def desk(*documents: str, **more: Any) -> Desk:
    given: dict[str, Any] = {
        "policy": obliging(redactions=["hidden"]),
        "models": MODELS,
        "keys": Keys(),
    } | more
    return Desk(*documents, **given)


def pays(text: str = f"pay with {CARD}, tell {MAIL}", **more: Any) -> dict[str, Any]:
    return {"model": "cloud", "messages": (Message("user", text),)} | more


async def test_a_remote_model_sees_tokens_and_the_caller_its_values() -> None:
    async with desk(redaction("card", "email")).open() as opened:
        opened.models.script("cloud", "I told <EMA", "IL_1> and charged <CARD_1>", ".")
        texts, _ = await opened.ask(chat(**pays(stream=True)))
        assert "".join(texts) == f"I told {MAIL} and charged {CARD}."
        assert len(texts) > 1, "and it is streamed"
        (asked,) = opened.models.requests
        assert asked.messages[0].content == "pay with <CARD_1>, tell <EMAIL_1>"
        assert opened.intent().body["redacted"] == [
            {"model": "cloud", "redactions": ["hidden"], "values": {"card": 1, "email": 1}}
        ]
        intent: Any
        intent, result = (draft.private for draft in opened.log.drafts[-2:])
        (sent,) = intent["sent"]
        assert sent["tokens"] == {"<CARD_1>": CARD, "<EMAIL_1>": MAIL}
        assert CARD not in json.dumps(sent["asked"])
        assert CARD in json.dumps(intent["prompt"])
        assert result["output"] == f"I told {MAIL} and charged {CARD}."
        assert CARD not in json.dumps(opened.intent().body) + json.dumps(opened.result().body)


async def test_a_model_of_this_machine_sees_what_was_asked() -> None:
    async with desk(redaction("card")).open() as opened:
        await opened.ask(chat(**pays(model="big")))
        assert CARD in opened.models.requests[0].messages[0].content
        assert opened.intent().body["redacted"] == []
    async with desk(redaction("card", scope="always")).open() as opened:
        await opened.ask(chat(**pays(model="big")))
        assert CARD not in opened.models.requests[0].messages[0].content


async def test_an_answer_may_keep_its_tokens() -> None:
    async with desk(redaction("card", restore=False)).open() as opened:
        opened.models.script("cloud", "charged <CARD_1>")
        assert await opened.text(**pays()) == "charged <CARD_1>"


async def test_a_kind_can_be_refused() -> None:
    documents = redaction("card", "email", refuse=["card"]), route_text("cloud", "big")
    async with desk(*documents).open() as opened:
        with pytest.raises(InputRefused) as refused:
            await opened.ask(chat(**pays()))
        assert refused.value.guard == "hidden" and CARD not in refused.value.message
        assert opened.models.asked == []
        # A route has another target that may see it.
        assert await opened.text(**pays(model="best")) == "big"
        assert opened.attempts() == [("cloud", "redaction"), ("big", "answered")]


async def test_everything_that_is_sent_is_rewritten() -> None:
    async with desk(redaction("card")).open() as opened:
        made = ToolCall(f"c {CARD}", f"n {CARD}", json.dumps({"to": CARD}))
        await opened.ask(
            chat(
                model="cloud",
                messages=(
                    Message("system", f"s {CARD}"),
                    Message("user", f"u {CARD}", name=f"x {CARD}"),
                    Message("assistant", f"a {CARD}", (made,)),
                    Message("tool", f"t {CARD}", tool_call_id=f"c {CARD}", name="n"),
                ),
                tools=(Tool("n", f"d {CARD}", json.dumps({"description": CARD})),),
                stop=(CARD,),
                response_schema=None,
            )
        )
        (asked,) = opened.models.requests
        assert CARD not in repr(asked)
        assert repr(asked).count("<CARD_1>") == 12


async def test_values_that_are_put_into_json_stay_json() -> None:
    documents = redaction("custom", patterns=['id "[0-9]+"'])
    async with desk(documents).open() as opened:
        said = 'my id "77" is new'
        schema = '{"type":"object"}'
        opened.models.script("cloud", '{"a": "<CUSTOM_1>"}')
        text = await opened.text(**pays(said, response_schema=schema))
        assert json.loads(text) == {"a": 'id "77"'}
        call = ToolCall("c", "t", '{"a": "<CUSTOM_1>"}')
        opened.models.script("cloud", Delta("", (), (call,)))
        _, end = await opened.ask(chat(**pays(said)))
        assert json.loads(end.tool_calls[0].arguments) == {"a": 'id "77"'}


async def test_a_repair_sends_the_models_own_words_and_no_values() -> None:
    held = validator({"pattern": {"must": ["sorry"]}}, on_failure={"repair": True})
    policy = obliging(redactions=["hidden"], validators=["held"])
    async with desk(redaction("card"), held, policy=policy).open() as opened:
        opened.models.script("cloud", "no <CARD_1>")
        opened.models.script("cloud", "sorry <CARD_1>")
        assert await opened.text(**pays()) == f"sorry {CARD}"
        assert CARD not in repr(opened.models.requests)
        assert opened.models.requests[1].messages[1].content == "no <CARD_1>"


async def test_several_redactions_apply_one_after_the_other() -> None:
    policy = obliging(redactions=["cards", "mails"])
    documents = redaction("card", name="cards"), redaction("email", name="mails", restore=False)
    async with desk(*documents, policy=policy).open() as opened:
        opened.models.script("cloud", "<CARD_1> <EMAIL_1>")
        assert await opened.text(**pays()) == f"{CARD} <EMAIL_1>"
        assert opened.models.requests[0].messages[0].content == "pay with <CARD_1>, tell <EMAIL_1>"


async def test_keyed_tokens_are_the_same_for_the_same_key() -> None:
    seen = []
    for key in ("pseudonyms", "pseudonyms", "others"):
        async with desk(redaction("card", tokens="keyed", key=key)).open() as opened:
            await opened.ask(chat(**pays()))
            seen.append(opened.models.requests[0].messages[0].content)
    assert seen[0] == seen[1] != seen[2]
    assert CARD not in "".join(seen)


async def test_without_its_key_nothing_is_sent() -> None:
    async with desk(redaction("card", tokens="keyed", key="missing")).open() as opened:
        with pytest.raises(NoTarget) as refused:
            await opened.ask(chat(**pays()))
        assert refused.value.code == "secret_missing"
        assert opened.models.asked == []


async def test_texts_to_embed_and_to_rank_are_rewritten_tensors_are_refused() -> None:
    seen: list[str] = []

    class Watched(ScriptedModels):
        async def embed(self, model: str, texts: Sequence[str]) -> Embeddings:
            seen.extend(texts)
            return await super().embed(model, texts)

        async def rerank(self, model: str, query: str, documents: Sequence[str]) -> Scores:
            seen.extend((query, *documents))
            return await super().rerank(model, query, documents)

    given: dict[str, Any] = {"decision": "d", "model": "cloud", "caller": ANALYST, "subject": "s"}
    async with desk(redaction("card")).open() as opened:
        opened.models = Watched(*MODELS)
        active = opened.releases.active
        assert active is not None
        opened.activate(active.policy)
        await opened.pipeline.embed(EmbedCall(texts=(f"a {CARD}",), **given))
        await opened.pipeline.rerank(RerankCall(query=CARD, documents=("x", CARD), **given))
        assert seen == ["a <CARD_1>", "<CARD_1>", "x", "<CARD_1>"]
        tensor = Tensor("x", "FP32", (1,), bytes(4))
        with pytest.raises(InputRefused):
            await opened.pipeline.infer(InferCall(inputs=(tensor,), **given))


async def test_a_kept_answer_is_kept_for_what_was_asked() -> None:
    cache = (
        "apiVersion: exclave.dev/v1\nkind: Cache\nmetadata: {name: kept, version: '1'}\n"
        "spec: {models: ['*'], data_classes: [''], ttl_seconds: 3600}\n"
    )
    store = FakeCompletionStore()
    documents = redaction("card"), cache
    async with desk(*documents, cache=Cache(store, FakeClock(), "acme")).open() as opened:
        opened.models.script("cloud", "charged <CARD_1>")
        assert await opened.text(**pays(temperature=0.0)) == f"charged {CARD}"
    async with desk(*documents, cache=Cache(store, FakeClock(), "acme")).open() as opened:
        other = pays("pay with 5555 5555 5555 4444, tell " + MAIL, temperature=0.0)
        opened.models.script("cloud", "charged <CARD_1>")
        # What the model sees is the same; what was asked is not.
        assert await opened.text(**other) == "charged 5555 5555 5555 4444"


async def test_names_are_found_by_a_model_and_nothing_is_sent_without_it() -> None:
    documents = redaction("person", entities="ner")
    words = (TensorInfo("words", "BYTES", (-1,)),)
    models = (*MODELS, model("ner", runtime="onnx", inputs=words, outputs=words))
    async with desk(documents, models=models).open() as opened:
        opened.models.script("ner", WorkerCrashed("x"))
        with pytest.raises(WorkerCrashed):
            await opened.ask(chat(**pays("I am Ada Lovelace")))
        assert opened.models.asked == ["ner"]
        # A model that answers in another form has found nothing that can be relied on.
        with pytest.raises(NoTarget):
            await opened.ask(chat(**pays("I am Ada Lovelace", decision="d2")))
        assert "cloud" not in opened.models.asked


# --- the walk -------------------------------------------------------------------------------------

TEXT = st.text(max_size=8)
CALLS: st.SearchStrategy[Any] = st.one_of(
    st.builds(
        lambda texts: EmbedCall(decision="d", model="m", caller=ANALYST, subject="s", texts=texts),
        st.tuples(TEXT, TEXT),
    ),
    st.builds(
        lambda a, b, c, d: chat(
            messages=(
                Message("user", a, name=b),
                Message("assistant", c, (ToolCall(b, d, a),)),
                Message("tool", a, tool_call_id=b),
            ),
            tools=(Tool(a, b, c),),
            stop=(d,),
            grammar=b,
        ),
        TEXT,
        TEXT,
        TEXT,
        TEXT,
    ),
)


@given(CALLS)
def test_what_is_looked_at_is_what_is_changed(call: Any) -> None:
    marked = rewritten(call, lambda text: f"<{text}>")
    assert texts_of(marked) == tuple(f"<{text}>" for text in texts_of(call))
    assert rewritten(call, lambda text: text) == call


@settings(max_examples=50)
@given(st.lists(st.sampled_from([CARD, MAIL, "x", "<CARD_1>", " "]), max_size=6))
def test_no_value_survives_and_every_value_comes_back(words: list[str]) -> None:
    call = EmbedCall(
        decision="d", model="m", caller=ANALYST, subject="s", texts=(" ; ".join(words),)
    )
    document = Redaction("hidden", "1", "", frozenset({"card", "email"}))
    made = redacted(Redacted(call), document, b"", {})
    (sent,) = texts_of(made.call)
    assert CARD not in sent and MAIL not in sent
    restoration = made.restorer(in_json=False)
    assert restoration.feed(sent) + restoration.flush() == " ; ".join(words)


def test_the_key_is_in_no_token() -> None:
    key = b"canary-canary-canary-canary-cana"
    made = Tokens(Redaction("h", "1", "", frozenset({"card"}), tokens="keyed"), key)
    token = made.replace(CARD)
    assert key.hex() not in token and base64.b64encode(key).decode() not in token
