"""`exclave-verify`: an auditor's command; the standard library and `cryptography`, no network."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import EvidenceError, NoteError
from .evidence import verify_bundle, verify_disclosure
from .extends import read_extension, verify_extension
from .layout import MAX_SMALL
from .logcheck import Foreign
from .note import VerifyKey
from .proof import read_proof, verify_proof
from .report import Report

_USAGE = 2
_EPILOG = """\
verdicts and exit codes:
  0  WITNESSED   complete for its range, unaltered, cosigned by the witness
  1  INVALID     something was altered or is not of the format; the step says where
  2              bad usage: a file cannot be read, or an argument is malformed
  3  DIVERGED    the log's own key signed two histories that exclude each other
  4  UNANCHORED  nothing wrong was found, but no witness vouches for it
  5  INCOMPLETE  what is here is witnessed, but records of the range are not here
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exclave-verify",
        description="Verify an audit bundle offline.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle", type=Path, nargs="?", help="the zip that `exclave audit pull` wrote"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--witness-key",
        metavar="VKEY",
        help="believe this witness key, and no other (its text, or @FILE)",
    )
    parser.add_argument(
        "--log-key",
        metavar="VKEY",
        action="append",
        default=[],
        help="pin the key of the log that it names (its text, or @FILE); repeatable",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a signed checkpoint from elsewhere (the tenant) that must not contradict; repeatable",
    )
    parser.add_argument(
        "--disclosure",
        metavar="FILE",
        type=Path,
        help="also verify fields that the tenant opened, and show them",
    )
    parser.add_argument(
        "--proof",
        metavar="FILE",
        type=Path,
        help="instead of a bundle: one record's proof, under the keys that are pinned",
    )
    parser.add_argument(
        "--extends",
        metavar="FILE",
        type=Path,
        help="instead of a bundle: that a log's newest head extends the --checkpoint that you kept",
    )
    return parser


def _extension(path: Path, kept: bytes, logs: Sequence[str], witness: str | None) -> Report:
    """Raises: OSError, NoteError, EvidenceError."""
    made = read_extension(path)
    keys = _of(made.note, logs)
    return verify_extension(
        made, kept, keys[0] if keys else None, [VerifyKey.parse(witness)] if witness else []
    )


def _of(note: bytes, logs: Sequence[str]) -> list[VerifyKey]:
    """Of the keys that were brought, those of the log that a note claims to be of."""
    origin = note.partition(b"\n")[0].decode("utf-8", "replace")
    return [key for key in map(VerifyKey.parse, logs) if key.name == origin]


def _proof(path: Path, logs: Sequence[str], witness: str | None) -> Report:
    """Raises: OSError, NoteError, EvidenceError."""
    proof = read_proof(path)
    keys = _of(proof.checkpoint, logs)
    return verify_proof(
        proof, keys[0] if keys else None, [VerifyKey.parse(witness)] if witness else []
    )


def _vkey(argument: str) -> str:
    """A key's text, from the argument or from @FILE. Raises: OSError, UnicodeDecodeError."""
    if argument.startswith("@"):
        return Path(argument[1:]).read_text(encoding="utf-8").strip()
    return argument


def _checkpoint(path: Path) -> Foreign:
    with path.open("rb") as file:
        return Foreign(ascii(path.name)[1:-1], file.read(MAX_SMALL + 1))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    given = [each for each in (arguments.bundle, arguments.proof, arguments.extends) if each]
    if len(given) != 1:
        parser.error("required: bundle, or --proof FILE or --extends FILE in its place")
    if arguments.extends and (arguments.disclosure or len(arguments.checkpoint) != 1):
        parser.error("--extends goes with one --checkpoint: the one that you kept")
    if arguments.proof and (arguments.disclosure or arguments.checkpoint):
        parser.error("--disclosure and --checkpoint go with a bundle")
    try:
        witness = _vkey(arguments.witness_key) if arguments.witness_key else None
        logs = [_vkey(item) for item in arguments.log_key]
        checkpoints = [_checkpoint(path) for path in arguments.checkpoint]
        if arguments.proof is not None:
            report = _proof(arguments.proof, logs, witness)
        elif arguments.extends is not None:
            report = _extension(arguments.extends, checkpoints[0].note, logs, witness)
        elif arguments.disclosure is None:
            report = verify_bundle(
                arguments.bundle, witness_vkey=witness, log_vkeys=logs, checkpoints=checkpoints
            )
        else:
            report = verify_disclosure(
                arguments.disclosure,
                arguments.bundle,
                witness_vkey=witness,
                log_vkeys=logs,
                checkpoints=checkpoints,
            )
    except OSError as error:
        sys.stderr.write(f"exclave-verify: {error.filename}: {error.strerror}\n")
        return _USAGE
    except (NoteError, UnicodeDecodeError) as error:
        sys.stderr.write(f"exclave-verify: pinned key: {error}\n")
        return _USAGE
    except EvidenceError as error:
        # The disclosure file breaks its format or opens what its leaf never committed to; or the
        # proof breaks its own.
        sys.stderr.write(f"exclave-verify: {error}\nverdict: INVALID\n")
        return 1
    if arguments.json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        # Names come from the bundle; ASCII cannot trip a terminal, whatever its locale.
        sys.stdout.write(report.to_text().encode("ascii", "backslashreplace").decode())
    return report.verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
