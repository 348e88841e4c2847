"""Which directives of our units count as hardening, what the package ships, and what is weaker.

A test holds this table to packaging/systemd/system.

Values are compared as `systemctl show` prints them. Only a value that is known to be weaker is
told: a newer systemd has settings of its own, and a site may well be stricter than we are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Kind(Enum):
    """How two values of a directive compare."""

    SCALE = auto()
    """One of the words in SCALES, weakest first; or no and yes."""
    AT_MOST = auto()
    """Words that are given: more of them is weaker. A leading ~ means all but these."""
    AT_LEAST = auto()
    """Words that are taken: fewer of them is weaker."""
    ZERO = auto()
    """A number that must be 0."""
    MASK = auto()
    """An octal mask: fewer bits is weaker."""
    CALLS = auto()
    """A list of system calls: none, an inverted one, or one with PRIVILEGED calls is weaker."""
    BOUNDED = auto()
    """A number of bytes: infinity is weaker."""


SCALES: Final[Mapping[str, tuple[str, ...]]] = {
    "ProtectSystem": ("no", "yes", "full", "strict"),
    "ProtectHome": ("no", "read-only", "tmpfs", "yes"),
    "ProtectProc": ("default", "noaccess", "invisible"),
    "ProcSubset": ("all", "pid"),
    "KeyringMode": ("shared", "inherit", "private"),
    "DevicePolicy": ("auto", "closed", "strict"),
}
_SWITCH: Final = ("no", "yes")

PRIVILEGED: Final = frozenset(
    [
        "mount",
        "umount2",
        "pivot_root",
        "ptrace",
        "bpf",
        "init_module",
        "finit_module",
        "kexec_load",
        "reboot",
        "swapon",
        "settimeofday",
        "clock_settime",
        "perf_event_open",
    ]
)
"""Calls that none of our units may make, with CAP_SYS_ADMIN or without."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One directive as shipped."""

    name: str
    shipped: str
    kind: Kind = Kind.SCALE


_SWITCHES: Final = (
    "NoNewPrivileges",
    "PrivateTmp",
    "PrivateDevices",
    "PrivateUsers",
    "PrivateIPC",
    "PrivateMounts",
    "RemoveIPC",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectControlGroups",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
)

_COMMON: Final = (
    *(Rule(name, "yes") for name in _SWITCHES),
    Rule("ProtectSystem", "strict"),
    Rule("ProtectHome", "yes"),
    Rule("ProtectProc", "invisible"),
    Rule("KeyringMode", "private"),
    Rule("DevicePolicy", "closed"),
    Rule("CapabilityBoundingSet", "", Kind.AT_MOST),
    Rule("AmbientCapabilities", "", Kind.AT_MOST),
    Rule("SystemCallArchitectures", "native", Kind.AT_LEAST),
    Rule("SystemCallFilter", "", Kind.CALLS),
    Rule("ExecPaths", "/opt/exclave /usr/lib /lib /lib64", Kind.AT_MOST),
    Rule("LimitCORE", "0", Kind.ZERO),
    Rule("UMask", "0077", Kind.MASK),
    Rule("MemoryMax", "", Kind.BOUNDED),
)

AGENT: Final[tuple[Rule, ...]] = (
    *_COMMON,
    Rule("ProcSubset", "pid"),
    Rule("NoExecPaths", "/ /var/lib/exclave /run/exclave /tmp /var/tmp /dev/shm", Kind.AT_LEAST),
    Rule("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6", Kind.AT_MOST),
)
WORKER: Final[tuple[Rule, ...]] = (
    *_COMMON,
    Rule("PrivateNetwork", "yes"),
    Rule("NoExecPaths", "/ /tmp /var/tmp /dev/shm", Kind.AT_LEAST),
    Rule(
        "InaccessiblePaths",
        "-/var/lib/exclave -/etc/exclave -/var/lib/exclave-upgrade -/run/exclave",
        Kind.AT_LEAST,
    ),
    Rule("IPAddressDeny", "::/0 0.0.0.0/0", Kind.AT_LEAST),
    Rule("RestrictAddressFamilies", "AF_UNIX", Kind.AT_MOST),
)

FOR_A_GPU: Final = ("PrivateDevices", "MemoryDenyWriteExecute")
"""What our own 20-gpu.conf takes from the workers: device nodes, and CUDA's compiler, need it."""

SINCE: Final[Mapping[str, tuple[str, int]]] = {
    # Directive: (the property that shows it, first systemd that knows it).
    "RestartSteps": ("RestartSteps", 254),
    "RestartMaxDelaySec": ("RestartMaxDelayUSec", 254),
    "FileDescriptorStorePreserve": ("FileDescriptorStorePreserve", 254),
}
"""Directives that an older systemd passes over in silence."""

BPF: Final = ("SocketBindDeny", "RestrictFileSystems", "RestrictNetworkInterfaces")
"""Directives without effect where systemd was built without BPF_FRAMEWORK."""

STATE: Final = [
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "ConditionResult",
    "Result",
    "NRestarts",
    "Type",
    "StatusText",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
    "User",
    "Group",
    "SupplementaryGroups",
    "LoadCredential",
    "LoadCredentialEncrypted",
    "WatchdogUSec",
    "MainPID",
    "ExecMainCode",
    "ExecMainStatus",
    "ExecMainStartTimestamp",
    "ActiveEnterTimestamp",
    "InvocationID",
    "MemoryCurrent",
    "MemoryPeak",
    "MemoryHigh",
    "TasksCurrent",
    "TasksMax",
    "NFileDescriptorStore",
    "FileDescriptorStoreMax",
    "Restart",
    "OOMPolicy",
    "NAccepted",
    "NConnections",
    "NRefused",
    "DeviceAllow",
    "LogNamespace",
]
"""Properties that hold no secret and tell how a unit fares."""

SHOWN: Final = tuple(
    dict.fromkeys(
        [
            *STATE,
            *(rule.name for rule in (*AGENT, *WORKER)),
            *(shown for shown, _ in SINCE.values()),
        ]
    )
)
"""What is asked of `systemctl show`. Never Environment, which may hold a password."""


def weaker(rule: Rule, value: str) -> bool:
    """Whether a value in force protects less than the one shipped."""
    words, ours = set(value.split()), set(rule.shipped.split())
    match rule.kind:
        case Kind.SCALE:
            scale = SCALES.get(rule.name, _SWITCH)
            return value in scale and scale.index(value) < scale.index(rule.shipped)
        case Kind.AT_MOST:
            return value.startswith("~") or not words <= ours
        case Kind.AT_LEAST:
            return not ours <= words
        case Kind.ZERO:
            return value != "0"
        case Kind.MASK:
            return bool(int(rule.shipped, 8) & ~_octal(value))
        case Kind.CALLS:
            return not words or value.startswith("~") or bool(words & PRIVILEGED)
        case Kind.BOUNDED:
            return value == "infinity"


def _octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        return 0
