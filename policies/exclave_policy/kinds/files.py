"""The other files of a pack, under the names that its documents give them."""

from __future__ import annotations

from collections.abc import Mapping

from exclave_policy.errors import nearest
from exclave_policy.fields import FILE, Fields
from exclave_policy.source import shown


def beside(document: str, texts: Mapping[str, str]) -> Mapping[str, str]:
    """What the document at that path may name: the files of its own pack, by their path from its
    root. `texts`: everything that is packed together, by its whole path."""
    root = root_of(document)
    return {path[len(root) :]: text for path, text in texts.items() if path.startswith(root)}


def root_of(document: str) -> str:
    """Where the pack of a document begins, "" or a folder with its "/": combined, each pack lies
    in a folder of its own."""
    folder = document.rpartition("/")[0]
    if folder == "policies" or folder.endswith("/policies"):
        folder = folder.rpartition("/")[0]
    return f"{folder}/" if folder else ""


def read_file(fields: Fields, name: str, files: Mapping[str, str], limit: int) -> str:
    """The text of the file that a field names, at most `limit` bytes; "" after a fault. `files`:
    of the pack, by their path from its root."""
    path, node = fields.word(name, FILE), fields.get(name)
    if not path or node is None:
        return ""
    text = files.get(path)
    if text is None:
        message = f"the pack has no file {shown(path)}"
        fields.wrong(node, name, message, nearest(path, files))
        return ""
    size = len(text.encode("utf-8", "surrogatepass"))
    if not 0 < size <= limit:
        fields.wrong(node, name, f"the file {shown(path)} has {size} bytes", f"1 to {limit} bytes")
        return ""
    return text
