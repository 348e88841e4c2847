"""What people sign and what the director assigns: manifest, assignment, DSSE envelope."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from exclave_protocol.canonical import JsonValue, encode
from exclave_protocol.dsse import Envelope, EnvelopeSignature, key_id, pae
from exclave_protocol.errors import CanonicalError, IdentityFormatError, ReleaseError
from exclave_protocol.fields import Reader
from exclave_protocol.identity import check_name, check_trust_domain

__all__ = [
    "ASSIGNMENT_SCHEMA",
    "ASSIGNMENT_TYPE",
    "CA_BUNDLE_PATH",
    "MANIFEST_SCHEMA",
    "MAX_GRACE",
    "RUNTIMES",
    "ArtifactRef",
    "Assignment",
    "Envelope",
    "EnvelopeSignature",
    "ModelEntry",
    "Parameter",
    "ReleaseManifest",
    "digest_of",
    "key_id",
    "model_path",
    "open_assignment",
    "pae",
    "policy_path",
    "release_path",
    "sign_assignment",
]

MANIFEST_SCHEMA: Final = "exclave.release/v1"
ASSIGNMENT_SCHEMA: Final = "exclave.assignment/v1"
ASSIGNMENT_TYPE: Final = "application/vnd.exclave.assignment+json"
"""DSSE payload type of assignments."""

MAX_MANIFEST: Final = 65_535
MAX_ASSIGNMENT: Final = 8_192
MAX_MODELS: Final = 64
MAX_PARAMETERS: Final = 64
MAX_GRACE: Final = 366 * 86_400
"""Longest offline grace a release may give, seconds."""

RUNTIMES: Final = ("llama", "onnx", "lora", "remote")

_MAX_INT: Final = 2**53 - 1
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_TARGET_PATH: Final = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*){0,7}")
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PARAMETER: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RFC3339: Final = re.compile(
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?Z"
)
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Parameter = int | str | bool


# --- target paths ---------------------------------------------------------------------------
# Named by digest: whoever holds a digest knows the path, and no path ever changes meaning.


def release_path(sha256: str) -> str:
    """TUF target path of the release manifest with this digest."""
    return f"releases/{sha256}.json"


def policy_path(sha256: str) -> str:
    """TUF target path of the policy pack with this digest."""
    return f"policies/{sha256}.json"


def model_path(sha256: str) -> str:
    """TUF target path of the model file with this digest."""
    return f"models/{sha256}"


CA_BUNDLE_PATH: Final = "trust/ca.pem"
"""TUF target path of the coordinator's CA certificates, PEM."""


