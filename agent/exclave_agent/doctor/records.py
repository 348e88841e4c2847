"""The databases, the record in them, and the agent that writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exclave_agent.doctor.report import Check, fail, ok, skip, warn
from exclave_agent.doctor.site import Known, Site
from exclave_agent.errors import AgentError

if TYPE_CHECKING:
    from exclave_agent.storage.connect import FileKind

DIVERGED: Final = frozenset(
    {
        *("head_ahead", "head_foreign", "head_forked", "cosignature_invalid"),
        *("leaf_conflict", "leaf_invalid", "witness_inconsistent"),
    }
)
"""Codes of AuditDiverged that no later upload mends."""
RESTORE: Final = "restore the home from a backup; keep the damaged files"


def databases(site: Site) -> Iterator[Check]:
    """Each file is ours, whole as far as it is read, and not newer than this program."""
    for path, kind in _files(site.home):
        if site.machine.stat(path) is None:
            yield ok(path.name, "not made yet")
            continue
        try:
            yield ok(path.name, _ours(path, kind))
        except AgentError as error:
            yield fail(path.name, error.message, RESTORE)


def _files(home: Path) -> tuple[tuple[Path, FileKind], ...]:
    from exclave_agent.storage.home import STATE_FILE, VAULT_FILE
    from exclave_agent.storage.migrations import state, vault

    return (home / STATE_FILE, state.KIND), (home / VAULT_FILE, vault.KIND)


def _ours(path: Path, kind: FileKind) -> str:
    from exclave_agent.storage.connect import check_header, check_version

    check_header(path, kind)
    version = check_version(path, kind)
    if version < kind.version:
        return f"ours, schema {version}; the agent brings it to {kind.version} at its next start"
    return f"ours, schema {version}"


def record(site: Site) -> Iterator[Check]:
    """Every leaf's bytes, hash, place and predecessor, and our newest signed head."""
    from exclave_agent.storage.connect import check_version

    known = site.known
    if not isinstance(known, Known):
        return  # told by its own line: without a name there is no log of ours
    for path, kind in _files(site.home):
        if site.machine.stat(path) is None:
            return
        # Opening an older log would bring it up to date, and doctor changes nothing.
        if check_version(path, kind) < kind.version:
            yield skip("record", f"{path.name} has an older schema", "start the agent once")
            return
    if known.identity is None:
        yield skip("record", "not verified, as the agent's key cannot be used from here")
        return
    try:
        yield ok("record", f"{site.verify():,} leaves verify")
    except AgentError as error:
        yield fail("record", error.message, RESTORE)


def running(site: Site) -> Iterator[Check]:
    """Whether the agent runs, what it says is wrong, and whether its workers are walled in."""
    status = site.status
    if status is None:
        yield ok("agent", "not running")
        return
    told = f"runs (pid {status['pid']}, version {status['version']})"
    link = status["coordinator"]
    if link["error"]:
        yield warn(
            "agent",
            f"{told}; coordinator {link['state']}: {link['error']}",
            "mend what the lines on the coordinator say; the agent tries again by itself",
        )
    else:
        yield ok("agent", f"{told}; coordinator {link['state']}")
    if (contradicted := status["audit"]["error"]) in DIVERGED:
        yield fail(
            "witness",
            f"the coordinator's view of the record is not this home's ({contradicted}): nothing "
            "is uploaded or witnessed",
            "was an old copy of the home restored, or is a copy of it at work elsewhere? Keep "
            "this home as evidence, and join the machine anew in a fresh one",
        )
    observed = link["observed"]
    if observed["error_code"]:
        yield warn(
            "release",
            f"{observed['phase']}, {observed['error_code']}: {observed['error_message']}",
            "the release before it goes on answering; ask who published this one",
        )
    open_ones = [model["name"] for model in status["models"] if model["network"] != "none"]
    if open_ones:
        yield fail(
            "workers",
            f"can reach the network: {', '.join(open_ones)}",
            "allow unprivileged user namespaces (kernel.unprivileged_userns_clone), or run the "
            "workers as a service (worker_socket, with exclave-worker.socket)",
        )
    elif status["models"]:
        yield ok("workers", "no network")
