"""`exclave agent`: the fleet as the coordinator sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from exclave_ctl import output
from exclave_ctl.context import Session, pass_session

if TYPE_CHECKING:
    from exclave_protocol.pb import admin_pb2 as pb


@click.group()
def agent() -> None:
    """Agents: list, evict, ban."""


@agent.command("list")
@click.option("--tenant", default="", help="Only this tenant's.")
@output.as_json
@pass_session
def list_agents(session: Session, tenant: str, as_json: bool) -> None:
    """List agents, what they run and how far their records have arrived."""
    with session.connect() as client:
        values = [describe(item) for item in client.agents(tenant)]
    if as_json:
        output.emit(values)
        return
    output.table(
        (
            "TENANT",
            "AGENT",
            "STATE",
            "LINK",
            "LAST SEEN",
            "GENERATION",
            "PHASE",
            "RELEASE",
            "AUDIT",
        ),
        [
            (
                v["tenant"],
                v["name"],
                v["state"],
                "up" if v["connected"] else "down",
                output.when(v["last_seen"]),
                f"{v['generation']}/{v['desired_generation']}",
                v["phase"] + (f" ({v['error_code']})" if v["error_code"] else ""),
                v["release"][:12] or "-",
                f"{v['witnessed_size']}/{v['audit_size']}",
            )
            for v in values
        ],
        "no agents yet: `exclave token create`, then `exclave-agent join`",
    )


@agent.command()
@click.argument("tenant")
@click.argument("name")
@click.option("--reason", required=True, help="For the operators' log.")
@output.as_json
@pass_session
def evict(session: Session, tenant: str, name: str, reason: str, as_json: bool) -> None:
    """End an agent's session; it may come back. Needs role admin."""
    with session.connect() as client:
        value = describe(client.evict_agent(tenant, name, reason))
    _done(value, as_json)


@agent.command()
@click.argument("tenant")
@click.argument("name")
@click.option("--reason", required=True, help="For the operators' log.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output.as_json
@pass_session
def ban(session: Session, tenant: str, name: str, reason: str, yes: bool, as_json: bool) -> None:
    """End an agent's session for good: no certificate again. Needs role admin."""
    if not yes:
        click.confirm(f"Ban {tenant}/{name} for good?", abort=True, err=True)
    with session.connect() as client:
        value = describe(client.ban_agent(tenant, name, reason))
    _done(value, as_json)


@agent.command()
@click.argument("tenant")
@click.argument("name")
@click.option("--reason", required=True, help="For the operators' log.")
@output.as_json
@pass_session
def reopen(session: Session, tenant: str, name: str, reason: str, as_json: bool) -> None:
    """Let an agent begin the next epoch of its log. Needs role admin.

    For a log that cannot go on: the disk is lost, the home was copied, or put back from a backup.
    The epoch before ends where it was cosigned last, for good. Then, at the agent's machine:
    `exclave-agent audit recover`.
    """
    with session.connect() as client:
        epoch = client.reopen_log(tenant, name, reason)
    if as_json:
        output.emit({"tenant": tenant, "name": name, "epoch": epoch})
        return
    click.echo(f"{tenant}/{name} may begin epoch {epoch}: run `exclave-agent audit recover` there")


def _done(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.emit(value)
        return
    click.echo(f"{value['tenant']}/{value['name']} is {value['state']}")


def describe(agent: pb.Agent) -> dict[str, Any]:
    """An agent as JSON."""
    from exclave_protocol.pb import admin_pb2, fleet_pb2

    observed = agent.observed
    return {
        "tenant": agent.tenant,
        "name": agent.name,
        "state": admin_pb2.Agent.State.Name(agent.state).lower(),
        "connected": agent.connected,
        "last_seen": agent.last_seen,
        "version": agent.version,
        "desired_generation": agent.desired_generation,
        "generation": observed.generation,
        "phase": fleet_pb2.Phase.Name(observed.phase).removeprefix("PHASE_").lower(),
        "release": observed.release_digest,
        "error_code": observed.error_code,
        "error_message": observed.error_message,
        "audit_size": agent.audit_size,
        "witnessed_size": agent.witnessed_size,
    }
