"""`exclave policy check | test`: what is wrong with packs, without a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exclave_ctl import files, output
from exclave_ctl.errors import CtlError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exclave_policy.errors import PolicyInvalid, Problem
    from exclave_policy.evaluate import CompiledPolicy
    from exclave_policy.pack import Pack
    from exclave_policy.workbench.cases import CasesReport

pack_argument = click.argument("pack", type=click.Path(path_type=Path, exists=True))


@click.group()
def policy() -> None:
    """Policy packs: check, test, diff, explain, try."""


@policy.command()
@pack_argument
@click.option("--strict", is_flag=True, help="Exit 1 for what is only suspicious, too.")
@output.as_json
def check(pack: Path, strict: bool, as_json: bool) -> None:
    """Compile PACK: list every fault with file, line and column, then what looks like a mistake.

    Suspicious is, among others, a rule that can never match, or that a deny shadows; an allow rule
    that says nothing of the data; a budget larger than the one above it.
    """
    from exclave_policy.workbench.lint import lint

    compiled = compile_or_tell(pack, as_json)
    found = lint(compiled)
    if as_json:
        output.emit(
            {
                "ok": not (strict and found),
                "name": compiled.name,
                "version": compiled.version,
                "warnings": [_problem(each) for each in found],
            }
        )
    else:
        _table(found, "WARNING")
        click.echo(f"{compiled.name} {compiled.version}: no faults, {len(found)} warnings")
    if strict and found:
        raise CtlError(f"{len(found)} warnings", "correct them, or leave out --strict")


@policy.command()
@click.argument(
    "packs",
    type=click.Path(path_type=Path, exists=True),
    nargs=-1,
    required=True,
    metavar="PACK...",
)
@click.option(
    "--require-rules",
    type=click.IntRange(0, 100),
    default=0,
    metavar="PERCENT",
    help="Exit 1 when cases reach fewer of the rules.",
)
@click.option(
    "--require-branches",
    type=click.IntRange(0, 100),
    default=0,
    metavar="PERCENT",
    help="Exit 1 when fewer of the terms of conditions were seen true, and seen false.",
)
@click.option(
    "--require-guards",
    type=click.IntRange(0, 100),
    default=0,
    metavar="PERCENT",
    help="Exit 1 when fewer of the validators were seen passing and failing, and fewer of the "
    "redactions finding something.",
)
@output.as_json
def test(
    packs: Sequence[Path],
    require_rules: int,
    require_branches: int,
    require_guards: int,
    as_json: bool,
) -> None:
    """Compile each PACK and run its cases.yaml; exit code 1 if one fails."""
    from exclave_policy.errors import PolicyInvalid
    from exclave_policy.workbench.cases import run_cases

    reports: list[CasesReport] = []
    for pack in packs:
        try:
            reports.append(run_cases(load(pack)))
        except PolicyInvalid as error:
            raise _refused(error, as_json) from error
    if as_json:
        told = [_report(report) for report in reports]
        output.emit(told[0] if len(told) == 1 else {"packs": told})
    else:
        for report in reports:
            _tell(report)
    _gate(reports, require_rules, require_branches, require_guards)


def _gate(reports: Sequence[CasesReport], rules: int, branches: int, guards: int) -> None:
    """Raises: CtlError for a case that fails, or coverage that is asked for and missed."""
    failed = sum(len(report.failures) for report in reports)
    if failed:
        raise CtlError(
            f"{failed} of {sum(report.total for report in reports)} cases fail",
            "correct the policy, or the case if it expects the wrong thing",
        )
    for report in reports:
        for what, share, wanted in (
            ("rules", report.coverage, rules),
            ("branches", report.branch_coverage, branches),
            ("guards", report.guard_coverage, guards),
        ):
            if share * 100 < wanted:
                raise CtlError(
                    f"{report.name}: cases reach {share:.0%} of the {what}, not {wanted} %",
                    "add cases for those that are listed",
                )


def _tell(report: CasesReport) -> None:
    output.table(
        ("CASE", "WHERE", "WHAT WENT WRONG"),
        [(f.name, f"{f.file}:{f.line}", f.text) for f in report.failures],
        "",
    )
    click.echo(
        f"{report.name} {report.version}: {report.passed} of {report.total} cases pass; "
        f"{report.coverage:.0%} of rules reached, {report.branch_coverage:.0%} of branches"
        + (f", {report.guard_coverage:.0%} of guards" if report.guards else "")
    )
    if report.uncovered:
        output.note(f"no case reaches: {', '.join(report.uncovered)}")
    for missed in (*report.missed, *report.unguarded):
        output.note(str(missed))


def _report(report: CasesReport) -> dict[str, Any]:
    return {
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
        "branches": report.branches,
        "guards": report.guards,
        "unguarded": list(report.unguarded),
        "missed": [
            {"rule": b.rule, "term": b.term, "value": b.value, "file": b.file, "line": b.line}
            for b in report.missed
        ],
    }


# --- shared with the other commands --------------------------------------------------------------


def load(path: Path) -> Pack:
    """A pack from a folder or a packed file. Raises: PolicyInvalid, CtlError."""
    from exclave_ctl.release import MAX_PACK_FILE
    from exclave_policy.pack import load_directory, unpack

    if path.is_dir():
        return load_directory(path)
    return unpack(files.read(path, MAX_PACK_FILE, "policy pack"))


def compile_or_tell(path: Path, as_json: bool) -> CompiledPolicy:
    """A compiled pack; its faults are printed. Raises: CtlError."""
    from exclave_policy.compile import compile_pack
    from exclave_policy.errors import PolicyInvalid

    try:
        return compile_pack(load(path))
    except PolicyInvalid as error:
        raise _refused(error, as_json) from error


def _refused(error: PolicyInvalid, as_json: bool) -> CtlError:
    if as_json:
        output.emit({"ok": False, "problems": [_problem(each) for each in error.problems]})
    else:
        _table(error.problems, "FAULT")
    return CtlError(f"{len(error.problems)} faults in the pack", "correct them in the order shown")


def _table(problems: Sequence[Problem], what: str) -> None:
    output.table(
        ("WHERE", "PATH", what, "FIX"),
        [(f"{p.file}:{p.line}:{p.column}", p.path, p.message, p.fix) for p in problems],
        "",
    )


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "message": problem.message,
        "fix": problem.fix,
    }
