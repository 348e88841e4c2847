"""Tool calls: told to the model, held to their schema, read back however the answer is cut."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_agent.runtimes import frames, tools
from exclave_agent.runtimes.chat import Template
from exclave_agent.runtimes.engine import Refused
from exclave_agent.runtimes.frames import ChatMessage, LogprobFrame, ToolCallFrame, ToolFrame
from exclave_agent.runtimes.grammar import Grammars
from exclave_agent.runtimes.output import CallReader, Reader
from exclave_agent.runtimes.sampling import LlamaSampler
from exclave_agent.runtimes.text import StopFilter
from exclave_agent.runtimes.tools import HERMES, LLAMA3, MISTRAL, CallFormat
from exclave_testing.sampling import sampling
from exclave_testing.vocabulary import END, Vocabulary

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}, "days": {"enum": [1, 2]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolFrame("get_weather", "The weather.", json.dumps(CITY))
NOW = ToolFrame("now", "", '{"type": "object", "properties": {}, "additionalProperties": false}')
VOCABULARY = Vocabulary()
GRAMMARS = Grammars(VOCABULARY)
FORMATS = [HERMES, MISTRAL, LLAMA3]


def request(*offered: ToolFrame, choice: str = "auto", **more: Any) -> frames.Generate:
    return frames.Generate(
        id=1,
        messages=[ChatMessage("user", "x")],
        prompt=None,
        sampling=sampling(),
        tools=list(offered),
        tool_choice=choice,
        **more,
    )


def answer(
    form: CallFormat,
    asked: frames.Generate,
    *,
    begin: str = "",
    dice: int = 0,
    most: int = 500,
    schema: dict[str, Any] | None = None,
) -> tuple[str, list[ToolCallFrame], str]:
    """What a model of random logits says and calls that wants to begin with `begin`."""
    grammar = tools.grammar(form, asked, trigger_token=None, answer=schema)
    constraint = GRAMMARS.constraint(grammar, "tools")
    several = asked.parallel_tool_calls and form.parallel
    calls = CallReader(form, [tool.name for tool in asked.tools], several=several)
    reader = Reader(StopFilter(), calls=calls, constraint=constraint)
    model = LlamaSampler(VOCABULARY, asked.sampling, 64, constraint)  # type: ignore[arg-type]  # as much of a Gguf as it needs
    rng = np.random.default_rng(dice)
    wanted = VOCABULARY.tokenise(begin)
    text, made = "", []
    for at in range(most):
        want = at < len(wanted)
        token = model.sample(
            None, 0, VOCABULARY.wanting(wanted[at]) if want else VOCABULARY.logits(rng)
        )
        assert token >= 0
        if token != END:
            text += reader.feed(VOCABULARY.pieces[token])
        ended = token == END or reader.stopped
        if ended:
            text += reader.finish()
        made += reader.extras()[1]
        if ended:
            return text, made, reader.reason("stop")
    text += reader.finish()
    return text, made + reader.extras()[1], reader.reason("length")


def checked(calls: list[ToolCallFrame]) -> None:
    for call in calls:
        schema = CITY if call.name == "get_weather" else json.loads(NOW.parameters)
        jsonschema_rs.validate(schema, json.loads(call.arguments))


# --- what a model may write ---------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("dice", range(4))
def test_a_required_call_is_made_and_matches_its_schema(form: CallFormat, dice: int) -> None:
    asked = request(WEATHER, NOW, choice="required", parallel_tool_calls=False)
    text, calls, reason = answer(form, asked, dice=dice)
    assert text == ""
    assert len(calls) == 1
    assert reason == "tool_calls"
    checked(calls)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_the_named_function_is_the_one_that_is_called(form: CallFormat) -> None:
    for dice in range(3):
        asked = request(WEATHER, NOW, choice="required", tool_name="now", parallel_tool_calls=False)
        (call,) = answer(form, asked, dice=dice)[1]
        assert (call.name, json.loads(call.arguments)) == ("now", {})


@pytest.mark.parametrize("form", [HERMES, MISTRAL], ids=lambda form: form.name)
def test_text_may_come_first_and_the_call_is_then_held_to_its_schema(form: CallFormat) -> None:
    asked = request(WEATHER, NOW, parallel_tool_calls=False)
    for dice in range(3):
        text, calls, reason = answer(form, asked, begin=f"Let me see. {form.trigger}", dice=dice)
        assert text == "Let me see. "
        assert len(calls) == 1
        assert reason == "tool_calls"
        checked(calls)


def test_a_call_of_the_whole_answer_needs_no_trigger() -> None:
    for dice in range(3):
        text, calls, reason = answer(LLAMA3, request(WEATHER), begin='{"name": "', dice=dice)
        assert (text, len(calls), reason) == ("", 1, "tool_calls")
        checked(calls)
    text, calls, reason = answer(LLAMA3, request(WEATHER), begin="No need.", dice=1)
    assert text.startswith("No need.")
    assert calls == []
    assert reason in ("stop", "length")


def test_several_calls_come_one_by_one() -> None:
    second = '{"name": "now", "arguments": {}}'
    begin = f"<tool_call>\n{second}{HERMES.between}{second}{HERMES.close}"
    text, calls, reason = answer(HERMES, request(WEATHER, NOW, choice="required"), begin=begin)
    assert text == ""
    assert reason == "tool_calls"
    assert calls == [ToolCallFrame("", "now", "{}")] * 2


def test_a_call_that_is_cut_off_is_no_call() -> None:
    begin = 'Wait.<tool_call>\n{"name": "get_weather", "arguments": {"city": "P'
    wanted = len(VOCABULARY.tokenise(begin))
    text, calls, reason = answer(HERMES, request(WEATHER), begin=begin, most=wanted)
    assert (text, calls, reason) == ("Wait.", [], "length")


def test_an_answer_matches_its_schema_or_is_a_call() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    schema["additionalProperties"] = False
    text, calls, _ = answer(HERMES, request(NOW), begin='{"a', schema=schema)
    assert json.loads(text) == {"a": 1}
    assert calls == []
    text, calls, _ = answer(
        HERMES, request(NOW, parallel_tool_calls=False), begin="<tool_call>", schema=schema
    )
    assert (text, calls) == ("", [ToolCallFrame("", "now", "{}")])


# --- reading it ------------------------------------------------------------------------------


def cut(raw: bytes, data: st.DataObject) -> list[bytes]:
    """The bytes in pieces, as tokens cut them: anywhere."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def read(
    form: CallFormat, pieces: list[bytes], *, stops: tuple[str, ...] = (), several: bool = True
) -> tuple[str, list[ToolCallFrame], list[LogprobFrame], str]:
    calls = CallReader(form, ["f", "g"], several=several)
    reader = Reader(StopFilter(stops), calls=calls, logprobs=True)
    text = ""
    made: list[ToolCallFrame] = []
    told: list[LogprobFrame] = []
    for piece in pieces:
        text += reader.feed(piece, LogprobFrame(piece, -1.0))
        logprobs, new = reader.extras()
        told += logprobs
        made += new
        if reader.stopped:
            break
    text += reader.finish()
    logprobs, new = reader.extras()
    return text, made + new, told + logprobs, reader.reason("stop")


