"""The main job, end to end, narrated: `make demo`.

Enroll, sign, distribute, infer, deny, lose the centre, recover, verify, catch a forger, and
show that no prompt or answer ever crossed. Everything is real: processes, TLS, models.
Writes demo-summary.json in the repository's root; exits 0 only if every step held.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.story import STEPS, Story

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """One line of the summary."""

    name: str
    ok: bool
    seconds: float
    figure: str


@contextmanager
def spinner(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """A moving line on a terminal, nothing elsewhere; yields a way to change its text."""
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda more: progress.update(task, description=f"{text}: {more}")


def play(console: Console, story: Story) -> list[Outcome]:
    """Run the steps in order; after a failure the rest is not attempted."""
    outcomes: list[Outcome] = []
    for number, (name, step) in enumerate(STEPS, 1):
        started = time.monotonic()
        try:
            with spinner(console, f"{number}/{len(STEPS)} {name}") as say:
                story.say = say
                figure = step(story)
            ok = True
        except Exception as error:  # noqa: BLE001 - every failure is reported as a failed step
            ok, figure = False, f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - started
        outcomes.append(Outcome(name, ok, round(seconds, 2), figure))
        mark = "[green]ok[/]" if ok else "[red]FAILED[/]"
        console.print(f"{mark} {number:2}/{len(STEPS)} {name} [dim]({seconds:.1f} s)[/]")
        console.print(f"      {figure}", markup=False, highlight=False)
        if not ok:
            break
    for name, _ in STEPS[len(outcomes) :]:
        outcomes.append(Outcome(name, False, 0.0, "not reached"))
    return outcomes


def main() -> None:
    """Play the story in a fresh folder and write the summary."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    folder = Path(tempfile.mkdtemp(prefix="exclave-demo-"))
    console.print(f"[bold]Exclave[/], the main job end to end, in {folder}\n")
    story = Story(folder)
    try:
        outcomes = play(console, story)
    finally:
        story.close()
    table = Table("step", "held", "seconds", "figure", title="Summary")
    for line in outcomes:
        mark = "[green]yes[/]" if line.ok else "[red]no[/]"
        table.add_row(line.name, mark, f"{line.seconds:.1f}", line.figure.splitlines()[0][:90])
    console.print(table)
    summary = [vars(line) for line in outcomes]
    (ROOT / "demo-summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    if all(line.ok for line in outcomes):
        shutil.rmtree(folder)
        console.print(f"every step held, in {sum(x.seconds for x in outcomes):.0f} s")
        return
    console.print(f"[red]a step failed[/]; logs and state are in {folder}")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
