"""`exclave-coordinator init | serve | doctor`: arguments in, exit codes out."""

from __future__ import annotations

from pathlib import Path

import click

# Everything heavy (gRPC, SQLAlchemy, cryptography) is imported by the command that needs it:
# --help must answer within 0.3 s.

_HOME = click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="EXCLAVE_COORDINATOR_HOME",
    default=Path("/var/lib/exclave-coordinator"),
    show_default=True,
    help="The coordinator's folder.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
    from exclave_coordinator.errors import CoordinatorError
    from exclave_coordinator.home import FIRST_OPERATOR, create
    from exclave_coordinator.system import SystemClock, SystemRng

    given = {name: value for name, value in options.items() if value is not None}
    try:
        # replace() checks the names; click has checked that all are strings.
        settings = validated(replace(Settings(), **given))  # type: ignore[arg-type]
        made = create(home, settings, SystemClock(), SystemRng())
    except CoordinatorError as error:
        raise click.ClickException(error.message) from error
    click.echo(f"coordinator of {settings.trust_domain} made in {made.path}")
    click.echo(f"operator profile: {made.operators / FIRST_OPERATOR}")
    click.echo(f"next: exclave-coordinator serve --home {home}")


@main.command()
@_HOME
def serve(home: Path) -> None:
    """Serve until SIGTERM. Prints one JSON line with the ports when ready."""
    from exclave_protocol.wire import require_tls13

    require_tls13()  # before gRPC is imported
    from exclave_coordinator.errors import CoordinatorError
    from exclave_coordinator.home import Home
    from exclave_coordinator.serve import serve as run

    try:
        run(Home(home))
    except CoordinatorError as error:
        raise click.ClickException(error.message) from error


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
        raise SystemExit(1)


if __name__ == "__main__":
    main()
