"""`exclave-agent doctor`: all that the agent needs, checked in order, failures with remedies."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exclave_agent.cli import home_option
from exclave_agent.config import Settings
from exclave_agent.errors import AgentError

if TYPE_CHECKING:
    from exclave_agent.storage.connect import FileKind

LEAST_FREE = 1 << 30
"""Bytes below which the disk counts as nearly full: a model and its successor must fit."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def command(as_json: bool, home: Path | None) -> None:
    """Check home, identity, clock, databases, disk, and the way to the coordinator.

    Exit code 0: all well; 1: something needs the remedy printed beside it.
    """
    from exclave_agent.config import load_settings

    settings = load_settings(home)
    checks: list[Check] = []
    for step in (_home, _identity, _databases, _record, _disk, _isolation, _network):
        checks += step(settings)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks]))
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
            if not check.ok:
                click.echo(f"     remedy: {check.remedy}")
    sys.exit(0 if all(check.ok for check in checks) else 1)


def _home(settings: Settings) -> Iterator[Check]:
    if not settings.home.is_dir():
        yield Check(
            "home", False, f"{settings.home} is missing", "join first, or name another --home"
        )
        return
    mode = settings.home.stat().st_mode & 0o777
    yield Check(
        "home", mode & 0o077 == 0, f"{settings.home}, mode {mode:03o}", f"chmod 700 {settings.home}"
    )


def _identity(settings: Settings) -> Iterator[Check]:
    from exclave_agent.identity.store import load

    try:
        identity = load(settings.home)
    except AgentError as error:
        yield Check(
            "identity", False, error.message, "exclave-agent join, with a token from your operator"
        )
        return
    yield Check("identity", True, str(identity.spiffe))
    left = identity.not_after - time.time()
    yield Check(
        "certificate",
        left > 0,
        f"holds {left / 3600:.1f} h more" if left > 0 else f"ended {-left / 3600:.1f} h ago",
        "start the agent: it recovers by proving its key; check the clock if that is refused",
    )
    early = time.time() < identity.not_before - 60
    yield Check(
        "clock",
        not early,
        "before the certificate's start" if early else "plausible",
        "set the clock (timedatectl), then start the agent again",
    )


def _databases(settings: Settings) -> Iterator[Check]:
    from exclave_agent.storage.home import STATE_FILE, VAULT_FILE
    from exclave_agent.storage.migrations import state, vault

    for name, kind in ((STATE_FILE, state.KIND), (VAULT_FILE, vault.KIND)):
        path = settings.home / name
        if not path.exists():
            yield Check(name, True, "not made yet")
            continue
        yield _attempt(name, partial(_ours, path, kind))


def _ours(path: Path, kind: FileKind) -> str:
    from exclave_agent.storage.connect import check_header, check_version

    check_header(path, kind)
    return f"ours, schema {check_version(path, kind)}"


def _record(settings: Settings) -> Iterator[Check]:
    from exclave_agent.cli.audit import verify_home
    from exclave_agent.identity.store import load
    from exclave_agent.storage.home import STATE_FILE

    if not (settings.home / STATE_FILE).exists():
        return
    try:
        load(settings.home)
    except AgentError:
        return  # told by its own line: without a name there is no log of ours

    yield _attempt("record", lambda: f"{verify_home(settings.home):,} leaves verify")


def _attempt(name: str, check: Callable[[], object]) -> Check:
    try:
        return Check(name, True, str(check()))
    except AgentError as error:
        return Check(
            name, False, error.message, "restore the home from a backup; keep the damaged files"
        )


def _disk(settings: Settings) -> Iterator[Check]:
    if settings.home.is_dir():
        free = shutil.disk_usage(settings.home).free
        yield Check(
            "disk",
            free >= LEAST_FREE,
            f"{free / 1e9:.1f} GB free",
            "free space: below 1 GB a new model may not fit, and at none decisions are refused",
        )


def _isolation(settings: Settings) -> Iterator[Check]:
    from exclave_agent.api.control import CONTROL_SOCKET
    from exclave_agent.cli.control import status as ask

    status = ask(settings.path(CONTROL_SOCKET))
    if status is None:
        yield Check("agent", True, "not running")
        return
    yield Check("agent", True, f"runs (pid {status['pid']})")
    open_workers = [m["name"] for m in status["models"] if m["network"] != "none"]
    if status["models"]:
        yield Check(
            "workers",
            not open_workers,
            "no network" if not open_workers else f"can reach the network: {open_workers}",
            "allow unprivileged user namespaces (kernel.unprivileged_userns_clone), or run the "
            "workers as a service with PrivateNetwork",
        )


def _network(settings: Settings) -> Iterator[Check]:
    from exclave_agent.identity.store import load

    try:
        identity = load(settings.home)
    except AgentError:
        return
    context = ssl.create_default_context(cadata=identity.ca_pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(identity.cert_path, identity.key_path)
    for what, endpoint in (
        ("coordinator", identity.session_endpoint),
        ("enrollment", identity.enroll_endpoint),
    ):
        yield from _reach(what, endpoint, context)


def _reach(what: str, endpoint: str, context: ssl.SSLContext) -> Iterator[Check]:
    """DNS, then TCP, then TLS: the first stage that fails is the one to mend."""
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    try:
        socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        yield Check(
            f"{what} DNS", False, f"{host}: {error.strerror}", "check the name and the resolver"
        )
        return
    try:
        plain = socket.create_connection((host, int(port)), timeout=5)
    except OSError as error:
        yield Check(
            f"{what} TCP", False, f"{endpoint}: {error}", "is it running? does a firewall block it?"
        )
        return
    with plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                yield Check(what, True, f"{endpoint} reached with {secure.version()}")
        except OSError as error:
            yield Check(
                f"{what} TLS",
                False,
                f"{endpoint}: {type(error).__name__}",
                "is it the coordinator this agent joined? a proxy in between breaks mutual TLS",
            )
