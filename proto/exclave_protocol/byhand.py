"""VERIFY.md: how to check a bundle with ordinary tools, for an auditor who trusts none of ours."""

from __future__ import annotations

from hashlib import sha256

VERIFY_MD = """\
# How to verify this bundle by hand

`exclave-verify bundle.zip` does all of this and more. What follows needs `unzip`,
`sha256sum`, Python 3 (standard library only) and `openssl` 3.

Nothing in here holds a prompt, an input or an answer: only metadata, counts and salted
commitments. What the files mean is specified in `docs/audit-format.md` of Exclave.

1. The files are as they were written:

       mkdir bundle && cd bundle && unzip ../bundle.zip && sha256sum -c SHA256SUMS

   This finds accidents. A forger writes a new SHA256SUMS; the next steps find him.

2. The records are in the tree, and the tree is the one that was signed. Save as `check.py`
   and run `python3 check.py logs/<agent>/e<epoch>` (or `operators/e1`):

```python
import base64, hashlib, json, pathlib, sys

place = pathlib.Path(sys.argv[1])
raw = (place / "hashes").read_bytes()
hashes = [raw[i : i + 32] for i in range(0, len(raw), 32)]


def tree(rows):
    if not rows:
        return hashlib.sha256(b"").digest()
    if len(rows) == 1:
        return rows[0]
    half = 1 << ((len(rows) - 1).bit_length() - 1)
    return hashlib.sha256(b"\\x01" + tree(rows[:half]) + tree(rows[half:])).digest()


origin, size, root = (place / "checkpoint").read_text().split("\\n")[:3]
assert len(hashes) == int(size), "the hashes are not as many as the checkpoint says"
assert base64.b64encode(tree(hashes)).decode() == root, "the root is not the signed one"
count = 0
for file in sorted(place.glob("records/*.jsonl")):
    for seq, line in enumerate(file.read_bytes().splitlines(), int(file.stem)):
        leaf = json.loads(line)
        if seq < len(hashes):
            assert hashlib.sha256(b"\\x00" + line).digest() == hashes[seq], f"seq {seq} differs"
        assert leaf["log"] == origin and leaf["seq"] == str(seq), f"seq {seq} is misplaced"
        before = hashes[seq - 1].hex() if seq else "0" * 64
        assert seq > len(hashes) or leaf["prev"] == before, f"seq {seq} breaks the chain"
        count += 1
print(f"{origin}: {count} records under the root of {size} leaves")
```

3. The checkpoint is signed by the log's key and by the witness. Save as `sigs.py` and run
   `python3 sigs.py logs/<agent>/e<epoch>/checkpoint keys/<agent>.e<epoch>.vkey`, then the
   same with `keys/witness.vkey`. Compare the printed key with one that reached you by
   another way than this bundle: a forger brings his own.

```python
import base64, pathlib, subprocess, sys, tempfile

note, vkey = (pathlib.Path(name).read_text() for name in sys.argv[1:3])
name, key_id, material = vkey.strip().split("+", 2)
material = base64.b64decode(material)
text, _, lines = note.rpartition("\\n\\n")
text += "\\n"
found = [n.split(" ") for n in lines.splitlines()]
blobs = [base64.b64decode(n[2]) for n in found if n[1] == name]
signature = next((b[4:] for b in blobs if b[:4].hex() == key_id), None)
assert signature, "not signed by this key"


def verify(public, message, signature):
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "key").write_bytes(bytes.fromhex("302a300506032b6570032100") + public)
    (folder / "message").write_bytes(message)
    (folder / "signature").write_bytes(signature)
    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin"]
        + ["-inkey", folder / "key", "-in", folder / "message", "-sigfile", folder / "signature"],
        check=True,
    )


message, public = text.encode(), material[-32:]
if material[0] == 4:
    seconds, signature = int.from_bytes(signature[:8], "big"), signature[8:]
    message = f"cosignature/v1\\ntime {seconds}\\n".encode() + message
if material[0] == 255:  # the log's key certifies the key of a term, and that one signs
    term, key = int.from_bytes(signature[:8], "big"), signature[8:40]
    shown = base64.b64encode(key).decode()
    verify(public, f"exclave-term/v1\\n{name}\\n{term}\\n{shown}\\n".encode(), signature[40:104])
    print("term:", term)
    public, signature = key, signature[104:]
verify(public, message, signature)
print("key:", vkey.strip())
```

4. What is missing: `completeness.json` says which seqs of the range have no record here, how
   far the witness has seen the log, and which INTENT has no RESULT. Order is `seq`; a clock
   may have been set back, a `seq` cannot.
"""

KNOWN_TEXTS = frozenset({sha256(VERIFY_MD.encode()).hexdigest()})
"""SHA-256 of every VERIFY.md that bundles of this schema have carried. When the text changes,
the digest of the former one joins this set: old bundles stay valid."""
