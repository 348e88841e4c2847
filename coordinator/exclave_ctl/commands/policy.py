"""`exclave policy`: check policy packs and run their cases, without a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_ctl import files, output
from exclave_ctl.errors import CtlError

if TYPE_CHECKING:
    from exclave_policy.errors import PolicyInvalid
    from exclave_policy.pack import Pack

_pack = click.argument("pack", type=click.Path(path_type=Path, exists=True))


@click.group()
def policy() -> None:
    """Policy packs: check and test."""


@policy.command()
@_pack
@output.as_json
def check(pack: Path, as_json: bool) -> None:
    """Compile PACK and list every fault with file, line and column."""
    from exclave_policy.errors import PolicyInvalid
    from exclave_policy.evaluate import compile_pack

    try:
        compiled = compile_pack(_load(pack))
    except PolicyInvalid as error:
        _print_problems(error, as_json)
        raise _invalid(error) from error
    if as_json:
        output.emit({"ok": True, "name": compiled.name, "version": compiled.version})
        return
    click.echo(f"{compiled.name} {compiled.version}: no faults")


@policy.command()
@_pack
@output.as_json
def test(pack: Path, as_json: bool) -> None:
    """Compile PACK and run its cases.yaml; exit code 1 if one fails."""
    from exclave_policy.cases import run_cases
    from exclave_policy.errors import PolicyInvalid

    try:
        report = run_cases(_load(pack))
    except PolicyInvalid as error:
        _print_problems(error, as_json)
        raise _invalid(error) from error
    if as_json:
        output.emit(
            {
                "ok": report.ok,
                "name": report.name,
                "version": report.version,
                "passed": report.passed,
                "total": report.total,
                "failures": [
                    {"name": f.name, "file": f.file, "line": f.line, "text": f.text}
                    for f in report.failures
                ],
                "uncovered": list(report.uncovered),
            }
        )
    else:
        output.table(
            ("CASE", "WHERE", "WHAT WENT WRONG"),
            [(f.name, f"{f.file}:{f.line}", f.text) for f in report.failures],
            "",
        )
        click.echo(
            f"{report.name} {report.version}: {report.passed} of {report.total} cases pass; "
            f"{report.coverage:.0%} of rules reached"
        )
        if report.uncovered:
            output.note(f"no case reaches: {', '.join(report.uncovered)}")
    if not report.ok:
        raise CtlError(
            f"{len(report.failures)} of {report.total} cases fail",
            "correct the policy, or the case if it expects the wrong thing",
        )


def _load(path: Path) -> Pack:
    """Raises: PolicyInvalid, CtlError."""
    from exclave_ctl.release import MAX_PACK_FILE
    from exclave_policy.pack import load_directory, unpack

    if path.is_dir():
        return load_directory(path)
    return unpack(files.read(path, MAX_PACK_FILE, "policy pack"))


def _print_problems(error: PolicyInvalid, as_json: bool) -> None:
    if as_json:
        problems = [
            {
                "file": p.file,
                "line": p.line,
                "column": p.column,
                "path": p.path,
                "message": p.message,
                "fix": p.fix,
            }
            for p in error.problems
        ]
        output.emit({"ok": False, "problems": problems})
        return
    output.table(
        ("WHERE", "PATH", "FAULT", "FIX"),
        [(f"{p.file}:{p.line}:{p.column}", p.path, p.message, p.fix) for p in error.problems],
        "",
    )


def _invalid(error: PolicyInvalid) -> CtlError:
    return CtlError(f"{len(error.problems)} faults in the pack", "correct them in the order shown")
