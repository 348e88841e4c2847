"""One look at the whole agent, for its control socket: where everything stands, JSON-ready."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exclave_agent import __version__, sealing
from exclave_agent.link.session import LinkState
from exclave_agent.ports import MemoryPlan

if TYPE_CHECKING:
    from exclave_agent.rooms import Rooms


def status(rooms: Rooms) -> dict[str, Any]:
    """One look at everything; no raw data is anywhere near."""
    identity = rooms.basis.identities.current
    record = rooms.basis.record
    link, upload = rooms.session.status(), rooms.uploader.status
    releases, active = rooms.manager.status(), rooms.manager.releases.active
    models = [] if active is None else active.models.models().values()
    return {
        "version": __version__,
        "pid": os.getpid(),
        "spiffe_id": str(identity.spiffe),
        "tenant": identity.tenant,
        "agent": identity.agent,
        "home": str(rooms.settings.home),
        "listens": list(rooms.listens),
        "certificate": {"not_after": identity.not_after},
        "coordinator": {
            "endpoint": identity.session_endpoint,
            "state": str(link.state),
            "connected": link.state is LinkState.CONNECTED,
            "error": link.error,
            "observed": {
                "generation": releases.generation_seen,
                "phase": releases.phase.name,
                "error_code": releases.error_code,
                "error_message": releases.error_message,
            },
        },
        "audit": {
            "epoch": record.epoch.number,
            "term": record.terms.number,
            "proven": upload.proven,
            "frozen": record.log.frozen.message if record.log.frozen is not None else "",
            "size": record.log.size,
            "uploaded": upload.uploaded,
            "witnessed_size": upload.witnessed,
            "cosigned_by": {str(n): size for n, size in sorted(rooms.finals.covered.items())},
            "error": upload.error,
        },
        "release": None
        if active is None
        else {
            "version": active.version,
            "digest": active.digest,
            "generation": active.generation,
            "policy_digest": active.policy_digest,
            "grace_left": round(releases.grace_left),
        },
        "no_release": releases.error_message or "nothing verified has been assigned yet",
        "models": [
            {
                "name": info.name,
                "runtime": info.runtime,
                "digest": info.sha256,
                "actions": sorted(info.actions),
                "provider": info.provider,
                "network": info.network,
                "degraded": info.degraded,
            }
            for info in models
        ],
        "memory": memory(rooms.supervisor.plan()),
        "counts": rooms.tally.totals(),
        "waiting_for_people": rooms.basis.storage.referrals.known,
        "upgrade": rooms.upgrades.status(),
        "service": {
            "managed": rooms.basis.control.manager.present,
            "workers": "service" if rooms.settings.worker_socket else "children",
            "keys_sealed": sealing.current().present,
        },
    }


def memory(plan: MemoryPlan) -> dict[str, Any]:
    """The memory plan: budgets and sizes in bytes, a VRAM budget of 0 is not known."""
    return {
        "ram_budget": plan.ram_budget,
        "vram_budget": plan.vram_budget,
        "models": [
            {
                "name": one.name,
                "runtime": one.runtime,
                "digest": one.sha256,
                "state": one.state,
                "device": one.device,
                "ram": one.ram_bytes,
                "vram": one.vram_bytes,
                "resident": one.resident_bytes,
                "keep_warm": one.keep_warm,
                "in_use": one.in_use,
                "idle_seconds": round(one.idle_seconds, 1),
                "reload_seconds": round(one.reload_seconds, 2),
                "degraded": one.degraded,
                "stats": asdict(one.stats),
            }
            for one in plan.models
        ],
    }


def line(rooms: Rooms) -> str:
    """The same in one line, for `systemctl status`."""
    active = rooms.manager.releases.active
    release = f"release {active.version}" if active is not None else "no release"
    where = ", ".join(rooms.listens) or "nowhere"
    return f"answering on {where}; {release}; coordinator {rooms.session.status().state}"
