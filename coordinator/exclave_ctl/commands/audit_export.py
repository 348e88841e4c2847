"""`exclave audit export`: a bundle for other systems, once it is verified."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from exclave_ctl import output
from exclave_ctl.errors import CtlError

if TYPE_CHECKING:
    from exclave_ctl.exports.records import Bundle

FORMATS = ("otel", "cef", "jsonl", "oscal")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--as", "format_", type=click.Choice(FORMATS), required=True, help="See docs/exports."
)
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path), required=True, help="- is stdout."
)
@click.option("--witness-key", help="The witness's vkey, from elsewhere than the bundle.")
@click.option("--even-if-not-witnessed", is_flag=True, help="Export it; its verdict goes along.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def export(
    bundle: Path,
    format_: str,
    file: Path,
    witness_key: str | None,
    even_if_not_witnessed: bool,
    force: bool,
) -> None:
    """Tell a bundle's records to another system: OpenTelemetry, a SIEM, an assessor.

    The bundle is verified first. One that is not WITNESSED is refused with its verdict's exit code,
    or exported with the verdict in it. Nothing is exported that is not in the bundle, so no prompt
    and no answer.
    """
    from exclave_ctl.exports.records import opened
    from exclave_protocol.errors import EvidenceError, NoteError
    from exclave_protocol.evidence import verify_bundle

    if file != Path("-") and file.exists() and not force:
        raise CtlError(f"{file} exists and is not overwritten", "pass --force, or another -o")
    try:
        report = verify_bundle(bundle, witness_vkey=witness_key)
    except NoteError as error:
        raise CtlError(f"--witness-key: {error.message}") from error
    if report.verdict.exit_code and not even_if_not_witnessed:
        output.note(report.to_text())
        sys.exit(report.verdict.exit_code)
    if witness_key is None:
        output.note("the witness's key came out of the bundle itself: bring it with --witness-key")
    try:
        with opened(bundle, report) as found:
            count = _write(file, _exporter(format_)(found))
    except EvidenceError as error:
        raise CtlError(f"{bundle} cannot be read: {error.message}") from error
    output.note(f"{count} bytes of {format_}; verdict {report.verdict}")


def _exporter(name: str) -> Callable[[Bundle], Iterator[bytes]]:
    """Imported where it is used: each is a format of its own."""
    if name == "otel":
        from exclave_ctl.exports.otel import export as otel

        return otel
    if name == "cef":
        from exclave_ctl.exports.cef import export as cef

        return cef
    if name == "oscal":
        from exclave_ctl.exports.oscal import export as oscal

        return oscal
    from exclave_ctl.exports.jsonl import export as jsonl

    return jsonl


def _write(file: Path, pieces: Iterator[bytes]) -> int:
    """Whole or not at all; returns the bytes."""
    from exclave_ctl import files

    if file == Path("-"):
        return _pour(sys.stdout.buffer, pieces)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            length = _pour(out, pieces)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    files.sync_folder(file.parent)
    return length


def _pour(out: BinaryIO, pieces: Iterator[bytes]) -> int:
    return sum(out.write(piece) for piece in pieces)
