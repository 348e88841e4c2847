"""The commands of `exclave-coordinator`: arguments in, exit codes out.

Exit codes: 0 done; 1 refused or failed, and the message says what to do; 2 wrong usage; 3 a
migration is due (`migrate --check`); 78 a setting is wrong or the database of a newer version
(`serve`): starting again would not mend it. `serve` ends with 0 when a signal asked it to.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from exclave_coordinator.errors import CoordinatorError
from exclave_protocol.identity import ROLES

# Everything heavy (gRPC, SQLAlchemy, cryptography) is imported by the command that needs it:
# --help must answer within 0.3 s.

EXIT_CODES = (
    "Exit codes: 0 done; 1 refused or failed, and the message says what to do; 2 wrong usage; "
    "3 a migration is due (migrate --check); 78 a setting is wrong or the database of a newer "
    "version (serve): starting again would not mend it."
)
DUE = 3
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: tells the service manager not to try again."""
UNMENDABLE = ("config_invalid", "storage_newer")
"""Codes of errors that `serve` ends with EXIT_CONFIG for."""
MAX_NAMED = 12
"""Most missing artifacts that `backup` names."""

_HOME = click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="EXCLAVE_COORDINATOR_HOME",
    default=Path("/var/lib/exclave-coordinator"),
    show_default=True,
    help="The coordinator's folder.",
)
_PASSPHRASE = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help="File whose one line is the backup's passphrase; nobody else may read it.",
)


class _Unmendable(click.ClickException):
    exit_code = EXIT_CONFIG


class Coordinator(click.Group):
    """Turns every expected failure into one line; anything else stays a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except CoordinatorError as error:
            unmendable = error.code in UNMENDABLE and ctx.invoked_subcommand == "serve"
            refusal = _Unmendable if unmendable else click.ClickException
            raise refusal(error.message) from error
        except OSError as error:
            if error.filename is None:
                raise
            raise click.ClickException(
                f"{error.filename}: {error.strerror}: run as root or as the home's user"
            ) from error


@click.group(
    cls=Coordinator, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES
)
@click.version_option(package_name="exclave", prog_name="exclave-coordinator")
def main() -> None:
    """The centre of Exclave: governs agents, never sees their data."""


@main.command()
@_HOME
@click.option("--trust-domain", help="SPIFFE trust domain.  [default: example.org]")
@click.option("--listen", help="mTLS port, host:port.  [default: 127.0.0.1:7443]")
@click.option("--enroll-listen", help="Enrollment port.  [default: 127.0.0.1:7444]")
@click.option("--metrics-listen", help="Metrics port.  [default: 127.0.0.1:7445]")
@click.option("--hostname", help="Name that agents dial.  [default: the host of --listen]")
def init(home: Path, **options: str | None) -> None:
    """Make a new coordinator: CA, keys, database, first operator. Overwrites nothing."""
    from dataclasses import replace

    from exclave_coordinator.config import Settings, validated
    from exclave_coordinator.home import FIRST_OPERATOR, create
    from exclave_coordinator.system import SystemClock, SystemRng

    given = {name: value for name, value in options.items() if value is not None}
    # replace() checks the names; click has checked that all are strings.
    settings = validated(replace(Settings(), **given))  # type: ignore[arg-type]
    made = create(home, settings, SystemClock(), SystemRng())
    click.echo(f"coordinator of {settings.trust_domain} made in {made.path}")
    click.echo(f"operator profile: {made.operators / FIRST_OPERATOR}")
    click.echo(f"next: exclave-coordinator serve --home {home}")


@main.command()
@_HOME
def serve(home: Path) -> None:
    """Serve until SIGTERM. Prints one JSON line with the ports when ready.

    An older database is migrated first, after a copy of it was made beside it.
    """
    from exclave_protocol.wire import require_tls13

    require_tls13()  # before gRPC is imported
    from exclave_coordinator.home import Home
    from exclave_coordinator.serve import serve as run
    from exclave_service.owner import become_owner

    become_owner(home)
    run(Home(home))


@main.command()
@_HOME
@click.option("--check", is_flag=True, help="Only say whether one is due; exit 3 if so.")
def migrate(home: Path, check: bool) -> None:
    """Bring the database to this version's schema, which `serve` does by itself.

    A copy is made beside it first (coordinator.db.before-N). Nobody may serve the home.
    """
    from exclave_coordinator.home import Home, hold
    from exclave_coordinator.storage.migrate import migrate as forwards
    from exclave_coordinator.storage.migrate import plan
    from exclave_service.owner import become_owner

    place = Home(home)
    become_owner(home)
    todo = plan(place.database)
    if not todo.steps:
        click.echo(f"schema {todo.version}: up to date")
        return
    for step in todo.steps:
        click.echo(f"schema {step.version}: {step.what}")
    if check:
        sys.exit(DUE)
    with hold(place):
        copy = forwards(place.database)
    click.echo(f"migrated to schema {todo.target}; the former database is {copy}")


@main.command()
@_HOME
@click.argument("file", type=click.Path(path_type=Path))
@_PASSPHRASE
def backup(home: Path, file: Path, passphrase_file: Path | None) -> None:
    """Write the whole coordinator into FILE, while it serves or not.

    FILE holds every secret of the coordinator, the CA's key among them: keep it as you keep
    those. With a passphrase it is sealed. A home that lacks a key is refused; one that lacks
    published artifacts is backed up without them, they are named, and the exit code is 1.
    """
    from importlib.metadata import version

    from exclave_coordinator.backup.save import backup as save
    from exclave_coordinator.home import Home
    from exclave_coordinator.system import SystemClock, SystemRng

    saved = save(
        Home(home),
        file,
        version=version("exclave"),
        clock=SystemClock(),
        rng=SystemRng(),
        passphrase=_passphrase(passphrase_file),
    )
    _warn_of(saved.damaged, "is damaged: remove it and publish its release again")
    click.echo(f"{saved.members} files, {saved.length} bytes, schema {saved.schema}: {saved.path}")
    if passphrase_file is None:
        click.echo("it holds the coordinator's secrets in the clear: keep it as you keep those")
    if saved.missing:
        _warn_of(saved.missing[:MAX_NAMED], "is missing")
        raise click.ClickException(
            f"the backup is written and lacks {len(saved.missing)} artifacts that published "
            "releases name, as the home does: mount the disk that they lie on and back up again, "
            "or publish again with `exclave release publish`"
        )


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@_HOME
@_PASSPHRASE
def restore(file: Path, home: Path, passphrase_file: Path | None) -> None:
    """Make a coordinator of the backup FILE in a home that is absent or empty.

    Every byte is verified first; a backup that is not whole changes nothing. What happened
    after the backup is lost: see the runbook before agents connect.
    """
    from exclave_coordinator.backup.restore import restore as load
    from exclave_coordinator.system import SystemClock, SystemRng

    restored = load(
        file,
        home,
        clock=SystemClock(),
        rng=SystemRng(),
        passphrase=_passphrase(passphrase_file),
    )
    _warn_of(restored.damaged, "was damaged and is left out: publish its release again")
    click.echo(
        f"{restored.members} files of schema {restored.head.schema}, written by version "
        f"{restored.head.version}: {restored.home.path}"
    )
    click.echo(f"next: exclave-coordinator doctor --home {home}")


def _passphrase(file: Path | None) -> bytes:
    if file is None:
        return b""
    from exclave_coordinator.backup.seal import passphrase_of
    from exclave_coordinator.storage.files import read_private

    if not file.exists():
        raise click.ClickException(f"--passphrase-file: no file {file}")
    return passphrase_of(read_private(file))


def _warn_of(names: tuple[str, ...], what: str) -> None:
    for name in names:
        click.echo(f"warning: {name} {what}", err=True)


@main.group()
def operator() -> None:
    """Operators' certificates, from this machine: for when no administrator is left."""


