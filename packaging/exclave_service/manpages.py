"""Manual pages of a click command, one for each of its subcommands; man(7), groff_man(7).

Everything that a command says of itself is text, never markup: see `escaped`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import click

MANUAL: Final = "Exclave"
"""The middle of every page's first line."""

_GLYPHS: Final = {
    "\\": r"\(rs",
    "-": r"\-",
    "'": r"\(aq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
    '"': r"\(dq",
}
"""What groff would take for markup, or print as something that looks alike."""
_OPTION: Final = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


@dataclass(frozen=True, slots=True)
class About:
    """What stands at the foot of every page, and where the pages of subcommands belong."""

    version: str
    day: date
    subpages: str = "1"
    """Section of the pages of subcommands: another product may own the same name."""


def of_command(name: str, command: click.Command, about: About) -> dict[str, str]:
    """Every page of a command and its subcommands: file name to text."""
    return dict(_pages(name, command, about, None))


def of_help(name: str, text: str, about: About) -> dict[str, str]:
    """The one page of a command that is not click's: what it prints for --help, as it stands."""
    usage, _, rest = text.strip().partition("\n\n")
    summary = rest.partition("\n\n")[0]
    lines = [
        *_head(name, "1", about),
        *_section("NAME"),
        f"{escaped(name)} \\- {escaped(_line(summary))}",
        *_section("SYNOPSIS"),
        *_verbatim(usage.removeprefix("usage: ").splitlines()),
        *_section("DESCRIPTION"),
        *_verbatim(rest.splitlines()),
    ]
    return {f"{name}.1": "\n".join(lines) + "\n"}


def escaped(text: str) -> str:
    """Text as groff prints it, character by character; line breaks become spaces."""
    plain = "".join(_GLYPHS.get(letter, letter) for letter in " ".join(text.splitlines()))
    # A line that begins with a dot would be a request.
    return rf"\&{plain}" if plain.startswith(".") else plain


@dataclass(frozen=True, slots=True)
class _Above:
    """The page of the group that a command belongs to."""

    context: click.Context
    name: str
    section: str


def _pages(
    name: str, command: click.Command, about: About, above: _Above | None
) -> Iterator[tuple[str, str]]:
    import click

    parent, word, section = None, name, "1"
    if above is not None:
        parent, word, section = above.context, name.removeprefix(f"{above.name}-"), about.subpages
    context = click.Context(command, info_name=word, parent=parent)
    children: list[tuple[str, click.Command]] = []
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is not None and not child.hidden:
                children.append((child_name, child))
    related = [] if above is None else [(above.name, above.section)]
    related += [(f"{name}-{child_name}", about.subpages) for child_name, _ in children]
    lines = [
        *_head(name, section, about),
        *_section("NAME"),
        f"{escaped(name)} \\- {escaped(_line(command.get_short_help_str(200)))}",
        *_section("SYNOPSIS"),
        *_synopsis(context, command),
        *_description(command.help or ""),
        *_parameters(context, command),
        *_commands(children),
        *_environment(command.get_params(context)),
        *_related(related),
    ]
    yield f"{name}.{section}", "\n".join(lines) + "\n"
    for child_name, child in children:
        yield from _pages(f"{name}-{child_name}", child, about, _Above(context, name, section))


def _head(name: str, section: str, about: About) -> list[str]:
    title = f'"{escaped(name.upper())}" "{section}" "{about.day.isoformat()}"'
    return [f'.TH {title} "exclave {escaped(about.version)}" "{MANUAL}"']


def _section(title: str) -> list[str]:
    return [f'.SH "{title}"']


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _synopsis(context: click.Context, command: click.Command) -> list[str]:
    pieces = " ".join(command.collect_usage_pieces(context))
    return [rf"\fB{escaped(context.command_path)}\fR {escaped(pieces)}"]


def _description(text: str) -> list[str]:
    """Paragraphs; one that begins with a backspace keeps its lines, as in click."""
    shown = inspect.cleandoc(text).partition("\f")[0].strip()
    if not shown:
        return []
    lines = _section("DESCRIPTION")
    for number, paragraph in enumerate(re.split(r"\n\s*\n", shown)):
        if number:
            lines.append(".PP")
        if paragraph.startswith("\b"):
            lines += _verbatim(paragraph.lstrip("\b\n").splitlines())
        else:
            lines.append(_marked(paragraph))
    return lines


def _verbatim(text: Iterable[str]) -> list[str]:
    # An empty line in running text is a warning to groff.
    return [".nf", *(escaped(line) or r"\&" for line in text), ".fi"]


def _marked(text: str) -> str:
    """Running text with its options in bold."""
    joined = " ".join(text.split())
    parts = []
    end = 0
    for found in _OPTION.finditer(joined):
        parts += [escaped(joined[end : found.start()]), rf"\fB{escaped(found[0])}\fR"]
        end = found.end()
    parts.append(escaped(joined[end:]))
    line = "".join(parts)
    return rf"\&{line}" if line.startswith(".") else line


def _parameters(context: click.Context, command: click.Command) -> list[str]:
    arguments: list[str] = []
    options: list[str] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        declared, told = record
        if parameter.param_type_name == "argument":
            if told:
                arguments += [".TP", rf"\fI{escaped(declared)}\fR", _marked(told) or r"\&"]
        else:
            options += [".TP", _marked(declared), _marked(told) or r"\&"]
    lines = []
    if arguments:
        lines += [*_section("ARGUMENTS"), *arguments]
    if options:
        lines += [*_section("OPTIONS"), *options]
    return lines


def _commands(children: list[tuple[str, click.Command]]) -> list[str]:
    if not children:
        return []
    lines = _section("COMMANDS")
    for name, child in children:
        lines += [".TP", rf"\fB{escaped(name)}\fR", _marked(child.get_short_help_str(200)) or r"\&"]
    return lines


def _environment(parameters: Iterable[click.Parameter]) -> list[str]:
    lines: list[str] = []
    for parameter in parameters:
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
        for name in names:
            told = f"The same as {parameter.opts[-1]}."
            lines += [".TP", rf"\fB{escaped(name)}\fR", _marked(told)]
    return [*_section("ENVIRONMENT"), *lines] if lines else []


def _related(pages: list[tuple[str, str]]) -> list[str]:
    if not pages:
        return []
    shown = [rf"\fB{escaped(name)}\fR({section})" for name, section in pages]
    return [*_section("SEE ALSO"), ", ".join(shown)]
