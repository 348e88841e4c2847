"""Jinja for templates that nobody vouches for: no way out, and a bound on time and memory.

A model's file brings its chat template. Jinja's sandbox keeps it away from Python's insides;
this one also counts what it does. Loops, calls and copies cost steps, strings and lists have
a largest size, and what could be large before it can be counted is looked at first. What is
over is an `Overrun`, long before a worker would hang or swell.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from types import BuiltinMethodType
from typing import Any, cast

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace

from exclave_agent.runtimes.chat_nodes import Counting, Generation

MAX_SOURCE = 512 << 10
"""Characters of a template."""
STEPS = 400_000
"""Of one rendering, beside those for each message; a step is a turn of a loop, a call, or the
copy of `_COPY` characters: about half a second for what does nothing else."""
MAX_ITEMS = 100_000
"""Of a list that a template makes; Jinja's own limit for ranges."""
ROOM = 1 << 20
"""Characters that a string may have beyond four times the messages."""
_COPY = 4096
_SEARCH = 1024
"""Characters that are searched in the time in which `_COPY` are copied."""
_MAX_BITS = 1024
"""Of an integer."""

_METHODS = """
    strip lstrip rstrip split rsplit splitlines partition rpartition startswith endswith lower
    upper title capitalize replace removeprefix removesuffix find rfind index count join isdigit
    isalpha isalnum isspace isupper islower isnumeric isdecimal
"""
_ALLOWED: dict[type, frozenset[str]] = {
    str: frozenset(_METHODS.split()),
    dict: frozenset(["items", "keys", "values", "get"]),
    list: frozenset(["index", "count"]),
    tuple: frozenset(["index", "count"]),
}
_FILTERS = """
    abs capitalize count d default dictsort e escape first float int items last length list lower
    map max min reject rejectattr reverse safe select selectattr sort string title trim unique
    upper wordcount
"""
_COMPARING = "== != > >= < <= eq equalto ne gt greaterthan ge lt lessthan le in lower upper"
"""Tests that visit the whole of what they are given."""
_CONVERSION = re.compile(r"%(?:\([^()]*\))?([^a-zA-Z%(]*)(.?)", re.DOTALL)
"""Of printf: flags, width and precision, and what follows them."""
_WIDE = re.compile(r"\*|[0-9]{3}")
_MAX_DEPTH = 100
"""Of a value that is printed with indentation: each line begins with its depth in spaces."""
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS: tuple[type, ...] = (dict, list, tuple, set, frozenset, *_VIEWS, Namespace)
"""All that a template can make; named by type, for asking an abstract class is slow."""


