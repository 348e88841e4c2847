"""One SQL transaction seen as the core's `Tx`."""

from __future__ import annotations

from sqlalchemy import Connection

from exclave_coordinator.storage.sql_agents import SqlAgents
from exclave_coordinator.storage.sql_chains import SqlChain, SqlOperators
from exclave_coordinator.storage.sql_logs import SqlLogs
from exclave_coordinator.storage.sql_releases import SqlReleases
from exclave_coordinator.storage.sql_tenants import SqlTenants
from exclave_coordinator.storage.sql_terms import SqlTerms
from exclave_coordinator.storage.sql_witnessing import SqlWitnessing
from exclave_coordinator.storage.tables import cosigned_leaves, cosigned_state


class SqlTx:
    """The repositories over one connection; cheap to make."""

    __slots__ = (
        "agents",
        "cosigned",
        "logs",
        "operators",
        "releases",
        "tenants",
        "terms",
        "witnessing",
    )

    def __init__(self, connection: Connection) -> None:
        self.tenants = SqlTenants(connection)
        self.agents = SqlAgents(connection)
        self.releases = SqlReleases(connection)
        self.logs = SqlLogs(connection)
        self.terms = SqlTerms(connection)
        self.operators = SqlOperators(connection)
        self.cosigned = SqlChain(connection, cosigned_leaves, cosigned_state)
        self.witnessing = SqlWitnessing(connection)
