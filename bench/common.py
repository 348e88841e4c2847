"""What every benchmark needs: a description of the machine, bars, and one place for results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bar:
    """A figure that we hold ourselves to."""

    name: str
    value: float
    bar: float
    better: str
    """"higher" or "lower"."""

    @property
    def ok(self) -> bool:
        """Whether the bar is reached."""
        return self.value >= self.bar if self.better == "higher" else self.value <= self.bar

    def to_json(self) -> dict[str, Any]:
        """As it stands in the results."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "bar": self.bar,
            "better": self.better,
            "ok": self.ok,
        }


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        model = platform.processor()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(pages / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def fsync_ms(folder: Path | None = None, times: int = 200) -> float:
    """Median milliseconds of a 4 KiB write and fsync: the floor under everything durable."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        spent = []
        for _ in range(times):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1e3


def write_results(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    bars: Sequence[Bar],
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write bench/results/<name>.json and print it as tables; the file's path."""
    found = {"python": platform.python_version(), **(versions or {})}
    try:
        found.setdefault("exclave", version("exclave"))
    except PackageNotFoundError:
        found.setdefault("exclave", "source")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        "name": name,
        "machine": machine(),
        "versions": found,
        "rows": list(rows),
        "bars": [bar.to_json() for bar in bars],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    _print(name, rows, bars)
    print(
        f"\nwritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"
    )
    return path


def _print(name: str, rows: Sequence[Mapping[str, Any]], bars: Sequence[Bar]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout)
    shapes: dict[tuple[str, ...], Table] = {}
    for row in rows:
        columns = tuple(row)
        if columns not in shapes:
            shapes[columns] = Table(*columns, title=name if not shapes else None)
        shapes[columns].add_row(*(_cell(value) for value in row.values()))
    for table in shapes.values():
        console.print(table)
    if bars:
        table = Table("bar", "value", "wanted", "", title="bars")
        for bar in bars:
            sign = ">=" if bar.better == "higher" else "<="
            mark = "[green]ok[/]" if bar.ok else "[red]missed[/]"
            table.add_row(bar.name, _cell(bar.value), f"{sign} {bar.bar:g}", mark)
        console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
