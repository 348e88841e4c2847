"""Who is an agent now: the database's rows in memory, asked on every call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exclave_coordinator.errors import Denied
from exclave_coordinator.ports import (
    ACTIVE,
    BANNED,
    EVICTED,
    Agent,
    AgentKey,
    Desired,
    Presence,
)


@dataclass(slots=True)
class Member:
    """One agent in memory. Changes follow the database, never lead it."""

    key: AgentKey
    state: str
    public_key: bytes
    previous_key: bytes
    audit_key: bytes
    desired: Desired
    presence: Presence


class Registry:
    """All agents by name. Lives on the event loop: no locks."""

    def __init__(self) -> None:
        self._members: dict[AgentKey, Member] = {}
        self._tenants: dict[str, dict[str, Member]] = {}

    def load(self, agents: Iterable[Agent]) -> None:
        """Take in rows; a known member takes over the row's identity, state and desire."""
        for agent in agents:
            member = self._members.get(agent.key)
            if member is None:
                member = Member(
                    agent.key,
                    agent.state,
                    agent.public_key,
                    agent.previous_key,
                    agent.audit_key,
                    agent.desired,
                    agent.presence,
                )
                self._members[agent.key] = member
                self._tenants.setdefault(agent.key.tenant, {})[agent.key.name] = member
                continue
            # In place: live sessions hold the member. Presence is newer here than in the row.
            member.state = agent.state
            member.public_key = agent.public_key
            member.previous_key = agent.previous_key
            member.audit_key = agent.audit_key
            member.desired = agent.desired

    def get(self, key: AgentKey) -> Member | None:
        """One agent, or None."""
        return self._members.get(key)

    def of_tenant(self, tenant: str) -> Iterator[Member]:
        """Every agent of a tenant."""
        return iter(self._tenants.get(tenant, {}).values())

    def __len__(self) -> int:
        return len(self._members)

    def admit(self, key: AgentKey, public_key: bytes) -> Member:
        """The agent that this key belongs to, if it may act now.

        Raises: Denied (banned, evicted, key_replaced, not_an_agent), each its own code.
        """
        member = self._members.get(key)
        if member is None:
            raise Denied("the agent is unknown here: join again", code="not_an_agent")
        refuse_state(member.state)
        if public_key not in (member.public_key, member.previous_key):
            raise Denied(
                "another key was bound to this agent's name since: join again", code="key_replaced"
            )
        return member


def refuse_state(state: str) -> None:
    """Raises: Denied unless the agent is active."""
    if state == BANNED:
        raise Denied("the agent is banned and may not come back", code="banned")
    if state == EVICTED:
        raise Denied("the agent was evicted: join again with a new token", code="evicted")
    assert state == ACTIVE, "an agent's state is one of three"
