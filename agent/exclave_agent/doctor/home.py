"""Settings and home: what the agent is told, and whether the place it lives in is its own."""

from __future__ import annotations

from collections.abc import Iterator

from exclave_agent.config import DEFAULT_HOME
from exclave_agent.doctor.machine import User
from exclave_agent.doctor.report import Check, fail, ok, warn
from exclave_agent.doctor.site import SERVICE_USER, Site
from exclave_agent.identity.store import PRIVATE_KEYS, SECRETS_KEY

PRIVATE = (*PRIVATE_KEYS, SECRETS_KEY, "join.json", "cert.pem", "ca.pem")


def settings(site: Site) -> Iterator[Check]:
    """Whether what the operator wrote can be used."""
    if site.settings_error:
        yield fail(
            "settings",
            site.settings_error,
            "correct it there; until then the agent does not start, and doctor looks at defaults",
        )
        return
    given = ", ".join(f"{name} ({where})" for name, where in sorted(site.sources.items()))
    yield ok("settings", f"valid; set: {given}" if given else "valid; all are defaults")


def home(site: Site) -> Iterator[Check]:
    """Exists, is a folder, is its user's alone, and that user is the service's."""
    path = site.home
    found = site.machine.stat(path)
    if found is None or not found.is_folder:
        what = "is missing" if found is None else "is not a folder"
        yield fail("home", f"{path} {what}", "join first, or name another --home")
        return
    mode, owner = found.permissions, site.machine.user_name(found.uid)
    told = f"{path}, mode {mode:03o}, of {owner}"
    if mode & 0o077:
        yield fail("home", told, f"chmod 700 {path}")
        return
    user = _service_user(site)
    if user is not None and found.uid != user.uid:
        yield fail(
            "home",
            f"{told}, and the service runs as {user.name}",
            f"systemctl stop exclave-agent; chown -R {user.name}: {path}",
        )
    else:
        yield ok("home", told)
    yield from _inside(site, found.uid)


def _service_user(site: Site) -> User | None:
    """Whose the home of the system service must be; any other home is its owner's business."""
    if site.no_service or site.home != DEFAULT_HOME:
        return None
    return site.machine.user(site.service.get("User") or SERVICE_USER)


def _inside(site: Site, owner: int) -> Iterator[Check]:
    """Files that root has made or opened by hand, and that the agent then cannot use."""
    foreign, exposed = [], []
    names = [site.home / "identity" / name for name in PRIVATE]
    for path in (*names, site.home / "state.db", site.home / "vault.db"):
        found = site.machine.stat(path)
        if found is None:
            continue
        if found.uid != owner:
            foreign.append(str(path.relative_to(site.home)))
        if found.permissions & 0o077:
            exposed.append(str(path.relative_to(site.home)))
    if foreign:
        user = site.machine.user_name(owner)
        yield fail(
            "home files",
            f"not of {user}: {', '.join(foreign)}",
            f"chown -R {user}: {site.home}; run commands that write as that user, not as root",
        )
    if exposed:
        yield warn("home files", f"open to others: {', '.join(exposed)}", "chmod 600 each of them")