_WORDS = st.text(alphabet='ab<tool_call>é🙂 \n"[]{};', max_size=20)
_ARGUMENTS = st.dictionaries(
    st.text(max_size=4), st.one_of(st.integers(), st.text(max_size=9), st.just("</tool_call>")),
    max_size=3,
)  # fmt: skip


@settings(deadline=None)
@given(_WORDS, st.lists(st.tuples(st.sampled_from("fg"), _ARGUMENTS), max_size=3), st.data())
def test_text_and_calls_come_out_whole_however_they_are_cut(
    words: str, made: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    form = data.draw(st.sampled_from([HERMES, MISTRAL]))
    words = words.replace(form.trigger, "")
    if form.trigger in words:
        return
    bodies = [
        json.dumps({"name": name, form.arguments: arguments}, ensure_ascii=False)
        for name, arguments in made
    ]
    whole = words
    if bodies:
        whole += form.trigger + form.open + form.between.join(bodies) + form.close
    text, calls, _, reason = read(form, cut(whole.encode(), data))
    assert text == words
    assert [(call.name, json.loads(call.arguments)) for call in calls] == made
    assert reason == ("tool_calls" if made else "stop")


@settings(deadline=None)
@given(
    st.text(alphabet='<tol_ca>{}[]", \n:;namef', max_size=60),
    st.sampled_from(FORMATS),
    st.data(),
)
def test_what_is_no_call_is_text_and_none_is_told_twice(
    words: str, form: CallFormat, data: st.DataObject
) -> None:
    text, calls, _, _ = read(form, cut(words.encode(), data))
    assert calls == []
    if form.trigger not in words and not (form.only_first and words.lstrip().startswith("{")):
        assert text == words
    else:
        assert words.startswith(text) or text == words


def test_what_looks_like_a_call_of_something_else_stays_text() -> None:
    for body in ('{"name": "other", "arguments": {}}', '{"name": "f"}', '{"x": 1}'):
        whole = f"a <tool_call>\n{body} z"
        assert read(HERMES, [whole.encode()])[:2] == (whole, [])
    assert read(LLAMA3, [b'{"x": {"y": "}"}} z'])[:2] == ('{"x": {"y": "}"}} z', [])


def test_arguments_are_as_the_model_wrote_them() -> None:
    body = '{"name": "f", "arguments": {"n": 1e5,  "big": 12345678901234567890.10}}'
    calls = read(HERMES, [f"<tool_call>\n{body}\n</tool_call>".encode()])[1]
    assert calls[0].arguments == '{"n": 1e5,  "big": 12345678901234567890.10}'


@pytest.mark.parametrize(
    "body",
    [
        '{"name": [], "arguments": {}}',
        '{"name": {}, "arguments": {}}',
        '{"name": null, "arguments": {}}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": -Infinity}}',
        '{"name": "f", "arguments": ' + '{"x":' * 4000 + "1" + "}" * 4001,
    ],
    ids=range(6),
)
def test_what_a_model_writes_amiss_is_text_and_no_error(body: str) -> None:
    whole = f"a <tool_call>\n{body} z"
    assert read(HERMES, [whole.encode()])[:2] == (whole, [])


@pytest.mark.parametrize(
    ("body", "means"),
    [
        ('{"arguments": {"x": "\\ud800"}, "name": "f"}', {"x": "\ud800"}),
        ('{"name": "f", "arguments": {"x": "\\ud800"}}', {"x": "\ud800"}),
        ('{"name": "f", "arguments": {"x": 1}, "arguments": {"x": 2}}', {"x": 2}),
        ('{"name": "g", "arguments": {"x": 3}, "name": "f"}', {"x": 3}),
        ('{"name": "f", "arguments": {"x": 4}, "id": "1"}', {"x": 4}),
    ],
    ids=range(5),
)
def test_arguments_are_json_that_can_be_sent_whatever_the_model_wrote(
    body: str, means: dict[str, Any]
) -> None:
    (call,) = read(HERMES, [f"<tool_call>\n{body}\n</tool_call>".encode()])[1]
    assert call.name == "f"
    assert json.loads(call.arguments) == means
    assert frames.encode(frames.Step([], [], [frames.Extra(1, [], [call])]))


def test_a_stop_string_is_for_text_not_for_calls() -> None:
    body = '{"name": "f", "arguments": {"a": "END"}}'
    pieces = [b"so", f"<tool_call>\n{body}\n</tool_call>".encode()]
    assert read(HERMES, pieces, stops=("END",))[1] == [ToolCallFrame("", "f", '{"a": "END"}')]
    text, calls, _, reason = read(HERMES, [b"so EN", b"D", *pieces], stops=("END",))
    assert (text, calls, reason) == ("so ", [], "stop")


# --- log probabilities -------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(alphabet="abé🙂E", max_size=20), st.data())
def test_log_probabilities_are_those_of_the_text_that_is_sent(
    text: str, data: st.DataObject
) -> None:
    pieces = [piece for piece in cut(text.encode(), data) if piece]
    reader = Reader(StopFilter(["EE"]), logprobs=True)
    sent, told = "", b""
    for piece in pieces:
        sent += reader.feed(piece, LogprobFrame(piece, -1.0))
        told += b"".join(one.token for one in reader.extras()[0])
        assert text.encode().startswith(told)
        assert sent.encode().startswith(told) or reader.stopped
        if reader.stopped:
            break
    sent += reader.finish()
    told += b"".join(one.token for one in reader.extras()[0])
    # Whole tokens: of the one in which a stop string begins, the text before it was sent.
    assert told.startswith(sent.encode())
    assert len(told) - len(sent.encode()) < max(map(len, pieces), default=1)
    assert text.startswith(sent)


def test_tokens_of_a_stop_string_are_not_told_of() -> None:
    reader = Reader(StopFilter(["END"]), logprobs=True)
    out = [reader.feed(piece, LogprobFrame(piece, -1.0)) for piece in (b"a", b"E", b"N", b"D")]
    assert "".join(out) == "a"
    assert [one.token for one in reader.extras()[0]] == [b"a"]


def test_tokens_of_a_call_are_not_told_of() -> None:
    body = b'{"name": "f", "arguments": {}}'
    told = read(HERMES, [b"so ", b"<tool_call>", b"\n", body, b"\n</tool_call>"])[2]
    assert [one.token for one in told] == [b"so "]


# --- telling the model ---------------------------------------------------------------------------

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NATIVE = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}<tool_call>\n"
    '{"name": "", "arguments": {}}{% endif %}'
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}"
    "{% endfor %}"
)


