"""Every way in which the coordinator says no, as one tree; `api/errors.py` alone maps it to gRPC.

    CoordinatorError
    |- SetupError            a command cannot go on (the message says what to do)
    |- NotAlive              a part of this process does not answer
    |- StorageError          a change could not be made durable
    |  |- StorageFull        the disk is full; nothing was half-written
    |  `- StorageForeign     the file is not a database of ours, is damaged, or is newer than we are
    `- Refused               the caller's request cannot be granted
       |- Invalid            malformed field
       |- Unauthenticated    no proof of who is calling
       |- Denied             known, but not allowed
       |- NotFound           no such thing, or not the caller's
       |- Exists             the name or place is taken
       |- Precondition       something else must happen first
       |  `- Fenced          another process holds the log (its signed head is attached)
       |- BeyondEnd          a position past the end
       |- TooMuch            over a stated limit
       |- Stale              based on an old state (the current size is attached)
       |- Inconsistent       contradicts what is on record; kept as evidence
       `- Unavailable        try again later

Messages are lower case, name the field and its shape, and never hold raw data. `code` is
stable: programs match it (it travels as trailing metadata `exclave-code`).
"""

from __future__ import annotations


class CoordinatorError(Exception):
    """Root of the tree. `code` is stable and may be matched by programs."""

    code: str = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class SetupError(CoordinatorError):
    """The home, its keys or the machine are not as they must be.

    Codes: config_invalid (starting again would not mend it), no_home, home_exists, running, port,
    file_missing, file_denied, file_exposed.
    """

    code = "setup"


class NotAlive(CoordinatorError):
    """A part of this process does not answer in time."""

    code = "not_alive"


class StorageError(CoordinatorError):
    """A change could not be made durable, so it did not happen."""

    code = "storage_error"


class StorageFull(StorageError):
    """The disk is full; nothing was half-written."""

    code = "storage_full"


class StorageForeign(StorageError):
    """The file is not a database of ours, is damaged, or was written by a newer version.

    Codes: storage_foreign, storage_newer (starting this version again would not mend it).
    """

    code = "storage_foreign"


class Refused(CoordinatorError):
    """The caller's request cannot be granted."""

    code = "refused"


class Invalid(Refused):
    """A malformed or unsupported field."""

    code = "invalid"


class Unauthenticated(Refused):
    """No proof of who is calling, or a proof that does not hold.

    Codes: no_certificate, certificate_expired, not_ours, token_unknown, bad_proof.
    """

    code = "unauthenticated"


class Denied(Refused):
    """The caller is known and not allowed.

    Codes: role, wrong_tenant, not_an_agent, not_an_operator, key_replaced, evicted, banned,
    token_expired, token_spent, token_revoked, token_agent, signature, origin.
    """

    code = "denied"


class NotFound(Refused):
    """No such thing, or not one that the caller may see."""

    code = "not_found"


class Exists(Refused):
    """The name or the place is taken. Codes: exists, conflict."""

    code = "exists"


class Precondition(Refused):
    """Something else must happen first.

    Codes: under_signed, targets_missing, leaves_missing, no_metadata, clock_skew, root_keys,
    fenced, epoch_not_open, log_of_another_key.
    """

    code = "precondition"


class Fenced(Precondition):
    """Another process holds the log, or a later epoch has begun: the caller is a copy, or has one.

    `note`: the head with which that other began, signed in its term.
    """

    code = "fenced"

    def __init__(self, message: str, *, note: bytes) -> None:
        super().__init__(message)
        self.note = note


class BeyondEnd(Refused):
    """A position past the end of what is stored."""

    code = "beyond_end"


class TooMuch(Refused):
    """Over a stated limit."""

    code = "too_much"

    def __init__(
        self, message: str, *, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Stale(Refused):
    """Based on an old state; `size` is the current one, in leaves."""

    code = "stale"

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class Replaced(Refused):
    """Another stream of the same agent took over."""

    code = "replaced"


class Inconsistent(Refused):
    """Contradicts what is on record; the contradiction was kept as evidence."""

    code = "inconsistent"


class Unavailable(Refused):
    """Try again later; the request was fine."""

    code = "unavailable"
