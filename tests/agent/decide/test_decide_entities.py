"""Asking a model for persons: in pieces, with what stands beside them; an odd answer is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from exclave_agent.decide import entities
from exclave_agent.decide.entities import CONTEXT, PIECE, found
from exclave_agent.errors import UnknownModel, WorkerCrashed
from exclave_agent.ports import ModelSpec, Tensor, TensorInfo
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_policy.guards.personal import MAX_TEXT, Finding, TooLong
from exclave_testing.models import sha256_of
from exclave_testing.ner import gazetteer_onnx
from exclave_testing.runtimes import FakeModelSet, FakeRuntimes, InferFunction

WORDS, LABELS = TensorInfo("words", "BYTES", (-1,)), TensorInfo("labels", "BYTES", (-1,))
SPEC = ModelSpec("ner", "onnx", Path("ner.onnx"), "aa" * 32)


def packed(values: Sequence[str]) -> bytes:
    raw = [value.encode() for value in values]
    return b"".join(len(each).to_bytes(4, "little") + each for each in raw)


def unpacked(tensor: Tensor) -> list[str]:
    data, found = bytes(tensor.data), []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return found


class Labeller:
    """Calls what begins with a capital a person; a small "i" goes on with one."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        (tensor,) = inputs
        words = unpacked(tensor)
        self.asked.append(words)
        # Only with a neighbour does it know a continuation from the small letter.
        labels = [
            "B-PER" if word[0] == "P" else "I-PER" if word == "i" and place else "O"
            for place, word in enumerate(words)
        ]
        return (Tensor("labels", "BYTES", (len(labels),), packed(labels)),)


async def models(
    infer: InferFunction,
    inputs: tuple[TensorInfo, ...] = (WORDS,),
    outputs: tuple[TensorInfo, ...] = (LABELS,),
) -> FakeModelSet:
    made = FakeRuntimes(infer=infer, inputs=inputs, outputs=outputs)
    return await made.load([SPEC])


async def test_what_the_model_labels_is_found_where_it_is() -> None:
    labeller = Labeller()
    assert await found(await models(labeller), "ner", "to Pia i, and Paul") == (
        Finding("person", 3, 8),
        Finding("person", 14, 18),
    )
    assert labeller.asked == [["to", "Pia", "i", ",", "and", "Paul"]]


async def test_a_text_without_words_asks_nobody() -> None:
    labeller = Labeller()
    assert await found(await models(labeller), "ner", " \n") == ()
    assert labeller.asked == []


async def test_a_long_text_is_asked_for_in_pieces_and_no_name_is_cut_between_them() -> None:
    labeller = Labeller()
    text = "x " * (PIECE - 1) + "Pia i " + "x " * (PIECE - 1) + "Paul"
    place = 2 * (PIECE - 1)
    assert await found(await models(labeller), "ner", text) == (
        Finding("person", place, place + 5),
        Finding("person", len(text) - 4, len(text)),
    )
    assert [len(each) for each in labeller.asked] == [
        *(PIECE + CONTEXT, PIECE + 1 + CONTEXT, 1 + CONTEXT),
    ]


async def test_a_text_that_would_take_long_is_cut_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entities, "_QUICK", 3)
    assert await found(await models(Labeller()), "ner", "to Pia") == (Finding("person", 3, 6),)


async def test_a_lone_surrogate_keeps_its_place() -> None:
    labeller = Labeller()
    assert await found(await models(labeller), "ner", "\ud800 Pia") == (Finding("person", 2, 5),)
    assert labeller.asked == [["?", "Pia"]]


def answering(tensor: Tensor, *more: Tensor) -> InferFunction:
    return lambda inputs: (tensor, *more)


@pytest.mark.parametrize(
    "infer",
    [
        answering(Tensor("labels", "BYTES", (1,), packed(["O"]))),
        answering(Tensor("labels", "BYTES", (2,), packed(["O"]))),
        answering(Tensor("labels", "BYTES", (2,), packed(["O", "O", "O"]))),
        answering(Tensor("labels", "BYTES", (2,), packed(["O", "O"])[:-1])),
        answering(Tensor("labels", "BYTES", (2,), packed(["O", "O"])[:-1] + b"\xff")),
        answering(Tensor("labels", "BYTES", (2, 1), packed(["O", "O"]))),
        answering(Tensor("labels", "INT64", (2,), bytes(16))),
        answering(*[Tensor(name, "BYTES", (2,), packed(["O", "O"])) for name in ("a", "b")]),
    ],
)
async def test_an_answer_that_is_not_one_label_a_word_is_refused(infer: InferFunction) -> None:
    with pytest.raises(ValueError, match="one label for each word"):
        await found(await models(infer), "ner", "to Pia")


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((WORDS, TensorInfo("more", "BYTES", (-1,))), (LABELS,)),
        ((TensorInfo("ids", "INT64", (-1,)),), (LABELS,)),
        ((TensorInfo("words", "BYTES", (-1, -1)),), (LABELS,)),
        ((WORDS,), (TensorInfo("scores", "FP32", (-1, 9)),)),
        ((WORDS,), ()),
    ],
)
async def test_a_model_of_another_form_is_refused(
    inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]
) -> None:
    with pytest.raises(ValueError, match="one input and one output"):
        await found(await models(Labeller(), inputs, outputs), "ner", "to Pia")


async def test_what_the_model_set_raises_is_raised() -> None:
    made = await models(Labeller())
    with pytest.raises(UnknownModel):
        await found(made, "other", "to Pia")
    with pytest.raises(TooLong):
        await found(made, "ner", "a" * (MAX_TEXT + 1))

    def dying(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        raise WorkerCrashed("the model's worker died")

    with pytest.raises(WorkerCrashed):
        await found(await models(dying), "ner", "to Pia")


async def test_a_real_model_in_its_worker(tmp_path: Path) -> None:
    path = gazetteer_onnx(tmp_path / "ner.onnx", {"Zoë": "B-PER", "Lyon": "B-LOC"})
    spec = ModelSpec("ner", "onnx", path, sha256_of(path))
    async with Supervisor(clock=SystemClock(), rng=SystemRng()) as supervisor:
        loaded = await supervisor.load([spec])
        text = "Zoë is from Lyon. " * 300  # three pieces
        assert await found(loaded, "ner", text) == tuple(
            each
            for start in range(0, len(text), 18)
            for each in (
                Finding("person", start, start + 3),
                Finding("address", start + 12, start + 16),
            )
        )
        await loaded.close()
