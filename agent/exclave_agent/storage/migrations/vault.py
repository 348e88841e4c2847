"""Schema of vault.db: the keys under which values are sealed, one for each subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exclave_agent.storage.connect import FileKind

if TYPE_CHECKING:
    from sqlite_utils import Database

KIND = FileKind("vault.db", 0x45584356, 1)  # "EXCV"


def _version_1(db: Database) -> None:
    # Holds one value sealed under the master key, to tell a wrong key from a damaged row.
    db.table("master").create({"id": int, "proof": bytes}, pk="id", not_null={"proof"}, strict=True)
    db.table("subject").create(
        {"id": int, "tag": bytes, "wrapped": bytes},
        pk="id",
        not_null={"tag", "wrapped"},
        strict=True,
    )
    db.table("subject").create_index(["tag"], unique=True)


STEPS = (_version_1,)
