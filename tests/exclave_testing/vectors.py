"""The frozen bytes of the audit formats: `build` makes them, tests/vectors holds them.

Changing one is changing the format: write a new version, never a new vector. To add one:
`python -m exclave_testing.vectors`.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from exclave_protocol import layout
from exclave_protocol.bundle import write_bundle
from exclave_protocol.canonical import JsonValue
from exclave_protocol.checkpoint import Checkpoint, cosign, cosigned_origin, sign_checkpoint
from exclave_protocol.disclosure import make
from exclave_protocol.endpoint import Endpoint, EndpointPrice, EndpointTimeouts
from exclave_protocol.leaf import NO_PREV, Leaf, LeafType, decode_leaf, encode_leaf
from exclave_protocol.note import TermKey, add_signature
from exclave_protocol.opened import make_disclosure_file
from exclave_protocol.shown import render
from exclave_protocol.term import commitment
from exclave_protocol.tiles import hash_tiles
from exclave_protocol.tree import (
    MemoryTree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
)
from exclave_protocol.witness import AddCheckpoint, cosigned_body, encode_size

from .acts import Acts
from .acts_cases import CHANGED, COUNTED, FORGED, HONEST, PLACES
from .bundles import Log, bundle_of, honest_logs, private_key, secrets, spec_of, witness_key

FOLDER = Path(__file__).parent.parent / "vectors"


def leaf_vectors() -> list[dict[str, Any]]:
    """Leaves at the corners of the format."""
    log, sd = "exclave.test/acme/edge-1/e1", make("prompt", "grüezi", bytes(range(32))).digest
    leaves = [
        Leaf(log, 1, 0, NO_PREV, LeafType.GENESIS, 0, {}),
        Leaf(
            log,
            1,
            42,
            bytes(range(32)),
            LeafType.INTENT,
            1_795_383_000_123_456_789,
            {
                "text": 'é\u2028\U0001f512\\"\u0000\u001f\u007f/',
                "n": -(2**53 - 1),
                "list": [None, True],
            },
            (sd,),
        ),
        Leaf(log, 2**63 - 1, 2**63 - 1, b"\xff" * 32, LeafType.RESULT, 2**62, {"b": {}, "a": []}),
    ]
    return [
        {
            "seq": str(leaf.seq),
            "type": leaf.type.value,
            "time_ns": str(leaf.time_ns),
            "leaf": encode_leaf(leaf).decode(),
            "hash": leaf_hash(encode_leaf(leaf)).hex(),
        }
        for leaf in leaves
    ]


def tree_vectors() -> dict[str, Any]:
    """A tree of seven leaves with a proof of each kind."""
    tree = MemoryTree(leaf_hash(f"leaf {n}".encode()) for n in range(7))
    return {
        "leaves": [f"leaf {n}" for n in range(7)],
        "roots": [tree.root(size).hex() for size in range(8)],
        "inclusion_4_of_7": [h.hex() for h in inclusion_proof(4, 7, tree.node)],
        "consistency_3_to_7": [h.hex() for h in consistency_proof(3, 7, tree.node)],
    }


def checkpoint_vectors() -> dict[str, Any]:
    """A signed and cosigned checkpoint, with the seeds of its keys."""
    log, witness = Log("edge-1").fill(3), witness_key()
    checkpoint = Checkpoint(log.origin, 7, bytes(range(32)))
    line = cosign(checkpoint.text(), witness, 1_800_000_000)
    return {
        "log_seed": private_key(log.origin).private_bytes_raw().hex(),
        "log_vkey": log.vkey,
        "term_vkey": log.plain.vkey,
        "witness_seed": private_key("witness").private_bytes_raw().hex(),
        "witness_vkey": witness.vkey,
        "text": checkpoint.text(),
        "signed": sign_checkpoint(checkpoint, log.key).decode(),
        "cosignature": line.decode(),
        "cosigned": add_signature(sign_checkpoint(checkpoint, log.key), line).decode(),
    }


def disclosure_vectors() -> dict[str, Any]:
    """Commitments, and a disclosure file."""
    made = [
        make("prompt", [{"role": "user", "content": "grüezi"}], bytes(range(32))),
        make("context", [], bytes(32)),
    ]
    log = Log("edge-1").fill(3)
    file = make_disclosure_file(log.leaves[2], [secrets(log.origin, 2)[0].encoded])
    return {
        "disclosures": [
            {
                "salt": item.salt.hex(),
                "name": item.name,
                "value": item.value,
                "encoded": item.encoded,
                "digest": item.digest,
            }
            for item in made
        ],
        "file": file.decode(),
    }


def bundle_vectors() -> dict[str, Any]:
    """Every file of a small bundle: the text of the short ones, the digest of all."""
    buffer = io.BytesIO()
    write_bundle(buffer, bundle_of([spec_of(log) for log in honest_logs(6)]))
    with zipfile.ZipFile(buffer) as bundle:
        files = {name: bundle.read(name) for name in sorted(bundle.namelist())}
    return {
        "sha256": {name: sha256(data).hexdigest() for name, data in files.items()},
        layout.MANIFEST: files[layout.MANIFEST].decode(),
        layout.COMPLETENESS: files[layout.COMPLETENESS].decode(),
    }


def term_vectors() -> dict[str, Any]:
    """A term's certificate, and a checkpoint signed in it."""
    log = Log("edge-1", term=3).fill(3)
    key = log.key
    assert isinstance(key, TermKey)
    checkpoint = Checkpoint(log.origin, 7, bytes(range(32)))
    return {
        "log_seed": log.private.private_bytes_raw().hex(),
        "log_vkey": log.vkey,
        "term": str(key.certificate.term),
        "term_seed": key.private.private_bytes_raw().hex(),
        "term_vkey": log.plain.vkey,
        "certificate": key.certificate.encode().hex(),
        "nonce": bytes(range(32)).hex(),
        "commitment": commitment(bytes(range(32))).hex(),
        "signed": sign_checkpoint(checkpoint, key).decode(),
    }


