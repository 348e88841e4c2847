"""`exclave-agent uninstall`: the service stops and is disabled; what it knows stays."""

from __future__ import annotations

import click


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def command(dry_run: bool) -> None:
    """Stop and disable the system service, and remove the drop-ins that `install` wrote.

    Identity, record, models and settings stay: `install` takes them up again without a token.
    Purging the package removes them for good.
    """
    from exclave_agent.cli.install import carry_out
    from exclave_agent.install.host import SystemHost
    from exclave_agent.install.steps import uninstall

    carry_out(uninstall(SystemHost()), dry_run)
    if not dry_run:
        click.echo("kept: /var/lib/exclave, /etc/exclave; purge the package to remove them")
