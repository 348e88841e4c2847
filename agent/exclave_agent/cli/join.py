"""`exclave-agent join`: trade a token for an identity."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import BinaryIO

import click

from exclave_agent.cli import home_option


@click.command()
@click.option(
    "--token-file",
    type=click.File("rb"),
    # Opened before --home makes root the home's user, who may not read a file of root's.
    is_eager=True,
    help="File with the join token; without it the token is read from stdin.",
)
@click.option("--name", default="", help="Agent name, where the token leaves it open.")
@click.option(
    "--again",
    is_flag=True,
    help="This home is an agent that was evicted: come back under the same name and keys.",
)
@home_option
def command(token_file: BinaryIO | None, name: str, again: bool, home: Path | None) -> None:
    """Enroll this machine with a coordinator.

    The token comes from `exclave token create` and is never given on the command line, where
    other users of the machine could read it. Repeating a join that was interrupted is safe.
    """
    from exclave_agent.config import load_settings
    from exclave_agent.errors import IdentityError
    from exclave_agent.identity.join import join
    from exclave_agent.link.enroll import GrpcJoin
    from exclave_agent.storage.home import claim, prepare
    from exclave_agent.system import SystemRng
    from exclave_protocol.errors import IdentityFormatError
    from exclave_protocol.identity import JoinToken

    settings = load_settings(home)
    if token_file is None and sys.stdin.isatty():
        click.echo("paste the join token and press Enter:", err=True)
    given = token_file.read() if token_file is not None else sys.stdin.buffer.readline()
    try:
        token = JoinToken.decode(given.decode("ascii", "replace").strip())
    except IdentityFormatError as error:
        raise IdentityError(
            f"join token: {error.message}; copy it whole, from exj1. to its end",
            code="token_malformed",
        ) from error
    claim(settings.home)
    identity = asyncio.run(join(settings.home, token, GrpcJoin(), agent=name, again=again))
    # Here, in a short-lived process: what makes the databases need not stay in the agent.
    prepare(settings.home, SystemRng())
    click.echo(f"joined as {identity.spiffe}")
    click.echo(
        f"identity in {identity.folder}; start it with: exclave-agent run --home {settings.home}"
    )
