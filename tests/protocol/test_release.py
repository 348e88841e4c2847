"""Manifests, assignments and DSSE envelopes: exact bytes, strict reading, good signatures."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from exclave_protocol.dsse import MAX_ENVELOPE
from exclave_protocol.errors import ReleaseError
from exclave_protocol.release import (
    ASSIGNMENT_TYPE,
    ArtifactRef,
    Assignment,
    Envelope,
    ModelEntry,
    ReleaseManifest,
    digest_of,
    key_id,
    model_path,
    open_assignment,
    pae,
    policy_path,
    release_path,
    sign_assignment,
)

A, B = "a" * 64, "b" * 64
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
MANIFEST = ReleaseManifest(
    tenant="acme",
    version=3,
    created="2026-11-22T21:30:00Z",
    minimum_version=2,
    offline_grace_seconds=86_400,
    policy=ArtifactRef(policy_path(A), A, 100),
    models=(ModelEntry("small", "llama", model_path(B), B, 98_000_000, {"n_ctx": 1024}),),
)
ASSIGNMENT = Assignment("example.org", "acme", "north", 7, A, "r-1", 1_700_000_000, 1_700_086_400)


def changed(data: bytes, path: str, value: Any) -> bytes:
    """The canonical object with one field set (or with `...`: removed)."""
    root = json.loads(data)
    *parents, last = path.split(".")
    at = root
    for step in parents:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return json.dumps(root, sort_keys=True, separators=(",", ":")).encode()


# --- the manifest --------------------------------------------------------------------------


def test_the_manifests_bytes_are_fixed() -> None:
    assert MANIFEST.encode() == (
        b'{"created":"2026-11-22T21:30:00Z","minimum_version":2,"models":[{"length":98000000,'
        b'"name":"small","parameters":{"n_ctx":1024},"path":"models/' + B.encode() + b'",'
        b'"runtime":"llama","sha256":"' + B.encode() + b'"}],"offline_grace_seconds":86400,'
        b'"policy":{"length":100,"path":"policies/' + A.encode() + b'.json","sha256":"'
        b"" + A.encode() + b'"},"schema":"exclave.release/v1","tenant":"acme","version":3}'
    )
    assert ReleaseManifest.decode(MANIFEST.encode()) == MANIFEST
    assert release_path(digest_of(MANIFEST.encode())).startswith("releases/")


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
        st.one_of(st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=20)),
        max_size=8,
    )
)
def test_parameters_keep_their_types(parameters: dict[str, int | str | bool]) -> None:
    model = replace(MANIFEST.models[0], parameters=parameters)
    manifest = replace(MANIFEST, models=(model,))
    read = ReleaseManifest.decode(manifest.encode()).models[0].parameters
    assert [(k, type(v), v) for k, v in sorted(read.items())] == [
        (k, type(v), v) for k, v in sorted(parameters.items())
    ]


def test_the_files_of_a_release_are_listed_once() -> None:
    twin = replace(MANIFEST.models[0], name="twin")
    manifest = replace(MANIFEST, models=(*MANIFEST.models, twin))
    assert [ref.sha256 for ref in manifest.targets()] == [A, B]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "exclave.release/v2"),
        ("schema", ...),
        ("tenant", ""),
        ("tenant", "../x"),
        ("tenant", ...),
        ("version", 0),
        ("version", "3"),
        ("version", True),
        ("version", 3.0),
        ("minimum_version", 4),
        ("minimum_version", -1),
        ("offline_grace_seconds", -1),
        ("offline_grace_seconds", 10**9),
        ("created", "2026-11-22 21:30:00Z"),
        ("created", "2026-13-22T21:30:00Z"),
        ("created", "2026-11-22T21:30:00+01:00"),
        ("extra", 1),
        ("policy", None),
        ("policy.path", "/etc/passwd"),
        ("policy.path", "policies/../../x"),
        ("policy.path", "policies//x"),
        ("policy.path", "a" * 600),
        ("policy.sha256", A.upper()),
        ("policy.sha256", A[:-1]),
        ("policy.length", -1),
        ("policy.extra", 1),
        ("models", None),
        ("models", {}),
        ("models", [1]),
        ("models.0.name", ""),
        ("models.0.name", "a/b"),
        ("models.0.runtime", "exec"),
        ("models.0.parameters", []),
        ("models.0.parameters", {"n_ctx": None}),
        ("models.0.parameters", {"n_ctx": [1]}),
        ("models.0.parameters", {"n-ctx": 1}),
        ("models.0.parameters", {"x": "y" * 5000}),
        ("models.0.parameters", {f"p{i}": i for i in range(65)}),
        ("models.0.url", "https://example.org"),
    ],
)
def test_bad_manifests_are_refused(path: str, value: Any) -> None:
    with pytest.raises(ReleaseError):
        ReleaseManifest.decode(changed(MANIFEST.encode(), path, value))


def test_two_models_of_one_name_and_too_many_models_are_refused() -> None:
    model = MANIFEST.models[0]
    with pytest.raises(ReleaseError, match="same name"):
        replace(MANIFEST, models=(model, model))
    with pytest.raises(ReleaseError, match="at most 64"):
        replace(MANIFEST, models=tuple(replace(model, name=f"m{i}") for i in range(65)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b" " + MANIFEST.encode(),
        MANIFEST.encode() + b"\n",
        MANIFEST.encode().replace(b'"version":3', b'"version":3,"version":4'),
        MANIFEST.encode().replace(b'"version":3', b'"version":3.0'),
        b'{"a":' * 100 + b"1" + b"}" * 100,
    ],
)
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    with pytest.raises(ReleaseError):
        ReleaseManifest.decode(data)


def test_a_manifest_too_long_to_be_read_cannot_be_written() -> None:
    parameters = {f"p{i}": "x" * 4000 for i in range(20)}
    manifest = replace(MANIFEST, models=(replace(MANIFEST.models[0], parameters=parameters),))
    with pytest.raises(ReleaseError):
        manifest.encode()


# --- assignments ---------------------------------------------------------------------------


def test_assignments_are_read_back() -> None:
    assert Assignment.decode(ASSIGNMENT.encode()) == ASSIGNMENT
    assert json.loads(ASSIGNMENT.encode())["expires"] == "1700086400"
    assert open_assignment(sign_assignment(ASSIGNMENT, KEY), [KEY.public_key()]) == ASSIGNMENT


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "exclave.release/v1"),
        ("trust_domain", "X"),
        ("tenant", "a/b"),
        ("agent", ""),
        ("generation", 0),
        ("generation", "1"),
        ("generation", 2**53),
        ("release_digest", "a" * 63),
        ("rollout", ""),
        ("rollout", "a b"),
        ("issued", 1),
        ("issued", "01"),
        ("issued", "-1"),
        ("issued", "9" * 17),
        ("expires", "1700000000"),
        ("expires", ...),
        ("extra", ""),
    ],
)
def test_bad_assignments_are_refused(path: str, value: Any) -> None:
    with pytest.raises(ReleaseError):
        Assignment.decode(changed(ASSIGNMENT.encode(), path, value))


# --- DSSE ----------------------------------------------------------------------------------


def test_pae_is_that_of_the_specification() -> None:
    # protocol.md of secure-systems-lab/dsse, test vectors.
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"\x00 ") == b"DSSEv1 2 \xc3\xa9 2 \x00 "


def test_an_envelope_is_securesystemslibs() -> None:
    """The library that TUF uses reads our envelope and finds our signature good."""
    from securesystemslib.dsse import Envelope as Theirs
    from securesystemslib.signer import SSlibKey

    data = sign_assignment(ASSIGNMENT, KEY)
    key = SSlibKey.from_crypto(KEY.public_key(), keyid=key_id(KEY.public_key()))
    theirs = Theirs.from_dict(json.loads(data))
    assert theirs.verify([key], 1)
    assert theirs.payload == ASSIGNMENT.encode()


def test_only_the_directors_signature_opens_an_assignment() -> None:
    data = sign_assignment(ASSIGNMENT, OTHER)
    with pytest.raises(ReleaseError, match="0 good signatures"):
        open_assignment(data, [KEY.public_key()])
    with pytest.raises(ReleaseError):
        open_assignment(data, [])
    # A key id is a hint: claiming the director's does not help.
    forged = json.loads(data)
    forged["signatures"][0]["keyid"] = key_id(KEY.public_key())
    with pytest.raises(ReleaseError):
        open_assignment(json.dumps(forged).encode(), [KEY.public_key()])
    # During a change of keys both are tried.
    assert open_assignment(data, [KEY.public_key(), OTHER.public_key()]) == ASSIGNMENT


def test_the_type_is_signed_with_the_payload() -> None:
    envelope = Envelope.signed("application/other", ASSIGNMENT.encode(), [KEY])
    with pytest.raises(ReleaseError, match="payload type"):
        open_assignment(envelope.encode(), [KEY.public_key()])
    relabelled = replace(envelope, payload_type=ASSIGNMENT_TYPE)
    with pytest.raises(ReleaseError, match="0 good signatures"):
        open_assignment(relabelled.encode(), [KEY.public_key()])


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_of_the_payload_is_noticed(position: int, flip: int) -> None:
    envelope = Envelope.decode(sign_assignment(ASSIGNMENT, KEY))
    payload = bytearray(envelope.payload)
    payload[position % len(payload)] ^= flip
    with pytest.raises(ReleaseError):
        open_assignment(replace(envelope, payload=bytes(payload)).encode(), [KEY.public_key()])


def test_a_threshold_counts_keys_not_signatures() -> None:
    envelope = Envelope.signed("t", b"x", [KEY, KEY])
    keys = [KEY.public_key(), KEY.public_key(), OTHER.public_key()]
    with pytest.raises(ReleaseError, match="1 good"):
        envelope.verify("t", keys, threshold=2)
    both = Envelope.signed("t", b"x", [KEY, OTHER])
    assert both.verify("t", keys, threshold=2) == b"x"
    with pytest.raises(ReleaseError):
        both.verify("t", keys, threshold=0)


def test_url_safe_base64_and_a_missing_key_id_are_read() -> None:
    value = json.loads(sign_assignment(ASSIGNMENT, KEY))
    value["payload"] = base64.urlsafe_b64encode(ASSIGNMENT.encode()).decode()
    del value["signatures"][0]["keyid"]
    assert open_assignment(json.dumps(value).encode(), [KEY.public_key()]) == ASSIGNMENT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"payload":"","payloadType":"t"}',
        b'{"payload":1,"payloadType":"t","signatures":[]}',
        b'{"payload":"!","payloadType":"t","signatures":[]}',
        b'{"payload":"","payload":"","payloadType":"t","signatures":[]}',
        b'{"payload":"","payloadType":"t","signatures":[],"x":1}',
        b'{"payload":"","payloadType":"t","signatures":[{}]}',
        b'{"payload":"","payloadType":"t","signatures":[{"sig":"","cert":""}]}',
        b'{"payload":"","payloadType":"t","signatures":[' + b'{"sig":""},' * 16 + b'{"sig":""}]}',
        b'{"payload":"","payloadType":"t","signatures":[]}' + b" " * MAX_ENVELOPE,
    ],
)
def test_bad_envelopes_are_refused(data: bytes) -> None:
    with pytest.raises(ReleaseError):
        Envelope.decode(data)
