"""What the services are built from: the coordinator assembles it once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exclave_coordinator.api.record import Recorder
from exclave_coordinator.audit.cosigned import CosignedLog
from exclave_coordinator.audit.export import Exporter
from exclave_coordinator.audit.oplog import OperatorLog
from exclave_coordinator.audit.submit import Submitter
from exclave_coordinator.audit.witness import Witness
from exclave_coordinator.config import Settings
from exclave_coordinator.fleet.certificates import Authority
from exclave_coordinator.fleet.enroll import Enrollment
from exclave_coordinator.fleet.registry import Registry
from exclave_coordinator.fleet.sessions import Sessions
from exclave_coordinator.ports import Artifacts, Clock, Ids, Store, TenantKeys
from exclave_coordinator.releases.publish import Publisher
from exclave_coordinator.releases.rollout import Rollouts
from exclave_coordinator.telemetry.metrics import Metrics


@dataclass(slots=True)
class Endpoints:
    """host:port as agents dial them; known once the ports are bound."""

    session: str = ""
    enroll: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """The rooms that Admin's methods reach into."""

    settings: Settings
    endpoints: Endpoints
    store: Store
    artifacts: Artifacts
    keys: TenantKeys
    authority: Authority
    enrollment: Enrollment
    registry: Registry
    sessions: Sessions
    publisher: Publisher
    rollouts: Rollouts
    witness: Witness
    operators: OperatorLog
    cosigned: CosignedLog
    submitter: Submitter
    recorder: Recorder
    exporter: Exporter
    metrics: Metrics
    clock: Clock
    ids: Ids
    spool: Path
    """Folder for bundles on their way out."""
