"""Who the agent is, what time it is, and how long what others signed for it still counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from exclave_agent.doctor.machine import Machine
from exclave_agent.doctor.report import Check, duration, fail, ok, skip, warn
from exclave_agent.doctor.site import NTP, SYSTEMD, Known, Site
from exclave_agent.errors import AgentError
from exclave_agent.system import STEP_BACK_TOLERANCE

JOIN: Final = "exclave-agent join, with a token from your operator"
SHORT_LIFE: Final = 2 * 3600
"""Seconds below which a certificate should have been renewed long ago."""
LAST_SHARE: Final = 0.1
EARLY: Final = 60
"""Seconds that a certificate may begin after our time, before a clock counts as wrong."""
ROLES: Final = ("root", "timestamp", "snapshot", "targets")
PEOPLE: Final = ("root", "targets")
"""Roles that people sign: they need days to publish anew, and a machine signs the others."""
PEOPLE_NOTICE: Final = 14 * 86_400
MACHINE_NOTICE: Final = 2 * 3600


def identity(site: Site) -> Iterator[Check]:
    """The identity folder, and the certificate's life."""
    known = site.known
    if isinstance(known, AgentError):
        if site.machine.stat(site.home) is None:
            yield skip("identity", "the home is not there")
        else:
            yield fail("identity", known.message, JOIN)
        return
    if known.trouble is not None:
        yield _unusable(site, known, known.trouble)
    else:
        yield ok("identity", known.spiffe)
    left = known.not_after - site.now
    life = max(1, known.not_after - known.not_before)
    if left <= 0:
        yield fail(
            "certificate",
            f"ended {duration(left)} ago",
            "start the agent: it recovers by proving its key; check the clock if that is refused",
        )
    elif left < min(SHORT_LIFE, life / 2) or left < life * LAST_SHARE:
        yield warn(
            "certificate",
            f"holds {duration(left)} more, and should have been renewed at half its life",
            "is the agent running, and does it reach the coordinator? its log says why not",
        )
    else:
        yield ok("certificate", f"holds {duration(left)} more")


def _unusable(site: Site, known: Known, trouble: AgentError) -> Check:
    """Keys that doctor cannot use may still be in use by the agent that runs."""
    if site.status is not None and trouble.code == "identity_sealed":
        return skip(
            "identity",
            f"{known.spiffe}; its keys are sealed, and the running agent has them open",
        )
    return fail("identity", f"{known.spiffe}: {trouble.message}", "do what is said here")


def clock(site: Site) -> Iterator[Check]:
    """A wrong clock breaks TLS, expiry and recovery; each sign of one is told apart."""
    troubles = list(_clock_troubles(site))
    yield from troubles
    if not troubles:
        yield ok(
            "clock",
            "plausible; the difference to the coordinator's is not measured, as neither TLS nor "
            "gRPC tells the time",
        )


def _clock_troubles(site: Site) -> Iterator[Check]:
    known = site.known
    remedy = "set the clock (timedatectl set-ntp yes, or chronyc makestep), then start the agent"
    if isinstance(known, Known) and site.now < known.not_before - EARLY:
        early = duration(known.not_before - site.now)
        yield fail("clock", f"{early} before the certificate's start", remedy)
    kept = site.kept
    behind = kept.floor_ns / 1e9 - site.now if kept is not None else 0
    if behind > STEP_BACK_TOLERANCE:
        yield fail(
            "clock",
            f"{duration(behind)} behind a time that this agent has seen: expiry is judged by "
            "that one",
            remedy,
        )
    if site.machine.stat(SYSTEMD) is not None:
        ran = site.machine.run(NTP)
        if ran.out.strip() == "no":
            yield warn(
                "clock",
                "not synchronised (NTPSynchronized=no)",
                "timedatectl set-ntp yes, or run chronyd; a drift of 5 minutes ends recovery",
            )


# --- what people signed -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signed:
    """One TUF role as the agent keeps it."""

    role: str
    version: int
    expires: int
    """Seconds since the epoch."""


def read_metadata(home: Path, machine: Machine) -> list[Signed | str]:
    """The roles on disk; the name of one that is there and cannot be read.

    Raises: PermissionError.
    """
    from tuf.api.metadata import Metadata
    from tuf.api.serialization import DeserializationError

    found: list[Signed | str] = []
    for role in ROLES:
        data = machine.read(home / "tuf" / "metadata" / f"{role}.json")
        if data is None:
            continue
        try:
            signed = Metadata[Any].from_bytes(data).signed
        except (DeserializationError, RecursionError):
            found.append(role)
            continue
        expires = int(signed.expires.replace(tzinfo=UTC).timestamp())
        found.append(Signed(role, signed.version, expires))
    return found


def metadata(site: Site) -> Iterator[Check]:
    """Expired metadata lets nothing new in, and stops renewing the offline grace."""
    found = read_metadata(site.home, site.machine)
    if not found:
        yield skip("release metadata", "none fetched yet")
        return
    good = []
    for one in found:
        trouble = _role(one, site)
        if trouble is not None:
            yield trouble
        elif isinstance(one, Signed):
            good.append(f"{one.role} {one.version} until {_day(one.expires)}")
    if good:
        yield ok("release metadata", "; ".join(good))
    yield from _grace(site)


def _role(one: Signed | str, site: Site) -> Check | None:
    if isinstance(one, str):
        return fail(
            "release metadata",
            f"{one}.json in the agent's tuf folder cannot be read",
            "stop the agent, remove the folder tuf/metadata in its home, and start it again",
        )
    left = one.expires - site.now
    name = f"{one.role} metadata version {one.version}"
    if one.role in PEOPLE:
        remedy = "ask those who sign releases to sign and publish anew; then nothing is lost"
        if left <= 0:
            return fail("release metadata", f"{name} ended {duration(left)} ago", remedy)
        if left < PEOPLE_NOTICE:
            return warn("release metadata", f"{name} ends in {duration(left)}", remedy)
        return None
    if left <= 0:
        # It lasts a day: an agent that was off for longer has an old one, and fetches anew.
        tell = fail if site.status is not None else warn
        return tell(
            "release metadata",
            f"{name} ended {duration(left)} ago",
            "the coordinator signs it anew each day: can it be reached, and does it serve?",
        )
    if left < MACHINE_NOTICE:
        return warn(
            "release metadata",
            f"{name} ends in {duration(left)}",
            "the coordinator should have signed it anew by now: can it be reached?",
        )
    return None


def _grace(site: Site) -> Iterator[Check]:
    """How long the active release may still answer with the coordinator out of reach."""
    kept = site.kept
    manifest = kept.manifest if kept is not None else None
    if kept is None or manifest is None:
        return
    whole = manifest.offline_grace_seconds
    left = kept.checked_ns / 1e9 + whole - site.now
    release = site.status["release"] if site.status is not None else None
    if release is not None:
        left = float(release["grace_left"])
    told = f"{duration(max(0, left))} of {duration(whole)} left"
    remedy = "let the agent reach its coordinator: each check of the metadata renews the grace"
    if left <= 0:
        yield fail("offline grace", f"{told}: the release answers nobody", remedy)
    elif left < whole * LAST_SHARE:
        yield warn("offline grace", told, remedy)
    else:
        yield ok("offline grace", told)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
