"""Manual pages from click commands: complete, escaped, and without a warning from groff."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import date

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_agent.cli import cli as agent
from exclave_ctl.cli import main as ctl
from exclave_service.manpages import About, escaped, of_command, of_help

ABOUT = About("1.2.3", date(2026, 1, 2))
needs_groff = pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")


@click.group()
@click.option("--home", envvar="TOOL_HOME", help="Where it lives; `.` is the default.")
def tool(home: str) -> None:
    """Do things.

    .This paragraph begins with a dot, and names --home in passing.

    \b
    kept   as
    it     stands
    """


@tool.command()
@click.argument("path")
@click.option("-q", "--quiet/--loud", help="Say 'nothing' \\ little.")
def make(path: str, quiet: bool) -> None:
    """Make one -- "quickly"."""


@tool.command(hidden=True)
def secret() -> None:
    """Not to be told."""


def rendered(text: str) -> str:
    """A page as groff prints it, on one line."""
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Kutf8", "-Tutf8", "-P-cbou", "-rHY=0", "-rLL=1000n"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return " ".join(done.stdout.split())


def test_one_page_for_each_command_that_is_not_hidden() -> None:
    assert set(of_command("tool", tool, ABOUT)) == {"tool.1", "tool-make.1"}


def test_subpages_can_have_a_section_of_their_own() -> None:
    pages = of_command("tool", tool, About("1.2.3", date(2026, 1, 2), "1tool"))
    assert set(pages) == {"tool.1", "tool-make.1tool"}
    assert r"\fBtool\-make\fR(1tool)" in pages["tool.1"]
    assert r"\fBtool\fR(1)" in pages["tool-make.1tool"]


def test_a_page_has_the_sections_that_man_pages_have() -> None:
    page = of_command("tool", tool, ABOUT)["tool.1"]
    assert re.findall(r'^\.SH "(.*)"$', page, re.M) == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "ENVIRONMENT", "SEE ALSO")
    ]


@needs_groff
def test_groff_shows_what_the_command_says() -> None:
    pages = of_command("tool", tool, ABOUT)
    shown = rendered(pages["tool.1"])
    assert ".This paragraph begins with a dot, and names --home in passing." in shown
    assert "kept as it stands" in shown
    assert "TOOL_HOME The same as --home." in shown
    shown = rendered(pages["tool-make.1"])
    assert 'tool-make - Make one -- "quickly"' in shown
    assert "tool make [OPTIONS] PATH" in shown
    assert "Say 'nothing' \\ little." in shown


@needs_groff
@pytest.mark.parametrize(("name", "command"), [("exclave-agent", agent), ("exclave", ctl)])
def test_our_own_pages_are_clean(name: str, command: click.Command) -> None:
    pages = of_command(name, command, ABOUT)
    assert len(pages) > 10
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Kutf8", "-Tutf8", "-z"],
        input="".join(pages.values()),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


@needs_groff
def test_a_command_that_is_not_clicks_gets_its_help_as_it_stands() -> None:
    text = "usage: tool [-h]\n            FILE\n\nCheck it.\n\noptions:\n  -h   'help'\n"
    pages = of_help("tool", text, ABOUT)
    shown = rendered(pages["tool.1"])
    assert "tool - Check it SYNOPSIS tool [-h] FILE" in shown
    assert "-h 'help'" in shown


@needs_groff
@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=60))
def test_whatever_a_command_says_is_printed_as_it_is(text: str) -> None:
    wanted = " ".join(text.split())
    page = f'.TH "T" "1" "2026-01-02" "x" "y"\n.SH "NAME"\n{escaped(wanted) or chr(92) + "&"}\n'
    assert f"NAME {wanted}".strip() in rendered(page)
