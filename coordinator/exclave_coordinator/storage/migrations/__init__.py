"""The steps that bring an older database to the present schema, oldest first.

The version is the one number in the table `schema_version`; alembic brings its operations (SQLite
cannot alter most things in place) and its comparison, which a test uses to hold the tables made
fresh and those made by migrating to each other. Its own version table is not used: there would be
two truths.

To change the schema: change `tables.py` and raise SCHEMA_VERSION, write `v<n>_<what>.py` with a
function that takes alembic's operations, and append it here. A step names tables and columns as
they were then, never through `tables.py`, which moves on. Steps that were released are frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exclave_coordinator.storage.migrations.v2_witness import add_witness_tables
from exclave_coordinator.storage.migrations.v3_terms import add_terms

if TYPE_CHECKING:
    from alembic.operations import Operations

BASELINE: Final = 1
"""Schema of the first release. Whatever is older than it never existed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step forwards; there is none back: the copy made before it is."""

    version: int
    """The schema that it leaves behind."""
    what: str
    """For the log: "adds ..."."""
    run: Callable[[Operations], None]


MIGRATIONS: Final[tuple[Migration, ...]] = (
    Migration(2, "adds the witness's log, outside logs and their cosignatures", add_witness_tables),
    Migration(3, "adds the terms of agents' logs and the epochs that were opened", add_terms),
)
