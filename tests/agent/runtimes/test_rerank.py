"""Documents against a query: a cross-encoder's own scores, or the cosine of embeddings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import Refused
from exclave_agent.runtimes.frames import RerankResult
from exclave_agent.runtimes.hosts import LlamaHost
from exclave_agent.runtimes.jobs import RerankJob
from exclave_agent.runtimes.llama import LlamaEngine
from exclave_agent.runtimes.parameters import LlamaParameters
from exclave_testing.models import smollm2_path
from exclave_testing.ranker import CONTEXT, write_ranker


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> LlamaEngine:
    path = write_ranker(tmp_path_factory.mktemp("ranker") / "ranker.gguf")
    return LlamaEngine(str(path), LlamaParameters(n_ctx=CONTEXT, n_parallel=4), 1)


def scores(engine: LlamaEngine, query: str, *documents: str, at_once: int = 4) -> list[float]:
    """As the scheduler does it: some texts to a call."""
    job = engine.prepare_rerank(frames.Rerank(1, query, list(documents)))
    while len(job.vectors) < len(job.texts):
        done = len(job.vectors)
        job.vectors += engine.embed(job.texts[done : done + at_once])
    result = job.result()
    assert isinstance(result, RerankResult)
    assert result.prompt_tokens == sum(map(len, job.texts))
    return result.scores


def test_each_pair_has_a_score_of_its_own_whatever_its_company(ranker: LlamaEngine) -> None:
    documents = ["the cat", "the dog is", "moon", "bread sea", "the cat"]
    together = scores(ranker, "what is the cat", *documents)
    alone = [scores(ranker, "what is the cat", one)[0] for one in documents]
    assert together == pytest.approx(alone, abs=1e-4)
    assert together[0] == pytest.approx(together[4], abs=1e-4)
    assert len({round(one, 3) for one in together}) == 4
    other = scores(ranker, "sea moon", *documents)
    assert all(abs(a - b) > 1e-3 for a, b in zip(other, together, strict=True))
    assert all(map(math.isfinite, together))


def test_a_pair_is_marked_as_the_model_was_trained(ranker: LlamaEngine) -> None:
    job = ranker.prepare_rerank(frames.Rerank(1, "cat", ["dog"]))
    classify, separate = 2, 3
    assert list(job.texts[0]) == [classify, 5, separate, 6, separate]
    # A document cannot hold the marks itself.
    job = ranker.prepare_rerank(frames.Rerank(1, "cat", ["[SEP] dog"]))
    assert list(job.texts[0]).count(separate) == 2


def test_a_template_for_pairs_is_followed(tmp_path: Path) -> None:
    path = write_ranker(tmp_path / "m.gguf", template="[CLS]the {query}[SEP]is {document}[MASK]")
    engine = LlamaEngine(str(path), LlamaParameters(n_ctx=CONTEXT, n_parallel=2), 1)
    job = engine.prepare_rerank(frames.Rerank(1, "cat [MASK]", ["dog"]))
    tokens = list(job.texts[0])
    the, cat, is_, dog = 10, 5, 11, 6
    kept = [token for token in tokens if token != 1]
    assert kept == [2, the, cat, 3, is_, dog, 4]


def test_words_of_template_and_caller_are_one_text(tmp_path: Path) -> None:
    path = write_ranker(tmp_path / "m.gguf", template="[CLS]{query}{document}[SEP]the{query}")
    engine = LlamaEngine(str(path), LlamaParameters(n_ctx=CONTEXT, n_parallel=2), 1)
    together = engine.prepare_rerank(frames.Rerank(1, "cat", [" dog"])).texts[0]
    assert list(together)[:4] == [2, 5, 6, 3]
    unknown, written = (
        list(engine.prepare_rerank(frames.Rerank(1, "cat", [document])).texts[0])
        for document in ("dog", "{query}")
    )
    # "catdog" is one word, which the vocabulary has not, and "thecat" is another.
    assert unknown == [2, 1, 3, 1]
    assert written.count(5) == 1, "a document's braces are no place for the query"


def test_what_a_ranker_offers(tmp_path: Path) -> None:
    path = write_ranker(tmp_path / "m.gguf")
    host = LlamaHost(frames.Load("llama", str(path), {"n_ctx": CONTEXT}), lambda _: None)
    assert host.actions == ["rerank"]
    with pytest.raises(Refused) as caught:
        host.submit(frames.Embed(1, ["cat"]))
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("query", "documents", "code", "says"),
    [
        ("cat", [], "invalid_value", "documents: empty"),
        ("", ["cat"], "invalid_value", "query: empty"),
        ("cat", ["dog", ""], "invalid_value", r"documents\[1\]: empty"),
        (
            "cat",
            ["dog " * 80],
            "context_length_exceeded",
            r"documents\[0\] .* 8\d tokens, over .* 64",
        ),
        ("cat", ["dog " * 3_000_000], "context_length_exceeded", "at least"),
        ("cat " * 80, ["dog"], "context_length_exceeded", "over the model's 64"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_the_numbers(
    ranker: LlamaEngine, query: str, documents: list[str], code: str, says: str
) -> None:
    with pytest.raises(Refused, match=says) as caught:
        ranker.prepare_rerank(frames.Rerank(1, query, documents))
    assert caught.value.code == code
    assert "cat" not in caught.value.message


@pytest.mark.model
def test_without_a_ranker_embeddings_are_compared() -> None:
    parameters = LlamaParameters(n_ctx=128, n_parallel=4, embeddings=True)
    engine = LlamaEngine(str(smollm2_path()), parameters, 1)
    documents = ["A cat is sleeping on a mat.", "SELECT id FROM t;", "The cat sleeps on the mat."]
    found = scores(engine, "The cat sleeps on the mat.", *documents)
    assert found[2] == pytest.approx(1, abs=1e-3)
    assert found[0] > found[1]
    assert all(-1.001 <= one <= 1.001 for one in found)
    for query, some in (("", ["x"]), ("x", [""]), ("x", ["word " * 500])):
        with pytest.raises(Refused):
            engine.prepare_rerank(frames.Rerank(1, query, some))


def test_a_score_of_compared_vectors_is_their_product() -> None:
    job = RerankJob(1, [[1], [2], [3]], pairs=False)
    vectors = [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]
    job.vectors += [np.array(one, dtype="<f4").tobytes() for one in vectors]
    result = job.result()
    assert isinstance(result, RerankResult)
    assert result.scores == pytest.approx([0.6, -1.0])


def test_keys_and_values_have_the_length_that_the_file_gives(
    ranker: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = ranker._gguf
    layers, heads = 2, 4
    assert gguf.kv_bytes_per_token() == 2 * (8 + 8) * heads * layers
    given = {"bert.attention.key_length": "16", "bert.attention.value_length": "12"}
    monkeypatch.setattr(gguf, "meta", lambda key: given.get(key, ""))
    assert gguf.kv_bytes_per_token() == 2 * (16 + 12) * heads * layers
