"""JSON's escapes hide nothing from the recognisers, and stall nobody."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.guards.checks import _depth
from exclave_policy.guards.personal import find
from exclave_policy.guards.tokens import Tokens
from exclave_policy.kinds.redactions import Redaction

VALUES = {
    "card": "4111 1111 1111 1111",
    "iban": "DE89370400440532013000",
    "email": "jane@example.com",
    "phone": "+49 30 901820",
    "ip": "192.0.2.77",
}
REDACTION = Redaction("hidden", "1", "", frozenset(VALUES), countries=("DE",))


def sent(text: str) -> str:
    tokens = Tokens(REDACTION, b"k" * 32)
    tokens.reserve([text])
    return tokens.replace(text)


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(each):04x}" for each in text)


@pytest.mark.parametrize("before", ["\n", "\t", '"', "\u00a0", "/", "\\"])
@pytest.mark.parametrize("nested", [1, 2, 3])
@pytest.mark.parametrize("kind", VALUES)
def test_a_value_behind_an_escape_is_replaced_and_json_stays_json(
    kind: str, nested: int, before: str
) -> None:
    text = f"see{before}{VALUES[kind]} now"
    for _ in range(nested):
        text = json.dumps({"t": text})
    hidden = sent(text)
    for _ in range(nested):
        hidden = json.loads(hidden)["t"]
    assert VALUES[kind] not in hidden
    assert f"<{kind.upper()}_1>" in hidden


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_that_is_written_in_escapes_is_found(kind: str) -> None:
    text = f'{{"t":"{escaped(VALUES[kind])}"}}'
    assert [each.kind for each in find(text, VALUES, ["DE"])] == [kind]
    assert json.loads(sent(text)) == {"t": f"<{kind.upper()}_1>"}
    one = VALUES[kind].replace(VALUES[kind][3], escaped(VALUES[kind][3]), 1)
    assert f"<{kind.upper()}_1>" in sent(f'{{"t":"{one}"}}')


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from([*VALUES.values(), "\n", "\\", "n", '"', " ", "\u00e9"]), max_size=6)
)
def test_any_string_of_json_stays_one(words: list[str]) -> None:
    for ascii_only in (True, False):
        assert isinstance(
            json.loads(sent(json.dumps(" ; ".join(words), ensure_ascii=ascii_only))), str
        )


@pytest.mark.parametrize("tail", ["", "\\", '"'])
def test_a_string_that_does_not_end_is_looked_at_once(tail: str) -> None:
    def seconds(count: int) -> float:
        taken = []
        for _ in range(3):
            started = time.perf_counter()
            _depth('"' + '\\"' * count + tail)
            taken.append(time.perf_counter() - started)
        return min(taken)

    assert seconds(64_000) < 20 * max(seconds(8_000), 1e-4)
