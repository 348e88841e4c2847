"""`exclave rollout`: assign a signed release to a tenant's agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from exclave_ctl import output
from exclave_ctl.commands.agent import describe
from exclave_ctl.context import Session, pass_session
from exclave_ctl.errors import CtlError

if TYPE_CHECKING:
    from exclave_ctl.client import Client
    from exclave_protocol.pb import admin_pb2 as pb

_timeout = click.option(
    "--timeout", type=output.duration, default="5m", show_default=True, help="With --wait."
)


@click.group()
def rollout() -> None:
    """Roll a published release out to the agents."""


@rollout.command()
@click.argument("tenant")
@click.option(
    "--release",
    default="latest",
    show_default=True,
    metavar="DIGEST|VERSION|latest",
    help="A release in the tenant's published targets.",
)
@click.option("--wait", is_flag=True, help="Until every agent has applied it or refused.")
@_timeout
@output.as_json
@pass_session
def start(
    session: Session, tenant: str, release: str, wait: bool, timeout: int, as_json: bool
) -> None:
    """Assign a release to all agents of TENANT. Needs role release-manager."""
    from exclave_ctl import rollouts

    with session.connect() as client:
        digest = rollouts.resolve(client, tenant, release)
        state = client.start_rollout(tenant, digest)
        if wait:
            state = _wait(client, state, timeout)
    _finish(state, wait, as_json)


@rollout.command()
@click.argument("tenant")
@click.option("--rollout", "rollout_id", default="", help="Default: the newest.")
@click.option("--wait", is_flag=True, help="Until every agent has applied it or refused.")
@_timeout
@output.as_json
@pass_session
def status(
    session: Session, tenant: str, rollout_id: str, wait: bool, timeout: int, as_json: bool
) -> None:
    """How far a rollout is, and what the agents that lack it say."""
    with session.connect() as client:
        state = client.rollout(tenant, rollout_id)
        if wait:
            state = _wait(client, state, timeout)
    _finish(state, wait, as_json)


def _wait(client: Client, state: pb.Rollout, timeout: int) -> pb.Rollout:
    from exclave_ctl import rollouts

    last = (-1, -1)

    def seen(now: pb.Rollout) -> None:
        nonlocal last
        if (now.applied, now.failed) != last:
            last = (now.applied, now.failed)
            output.note(f"applied {now.applied} of {now.agents}, failed {now.failed}")

    return rollouts.wait(client, state.tenant, state.rollout, timeout, seen)


def _finish(state: pb.Rollout, waited: bool, as_json: bool) -> None:
    """Print; a rollout that was waited for and failed anywhere is an error."""
    if as_json:
        output.emit(_value(state))
    else:
        click.echo(
            f"rollout {state.rollout} of release {state.release_digest[:12]}: "
            f"{state.applied} of {state.agents} applied, {state.failed} failed"
        )
        for agent in map(describe, state.pending):
            reason = f": {agent['error_message']}" if agent["error_message"] else ""
            click.echo(f"  {agent['name']}  {agent['phase']}{reason}")
    if waited and state.failed:
        raise CtlError(
            f"{state.failed} of {state.agents} agents refused the release",
            "they go on with their last good one; correct the release and roll out again",
        )


def _value(state: pb.Rollout) -> dict[str, Any]:
    return {
        "tenant": state.tenant,
        "rollout": state.rollout,
        "release": state.release_digest,
        "generation": state.generation,
        "started": state.started,
        "agents": state.agents,
        "applied": state.applied,
        "failed": state.failed,
        "pending": [describe(agent) for agent in state.pending],
    }