class Overrun(TemplateError):
    """The template asks for more time or memory than it may have."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Renders one template at a time: the caller sees to that."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=["jinja2.ext.loopcontrols", Generation],
            finalize=self._printed,
        )
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = _strftime_now
        self.filters = {name: self._filter(FILTERS[name]) for name in _FILTERS.split()}
        self.filters["tojson"] = self._to_json
        self.filters["join"] = self._join
        self.filters["replace"] = self._replace
        self.filters["indent"] = self._indent
        self.tests = dict(TESTS)
        for name in _COMPARING.split():
            self.tests[name] = self._filter(cast(Callable[..., Any], TESTS[name]))
        for name in ("counted", "weighed", "concatenated", "touched"):
            self.filters[f" {name}"] = _never_folded(getattr(self, f"_{name}"))
        self._steps = 0
        self._room = ROOM

    def allow(self, messages: int, characters: int) -> None:
        """Begin a rendering of that many messages and characters."""
        self._steps = STEPS + 64 * messages
        self._room = ROOM + 4 * characters

    # --- the budget ----------------------------------------------------------------------

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise Overrun("the template takes too many steps")

    def _sized(self, characters: int) -> None:
        """Before a string of that size is made."""
        if characters > self._room:
            raise Overrun("the template makes too long a string")
        self._spend(1 + characters // _COPY)

    def _listed(self, items: int) -> None:
        """Before a list of that size is made."""
        if items > MAX_ITEMS:
            raise Overrun("the template makes too long a list")
        self._spend(1 + items // 8)

    def _weigh(self, value: object) -> None:
        """Before all that `value` holds is visited or printed; shared parts count each time."""
        todo, characters, items = [value], 0, 0
        while todo:
            one = todo.pop()
            items += 1
            if isinstance(one, str):
                characters += len(one)
            elif isinstance(one, _CONTAINERS):
                todo += _parts(one)
            else:
                characters += 16
            if items + len(todo) > MAX_ITEMS or characters > self._room:
                raise Overrun("the template makes too large a value")
        self._spend(1 + items // 8 + characters // _COPY)

    # --- what templates are compiled to ----------------------------------------------------

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(Counting(self).visit(source), *args, **kwargs)

    def _counted(self, items: Iterable[object]) -> Iterator[object]:
        for item in items:
            self._spend(1)
            yield item

    def _weighed(self, value: object) -> object:
        self._weigh(value)
        return value

    def _touched(self, value: object) -> object:
        """Before it is compared, searched or copied as a whole."""
        if isinstance(value, str):
            self._spend(len(value) // _SEARCH)
        elif isinstance(value, _CONTAINERS):
            self._weigh(value)
        return value

    def _concatenated(self, parts: list[object]) -> str:
        texts = [self._printed(part) for part in parts]
        self._sized(sum(map(len, texts)))
        return "".join(texts)

    def _printed(self, value: object) -> str:
        if not isinstance(value, str):
            self._weigh(value)
            value = str(value)
        self._spend(1)
        return value

    def concat(self, parts: Iterable[str]) -> str:
        """Joins what was printed."""
        texts: list[str] = []
        size = 0
        for text in parts:
            texts.append(text)
            size += len(text)
            if size > self._room:
                raise Overrun("the template prints too much")
        self._sized(size)
        return "".join(texts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only the methods that templates need, of the values that they meet."""
        for kind, allowed in _ALLOWED.items():
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is no method of templates: its widths are bombs."""
        return

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls, counted, and bounded beforehand where a result can be larger than its parts."""
        __self._spend(1)
        if isinstance(__obj, BuiltinMethodType) and isinstance(__obj.__self__, str):
            __self._string_method(__obj.__self__, __obj.__name__, args)
        elif isinstance(__obj, type) and __obj is not dict and __obj.__module__ != "jinja2.utils":
            raise SecurityError("a type is not called")
        elif isinstance(getattr(__obj, "__self__", None), LoopContext):
            for one in args:  # `loop.changed` compares them
                __self._touched(one)
        return super().call(__context, __obj, *args, **kwargs)

    def _string_method(self, text: str, name: str, args: tuple[Any, ...]) -> None:
        if name == "join" and args:
            self._join(args[0], text)
        elif name == "replace" and len(args) > 1:
            self._sized(_replaced(text, args[0], args[1]))
        elif name in ("split", "rsplit"):
            parts = text.count(args[0]) if args and args[0] else len(text) // 8
            self._listed(parts)
        elif name == "splitlines":
            self._listed(len(text) // 8)
        self._sized(len(text))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic, bounded beforehand."""
        if operator == "+":
            self._add(left, right)
        elif operator == "*":
            self._multiply(left, right)
        elif operator == "**":
            if isinstance(right, int) and abs(right) * _bits(left) > _MAX_BITS:
                raise Overrun("the template makes too large a number")
        elif operator == "%" and isinstance(left, str):
            self._format(left, right)
        self._spend(1)
        return super().call_binop(context, operator, left, right)

    def _format(self, left: str, right: Any) -> None:
        """printf's own: widths are bombs, and a conversion may be hidden behind a key."""
        conversions = _CONVERSION.findall(left)
        if any(_WIDE.search(flags) or follows == "(" for flags, follows in conversions):
            raise Overrun("the template formats with a width")
        self._weigh(right)
        self._sized(len(left) + 100 * len(conversions))

    def _add(self, left: Any, right: Any) -> None:
        if isinstance(left, str) and isinstance(right, str):
            self._sized(len(left) + len(right))
        elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
            self._listed(len(left) + len(right))
            self._weigh(left)
            self._weigh(right)

    def _multiply(self, left: Any, right: Any) -> None:
        whole = isinstance(left, int) and isinstance(right, int)
        if whole and _bits(left) + _bits(right) > _MAX_BITS:
            raise Overrun("the template makes too large a number")
        for one, times in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(one, str):
                self._sized(len(one) * max(0, times))
            elif isinstance(times, int) and isinstance(one, list | tuple):
                self._listed(len(one) * max(0, times))

    # --- filters -------------------------------------------------------------------------

    def _filter(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Jinja's own filter; what it is given is counted, for it visits each item."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            for one in args:
                if isinstance(one, str):
                    self._sized(len(one))
                elif isinstance(one, _CONTAINERS):
                    self._weigh(one)
            return function(*args, **kwargs)

        return counted

    def _to_json(self, value: object, indent: int | None = None, **_: object) -> str:
        """Jinja's own escapes HTML, which models never saw."""
        self._weigh(value)
        spaces = None if indent is None else max(0, min(8, int(indent)))
        if spaces:
            self._sized(_indented(value, spaces))
        return json.dumps(value, ensure_ascii=False, indent=spaces)

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        items = []
        for item in value:
            items.append(item if attribute is None else self.getitem(item, attribute))
            self._spend(1)
        self._weigh(items)
        texts = [str(item) for item in items]
        self._sized(sum(map(len, texts)) + len(d) * len(texts))
        return d.join(texts)

    def _replace(self, s: Any, old: str, new: str, count: int = -1) -> str:
        text = self._printed(s)
        self._sized(_replaced(text, old, new))
        return text.replace(old, new, count)

    def _indent(self, s: Any, width: int = 4, first: bool = False, blank: bool = False) -> str:
        text = self._printed(s)
        self._listed(lines := text.count("\n") + 1)
        self._sized(len(text) + lines * max(0, int(width)))
        return str(FILTERS["indent"](text, int(width), first, blank))


def _never_folded(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """A filter that Jinja does not apply while it compiles."""

    @pass_context
    def applied(_: Context, value: Any) -> Any:
        return function(value)

    return applied


def _parts(value: Any) -> list[object]:
    """What a container holds."""
    if isinstance(value, Namespace):
        # It answers every name itself, this one too.
        value = object.__getattribute__(value, "__dict__")
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value)


def _indented(value: object, spaces: int) -> int:
    """Characters of indentation that JSON of a value gets, at most."""
    todo, size = [(value, 1)], 0
    while todo:
        one, depth = todo.pop()
        if depth > _MAX_DEPTH:
            raise Overrun("the template prints too deep a value")
        size += depth * spaces
        if isinstance(one, dict):
            todo += [(part, depth + 1) for part in one.values()]
        elif isinstance(one, list | tuple):
            todo += [(part, depth + 1) for part in one]
    return size


def _bits(value: object) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _replaced(text: str, old: object, new: object) -> int:
    """Characters of `text` with `old` replaced."""
    if not isinstance(old, str) or not isinstance(new, str):
        raise TypeError("replace takes strings")
    return len(text) + text.count(old) * max(0, len(new) - len(old))


def _raise(message: str) -> None:
    """`raise_exception` of the templates: a refusal of these messages."""
    raise TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 - its name in the templates
    """The machine's date, as some templates put it into the system message."""
    if len(format) > 64 or re.search("[0-9]", format):
        raise Overrun("the template asks for too long a date")
    return time.strftime(format)
