"""What a restored coordinator does before it serves: it may have forgotten, and must not pretend.

Whatever happened after the backup is lost here and known elsewhere: agents hold newer metadata
and higher generations, people hold tokens that were used up since. So the counters jump ahead of
all that can have been given out, tokens that are open are revoked, who joins before the next
rollout is assigned nothing, and the restore goes on the operators' record, where an auditor sees
it. The witness is left as it is: agents whose heads it cosigned since will say that it was rolled
back, which is true.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from exclave_coordinator.audit.oplog import OK, Act, OperatorLog
from exclave_coordinator.errors import SetupError
from exclave_coordinator.home import Home
from exclave_coordinator.ports import Desired, Store, Tx
from exclave_coordinator.storage import files
from exclave_protocol.identity import SpiffeId

log = logging.getLogger(__name__)

JUMP: Final = 100_000
"""More publications, renewals and rollouts than a tenant sees between a backup and its restore.

Metadata versions have nine digits: some ten thousand restores of restores fit.
"""


@dataclass(frozen=True, slots=True)
class _Mark:
    created: int
    manifest: str


async def resume(home: Home, store: Store, operators: OperatorLog, trust_domain: str) -> None:
    """Once after a restore; otherwise nothing. Raises: SetupError, StorageError.

    MUST: the marker goes after the change is durable. A crash between the two repeats it,
    which costs another jump and another line on the record.
    """
    marker = home.restored_mark
    if not marker.exists():
        return
    mark = _read(marker)
    act = Act(
        str(SpiffeId.coordinator(trust_domain)),
        "coordinator",
        "RestoreBackup",
        "coordinator",
        {"created": str(mark.created), "manifest_sha256": mark.manifest},
    )

    def job(tx: Tx) -> int:
        for tenant in tx.tenants.all():
            ahead = replace(
                tenant,
                snapshot_version=tenant.snapshot_version + JUMP,
                timestamp_version=tenant.timestamp_version + JUMP,
                timestamp_expires=0,  # due at once: the start signs it anew
            )
            # A tenant without targets has given out no metadata, but perhaps has since.
            tx.releases.put_metadata(tenant.name, [], ahead)
            # No release: whoever joins now would get the one of the backup, under a generation
            # that makes it newest, and a later one may have been rolled out to fix it.
            tx.tenants.set_desired(tenant.name, Desired(tenant.desired.generation + JUMP))
        revoked = tx.tenants.revoke_open_tokens()
        act.details = {**act.details, "tokens_revoked": str(revoked)}
        operators.append(tx, act, OK)
        return revoked

    revoked = await store.write(job)
    marker.unlink()
    files.sync_folder(home.path)
    log.warning(
        "restored from a backup of %d: what happened since is not known here; "
        "%d open join tokens were revoked",
        mark.created,
        revoked,
    )


def _read(path: Path) -> _Mark:
    try:
        value = json.loads(path.read_bytes())
        return _Mark(int(value["created"]), str(value["manifest_sha256"])[:64])
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{path.name} is not readable: restore the home again") from error
