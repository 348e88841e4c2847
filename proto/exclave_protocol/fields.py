"""Strict reading of decoded JSON objects: every field asked for by name, none left over."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

from .canonical import decode
from .errors import CanonicalError, ReleaseError

_SECONDS: Final = re.compile(r"0|[1-9][0-9]{0,15}")

T = TypeVar("T")


class Reader:
    """Takes an object's fields one by one; `finish` refuses what nobody asked for."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise ReleaseError(f"{what} must be an object")
        self._left: dict[str, object] = dict(value)
        self._what = what

    @classmethod
    def of(cls, data: bytes, limit: int, what: str) -> Reader:
        try:
            return cls(decode(data, limit=limit), what)
        except CanonicalError as error:
            raise ReleaseError(f"{what}: {error.message}") from error

    def schema(self, expected: str) -> None:
        if self._left.pop("schema", None) != expected:
            raise ReleaseError(f"{self._what}: schema must be {expected}")

    def has(self, key: str) -> bool:
        return key in self._left

    def string(self, key: str, default: str | None = None) -> str:
        """With a default the field may be missing."""
        if default is not None and key not in self._left:
            return default
        return self._take(key, lambda v: v if isinstance(v, str) else None, "a string")

    def strings(self, key: str, most: int) -> list[str]:
        items: list[object] = self._take(
            key, lambda v: list(v) if isinstance(v, list) else None, "a list"
        )
        if len(items) > most:
            raise ReleaseError(f"{self._what}: {key} has more than {most} entries")
        found = [item for item in items if isinstance(item, str)]
        if len(found) != len(items):
            raise ReleaseError(f"{self._what}: {key} must be a list of strings")
        return found

    def integer(self, key: str, default: int | None = None) -> int:
        """With a default the field may be missing."""
        if default is not None and key not in self._left:
            return default
        return self._take(
            key, lambda v: v if isinstance(v, int) and not isinstance(v, bool) else None, "integer"
        )

    def seconds(self, key: str) -> int:
        text = self.string(key)
        if not _SECONDS.fullmatch(text):
            raise ReleaseError(f"{self._what}: {key} must be whole seconds as a decimal string")
        return int(text)

    def child(self, key: str) -> Reader:
        return Reader(self._left.pop(key, None), f"{self._what}: {key}")

    def optional(self, key: str) -> Reader | None:
        """An object; missing or null: None."""
        if self._left.get(key) is not None:
            return self.child(key)
        self._left.pop(key, None)
        return None

    def mapping(self, key: str) -> dict[str, object]:
        return self._take(key, lambda v: dict(v) if isinstance(v, dict) else None, "an object")

    def objects(self, key: str, most: int) -> list[Reader]:
        items: list[object] = self._take(
            key, lambda v: list(v) if isinstance(v, list) else None, "a list"
        )
        if len(items) > most:
            raise ReleaseError(f"{self._what}: {key} has more than {most} entries")
        return [Reader(item, f"{self._what}: {key}[{i}]") for i, item in enumerate(items)]

    def finish(self) -> None:
        if self._left:
            raise ReleaseError(f"{self._what} has {len(self._left)} unknown fields")

    def _take(self, key: str, read: Callable[[object], T | None], shape: str) -> T:
        value = read(self._left.pop(key, None))
        if value is None:
            raise ReleaseError(f"{self._what}: {key} must be there and be {shape}")
        return value
