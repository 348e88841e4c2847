"""Unit files for a support bundle: all directives, the values of harmless ones only; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_SAFE: Final = re.compile(
    r"Protect\w+|Private\w+|Restrict\w+|NoNewPrivileges|LockPersonality|MemoryDenyWriteExecute|"
    r"Capability\w+|AmbientCapabilities|SystemCall\w+|(No)?ExecPaths|Read(Only|Write)Paths|"
    r"InaccessiblePaths|Device\w+|Memory\w+|Tasks\w+|CPU\w+|IO\w+|Limit\w+|OOM\w+|Nice|Slice|"
    r"Restart\w*|Timeout\w+|Watchdog\w+|StartLimit\w+|Type|NotifyAccess|User|Group|"
    r"SupplementaryGroups|UMask|KeyringMode|ProcSubset|RemoveIPC|IPAddress(Allow|Deny)|"
    r"SocketBind\w+|FileDescriptorStore\w+|State\w+|Runtime\w+|Cache\w+|Configuration\w+|"
    r"LogNamespace|CollectMode|After|Before|Wants|Requires|WantedBy|Condition\w+|ListenStream|"
    r"Accept|MaxConnections\w*|Socket(User|Group|Mode)|RemoveOnStop|Description|Documentation"
)
NOT_TAKEN: Final = "[value not taken]"


def trimmed(text: str) -> Iterator[str]:
    """Sections and directives; comments, and values that may be anything, stay out."""
    continued = False
    for line in text.splitlines():
        bare = line.strip()
        was, continued = continued, bare.endswith("\\")
        if was or not bare or bare[0] in "#;":
            continue
        key, equals, value = bare.partition("=")
        key = key.strip()
        if re.fullmatch(r"\[[A-Za-z-]{1,32}\]", bare):
            yield bare
        elif equals and re.fullmatch(r"[A-Za-z]{1,64}", key):
            safe = _SAFE.fullmatch(key) and not continued
            yield f"{key}={value.strip() if safe else NOT_TAKEN}"
        else:
            yield "[line not understood, not taken]"