# --- the release manifest -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A TUF target by path, digest and size."""

    path: str
    sha256: str
    length: int
    """Bytes."""

    def __post_init__(self) -> None:
        _check_ref(self.path, self.sha256, self.length, "artifact")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model that a release activates."""

    name: str
    """What callers say in `model`."""
    runtime: str
    """One of RUNTIMES."""
    path: str
    sha256: str
    length: int
    """Bytes."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    """llama: n_ctx, n_parallel, embeddings; onnx: max_batch, max_wait_us, threads; lora: base
    (which it must have), scale; remote: none."""

    def __post_init__(self) -> None:
        if not _MODEL_NAME.fullmatch(self.name):
            raise ReleaseError("model name must be 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-'")
        if self.runtime not in RUNTIMES:
            raise ReleaseError(f"model {self.name}: runtime must be one of {', '.join(RUNTIMES)}")
        _check_ref(self.path, self.sha256, self.length, f"model {self.name}")
        _check_parameters(self.parameters, self.name)


@dataclass(frozen=True, slots=True)
class ReleaseManifest:
    """Everything that one release activates, named by digest. Signed through TUF."""

    tenant: str
    version: int
    """Counts up; agents refuse to go below `minimum_version` of what they have run."""
    created: str
    """RFC 3339, UTC."""
    minimum_version: int
    """Security floor: once this release has run, none below it may (fall-backs included)."""
    offline_grace_seconds: int
    """How long an agent that cannot reach the centre may go on with it."""
    policy: ArtifactRef
    models: tuple[ModelEntry, ...]

    def __post_init__(self) -> None:
        _tenant(self.tenant)
        if not 1 <= self.version <= _MAX_INT:
            raise ReleaseError("version must be an integer from 1")
        if not 0 <= self.minimum_version <= self.version:
            raise ReleaseError("minimum_version must be between 0 and version")
        if not 0 <= self.offline_grace_seconds <= MAX_GRACE:
            raise ReleaseError(f"offline_grace_seconds must be between 0 and {MAX_GRACE}")
        if not _RFC3339.fullmatch(self.created):
            raise ReleaseError("created must be an RFC 3339 time in UTC, ending in Z")
        if len(self.models) > MAX_MODELS:
            raise ReleaseError(f"a release names at most {MAX_MODELS} models")
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ReleaseError("two models of a release have the same name")
        bases = {model.name for model in self.models if model.runtime == "llama"}
        for model in self.models:
            _check_runtime(model, bases)

    def encode(self) -> bytes:
        """The canonical bytes whose digest names the release. Raises: ReleaseError."""
        value: dict[str, JsonValue] = {
            "schema": MANIFEST_SCHEMA,
            "tenant": self.tenant,
            "version": self.version,
            "created": self.created,
            "minimum_version": self.minimum_version,
            "offline_grace_seconds": self.offline_grace_seconds,
            "policy": _ref_value(self.policy),
            "models": [_model_value(model) for model in self.models],
        }
        return _encode(value, MAX_MANIFEST, "release manifest")

    @classmethod
    def decode(cls, data: bytes) -> ReleaseManifest:
        """Read a manifest; unknown fields and non-canonical bytes are refused.

        Raises: ReleaseError.
        """
        reader = Reader.of(data, MAX_MANIFEST, "release manifest")
        reader.schema(MANIFEST_SCHEMA)
        manifest = cls(
            tenant=reader.string("tenant"),
            version=reader.integer("version"),
            created=reader.string("created"),
            minimum_version=reader.integer("minimum_version"),
            offline_grace_seconds=reader.integer("offline_grace_seconds"),
            policy=_read_ref(reader.child("policy")),
            models=tuple(_read_model(model) for model in reader.objects("models", MAX_MODELS)),
        )
        reader.finish()
        return manifest

    def targets(self) -> tuple[ArtifactRef, ...]:
        """All files this release needs, each once, policy first."""
        refs = {self.policy.path: self.policy}
        for model in self.models:
            refs.setdefault(model.path, ArtifactRef(model.path, model.sha256, model.length))
        return tuple(refs.values())


def digest_of(data: bytes) -> str:
    """SHA-256 as lower-case hex: how releases, packs and models are named."""
    return hashlib.sha256(data).hexdigest()


# --- the director's assignment --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which signed release one agent shall run. Signed by the coordinator's director key."""

    trust_domain: str
    tenant: str
    agent: str
    generation: int
    """Counts up per agent: an agent never goes back to a lower one."""
    release_digest: str
    """SHA-256 hex of the release manifest."""
    rollout: str
    """Id of the rollout that made this assignment."""
    issued: int
    """Seconds since the epoch."""
    expires: int
    """Seconds since the epoch: not accepted as new from then on."""

    def __post_init__(self) -> None:
        try:
            check_trust_domain(self.trust_domain)
            check_name(self.tenant, "tenant")
            check_name(self.agent, "agent")
        except IdentityFormatError as error:
            raise ReleaseError(f"assignment: {error.message}") from error
        if not 1 <= self.generation <= _MAX_INT:
            raise ReleaseError("assignment: generation must be an integer from 1")
        if not _HEX64.fullmatch(self.release_digest):
            raise ReleaseError("assignment: release_digest must be 64 lower-case hex digits")
        if not _ID.fullmatch(self.rollout):
            raise ReleaseError(
                "assignment: rollout must be 1 to 128 letters, digits, '.', '_', '-'"
            )
        if not 0 <= self.issued < self.expires <= _MAX_INT:
            raise ReleaseError("assignment: expires must lie after issued")

    def encode(self) -> bytes:
        """Canonical bytes: the DSSE payload."""
        value: dict[str, JsonValue] = {
            "schema": ASSIGNMENT_SCHEMA,
            "trust_domain": self.trust_domain,
            "tenant": self.tenant,
            "agent": self.agent,
            "generation": self.generation,
            "release_digest": self.release_digest,
            "rollout": self.rollout,
            "issued": str(self.issued),
            "expires": str(self.expires),
        }
        return _encode(value, MAX_ASSIGNMENT, "assignment")

    @classmethod
    def decode(cls, data: bytes) -> Assignment:
        """Read an assignment; unknown fields are refused. Raises: ReleaseError."""
        reader = Reader.of(data, MAX_ASSIGNMENT, "assignment")
        reader.schema(ASSIGNMENT_SCHEMA)
        assignment = cls(
            trust_domain=reader.string("trust_domain"),
            tenant=reader.string("tenant"),
            agent=reader.string("agent"),
            generation=reader.integer("generation"),
            release_digest=reader.string("release_digest"),
            rollout=reader.string("rollout"),
            issued=reader.seconds("issued"),
            expires=reader.seconds("expires"),
        )
        reader.finish()
        return assignment


