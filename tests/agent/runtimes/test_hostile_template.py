"""A hostile chat template is refused in bounded time and memory: at load, or for the request."""

from __future__ import annotations

import resource
import time

import pytest

from exclave_agent.runtimes.chat import Template
from exclave_agent.runtimes.engine import Refused
from exclave_agent.runtimes.frames import ChatMessage, ToolCallFrame, ToolFrame

_DOUBLED = "{% set ns = namespace(x='a') %}"
_NESTED = (
    "{% set ns = namespace(x=dict(), y=dict()) %}{% for a in range(40) %}"
    "{% set ns.x = dict(a=ns.x, b=ns.x) %}{% set ns.y = dict(a=ns.y, b=ns.y) %}{% endfor %}"
)
"""Few objects that are 2^40 to whoever visits them all."""


def template(source: str) -> Template:
    return Template(
        source,
        bos="",
        eos="",
        adds_bos=False,
        controls=[],
        tokenise=lambda text, begin, controls: [ord(char) for char in text],
    )


def render(source: str, *messages: ChatMessage, tools: tuple[ToolFrame, ...] = ()) -> str:
    asked = messages or (ChatMessage("user", "x"),)
    return "".join(map(chr, template(source).tokens(asked, tools)[0]))


BOMBS = {
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}"
    "{% endfor %}{% endfor %}",
    "a printing loop": "{% for a in range(99999) %}" + "y" * 200 + "{% endfor %}",
    "string times number": "{{ 'a' * 10000000000 }}",
    "number times string": "{{ 10000000000 * 'a' }}",
    "list times number": "{% set x = [0] * 10000000000 %}",
    "tuple times number": "{% set x = (0, 1) * 10000000000 %}",
    "power": "{{ 10 ** (10 ** 8) }}",
    "a growing number": "{% set ns = namespace(x=9) %}{% for a in range(99) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "doubling by ~": _DOUBLED + "{% for a in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by +": _DOUBLED + "{% for a in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by set": _DOUBLED
    + "{% for a in range(64) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"
    "{% endfor %}",
    "doubling by replace": _DOUBLED
    + "{% for a in range(64) %}{% set ns.x = ns.x | replace('a', 'aa') %}{% endfor %}",
    "doubling by method": _DOUBLED
    + "{% for a in range(64) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
    "doubling by join": _DOUBLED
    + "{% for a in range(64) %}{% set ns.x = ns.x.join(['a', 'b', 'c']) %}{% endfor %}",
    "doubling lists": "{% set ns = namespace(x=[1]) %}{% for a in range(64) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "nested lists": "{% set ns = namespace(x=[1]) %}{% for a in range(64) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nested tuples": "{% set ns = namespace(x=(1,)) %}{% for a in range(64) %}"
    "{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ ns.x | tojson }}",
    "a long date": "{{ strftime_now('%1000000000Y') }}",
    "formatted width": "{{ '%1000000000d' % 1 }}",
    "formatted star": "{{ '%*d' % (1000000000, 1) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "indentation": "{{ 'a\nb' | indent(1000000000) }}",
    "recursive macro": "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "branching macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([[a], [a]]) }}{% endfor %}",
    "a width behind a key": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "a width behind a nested key": "{{ '%((a))1000000000d' % {'(a)': 1} }}",
    "many widths": "{{ ('%999d' * 90000) % ((1,) * 90000) }}",
    "a nested namespace": _NESTED + "{{ ns }}",
    "a nested namespace in a list": _NESTED + "{{ [ns] }}",
    "a nested namespace to string": _NESTED + "{{ ns | string }}",
    "a nested view": _NESTED + "{{ ns.x.items() }}",
    "nested values compared": _NESTED + "{{ ns.x == ns.y }}",
    "nested values tested": _NESTED + "{{ ns.x is eq(ns.y) }}",
    "long strings searched": "{% set x = 'a' * 900000 %}{% set y = 'a' * 450000 ~ 'b' %}"
    "{% for a in range(99999) %}{% if y in x %}{% endif %}{% endfor %}",
    "long lists searched": "{% set x = range(90000) | list %}"
    "{% for a in range(99999) %}{% if -1 in x %}{% endif %}{% endfor %}",
    "long lists searched by a test": "{{ range(9999) | select('in', range(9999, 99999) | list)"
    " | list }}",
    "slices": "{% set x = 'a' * 1000000 %}{% for a in range(99999) %}{% set y = x[1:] %}"
    "{% endfor %}",
    "long strings remembered": "{% set x = 'a' * 1000000 %}{% set y = 'a' * 1000000 ~ '' %}"
    "{% for a in range(99999) %}{% if loop.changed(x if loop.index0 % 2 else y) %}{% endif %}"
    "{% endfor %}",
    "deep indentation": "{% set ns = namespace(x=range(90000) | list) %}{% for a in range(400) %}"
    "{% set ns.x = dict(a=ns.x) %}{% endfor %}{{ ns.x | tojson(indent=8) }}",
    "many items joined": "{{ range(99999) | map('string') | join('x' * 100000) }}",
}


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_at_load_before_it_hurts(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.thread_time()
    with pytest.raises((ValueError, Refused)):
        render(source)
    assert time.thread_time() - begun < 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ (messages | attr('__class__')).__base__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ '%s' | format(messages) }}",
        "{{ messages[0]['__class__'] ~ namespace.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ self.__init__.__globals__ }}",
        "{{ lipsum.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.system }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ messages[0].content.encode() }}",
    ],
)
def test_nothing_leads_out_of_the_sandbox(source: str) -> None:
    with pytest.raises((Refused, ValueError)):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ messages[0]['__class__'] }}",
        "{{ messages[0].content.encode }}",
        "{{ range.__self__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages | map(attribute='__class__') | join }}",
        "{{ ns.x.__class__ }}",
    ],
)
def test_what_is_not_to_be_had_is_undefined(source: str) -> None:
    shown = render("{% set ns = namespace(x='a') %}[{{ messages[0].content }}|" + source + "]")
    # Jinja prints nothing for what is undefined; what was there would have shown itself.
    assert shown == "[x|]"


