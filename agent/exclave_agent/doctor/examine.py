"""Every check in order; one that breaks is a finding itself, and does not hide the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from exclave_agent import __version__
from exclave_agent.doctor import (
    credential,
    devices,
    endpoints,
    engines,
    home,
    network,
    records,
    service,
    space,
    trust,
)
from exclave_agent.doctor.report import Check, Report, fail
from exclave_agent.doctor.site import Site
from exclave_agent.errors import AgentError, unforeseen

Step = Callable[[Site], Iterator[Check]]

STEPS: Final[tuple[tuple[str, Step], ...]] = (
    ("settings", home.settings),
    ("home", home.home),
    ("disk", space.disk),
    ("memory", space.memory),
    ("identity", trust.identity),
    ("clock", trust.clock),
    ("release metadata", trust.metadata),
    ("proxy", network.proxies),
    ("coordinator", network.ports),
    ("databases", records.databases),
    ("record", records.record),
    ("agent", records.running),
    ("service", service.unit),
    ("hardening", service.hardening),
    ("worker socket", service.socket),
    ("seal", credential.seal),
    ("gpu", devices.gpu),
    ("runtimes", engines.runtimes),
    ("remote models", endpoints.endpoints),
)
"""From what everything stands on to what only some need."""


def examine(site: Site) -> Report:
    """Run every check."""
    checks = [check for name, step in STEPS for check in _guarded(name, step, site)]
    return Report(__version__, int(site.now), tuple(checks))


def _guarded(name: str, step: Step, site: Site) -> Iterator[Check]:
    try:
        yield from step(site)
    except AgentError as error:
        yield fail(name, error.message, "mend what is said here, then run doctor again")
    except PermissionError as error:
        what = f": {error.filename}" if error.filename else ""
        yield fail(
            name, f"no permission to look{what}", "run doctor as root, or as the agent's own user"
        )
    except Exception as error:  # noqa: BLE001 - a check that breaks must not take the rest along
        # Not its text, which may hold what it was about.
        yield fail(name, f"this check broke: {unforeseen(error)}", "please report this line")
