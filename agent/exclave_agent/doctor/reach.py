"""The gRPC stage: what the agent's own channels get from the coordinator."""

from __future__ import annotations

import asyncio
from typing import Final

from exclave_agent.audit.epoch import FIRST
from exclave_agent.errors import LinkError
from exclave_agent.identity.certificates import from_pem
from exclave_agent.identity.store import Identity, IdentityStore

SECONDS: Final = 10.0


def session(identity: Identity) -> str:
    """One call that changes nothing, with the agent's certificate. Raises: AgentError."""
    return asyncio.run(_session(identity))


async def _session(identity: Identity) -> str:
    from exclave_agent.link.audit import GrpcAudit
    from exclave_agent.link.channel import Channels

    channels = Channels(IdentityStore(identity.folder.parent))
    try:
        async with asyncio.timeout(SECONDS):
            head = await GrpcAudit(channels).head(FIRST)
    except TimeoutError:
        raise _late(identity.session_endpoint) from None
    finally:
        await channels.close()
    return f"the coordinator knows this agent, and holds {head.size:,} of its records"


def enrollment(endpoint: str, ca_pem: bytes) -> str:
    """A channel that becomes ready; every call there would leave a trace. Raises: AgentError."""
    return asyncio.run(_enrollment(endpoint, ca_pem))


async def _enrollment(endpoint: str, ca_pem: bytes) -> str:
    from exclave_agent.link.channel import anonymous_channel

    (authority, *_) = from_pem(ca_pem, "ca.pem")
    async with anonymous_channel(endpoint, authority) as channel:
        try:
            async with asyncio.timeout(SECONDS):
                await channel.channel_ready()
        except TimeoutError:
            raise _late(endpoint) from None
    return "ready"


def _late(endpoint: str) -> LinkError:
    return LinkError(f"{endpoint}: no answer within {SECONDS:.0f} s", code="unreachable")
