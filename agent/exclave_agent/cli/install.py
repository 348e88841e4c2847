"""`exclave-agent install`: from the package to a running, enrolled system service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from exclave_agent.install.change import Change


@click.command()
@click.option(
    "--token-file",
    type=click.File("rb"),
    help="Join token from `exclave token create`; `-` reads stdin. Not needed once enrolled.",
)
@click.option(
    "--coordinator",
    metavar="HOST:PORT",
    default="",
    help="Refuse a token that leads elsewhere, without spending it.",
)
@click.option("--name", default="", help="Agent name, where the token leaves it open.")
@click.option(
    "--seal",
    type=click.Choice(["auto", "tpm2", "host", "none"]),
    default="auto",
    show_default=True,
    help="What protects the agent's keys at rest: the TPM, a secret of this host, or nothing.",
)
@click.option("--reseal", is_flag=True, help="Replace the key that protects them by a new one.")
@click.option("--gpu/--no-gpu", default=None, help="Let workers use the GPU.  [default: look]")
@click.option(
    "--trust-enrollment",
    is_flag=True,
    help="Without a token, on a home that was moved here: believe its own record about whose "
    "signed packages may upgrade the agent.",
)
@click.option("--no-start", is_flag=True, help="Enable, and leave the start to you.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def command(
    token_file: BinaryIO | None,
    coordinator: str,
    name: str,
    seal: str,
    reseal: bool,
    gpu: bool | None,
    trust_enrollment: bool,
    no_start: bool,
    dry_run: bool,
) -> None:
    """Enroll this machine and start the agent as a system service; needs root.

    Looks first and changes only what is not yet so: running it again is safe, and goes on where
    an interrupted run stopped. Writes drop-ins, never units; what you put into drop-ins of your
    own (`systemctl edit exclave-agent`) is left alone. Waits until the agent is ready.
    """
    import os

    from exclave_agent.install import steps
    from exclave_agent.install.host import SystemHost

    host = SystemHost()
    options = steps.Options(
        token=b"" if token_file is None else token_file.read(8192),
        coordinator=coordinator,
        name=name,
        seal=seal,
        reseal=reseal,
        gpu=gpu,
        trust_enrollment=trust_enrollment,
        start=not no_start,
    )
    # What is written below is root's, for everybody to read; secrets name their own modes.
    os.umask(0o022)
    installation = steps.Installation(host, options, random=os.urandom)
    for warning in installation.check():
        click.echo(f"warning: {warning}", err=True)
    carry_out(installation.changes(), dry_run)
    if dry_run:
        return
    enrolled = steps.enrolled(host)
    assert enrolled is not None
    click.echo(f"this machine is {enrolled.spiffe}")
    if no_start:
        click.echo("next: systemctl start exclave-agent")
        return
    click.echo("next: exclave-agent status; exclave-agent key create --role ROLE")


def carry_out(changes: Iterator[Change], dry_run: bool) -> None:
    """Do each change and tell it, or only tell it."""
    count = 0
    for change in changes:
        count += 1
        if dry_run:
            click.echo(f"would {change.what}")
            continue
        click.echo(f"{change.what} ... ", nl=False)
        try:
            change.do()
        except BaseException:
            click.echo("failed")
            raise
        click.echo("done")
    if count == 0:
        click.echo("nothing to do: everything is so already")