def test_a_refusal_does_not_quote_the_messages() -> None:
    late = "{% if messages | length > 1 %}{% for a in range(9999) %}{% for b in range(9999) %}"
    late += "{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}"
    assert render(late) == "x"
    with pytest.raises(Refused) as caught:
        render(late, ChatMessage("user", "secret"), ChatMessage("user", "secret"))
    assert caught.value.param == "messages"
    assert "steps" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ " + "(" * 5000 + ")" * 5000 + "}}", "x" * 600_000]
)
def test_what_cannot_be_compiled_does_not_load(source: str) -> None:
    with pytest.raises(ValueError, match="chat template"):
        template(source)


def test_what_real_templates_use_works() -> None:
    source = """
    {%- if tools -%}<tool_call>{"name": "", "arguments": {}}{%- endif -%}
    {%- set ns = namespace(system='', n=0) -%}
    {%- macro turn(m, end='.') -%}[{{ m.role }}] {{ m.content | trim }}{{ end }}{%- endmacro -%}
    {%- if messages[0].role == 'system' -%}
      {%- set ns.system = messages[0]['content'] -%}{%- set loop_messages = messages[1:] -%}
    {%- else -%}{%- set loop_messages = messages -%}{%- endif -%}
    {%- for m in loop_messages -%}
      {%- if m.role == 'junk' -%}{%- continue -%}{%- endif -%}
      {%- set ns.n = ns.n + 1 -%}
      {{- turn(m, end='!' if loop.last else '.') -}}
      {%- if m.tool_calls is defined and m.tool_calls -%}
        {%- for call in m.tool_calls -%}
          {{- call.function.name ~ ' ' ~ call.function.arguments | tojson -}}
        {%- endfor -%}
      {%- endif -%}
    {%- endfor -%}
    {{- ns.system.split('|')[-1].strip() }}|{{ ns.n }}|{{ strftime_now('%Y') | length -}}
    {%- generation -%}|{{ loop_messages | selectattr('role', 'equalto', 'user') | list | length }}
    {%- endgeneration -%}
    {{- '%s-%d' % ('a', 3) }}|{{ {'b': 1, 'a': [1, 2]} | tojson(indent=2) | length }}
    {%- for k, v in {'z': 1}.items() -%}{{ k }}{{ v }}{%- endfor -%}
    """
    shown = render(
        source,
        ChatMessage("system", "a|b "),
        ChatMessage("user", " one "),
        ChatMessage("junk", "?"),
        ChatMessage("assistant", "two", [ToolCallFrame("c1", "f", '{"x": "<é>"}')]),
    )
    assert shown.startswith('[user] one.[assistant] two!f {"x": "<é>"}b|2|4|1a-3|')
    assert shown.endswith("z1")


def test_ten_thousand_messages_render() -> None:
    many = [ChatMessage("user", "hello there")] * 10_000
    source = "{% for m in messages %}{% if tools is defined and messages is iterable %}"
    source += "<{{ m.role }}>{% if m.role == 'user' %}{{ m.content[0:] | trim }}{% endif %}"
    source += "{% endif %}{% endfor %}"
    assert render(source, *many).count("<user>hello") == 10_000
