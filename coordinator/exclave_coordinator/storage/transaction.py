"""One SQL transaction seen as the core's `Tx`."""

from __future__ import annotations

from sqlalchemy import Connection

from exclave_coordinator.storage.sql_agents import SqlAgents
from exclave_coordinator.storage.sql_logs import SqlLogs, SqlOperators
from exclave_coordinator.storage.sql_releases import SqlReleases
from exclave_coordinator.storage.sql_tenants import SqlTenants


class SqlTx:
    """The repositories over one connection; cheap to make."""

    __slots__ = ("agents", "logs", "operators", "releases", "tenants")

    def __init__(self, connection: Connection) -> None:
        self.tenants = SqlTenants(connection)
        self.agents = SqlAgents(connection)
        self.releases = SqlReleases(connection)
        self.logs = SqlLogs(connection)
        self.operators = SqlOperators(connection)
