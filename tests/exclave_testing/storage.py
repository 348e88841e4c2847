"""Storage in memory that keeps the same promises as the real one, and fails on demand."""

from __future__ import annotations

import asyncio

from exclave_agent.errors import StorageError
from exclave_agent.ports import Caller


class FakeStateStore:
    """A StateStore in a dictionary. Set `failure` to have writes refused."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.failure: StorageError | None = None

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        return self.values.get(key)

    async def put(self, key: str, value: bytes | None) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value


class FakeKeyRing:
    """A KeyRing over a plain table: `keys[secret] = Caller(...)`."""

    def __init__(self, keys: dict[str, Caller] | None = None) -> None:
        self.keys: dict[str, Caller] = dict(keys or {})

    def authenticate(self, secret: str) -> Caller | None:
        return self.keys.get(secret)
