"""Outside witnesses over HTTP: one bounded request each, whatever comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx2

from exclave_coordinator.audit.answers import error_of
from exclave_coordinator.errors import Unavailable
from exclave_protocol.note import VerifyKey
from exclave_protocol.witness import PATH, AddCheckpoint

CONNECT_SECONDS: Final = 5.0
TOTAL_SECONDS: Final = 20.0
"""For the whole exchange, however slowly it goes on."""
MAX_ANSWER: Final = 16_384
"""Bytes: a witness has a few keys, and each of them signs one line."""


class HttpWitness:
    """`witness_ports.OutsideWitness`."""

    def __init__(self, url: str, key: VerifyKey, client: httpx2.AsyncClient) -> None:
        """`url`: the submission prefix, without a slash at its end."""
        self._url = url + PATH
        self._key = key
        self._client = client

    @property
    def key(self) -> VerifyKey:
        """Its key as it was configured."""
        return self._key

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: bytes) -> bytes:
        """See `witness_ports.OutsideWitness.add_checkpoint`."""
        body = AddCheckpoint(old_size, tuple(proof), note).encode()
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                status, kind, answer = await self._exchange(body)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise Unavailable("the witness did not answer in time") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unavailable(f"the witness cannot be reached ({type(error).__name__})") from error
        if status != 200:
            raise error_of(status, kind, answer)
        return answer

    async def _exchange(self, body: bytes) -> tuple[int, str, bytes]:
        async with self._client.stream("POST", self._url, content=body) as response:
            pieces, room = [], MAX_ANSWER
            async for piece in response.aiter_raw():
                room -= len(piece)
                if room < 0:
                    raise Unavailable(f"the witness answered with more than {MAX_ANSWER} bytes")
                pieces.append(piece)
            kind = response.headers.get("content-type", "")
            return response.status_code, kind, b"".join(pieces)


@asynccontextmanager
async def reaching(
    witnesses: Sequence[tuple[str, VerifyKey]],
) -> AsyncIterator[list[HttpWitness]]:
    """The configured witnesses, with the connections that they share."""
    async with httpx2.AsyncClient(
        # Only what we were told of: no redirects, no proxy out of the environment, no cookies,
        # which would be kept for as long as we run.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        trust_env=False,
        timeout=httpx2.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=2 * max(1, len(witnesses))),
        headers={"accept-encoding": "identity", "content-type": "text/plain; charset=utf-8"},
    ) as client:
        yield [HttpWitness(url, key, client) for url, key in witnesses]
