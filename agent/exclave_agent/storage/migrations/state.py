"""Schema of state.db: the log with its sealed values, its tree, checkpoints, state; budgets' sums
and kept answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exclave_agent.storage.connect import FileKind

if TYPE_CHECKING:
    from sqlite_utils import Database

    from . import Step

KIND = FileKind("state.db", 0x45584353, 1)  # "EXCS"

SEQ_BITS = 40
"""A leaf's row id is `epoch << 40 | seq`: new rows are added at the end of the table."""


def _version_1(db: Database) -> None:
    db.table("epoch").create(
        {"epoch": int, "origin": str}, pk="epoch", not_null={"origin"}, strict=True
    )
    db.table("leaf").create(
        {
            "id": int,
            "hash": bytes,
            "decision": str,
            "data": bytes,
            # Last, so that reading the leaf does not read these: they may be large.
            "subject": int,
            "sealed": bytes,
        },
        pk="id",
        not_null={"hash", "data"},
        strict=True,
    )
    db.table("leaf").create_index(["decision"])
    db.table("node").create(
        {"epoch": int, "level": int, "position": int, "hash": bytes},
        pk=("epoch", "level", "position"),
        not_null={"hash"},
        strict=True,
    )
    db.table("checkpoint").create(
        {"epoch": int, "size": int, "note": bytes, "cosigned": int},
        pk=("epoch", "size"),
        not_null={"note", "cosigned"},
        strict=True,
    )
    db.table("evidence").create(
        {"digest": bytes, "data": bytes}, pk="digest", not_null={"data"}, strict=True
    )
    db.table("state").create(
        {"key": str, "value": bytes}, pk="key", not_null={"value"}, strict=True
    )
    # For people with a SQLite shell: the log as it reads.
    db.create_view(
        "log",
        "SELECT id >> 40 AS epoch, id & 0xFFFFFFFFFF AS seq, "
        "json_extract(CAST(data AS TEXT), '$.type') AS type, "
        "json_extract(CAST(data AS TEXT), '$.time') AS time, "
        "decision, lower(hex(hash)) AS hash, CAST(data AS TEXT) AS leaf FROM leaf",
    )


def _spent(db: Database) -> None:
    db.table("spent").create(
        {"account": str, "period": str, "tokens": int, "money": int},
        pk=("account", "period"),
        not_null={"tokens", "money"},
        strict=True,
    )


def _completion(db: Database) -> None:
    db.table("completion").create(
        {
            "id": int,
            "key": bytes,
            "scope": bytes,
            "size": int,
            "expires_ns": int,
            "subject": int,
            "key_print": bytes,
            # Last, as in `leaf`.
            "vector": bytes,
            "sealed": bytes,
        },
        pk="id",
        not_null={"key", "scope", "size", "expires_ns", "subject", "key_print", "sealed"},
        strict=True,
    )
    db.table("completion").create_index(["key"], unique=True)
    db.table("completion").create_index(["scope"])
    # What is over is looked for by the one writer: it must not read every kept answer for that.
    db.table("completion").create_index(["expires_ns"])
    db.table("completion").create_index(["subject", "key_print"])


def _referral(db: Database) -> None:
    db.table("referral").create(
        {"id": int, "decision": str, "route": str, "created_ns": int},
        pk="id",
        not_null={"decision", "route", "created_ns"},
        strict=True,
    )
    db.table("referral").create_index(["decision"], unique=True)


def _referral_reason(db: Database) -> None:
    """Why, where it was not the route's word. A table of its own: `referral` is older, and
    programs that know no reasons go on adding to it."""
    db.table("referral_reason").create(
        {"decision": str, "approvals": str, "guard": str},
        pk="decision",
        not_null={"approvals", "guard"},
        strict=True,
    )


def _referral_terms(db: Database) -> None:
    """What approvals asked for then, and until when; a table of its own for the same reason."""
    db.table("referral_terms").create(
        {"decision": str, "terms": str, "expires_ns": int},
        pk="decision",
        not_null={"terms", "expires_ns"},
        strict=True,
    )
    db.table("referral_terms").create_index(["expires_ns"])


STEPS = (_version_1,)
ADDITIONS: dict[str, Step] = {
    "spent": _spent,
    "completion": _completion,
    "referral": _referral,
    "referral_reason": _referral_reason,
    "referral_terms": _referral_terms,
}
"""Tables that programs of the same schema may lack and leave alone: made when they are missing,
and no new schema, so that a former version opens the file (docs/upgrade.md)."""
