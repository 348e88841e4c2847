"""Admin: what operators do (admin.proto). Roles are checked before any method runs (auth.py)."""

from __future__ import annotations

from exclave_coordinator.api.admin_audit import AuditCalls
from exclave_coordinator.api.admin_fleet import FleetCalls
from exclave_coordinator.api.admin_releases import ReleaseCalls
from exclave_protocol.pb.admin_pb2_grpc import AdminServicer


class AdminService(FleetCalls, ReleaseCalls, AuditCalls, AdminServicer):
    """All of Admin; each part of it lives in its own file."""
