"""What packages there are: what goes into each, and what stays out, with the reason."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from packages.tools import ROOT, Refusal

SERVICE_ROOT: Final = "packaging/exclave_service"
"""What every daemon of ours says to its service manager; a source root since it exists."""
ENGINES: Final = {
    "numpy": "the runtime packages have it: only workers compute",
    "onnxruntime": "the runtime packages have it: an engine is chosen by the hardware",
    "jinja2": "the runtime packages have it: only workers fill chat templates",
    "llguidance": "the runtime packages have it: only workers choose tokens",
}
"""Distributions of the agent extra that come with exclave-runtime-*, not with the agent."""
LEFT_OUT: Final = {
    "pip": "sqlite-utils wants it to install plugins, which nobody does here",
    "markdown-it-py": "rich wants it to show Markdown; we show tables and progress",
    "mdurl": "markdown-it-py wants it",
    "pygments": "rich wants it to colour source code; 10 MB",
    "pycparser": "cffi wants it to read C declarations, while something is built",
}
"""Distributions that others ask for, and that no package gets."""


@dataclass(frozen=True, slots=True)
class Command:
    """A launcher in bin/."""

    name: str
    module: str
    on_path: bool = True
    """Also a link in /usr/bin."""


@dataclass(frozen=True, slots=True)
class Package:
    """One .deb and one .rpm."""

    name: str
    folder: str
    """Below /opt/exclave."""
    extras: tuple[str, ...] = ()
    """Of pyproject.toml: a new dependency there comes along by itself."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Distributions of those extras that this package does not need, and why."""
    beyond: str = ""
    """The name of the package whose distributions this one does not repeat."""
    sources: tuple[str, ...] = ()
    """Our own top-level packages."""
    commands: tuple[Command, ...] = ()
    interpreter: bool = True
    subpages: str = "1"
    """Manual section of the pages of subcommands."""
    variant: str = "cpu"


AGENT: Final = Package(
    name="exclave-agent",
    folder="agent",
    extras=("agent",),
    without=ENGINES,
    sources=(
        "exclave_protocol",
        "exclave_policy",
        "exclave_agent",
        "exclave_service",
        "exclave_http",
    ),
    commands=(
        Command("exclave-agent", "exclave_agent.cli"),
        Command("exclave-worker", "exclave_agent.runtimes.service_worker", on_path=False),
        Command("exclave-upgrade", "exclave_agent.upgrade.root", on_path=False),
    ),
)
COORDINATOR: Final = Package(
    name="exclave-coordinator",
    folder="coordinator",
    extras=("coordinator",),
    without={"rich": "tables are drawn by the operators' command line, exclave-cli"},
    sources=(
        "exclave_protocol",
        "exclave_policy",
        "exclave_coordinator",
        "exclave_service",
        "exclave_http",
    ),
    commands=(Command("exclave-coordinator", "exclave_coordinator.cli"),),
)
CLI: Final = Package(
    name="exclave-cli",
    folder="cli",
    extras=("coordinator",),
    without={
        "grpcio-health-checking": "a service of the coordinator",
        "grpcio-reflection": "a service of the coordinator",
        "sqlalchemy": "the coordinator's storage",
        "obstore": "the coordinator's storage",
        "prometheus-client": "the coordinator's metrics",
        "uvloop": "the coordinator's event loop",
        "starlette": "the witness's HTTP interface",
        "uvicorn": "the witness's HTTP interface",
        "httptools": "the witness's HTTP interface",
        "httpx2": "the coordinator asks outside witnesses with it",
    },
    sources=("exclave_protocol", "exclave_policy", "exclave_ctl", "exclave_service"),
    commands=(
        Command("exclave", "exclave_ctl.cli"),
        Command("exclave-verify", "exclave_protocol.__main__"),
    ),
    # `exclave agent` and the command exclave-agent both want exclave-agent(1).
    subpages="1exclave",
)
RUNTIME_CPU: Final = Package(
    name="exclave-runtime-cpu",
    folder="runtimes/cpu",
    extras=("agent", "llama", "remote", "otel"),
    beyond="exclave-agent",
    interpreter=False,
)
RUNTIME_CUDA: Final = Package(
    name="exclave-runtime-cuda",
    folder="runtimes/cuda",
    extras=("agent", "agent-gpu", "llama", "remote", "otel"),
    without={"onnxruntime": "onnxruntime-gpu has the same files, for CUDA"},
    beyond="exclave-agent",
    interpreter=False,
    variant="cuda",
)
PACKAGES: Final = (AGENT, COORDINATOR, CLI, RUNTIME_CPU, RUNTIME_CUDA)


def named(name: str) -> Package:
    """The package of this name. Raises: Refusal."""
    for package in PACKAGES:
        if package.name == name:
            return package
    known = ", ".join(package.name for package in PACKAGES)
    raise Refusal(f"no package is called {name}", f"one of: {known}")


@cache
def project() -> dict[str, Any]:
    """pyproject.toml, read once."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def canonical(requirement: str) -> str:
    """The normalised name of the distribution that a requirement names; PEP 503."""
    matched = re.match(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)", requirement)
    if matched is None:
        raise Refusal(f"pyproject.toml: not a requirement: {requirement}")
    return re.sub(r"[-_.]+", "-", matched[1]).lower()


def requirements(package: Package) -> list[str]:
    """What pip is asked for: the project's own dependencies and the extras', less `without`.

    Raises: Refusal, where `without` names what no extra asks for any more.
    """
    table = project()["project"]
    extras = table["optional-dependencies"]
    asked = [*table["dependencies"], *(line for extra in package.extras for line in extras[extra])]
    names = {canonical(line) for line in asked}
    stale = sorted(set(package.without) - names)
    if stale:
        raise Refusal(
            f"{package.name} leaves out what pyproject.toml does not ask for: {', '.join(stale)}",
            "take the names out of packaging/packages/catalogue.py",
        )
    return sorted({line for line in asked if canonical(line) not in package.without})


def source_folder(name: str) -> Path:
    """Where one of our top-level packages lies, as pyproject.toml lists them. Raises: Refusal."""
    listed = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for entry in [*listed, SERVICE_ROOT]:
        if Path(entry).name == name:
            return ROOT / str(entry)
    raise Refusal(f"pyproject.toml lists no package {name}")


def source_files(folder: Path) -> list[Path]:
    """The files of one of our packages that are installed, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix not in (".pyc", ".pyi")
    )