def tile_vectors() -> dict[str, Any]:
    """The tiles of a tree of 70,000 leaves, three levels high: where they lie, their digests."""
    hashes = (leaf_hash(f"leaf {n}".encode()) for n in range(70_000))
    tiles = {tile.path: sha256(data).hexdigest() for tile, data in hash_tiles(hashes)}
    shown = [path for path in tiles if not path.startswith("tile/0/") or path.endswith("000")]
    shown += [path for path in tiles if ".p/" in path and path not in shown]
    digest = sha256("".join(f"{tiles[p]} {p}\n" for p in sorted(tiles)).encode()).hexdigest()
    return {"leaves": 70_000, "tiles": {path: tiles[path] for path in sorted(shown)}, "all": digest}


def endpoint_vectors() -> list[dict[str, Any]]:
    """Endpoint documents: the least one, and one with everything set."""
    endpoints = [
        Endpoint("openai", "https://api.openai.com/v1", "gpt-5-mini", ("chat",), ("", "public")),
        Endpoint(
            provider="azure",
            base_url="https://acme.openai.azure.com",
            model="gpt-5",
            actions=("chat", "complete", "embed"),
            data_classes=("public",),
            secret="azure-main",
            auth="api-key",
            api_version="2024-10-21",
            deployment="prod",
            context_tokens=128_000,
            timeouts=EndpointTimeouts(2_000, 30_000, 300_000),
            max_concurrency=8,
            max_waiting=0,
            price=EndpointPrice("EUR", "1.25", "10", "0.125"),
            organization="org-1",
            project="proj-1",
            headers={"x-goog-user-project": "p-1"},
        ),
    ]
    return [
        {"document": one.encode().decode(), "sha256": sha256(one.encode()).hexdigest()}
        for one in endpoints
    ]


def witness_vectors() -> dict[str, Any]:
    """A request to a witness, its answer of a size, and the leaf that records a cosignature."""
    log = Log("edge-1").fill(7)
    tree = MemoryTree(leaf_hash(leaf) for leaf in log.leaves)
    head = Checkpoint(log.origin, tree.size, tree.root())
    proof = tuple(consistency_proof(3, tree.size, tree.node))
    own = cosigned_origin("exclave.test")
    body = cosigned_body(head, 1_800_000_000)
    leaf = Leaf(own, 1, 1, bytes(range(32)), LeafType.COSIGNED, 1_800_000_000 * 10**9, body)
    request = AddCheckpoint(3, proof, sign_checkpoint(head, log.key))
    return {
        "request": request.encode().decode(),
        "size": encode_size(tree.size).decode(),
        "leaf": encode_leaf(leaf).decode(),
        "hash": leaf_hash(encode_leaf(leaf)).hex(),
    }


def approval_vectors() -> dict[str, Any]:
    """Logs with reviewers' acts, whether they hold, and a text with all that it is made of."""
    groups = (HONEST, FORGED, CHANGED, PLACES, COUNTED)
    made: dict[str, Acts] = {}
    for cases in groups:
        for name in list(cases)[: 4 if cases is HONEST else 1]:
            case = cases[name]
            made[name] = case() if callable(case) else case[0]()
    leaves = {name: [data.decode() for data in acts.log.leaves] for name, acts in made.items()}
    values: dict[str, JsonValue] = {
        "prompt": [{"role": "user", "content": "Pay\u202e?\r\nanswer:\\"}],
        "options": {"stop": ["é"], "n": 1},
    }
    corrected = made["a correction, approved"]
    decoded = [decode_leaf(data) for data in corrected.log.leaves]
    shown = render(decoded[4], decoded[5], values, "no", corrected.requires, decoded[6:8])
    return {
        "cases": [
            {"name": name, "holds": name in HONEST, "leaves": lines}
            for name, lines in leaves.items()
        ],
        "text": {
            "of": "a correction, approved",
            "intent": "4",
            "result": "5",
            "acts": ["6", "7"],
            "values": values,
            "answer": "no",
            "shown": shown,
        },
    }


def build() -> dict[str, Any]:
    """Every vector by the name of its file."""
    return {
        "leaf": leaf_vectors(),
        "tree": tree_vectors(),
        "checkpoint": checkpoint_vectors(),
        "disclosure": disclosure_vectors(),
        "bundle": bundle_vectors(),
        "endpoint": endpoint_vectors(),
        "witness": witness_vectors(),
        "term": term_vectors(),
        "tile": tile_vectors(),
        "approval": approval_vectors(),
    }


def main() -> None:
    """Write what is not there yet."""
    for name, value in build().items():
        path = FOLDER / f"{name}.json"
        if not path.exists():
            path.write_text(
                json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            sys.stdout.write(f"wrote {path.name}\n")


if __name__ == "__main__":
    main()
