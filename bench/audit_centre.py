"""The centre's side of the audit log: leaves taken in over gRPC, and a bundle written from them.

Run by bench/audit.py in a process of its own: a real coordinator with TLS, an agent that is
enrolled, 100,000 leaves of a decision's size. Prints its figures as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from exclave_protocol.evidence import verify_bundle
from exclave_protocol.pb import admin_pb2, audit_pb2
from exclave_protocol.wire import MAX_BATCH_BYTES, MAX_BATCH_LEAVES
from exclave_testing.coordinator import TIMEOUT, AgentLog, Member, running_coordinator

LEAVES = 100_000
NOTE = "x" * 560
"""So that a leaf has about the 830 bytes of an INTENT."""


async def ingest(member: Member, log: AgentLog) -> tuple[float, int]:
    """Seconds until all leaves are durable and cosigned; bytes on the wire, TLS left out."""
    most = min(MAX_BATCH_LEAVES, MAX_BATCH_BYTES // (len(log.leaves[-1]) + 8))
    sent = 0
    started = time.perf_counter()
    for first in range(0, len(log.leaves), most):
        request = audit_pb2.AppendRequest(
            epoch=log.epoch, first_seq=first, leaves=log.leaves[first : first + most]
        )
        sent += request.ByteSize()
        await member.audit.Append(request, timeout=TIMEOUT * 10)
    size = len(log.leaves)
    witness = audit_pb2.WitnessRequest(
        epoch=log.epoch, old_size=0, consistency_proof=[], checkpoint=log.checkpoint(size)
    )
    await member.audit.Witness(witness, timeout=TIMEOUT * 10)
    return time.perf_counter() - started, sent


async def export(centre: Any, file: Path) -> float:
    """Seconds until the bundle is on our disk."""
    auditor = await centre.operator("auditor", "eve")
    started = time.perf_counter()
    call = auditor.ExportAudit(admin_pb2.ExportAuditRequest(tenant="acme"), timeout=600)
    with file.open("wb") as out:
        async for chunk in call:
            out.write(chunk.data)
    return time.perf_counter() - started


async def measure(folder: Path) -> dict[str, float]:
    """Everything, once."""
    async with running_coordinator(folder / "centre") as centre:
        await centre.tenant("acme")
        member = await centre.enroll("acme", "north")
        log = member.log()
        log.add(LEAVES, note=NOTE)
        took, sent = await ingest(member, log)
        wrote = await export(centre, folder / "bundle.zip")
    started = time.perf_counter()
    report = verify_bundle(folder / "bundle.zip")
    verified = time.perf_counter() - started
    assert report.verdict.name == "WITNESSED", report.to_text()
    return {
        "leaves": LEAVES,
        "bytes_leaf": sum(map(len, log.leaves)) / LEAVES,
        "ingest_per_second": LEAVES / took,
        "wire_bytes_leaf": sent / LEAVES,
        "export_seconds": wrote,
        "bundle_mb": (folder / "bundle.zip").stat().st_size / 1e6,
        "verify_seconds": verified,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(Path(sys.argv[1])))))
