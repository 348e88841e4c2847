"""Section 9 of the page: the text that a reviewer is shown."""

import json
import unicodedata
from collections.abc import Iterator, Sequence

from stranger.leaves import Leaf


def _plain(line: str) -> str:
    def one(char: str) -> str:
        if char == "\\":
            return "\\\\"
        hidden = unicodedata.category(char)[0] in "CZ" and char != " "
        return f"\\u{{{ord(char):x}}}" if hidden else char

    return "".join(map(one, line))


def _word(value: object) -> str:
    return _plain(value) if isinstance(value, str) and value else "none"


def _of(value: object, name: str) -> str:
    return _word(value.get(name) if isinstance(value, dict) else None)


def _value(value: object) -> Iterator[str]:
    if isinstance(value, list) and value and all(map(_message, value)):
        for each in value:
            yield f"| {_plain(each['role'])}:"
            yield from (f"|   {_plain(line)}" for line in each["content"].split("\n"))
        return
    given = (
        value
        if isinstance(value, str)
        else json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1)
    )
    yield from (f"| {_plain(line)}" for line in given.split("\n"))


def _message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"role", "content"}
        and all(isinstance(each, str) for each in value.values())
    )


def shown(
    intent: Leaf,
    result: Leaf,
    acts: Sequence[Leaf],
    values: dict[str, object],
    answer: object,
    requires: Sequence[dict[str, object]],
) -> str:
    """The whole text."""
    asked, made = intent.body, result.body
    lines = [
        f"decision {_word(asked.get('decision'))} of {intent.log}",
        f"records {intent.seq} ({intent.time_text}) and {result.seq}",
        f"action {_word(asked.get('action'))}, by key {_of(asked.get('actor'), 'key')}",
        f"model {_of(made.get('model') or asked.get('model'), 'name')}",
        f"rule {_of(asked.get('policy'), 'rule')}, data {_word(asked.get('data_class'))}",
    ]
    for each in requires:
        apart = ", not who asked" if each["separate"] else ""
        lines.append(
            f"waits for {_word(each['approval'])} {_word(each['version'])}: "
            f"{each['count']} different people" + apart
        )
    guards = made.get("guards")
    failed = guards.get("failed") if isinstance(guards, dict) else []
    for found in failed if isinstance(failed, list) else []:
        lines.append(f"found by {_of(found, 'validator')}: {_of(found, 'reason')}")
    for act in acts:
        who = _word(act.body.get("reviewer"))
        lines.append(f"record {act.seq}: {_word(act.body.get('act'))} by {who}")
    if "prompt" not in values:
        lines.append("prompt: not kept any more")
    for name in ("prompt", "context", "options"):
        if values.get(name):
            lines += [f"{name}:", *_value(values[name])]
    lines += ["answer: none was made"] if answer is None else ["answer:", *_value(answer)]
    return "".join(f"{line}\n" for line in lines)
