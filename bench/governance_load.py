"""The client side of bench/governance.py: as many callers as asked for, each in a closed loop.

`python governance_load.py URL KEY CONCURRENCY REQUESTS` prints one JSON line: seconds of each
request. Bare sockets and ready bytes, so that the measuring costs the other core little.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop

PROMPT = "Summarise for the shift log, in two sentences, what follows. " + (
    "The pumps of the lower basin ran through the night without a stop. " * 12
)
WARM_UP = 3
"""Requests of each caller that are not counted."""


class Caller(asyncio.Protocol):
    """One kept connection; `done` gets the seconds of each counted request."""

    def __init__(self, request: bytes, times: int, seconds: list[float]) -> None:
        self._request = request
        self._left = times + WARM_UP
        self._times = times
        self._seconds = seconds
        self._received = b""
        self._transport: asyncio.Transport
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._received = b""
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(body) < size:
            return
        spent = time.perf_counter() - self._started
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(head.decode() + body.decode()))
            self._transport.close()
            return
        if self._left <= self._times:
            self._seconds.append(spent)
        self._left -= 1
        if self._left:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)


async def main(url: str, key: str, concurrency: int, requests: int) -> None:
    """Run the callers and print what they measured."""
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 0
    body = json.dumps(
        {
            "model": "stub",
            "messages": [
                {"role": "system", "content": "You keep the shift log."},
                {"role": "user", "content": PROMPT},
            ],
            "max_tokens": 128,
            "temperature": 0.2,
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    seconds: list[float] = []
    loop = asyncio.get_running_loop()
    callers = []
    for index in range(concurrency):
        # Spread over one answer's time: callers in step would only measure their own queue.
        await asyncio.sleep(0.05 / concurrency if index else 0)
        _, caller = await loop.create_connection(
            lambda: Caller(head.encode() + body, max(1, requests // concurrency), seconds),
            host,
            port,
        )
        callers.append(caller)
    await asyncio.gather(*(caller.done for caller in callers))
    print(json.dumps(seconds))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
