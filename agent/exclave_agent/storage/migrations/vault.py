"""Schema of vault.db: keys. Those that values are sealed under, one a subject, and callers'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exclave_agent.storage.connect import FileKind

if TYPE_CHECKING:
    from sqlite_utils import Database

    from . import Step

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
    # Here rather than beside the leaves: a file that seldom changes stays in its reader's cache,
    # and every request asks for a key.
    db.table("api_key").create(
        {
            "id": str,
            "label": str,
            "roles": str,
            "hash": bytes,
            "created_ns": int,
            "revoked_ns": int,
        },
        pk="id",
        not_null={"label", "roles", "hash", "created_ns"},
        strict=True,
    )


def _hold(db: Database) -> None:
    """Legal holds. `tag` is the subject's, null: all of them; `sealed` is its name, for people."""
    db.table("hold").create(
        {"id": str, "reference": str, "since_ns": int, "tag": bytes, "sealed": bytes},
        pk="id",
        not_null={"reference", "since_ns"},
        strict=True,
    )


STEPS = (_version_1,)
ADDITIONS: dict[str, Step] = {"hold": _hold}
