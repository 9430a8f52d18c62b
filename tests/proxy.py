"""A bad network between artgen and an S3 server: an HTTP proxy that answers 503 SlowDown, resets connections, cuts
bodies short and stalls, for a share of the requests that a seed decides.

    with FaultyProxy(server.endpoint, share=0.3) as proxy:
        options = {**server.options, "endpoint_url": proxy.endpoint}
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

FAULTS = ("slowdown", "reset", "reset after", "truncate", "stall")
_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@dataclass(frozen=True)
class Message:
    """A request or an answer: its first line and headers as they came, and its body."""

    head: bytes
    body: bytes

    def header(self, name: str) -> str:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.encode():
                return value.strip().decode("latin-1")
        return ""


class FaultyProxy:
    """`share` of the requests meet a fault; `counts` says how many met which ("sound" for the others).

    slowdown: 503 without asking the server. reset: RST before the server is asked, or after it has done the work (the
    client does not know). truncate: half of the answer's body. stall: silence for `stall_s`, then the end.
    """

    def __init__(self, target: str, share: float, seed: int = 0, stall_s: float = 3.0) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.share, self._stall_s = share, stall_s
        self._rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.endpoint = ""

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the proxy did not start within 10 s")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20))
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        try:
            server_in, server_out = await asyncio.open_connection(*self._target, limit=1 << 20)
        except ConnectionError:  # the server is away
            _reset(client_out)
            return
        try:
            while await self._one(client_in, client_out, server_in, server_out):
                pass
        except (
            ConnectionError,
            asyncio.IncompleteReadError,
            asyncio.CancelledError,
        ):  # a side went away, or the test ended
            return
        finally:
            server_out.close()
            client_out.close()

    async def _one(self, client_in, client_out, server_in, server_out) -> bool:
        """One request and its answer; False when the connection has come to its end."""
        request = await _request(client_in, client_out)
        if request is None:
            return False
        fault = self._fault(request) if self._rng.random() < self.share else "sound"
        if fault == "slowdown":
            self.counts[fault] += 1
            head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nContent-Length: {len(_SLOW_DOWN)}"
            body = b"" if request.head.startswith(b"HEAD") else _SLOW_DOWN
            client_out.write(head.encode() + b"\r\n\r\n" + body)
            await client_out.drain()
            return True
        if fault == "reset":
            self.counts[fault] += 1
            return _reset(client_out)
        if fault == "stall":
            self.counts[fault] += 1
            await asyncio.sleep(self._stall_s)
            return False
        server_out.write(request.head + b"\r\n\r\n" + request.body)
        await server_out.drain()
        answer = await _answer(server_in, request.head.startswith(b"HEAD"))
        if fault == "reset after":
            self.counts[fault] += 1
            return _reset(client_out)
        if fault == "truncate" and len(answer.body) > 1:
            self.counts[fault] += 1
            client_out.write(answer.head + b"\r\n\r\n" + answer.body[: len(answer.body) // 2])
            await client_out.drain()
            return False
        self.counts["sound"] += 1
        client_out.write(answer.head + b"\r\n\r\n" + answer.body)
        await client_out.drain()
        return answer.header("connection").lower() != "close"

    def _fault(self, request: Message) -> str:
        """The kind that was met least so far; only an answer to GET has a body to cut."""
        kinds = [kind for kind in FAULTS if kind != "truncate" or request.head.startswith(b"GET")]
        return min(kinds, key=lambda kind: (self.counts[kind], self._rng.random()))


def _reset(out: asyncio.StreamWriter) -> bool:
    """An RST instead of a FIN, as from a machine that has died."""
    out.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    out.transport.abort()
    return False


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
    except asyncio.IncompleteReadError:
        return None
    if Message(head, b"").header("expect"):  # answered here, so that the server is asked only if no fault is due
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
    return Message(head, await _body(reader, head))


async def _answer(reader: asyncio.StreamReader, to_head: bool) -> Message:
    head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
    status = head.split(b" ", 2)[1]
    return Message(head, b"" if to_head or status in (b"204", b"304") else await _body(reader, head))


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """As it is on the wire: by length, or in chunks with their sizes."""
    found = Message(head, b"")
    if found.header("transfer-encoding").lower() != "chunked":
        return await reader.readexactly(int(found.header("content-length") or 0))
    parts = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts.append(line + await reader.readexactly(size + 2))
        if size == 0:
            return b"".join(parts)
