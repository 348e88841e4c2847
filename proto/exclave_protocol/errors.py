"""Every error that reading or checking our formats can raise.

    ProtocolError
    |- CanonicalError        not canonical JSON of our subset
    |- LeafError             an audit leaf breaks its format
    |- ProofError            a Merkle proof does not hold
    |- NoteError             a signed note or one of its keys is malformed or unverified
    |  `- CheckpointError    a checkpoint's or cosignature's text breaks its format
    |- DisclosureError       a disclosure is malformed or matches no commitment
    |- EvidenceError         an audit bundle cannot be read at all
    |- ReleaseError          a release manifest, assignment or envelope is malformed or unverified
    |- PackageError          a package file or its signed description is malformed
    |- MetadataError         TUF metadata is malformed, rolled back or expired
    |  `- SignaturesMissing  TUF metadata lacks signatures (says how many, and whose)
    `- IdentityFormatError   a SPIFFE ID, name or join token breaks its format

Messages are lower case, name the field and the value's shape, and never hold the value.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Root of the tree: bytes that are not what they should be."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CanonicalError(ProtocolError):
    """The bytes or the value are outside our subset of RFC 8785."""


class LeafError(ProtocolError):
    """An audit leaf has an unknown, missing or malformed field."""


class ProofError(ProtocolError):
    """An inclusion or consistency proof is malformed or does not hold."""


class NoteError(ProtocolError):
    """A signed note, or a key that signs notes, is malformed or not verified."""


class CheckpointError(NoteError):
    """The text of a checkpoint or of a cosignature is malformed."""


class DisclosureError(ProtocolError):
    """A disclosure is malformed, or no commitment of the record matches it."""


class EvidenceError(ProtocolError):
    """A bundle cannot be read at all: not a zip, or without its manifest."""


class ReleaseError(ProtocolError):
    """A release manifest, an assignment or its envelope is malformed or unverified."""


class PackageError(ProtocolError):
    """A package file, or what the signed targets say of it, is malformed."""


class MetadataError(ProtocolError):
    """TUF metadata is malformed, of the wrong role, rolled back or expired."""


class SignaturesMissing(MetadataError):
    """A role's threshold is not reached.

    `role` is the TUF role; `have` and `need` count valid signatures of its distinct keys;
    `missing_keyids` are the role's keys that have not (validly) signed.
    """

    def __init__(self, role: str, have: int, need: int, missing_keyids: tuple[str, ...]) -> None:
        super().__init__(
            f"{role} has {have} of {need} signatures; "
            f"keys that may still sign: {', '.join(missing_keyids) or 'none'}"
        )
        self.role = role
        self.have = have
        self.need = need
        self.missing_keyids = missing_keyids


class IdentityFormatError(ProtocolError):
    """A name, SPIFFE ID, role or join token is malformed."""
