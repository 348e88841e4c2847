"""`exclave`: the operators' and auditors' command line. Commands import their needs late."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import click

from exclave_ctl.commands import (
    agent,
    audit,
    key,
    operator,
    policy_ask,
    release,
    rollout,
    tenant,
    token,
)
from exclave_ctl.context import Session
from exclave_ctl.errors import CtlError
from exclave_protocol.errors import ProtocolError


class Refused(click.ClickException):
    """Prints `error:` and, where there is advice, `hint:`; exit code 1."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        """To stderr, always."""
        click.echo(f"{click.style('error:', fg='red')} {self.message}", err=True)
        if self.hint:
            click.echo(f"{click.style('hint:', fg='cyan')} {self.hint}", err=True)


class Exclave(click.Group):
    """Turns every expected failure into one line of error and one of advice."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Anything that is not an expected failure stays a traceback."""
        try:
            return super().invoke(ctx)
        except CtlError as error:
            raise Refused(error.message, error.hint) from error
        except ProtocolError as error:
            raise Refused(error.message) from error
        except OSError as error:
            what = f"{error.filename}: " if error.filename else ""
            raise Refused(f"{what}{error.strerror or error}") from error


@click.group(cls=Exclave, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--profile",
    "profile_folder",
    metavar="DIR",
    envvar="EXCLAVE_PROFILE",
    type=click.Path(path_type=Path),
    help="Operator profile folder; also $EXCLAVE_PROFILE.",
)
@click.version_option(package_name="exclave", prog_name="exclave")
@click.pass_context
def main(ctx: click.Context, profile_folder: Path | None) -> None:
    """Govern an Exclave fleet: tenants, signed releases, rollouts, audit bundles.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
    """
    ctx.obj = Session(profile_folder)


for command in (
    key.key,
    operator.operator,
    tenant.tenant,
    release.release,
    token.token,
    agent.agent,
    rollout.rollout,
    audit.audit,
    policy_ask.policy,
):
    main.add_command(command)
