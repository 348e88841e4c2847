"""What systemd makes of our units: do they run, are their walls up, who changed them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from exclave_agent.doctor import properties
from exclave_agent.doctor.properties import Kind, Rule
from exclave_agent.doctor.report import Check, fail, ok, skip, warn
from exclave_agent.doctor.site import SERVICE, WORKER_SOCKET, Site

MANY_RESTARTS = 3
LONGEST_SHOWN = 60
"""Characters of a value in one line of the report."""
TEMPLATE = "exclave-worker@.service"


def unit(site: Site) -> Iterator[Check]:
    """Enabled, active, steady, watched."""
    if site.no_service:
        yield skip("service", site.no_service)
        return
    shown = site.service
    yield from _enabled(shown)
    yield _active(shown)
    restarts = int(shown.get("NRestarts") or 0)
    if restarts:
        yield warn(
            "restarts",
            f"systemd has started it anew {restarts} times since the last start by hand",
            "journalctl --namespace=exclave -u exclave-agent, and systemctl status exclave-agent",
        )
    if shown.get("ActiveState") == "active" and shown.get("WatchdogUSec") in ("0", "infinity"):
        yield warn(
            "watchdog",
            "off: an agent that hangs stays so",
            _undo("WatchdogSec", shown, site),
        )
    if shown.get("NeedDaemonReload") == "yes":
        yield warn(
            "service", "its files changed since systemd read them", "systemctl daemon-reload"
        )
    yield from _passed_over(site)


def _enabled(shown: Mapping[str, str]) -> Iterator[Check]:
    state = shown.get("UnitFileState", "")
    if state == "masked":
        yield fail("service", "masked", f"systemctl unmask {SERVICE}")
    elif state not in ("enabled", "enabled-runtime"):
        yield warn(
            "service",
            f"{state or 'not enabled'}: it does not start with the machine",
            f"systemctl enable --now {SERVICE}",
        )


def _active(shown: Mapping[str, str]) -> Check:
    state = shown.get("ActiveState", "unknown")
    if state == "active":
        return ok("service", f"active since {shown.get('ActiveEnterTimestamp') or 'unknown'}")
    if state in ("activating", "reloading", "deactivating"):
        return warn("service", f"{state} ({shown.get('SubState')})", "wait, then run doctor again")
    if state == "failed":
        return fail(
            "service",
            f"failed ({shown.get('Result')}, status {shown.get('ExecMainStatus')})",
            "journalctl --namespace=exclave -u exclave-agent, and systemctl status exclave-agent",
        )
    if shown.get("ConditionResult") == "no":
        return warn(
            "service",
            "not started, as a condition of the unit does not hold",
            "join first; systemctl status exclave-agent names the condition",
        )
    return warn("service", state, f"systemctl start {SERVICE}")


def _passed_over(site: Site) -> Iterator[Check]:
    """Directives of ours that this systemd does not know, told once: it is no fault of anyone."""
    shown = site.service
    files = [shown.get("FragmentPath", ""), *shown.get("DropInPaths", "").split()]
    text = "\n".join(_text(site, path) for path in files)
    unknown = [
        f"{name} ({since})"
        for name, (told, since) in properties.SINCE.items()
        if _sets(text, name) and told not in shown
    ]
    version = site.machine.run(["systemctl", "--version"]).out
    if "-BPF_FRAMEWORK" in version.split():
        unknown += [f"{name} (BPF)" for name in properties.BPF if _sets(text, name)]
    if unknown:
        words = version.split()
        number = words[1] if len(words) > 1 else "of this machine"
        yield ok(
            "systemd",
            f"{number} passes over {', '.join(unknown)}; the number is the version that knows it",
        )


# --- directives in force ------------------------------------------------------------------


def hardening(site: Site) -> Iterator[Check]:
    """What protects the agent and its workers, compared with what the package ships."""
    if site.no_service:
        yield skip("hardening", site.no_service)
        return
    yield from _compare("hardening", site, site.service, properties.AGENT)
    if site.worker.get("LoadState") == "loaded":
        shown = site.worker
        exempt = properties.FOR_A_GPU if _walled_gpu(shown) else ()
        yield from _compare("worker hardening", site, shown, properties.WORKER, exempt)
    else:
        yield skip("worker hardening", f"{TEMPLATE} is not installed")


def _compare(
    name: str,
    site: Site,
    shown: Mapping[str, str],
    rules: Sequence[Rule],
    exempt: Collection[str] = (),
) -> Iterator[Check]:
    known = [rule for rule in rules if rule.name in shown]
    weak = [rule for rule in known if properties.weaker(rule, shown[rule.name])]
    expected = [rule.name for rule in weak if rule.name in exempt]
    weak = [rule for rule in weak if rule.name not in exempt]
    drop_ins = shown.get("DropInPaths", "").split()
    if not weak:
        gpu = f"; {', '.join(expected)} is off for the GPU" if expected else ""
        yield ok(name, f"{len(known) - len(expected)} directives as shipped or stricter{gpu}")
        return
    told = "; ".join(_told(rule, shown[rule.name]) for rule in weak)
    files = dict.fromkeys(path for rule in weak for path in _setters(site, rule.name, drop_ins))
    where = ", ".join(files) or "no drop-in: the unit file itself differs"
    how = "remove those lines" if files else "reinstall the package"
    yield warn(
        name,
        f"weaker than shipped: {told}; set in {where}",
        f"{how}, then systemctl daemon-reload and restart",
    )


def _walled_gpu(shown: Mapping[str, str]) -> bool:
    """Whether the workers get a GPU as our drop-in gives it: its nodes, and no others."""
    return shown.get("DevicePolicy") in ("closed", "strict") and grants_gpu(shown)


def grants_gpu(shown: Mapping[str, str]) -> bool:
    """Whether a unit may open GPU device nodes, as far as its device list says."""
    if shown.get("DevicePolicy") == "auto" and not shown.get("DeviceAllow"):
        return shown.get("PrivateDevices") != "yes"
    return bool(re.search(r"nvidia|drm|/dev/dri|kfd|accel", shown.get("DeviceAllow", "")))


def _told(rule: Rule, value: str) -> str:
    """A directive in force, and what it should be."""
    if rule.kind is Kind.CALLS:
        extra = sorted(set(value.split()) & properties.PRIVILEGED)
        said = f"admits {' '.join(extra)}" if extra else "is no list of what is admitted"
        return f"{rule.name} {said} (ships a list without privileged calls)"
    ships = "a limit" if rule.kind is Kind.BOUNDED else rule.shipped or "none"
    short = value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}..."
    return f"{rule.name}={short} (ships {ships})"


def _setters(site: Site, directive: str, drop_ins: Sequence[str]) -> list[str]:
    """Drop-ins that set a directive."""
    return [path for path in drop_ins if _sets(_text(site, path), directive)]


def _sets(text: str, directive: str) -> bool:
    return re.search(rf"(?m)^\s*{re.escape(directive)}\s*=", text) is not None


def _text(site: Site, path: str) -> str:
    if not path.startswith("/"):
        return ""
    return (site.machine.read(Path(path)) or b"").decode("utf-8", "replace")


def _undo(directive: str, shown: Mapping[str, str], site: Site) -> str:
    files = _setters(site, directive, shown.get("DropInPaths", "").split())
    where = ", ".join(files) or f"a drop-in of {SERVICE}"
    return f"remove {directive} from {where}, then systemctl daemon-reload and restart"


# --- the workers' socket ------------------------------------------------------------------


def socket(site: Site) -> Iterator[Check]:
    """Without its socket, no worker of the service is ever started."""
    if site.no_service:
        yield skip("worker socket", site.no_service)
        return
    shown = site.show(WORKER_SOCKET)
    if shown.get("LoadState") != "loaded":
        yield skip("worker socket", f"{WORKER_SOCKET} is not installed")
    elif shown.get("ActiveState") == "active":
        used = f"{shown.get('NAccepted', '?')} workers started, {shown.get('NConnections')} now"
        refused = int(shown.get("NRefused") or 0)
        if refused:
            yield warn(
                "worker socket",
                f"{used}, {refused} refused",
                "more workers than MaxConnections allows: raise it in a drop-in of the socket",
            )
        else:
            yield ok("worker socket", used)
    else:
        yield fail(
            "worker socket",
            f"{shown.get('ActiveState')}: no model can be loaded",
            f"systemctl enable --now {WORKER_SOCKET}",
        )