def sign_assignment(assignment: Assignment, key: Ed25519PrivateKey) -> bytes:
    """The DSSE envelope (JSON) that `Fleet.Desired.assignment` carries."""
    return Envelope.signed(ASSIGNMENT_TYPE, assignment.encode(), [key]).encode()


def open_assignment(envelope: bytes, director_keys: Iterable[Ed25519PublicKey]) -> Assignment:
    """Verify an envelope with any of the director's keys and read the assignment.

    The caller still compares trust domain, tenant, agent, generation and expiry.
    Raises: ReleaseError.
    """
    return Assignment.decode(Envelope.decode(envelope).verify(ASSIGNMENT_TYPE, director_keys))


# --- shapes ---------------------------------------------------------------------------------


def _encode(value: JsonValue, limit: int, what: str) -> bytes:
    try:
        data = encode(value)
    except CanonicalError as error:
        raise ReleaseError(f"{what}: {error.message}") from error
    if len(data) > limit:
        raise ReleaseError(f"{what} is longer than {limit} bytes")
    return data


def _tenant(value: str) -> None:
    try:
        check_name(value, "tenant")
    except IdentityFormatError as error:
        raise ReleaseError(error.message) from error


def _check_ref(path: str, sha256: str, length: int, what: str) -> None:
    if len(path) > 512 or not _TARGET_PATH.fullmatch(path):
        raise ReleaseError(f"{what}: path must be a relative target path of at most 512 bytes")
    if not _HEX64.fullmatch(sha256):
        raise ReleaseError(f"{what}: sha256 must be 64 lower-case hex digits")
    if not 0 <= length <= _MAX_INT:
        raise ReleaseError(f"{what}: length must be a number of bytes")


def _check_parameters(parameters: Mapping[str, Parameter], model: str) -> None:
    if len(parameters) > MAX_PARAMETERS:
        raise ReleaseError(f"model {model}: more than {MAX_PARAMETERS} parameters")
    for key, value in parameters.items():
        if not _PARAMETER.fullmatch(key):
            raise ReleaseError(f"model {model}: parameter names are a-z, 0-9 and '_'")
        if isinstance(value, str) and len(value) > 4096:
            raise ReleaseError(f"model {model}: parameter {key} is longer than 4,096 characters")


def _check_runtime(model: ModelEntry, bases: Container[object]) -> None:
    """What a runtime's model needs of its release."""
    if model.runtime == "lora" and model.parameters.get("base") not in bases:
        raise ReleaseError(
            f"model {model.name}: base must name the llama model of this release that it adapts"
        )
    if model.runtime == "remote" and model.parameters:
        raise ReleaseError(
            f"model {model.name}: a remote model takes no parameters: its document has them"
        )


def _ref_value(ref: ArtifactRef) -> JsonValue:
    return {"path": ref.path, "sha256": ref.sha256, "length": ref.length}


def _model_value(model: ModelEntry) -> JsonValue:
    return {
        "name": model.name,
        "runtime": model.runtime,
        "path": model.path,
        "sha256": model.sha256,
        "length": model.length,
        "parameters": dict(model.parameters),
    }


def _read_ref(reader: Reader) -> ArtifactRef:
    ref = ArtifactRef(reader.string("path"), reader.string("sha256"), reader.integer("length"))
    reader.finish()
    return ref


def _read_model(reader: Reader) -> ModelEntry:
    parameters: dict[str, Parameter] = {}
    for key, value in reader.mapping("parameters").items():
        if not isinstance(value, int | str):  # bool is an int
            raise ReleaseError("model parameters must be strings, integers or booleans")
        parameters[key] = value
    model = ModelEntry(
        name=reader.string("name"),
        runtime=reader.string("runtime"),
        path=reader.string("path"),
        sha256=reader.string("sha256"),
        length=reader.integer("length"),
        parameters=parameters,
    )
    reader.finish()
    return model
