"""Schema of vault.db: wrapped keys of subjects, and the values sealed under them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exclave_agent.storage.connect import FileKind

if TYPE_CHECKING:
    from sqlite_utils import Database

KIND = FileKind("vault.db", 0x45584356, 1)  # "EXCV"

ORDINAL_BITS = 6
"""A row id is `leaf id << 6 | n`: at most 64 private fields a leaf."""


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
    db.table("disclosure").create(
        {"id": int, "subject": int, "digest": str, "sealed": bytes},
        pk="id",
        not_null={"subject", "digest", "sealed"},
        strict=True,
    )


STEPS = (_version_1,)