@operator.command()
@_HOME
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="Profile folder, absent or empty.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 365),
    help="How long it holds.  [default: operator_certificate_seconds]",
)
def issue(home: Path, name: str, role: str, folder: Path, days: int | None) -> None:
    """Make a key and a profile for NAME, whether a coordinator serves or not.

    Whoever may read the CA's key may do this, with no operator's consent; so it is put on the
    operators' record as done here (IssueOperatorLocally). Where an administrator is left, let
    `exclave operator issue` do it: there the key never leaves its user's machine.
    """
    from datetime import UTC, datetime
    from importlib.metadata import version

    from exclave_coordinator.home import Home, Operator, issue_operator
    from exclave_coordinator.system import SystemClock, SystemRng

    expires = issue_operator(
        Home(home),
        folder,
        Operator(name, role, (days or 0) * 86_400),
        version=version("exclave"),
        clock=SystemClock(),
        rng=SystemRng(),
    )
    until = datetime.fromtimestamp(expires, UTC)
    click.echo(f"{name} is {role} until {until:%Y-%m-%dT%H:%M:%SZ}; profile: {folder}")


@operator.command("list")
@_HOME
def list_operators(home: Path) -> None:
    """Every certificate that was issued to an operator, the last to end first."""
    from datetime import UTC, datetime

    from exclave_coordinator.home import Home
    from exclave_coordinator.storage.database import once
    from exclave_coordinator.system import SystemClock

    now = SystemClock().now()
    for found in once(Home(home).database, lambda tx: tx.operators.certificates()):
        until = datetime.fromtimestamp(found.not_after, UTC)
        word = "until" if found.not_after > now else "ended"
        click.echo(f"{found.name} {found.role} {word} {until:%Y-%m-%dT%H:%M:%SZ}")


@main.group()
def config() -> None:
    """The settings in coordinator.toml."""


@config.command()
def reference() -> None:
    """Print every setting, its default and its meaning, as Markdown."""
    from exclave_coordinator.config import reference as page

    click.echo(page(), nl=False)


@config.command("check")
@_HOME
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check_settings(home: Path, file: Path | None) -> None:
    """Validate the home's coordinator.toml, or FILE before it takes its place."""
    from exclave_coordinator.config import load

    path = file or home / "coordinator.toml"
    settings = load(path)
    click.echo(f"{path} is valid: agents dial {settings.dial_host}")


@main.command()
@_HOME
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(home: Path, as_json: bool) -> None:
    """Check files, modes, database, certificates, ports and disk; exit 1 if any fails."""
    import json

    from exclave_coordinator.doctor import examine
    from exclave_coordinator.home import Home
    from exclave_coordinator.system import SystemClock, SystemRng

    findings = examine(Home(home), SystemClock(), SystemRng())
    if as_json:
        rows = [
            {"name": f.name, "ok": f.ok, "detail": f.detail, "remedy": f.remedy} for f in findings
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.detail}")
            if not finding.ok:
                click.echo(f"      do: {finding.remedy}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)
