"""`exclave-agent`: what platform engineers, developers and reviewers type at the tenant.

Only `click` and the standard library are imported here; each command imports what it needs
when it runs, so that `--help` stays quick.

Exit codes: 0 done; 1 refused or failed (the message says why and what to do); 2 usage;
3 the agent is not running (status, models, reload); 4 the agent runs, but has no release to serve
(status); 78 a setting is wrong: trying again would not mend it.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import click

from exclave_agent.errors import AgentError, unforeseen

EXIT_CONFIG = 78

COMMANDS = {
    "install": ("exclave_agent.cli.install", "Enroll, harden and start the system service."),
    "uninstall": ("exclave_agent.cli.uninstall", "Stop the system service; its state stays."),
    "join": ("exclave_agent.cli.join", "Enroll this machine with a coordinator."),
    "run": ("exclave_agent.cli.run", "Run the agent until SIGTERM or SIGINT."),
    "reload": ("exclave_agent.cli.reload", "Have the running agent read its settings again."),
    "upgrade": ("exclave_agent.cli.upgrade", "Take a newer signed version; back if unhealthy."),
    "status": ("exclave_agent.cli.status", "Say what the running agent does."),
    "models": ("exclave_agent.cli.models", "Show the models' plan of memory, and what they hold."),
    "doctor": ("exclave_agent.cli.doctor", "Check everything the agent needs, with remedies."),
    "support-bundle": ("exclave_agent.cli.support", "Collect what support needs, redacted."),
    "key": ("exclave_agent.cli.key", "Create, list and revoke local API keys."),
    "reviewer": ("exclave_agent.cli.reviewer", "Register reviewers' own keys, and remove them."),
    "review": ("exclave_agent.cli.review", "See what waits for people; approve, correct, refuse."),
    "secret": ("exclave_agent.cli.secret", "Keep secrets: keys of endpoints and of redactions."),
    "explain": ("exclave_agent.cli.why", "Say why a decision is what it is."),
    "try": ("exclave_agent.cli.try_policy", "Replay this agent's decisions under another policy."),
    "audit": ("exclave_agent.cli.audit", "Show, verify and disclose this agent's records."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when one of them is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="exclave", prog_name="exclave-agent")
def cli() -> None:
    """AI decisions beside the data: local inference under signed policy, with a provable record."""


def _as_owner(_: click.Context, __: click.Parameter, home: Path | None) -> Path | None:
    if os.geteuid() == 0:
        from exclave_agent.cli.owner import become_owner
        from exclave_agent.config import DEFAULT_HOME

        become_owner(home or DEFAULT_HOME)
    return home


def home_option(function: click.decorators.FC, *, as_owner: bool = True) -> click.decorators.FC:
    """`--home`, the same for every command; root becomes the home's user, unless told not to."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        envvar="EXCLAVE_HOME",
        callback=_as_owner if as_owner else None,
        help="Folder with the agent's identity, databases and models. [default: /var/lib/exclave]",
    )(function)


def roots_home_option(function: click.decorators.FC) -> click.decorators.FC:
    """`--home` of a command that administers the machine and stays root."""
    return home_option(function, as_owner=False)


def main() -> None:
    """Run the command line; an error is one clear line and exit code 1."""
    # What the agent writes is its user's alone, whatever shell or service started it.
    os.umask(0o077)
    try:
        cli.main(standalone_mode=True)
    except Exception as error:  # noqa: BLE001 - the last place where it can be told
        for line in explain(error):
            click.echo(line, err=True)
        sys.exit(exit_code(error))


def exit_code(error: BaseException) -> int:
    """78 (EX_CONFIG, sysexits.h) tells the service manager not to try again."""
    return EXIT_CONFIG if isinstance(error, AgentError) and error.code == "config_invalid" else 1


def explain(error: BaseException) -> list[str]:
    """What went wrong, for people: a line for each different error of a group."""
    if isinstance(error, BaseExceptionGroup):
        return list(dict.fromkeys(line for each in error.exceptions for line in explain(each)))
    if isinstance(error, AgentError):
        return [f"error: {error.message}"]
    if isinstance(error, PermissionError):
        return [
            f"error: no permission: {error.filename}",
            "hint: run as the user that owns the agent's home",
        ]
    if isinstance(error, OSError) and error.filename is not None:
        return [f"error: {error.strerror}: {error.filename}"]
    # Not the exception's text: it may quote a request.
    return [f"error: internal: {unforeseen(error)}", "hint: please report this line"]


if __name__ == "__main__":
    main()