def shown(source: str, *messages: ChatMessage, offered: tuple[ToolFrame, ...] = ()) -> str:
    def tokenise(text: str, begin: bool, controls: bool) -> list[int]:
        # What is read as a control token comes out in capitals.
        return [ord(char) for char in (text.replace("<eot>", "<EOT>") if controls else text)]

    made = Template(
        source, bos="", eos="", adds_bos=False, controls=["<eot>"], tokenise=tokenise
    )  # fmt: skip
    return "".join(map(chr, made.tokens(messages, offered)[0]))


def test_a_template_that_knows_tools_is_given_them() -> None:
    call = ToolCallFrame("c", "now", '{"x": "<eot>"}')
    told = shown(
        NATIVE,
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "", [call]),
        ChatMessage("tool", "<eot>", tool_call_id="c", name="now"),
        offered=(ToolFrame("now", "What <eot> it is", "{}"),),
    )
    assert '"description": "What <eot> it is"' in told
    assert '<assistant>{"x": "<eot>"}<tool><eot>' in told
    assert "<EOT>" not in told, "nobody's words are control tokens"


def test_to_a_template_that_knows_none_they_are_explained() -> None:
    told = shown(
        PLAIN,
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "", [ToolCallFrame("c", "now", '{"x": 1}')]),
        ChatMessage("tool", "noon", tool_call_id="c"),
        offered=(WEATHER,),
    )
    assert told.startswith("<system>Be brief.\n\nYou may call")
    assert '"name": "get_weather", "description": "The weather."' in told
    assert '<assistant><tool_call>\n{"name": "now", "arguments": {"x": 1}}\n</tool_call>' in told
    assert told.endswith("<user><tool_response>\nnoon\n</tool_response>")
    assert shown(PLAIN, ChatMessage("user", "hi"), offered=(NOW,)).startswith("<system>You may")
    assert shown(PLAIN, ChatMessage("user", "hi")) == "<user>hi"


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ('{{ tools }}<tool_call>{"name": 1, "arguments": 2}', HERMES),
        ("{{ tools }}[AVAILABLE_TOOLS][TOOL_CALLS]", MISTRAL),
        ('{{ tools }}ipython {"name": 1, "parameters": 2}', LLAMA3),
        ("{{ tools }}<|python_tag|>", LLAMA3),
        ("{{ tools }}<function_calls>", None),
        ("{{ messages }}<tool_call>", None),
    ],
)
def test_the_format_is_the_templates_own(source: str, form: CallFormat | None) -> None:
    made = Template(source, bos="", eos="", adds_bos=False, controls=[], tokenise=lambda *_: [1])
    assert made.native == (form is not None)
    assert made.calls == (form or HERMES)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (request(ToolFrame("a b", "", "{}")), "tools"),
        (request(ToolFrame("", "", "{}")), "tools"),
        (request(ToolFrame('x"', "", "{}")), "tools"),
        (request(NOW, NOW), "tools"),
        (request(ToolFrame("f", "", "[]")), "tools"),
        (request(ToolFrame("f", "", '{"type": "string"}')), "tools"),
        (request(ToolFrame("f", "", "{" * 5000)), "tools"),
        (request(ToolFrame("f", "x" * 300_000, "{}")), "tools"),
        (request(choice="required"), "tool_choice"),
        (request(NOW, choice="required", tool_name="other"), "tool_choice"),
    ],
)
def test_tools_that_cannot_be_offered_are_named(asked: frames.Generate, param: str) -> None:
    with pytest.raises(Refused) as caught:
        tools.check(asked)
    assert caught.value.param == param


def test_no_tool_is_offered_where_none_may_be_called() -> None:
    assert tools.check(request(NOW, choice="none")) == ()
    assert list(tools.check(request(NOW))) == [NOW]
