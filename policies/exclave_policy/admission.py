"""Admits a bounded subset of CEL: reads a source's tokens before the CEL parser sees them, and
refuses by name what documents do not admit, and what nests or repeats too much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from exclave_policy.errors import nearest
from exclave_policy.ranges import impossible
from exclave_policy.schema import VARIABLES

MAX_SOURCE = 4096
"""Most bytes of one condition."""
MAX_TOKENS = 512
MAX_DEPTH = 12
"""Deepest nesting of brackets."""
MAX_OPERATORS = 24
"""Longest run of operators in one bracket that nest in the syntax tree (all but && and ||)."""
MAX_PATTERN = 256
"""Most characters of a regular expression, quotes included."""
MAX_OUTPUT = 256 * 1024
"""Most characters of an answer that conditions see as `output`."""
MAX_OUTPUT_DEPTH = 64
"""Its deepest nesting."""
MAX_MACROS = 2
"""Most all/exists/exists_one in one condition: bounds the work to lists squared."""

TYPES = ("string", "int", "bool", "list(string)")
"""Of declared names; `output` has whatever type the answer has."""
LITERALS = ("true", "false", 'r"..."')
OPERATORS = (
    *("&&", "||", "!", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%"),
    *("in", "? :", "[i]"),
)
FUNCTIONS = ("size", "startsWith", "endsWith", "contains", "matches")
MACROS = ("all", "exists", "exists_one")
WORDS = ("true", "false", "in")
OUTPUT_FUNCTIONS = ("has",)
OUTPUT_WORDS = ("null",)
OUTPUT_NAMES = ("output", "text")
"""What conditions of Validators see besides the declared names."""
REFUSED = {
    "has": 'every declared name always has a value; compare with "" instead',
    "map": "use all, exists or exists_one",
    "filter": "use all, exists or exists_one",
    "null": "no declared name is ever null",
    "dyn": "types are checked before signing",
    "type": "types are checked before signing",
    "int": "conversions are not admitted",
    "uint": "conversions are not admitted",
    "double": "conversions are not admitted",
    "string": "conversions are not admitted",
    "bytes": "conversions are not admitted",
    "bool": "conversions are not admitted",
    "timestamp": "use time.hour and time.weekday",
    "duration": "use time.hour and time.weekday",
}

_TOKEN = re.compile(
    r"""(?P<space>[ \t\n]+)
      | (?P<comment>//)
      | (?P<prefixed>[rRbB]{1,2}(?=["']))
      | (?P<triple>\"\"\"|''')
      | (?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
      | (?P<float>[0-9]+(?:\.[0-9]+)?[eE]|[0-9]+[uU]|0[xX]|\.[0-9])
      | (?P<decimal>[0-9]+\.[0-9]+)
      | (?P<int>[0-9]+)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:[ \t\n]*\.[ \t\n]*[A-Za-z_][A-Za-z0-9_]*)*)
      | (?P<op>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:()\[\],.])
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_BINARY = frozenset(
    ["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "?", "!", "[", "in"]
)


class Scope(Enum):
    """What a condition is about."""

    REQUEST = "request"
    """The declared names, each of its type."""
    OUTPUT = "output"
    """Those, and what a Validator looks at: `text`, a string, and `output`, what it is as JSON."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a condition, and where in its source (1-based; 0: nowhere)."""

    line: int
    column: int
    message: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `name` tokens hold a whole dotted name without its spaces."""

    kind: str
    text: str
    line: int
    column: int


def gate(source: str, scope: Scope, is_pattern: Callable[[str], bool]) -> Iterator[Fault]:
    """Everything in a source that documents do not admit; `is_pattern` tells whether a string
    literal holds a regular expression."""
    size = len(source.encode("utf-8", "replace"))
    if size > MAX_SOURCE:
        yield Fault(1, 1, f"{size} bytes are too many", f"at most {MAX_SOURCE} bytes a condition")
        return
    tokens = tokenize(source)
    if not tokens:
        yield Fault(1, 1, "the condition is empty", "leave 'when' out for a rule without condition")
        return
    if len(tokens) > MAX_TOKENS:
        yield Fault(1, 1, f"{len(tokens)} tokens are too many", f"at most {MAX_TOKENS} a condition")
        return
    yield from _unadmitted(tokens, scope)
    yield from _leading_dots(tokens)
    yield from _nesting(tokens)
    yield from _names(tokens, scope)
    if scope is Scope.OUTPUT:
        yield from _bodies(tokens)
    yield from _patterns(tokens, is_pattern)
    for place, message, fix in impossible(tokens, VARIABLES):
        yield Fault(tokens[place].line, tokens[place].column, message, fix)


def tokenize(source: str) -> list[Token]:
    """The tokens of a condition, whether it is admitted or not."""
    tokens: list[Token] = []
    line, start = 1, 0
    for match in _TOKEN.finditer(source):
        kind, text = str(match.lastgroup), match.group()
        if kind != "space":
            value = "".join(text.split()) if kind == "name" else text
            tokens.append(Token(kind, value, line, match.start() - start + 1))
        breaks = text.count("\n")
        if breaks:
            line, start = line + breaks, match.start() + text.rfind("\n") + 1
    return tokens


def _unadmitted(tokens: Sequence[Token], scope: Scope) -> Iterator[Fault]:
    reasons = {
        "comment": ("a comment", "put it into the rule's description"),
        "triple": ("a string in triple quotes", "use one pair of quotes"),
        "decimal": ("a number that is not a plain whole number", "write a whole number"),
        "float": ("a number that is not a plain whole number", "write a whole number"),
    }
    for token in tokens:
        if token.kind in reasons and not (token.kind == "decimal" and scope is Scope.OUTPUT):
            what, fix = reasons[token.kind]
            yield Fault(token.line, token.column, f"{what} is not admitted", fix)
        elif token.kind == "prefixed" and token.text not in ("r", "R"):
            yield Fault(token.line, token.column, "bytes are not admitted", "use a string")
        elif token.kind == "other" or (token.kind == "string" and not token.text.isascii()):
            bad = next(c for c in token.text if token.kind == "other" or not c.isascii())
            message = f"character U+{ord(bad):04X} is not admitted here"
            fix = f"in a string write \\u{ord(bad):04x}" if 0x7F < ord(bad) < 0x10000 else ""
            yield Fault(token.line, token.column, message, fix)


def _leading_dots(tokens: Sequence[Token]) -> Iterator[Fault]:
    for before, token in zip((None, *tokens), tokens, strict=False):
        if token.kind == "op" and token.text == ".":
            behind = before is not None and (before.kind == "string" or before.text in (")", "]"))
            if not behind:
                fix = "write the declared name"
                yield Fault(token.line, token.column, "a leading dot is not admitted", fix)


def _nesting(tokens: Sequence[Token]) -> Iterator[Fault]:
    """Brackets at most MAX_DEPTH deep, and no bracket with a long run of nesting operators."""
    runs = [0]
    for token in tokens:
        if token.text in ("(", "[") and token.kind == "op":
            runs.append(0)
            if len(runs) > MAX_DEPTH + 1:
                fix = "split the rule"
                message = f"brackets nest deeper than {MAX_DEPTH}"
                yield Fault(token.line, token.column, message, fix)
                return
        elif token.text in (")", "]") and token.kind == "op" and len(runs) > 1:
            runs.pop()
        elif token.text in ("&&", "||", ","):
            runs[-1] = 0
        if token.text in _BINARY and token.kind in ("op", "name"):
            place = -2 if token.text == "[" else -1
            runs[place] += 1
            if runs[place] > MAX_OPERATORS:
                message = f"more than {MAX_OPERATORS} operators in a row"
                yield Fault(token.line, token.column, message, "split the rule")
                return


def _names(tokens: Sequence[Token], scope: Scope) -> Iterator[Fault]:
    """Every name is declared, a function, or a macro's own variable."""
    macros = [t for i, t in enumerate(tokens) if _called(tokens, i) in MACROS]
    if len(macros) > MAX_MACROS:
        where = macros[MAX_MACROS]
        message = f"more than {MAX_MACROS} of {', '.join(MACROS)}"
        yield Fault(where.line, where.column, message, "split the rule")
    own = {
        tokens[i + 2].text
        for i in range(len(tokens) - 2)
        if _called(tokens, i) in MACROS and tokens[i + 2].kind == "name"
    }
    for i, token in enumerate(tokens):
        if token.kind == "name":
            yield from _name(tokens, i, own, scope)


def _name(tokens: Sequence[Token], i: int, own: set[str], scope: Scope) -> Iterator[Fault]:
    token = tokens[i]
    parts = token.text.split(".")
    called = _called(tokens, i)
    base = ".".join(parts[:-1]) if called else token.text
    if i and tokens[i - 1].text == ".":
        base = ""  # a method, or a field, of a bracketed expression
    functions = (*FUNCTIONS, *MACROS, *(OUTPUT_FUNCTIONS if scope is Scope.OUTPUT else ()))
    if called and called not in functions:
        fix = REFUSED.get(called) or nearest(called, functions)
        yield Fault(token.line, token.column, f"function {called[:64]!r} is not admitted", fix)
    elif called == "has" and not _has_field(tokens, i):
        fix = "write has(output.field)"
        yield Fault(token.line, token.column, "has is for fields of output", fix)
    if base and not _declared(base, own, scope):
        names = (*VARIABLES, *own, *(OUTPUT_NAMES if scope is Scope.OUTPUT else ()))
        fix = REFUSED.get(base) or nearest(base, names)
        message = f"{base[:64]!r} is not a declared name"
        yield Fault(token.line, token.column, message, fix)


def _declared(base: str, own: set[str], scope: Scope) -> bool:
    if base in VARIABLES or base in WORDS or base in own:
        return True
    if scope is Scope.REQUEST:
        return False
    # Fields of what was parsed have no declared types: whether they are there is seen later.
    root, dot, _ = base.partition(".")
    return base in (*OUTPUT_NAMES, *OUTPUT_WORDS) or (
        bool(dot) and (root == "output" or root in own)
    )


def _has_field(tokens: Sequence[Token], i: int) -> bool:
    following = tokens[i + 2] if i + 2 < len(tokens) else None
    if following is None or following.kind != "name":
        return False
    return "." in following.text and following.text not in VARIABLES


def _bodies(tokens: Sequence[Token]) -> Iterator[Fault]:
    """An answer may be large, and the library counts how often a macro's body is evaluated, not
    what one evaluation costs. So a body sees its own entry alone: then all of them together see
    the answer once."""
    open_brackets: list[str] = []
    """The variable of each macro that is open; "" of other brackets."""
    for i, token in enumerate(tokens):
        if token.kind == "op" and token.text in ("(", "["):
            opens_macro = token.text == "(" and i > 0 and _called(tokens, i - 1) in MACROS
            open_brackets.append(tokens[i + 1].text if opens_macro and i + 1 < len(tokens) else "")
        elif token.kind == "op" and token.text in (")", "]") and open_brackets:
            open_brackets.pop()
        own = next((name for name in reversed(open_brackets) if name), "")
        if token.kind != "name" or not own or (i and tokens[i - 1].text == "."):
            continue
        base = token.text.rpartition(".")[0] if _called(tokens, i) else token.text
        root = base.partition(".")[0]
        if root and root != own and base not in (*VARIABLES, *WORDS, *OUTPUT_WORDS):
            message = f"{root[:64]!r} is not admitted in a macro of {own[:64]!r}"
            fix = f"compare {own[:64]} and its fields with the request, or with what is written"
            yield Fault(token.line, token.column, message, fix)


def _called(tokens: Sequence[Token], i: int) -> str:
    """The function's name when token `i` is a call, else ""."""
    token = tokens[i]
    if token.kind != "name" or token.text in WORDS or i + 1 >= len(tokens):
        return ""
    following = tokens[i + 1]
    is_call = following.text == "(" and following.kind == "op"
    return token.text.rpartition(".")[2] if is_call else ""


def _patterns(tokens: Sequence[Token], is_pattern: Callable[[str], bool]) -> Iterator[Fault]:
    """A pattern is written in the condition, so that it is checked before signing (RE2 syntax)."""
    for i, token in enumerate(tokens):
        if _called(tokens, i) != "matches":
            continue
        at = i + 2
        raw = at < len(tokens) and tokens[at].kind == "prefixed"
        literal = "".join(t.text for t in tokens[at : at + 1 + raw])
        closing = tokens[at + 1 + raw] if at + 1 + raw < len(tokens) else None
        if closing is None or closing.text != ")" or not literal.endswith(('"', "'")):
            fix = "write the pattern as one string in the call"
            yield Fault(token.line, token.column, "matches needs a literal pattern", fix)
            continue
        if len(literal) > MAX_PATTERN:
            fix = f"at most {MAX_PATTERN} characters a pattern"
            yield Fault(token.line, token.column, f"{len(literal)} characters are too many", fix)
        elif not is_pattern(literal):
            fix = "RE2 syntax: no look-around, no back-references"
            yield Fault(token.line, token.column, "the pattern is not a regular expression", fix)


def seen(tokens: Sequence[Token]) -> frozenset[str]:
    """The declared names among them, also those that a method is called on."""
    dotted = [token.text for token in tokens if token.kind == "name"]
    return frozenset(
        name for text in dotted for name in (text, text.rpartition(".")[0]) if name in VARIABLES
    )
