"""One connection of a client through the relay of `faults`, frame by frame."""

import asyncio
import math
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from hpack import Decoder

if TYPE_CHECKING:
    from faults import Fault, Faults

HTTP = {"busy": "429 Too Many Requests", "unavailable": "503 Service Unavailable"}

_PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_CHUNK = 2**16


class Link:
    """One connection of a client, and ours to the server."""

    def __init__(self, faults: "Faults", client: tuple[asyncio.StreamReader, asyncio.StreamWriter], http: bool) -> None:
        self._faults = faults
        self._reader, self._writer = client
        self._http = http
        self._ends = [self._writer]
        self._methods = Decoder()
        self._block = b""
        self._resets: dict[int, int] = {}  # by stream: bytes that may pass
        self._cuts: set[int] = set()
        self._mute = False

    async def run(self, port: int) -> None:
        """Pass on what comes from both sides, until one of them ends."""
        if fault := self._faults.take("connect"):
            await self._meet(fault, 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._ends.append(writer)
        ways = [
            asyncio.ensure_future(self._requests(writer) if self._http else self._frames(self._reader, writer, True)),
            asyncio.ensure_future(self._answers(reader) if self._http else self._frames(reader, self._writer, False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            outcomes = await asyncio.gather(*ways, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, OSError | EOFError):
                raise outcome

    def reset(self) -> None:
        """End both connections at once; what is under way is lost."""
        for end in self._ends:
            with suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()

    def _break(self) -> None:
        self.reset()
        raise EOFError

    def close(self) -> None:
        for end in self._ends:
            end.close()

    async def _frames(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        if up:
            writer.write(await reader.readexactly(_PREFACE))
        while True:
            head = await reader.readexactly(9)
            body = await reader.readexactly(int.from_bytes(head[:3]))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF
            if up and kind in (_HEADERS, _CONTINUATION):
                await self._headers(kind, flags, stream, body)
            if not up and kind == _HEADERS and stream in self._cuts:
                self._break()
            if up and kind == _DATA and stream in self._resets:
                body = self._counted(stream, body)
            if not self._mute:
                writer.write(head + body)
                await writer.drain()
            if self._resets.get(stream, 1) == 0:
                self._break()

    async def _headers(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == _HEADERS:
            padding = body[0] if flags & _PADDED else 0
            start = bool(flags & _PADDED) + 5 * bool(flags & _PRIORITY)
            self._block, body = b"", body[start : len(body) - padding]
        self._block += body
        if flags & _END_HEADERS:
            path = dict(self._methods.decode(self._block)).get(":path", "")
            if fault := self._faults.take(path.rpartition("/")[2]):
                await self._meet(fault, stream)

    def _counted(self, stream: int, body: bytes) -> bytes:
        passed = body[: self._resets[stream]]
        self._resets[stream] -= len(passed)
        return passed

    async def _meet(self, fault: "Fault", stream: int) -> None:
        """What happens where a request begins; the rest is left to those that pass its bytes on."""
        if fault.kind == "refuse":
            self._faults.refuse(fault.seconds)
            await asyncio.sleep(math.inf)  # until that resets this connection, too
        elif fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        elif fault.kind == "mute":
            self._mute = True
        elif fault.kind == "cut":
            self._cuts.add(stream)
        elif fault.kind == "reset" and fault.nbytes:
            self._resets[stream] = fault.nbytes
        elif fault.kind == "reset":
            self._break()
        elif fault.kind in HTTP:
            answer = f"HTTP/1.1 {HTTP[fault.kind]}\r\ncontent-length: 0\r\nconnection: close\r\n"
            asked = f"retry-after: {math.ceil(fault.seconds)}\r\n" if fault.kind == "busy" else ""
            self._writer.write((answer + asked + "\r\n").encode())
            raise EOFError

    async def _requests(self, writer: asyncio.StreamWriter) -> None:
        """HTTP/1.1, one request a connection."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        if fault := self._faults.take(head.split(b" ", 2)[1].decode()):
            await self._meet(fault, 0)
        part = head
        while part:
            if 0 in self._resets:
                part = self._counted(0, part)
            if not self._mute:
                writer.write(part)
                await writer.drain()
            if self._resets.get(0, 1) == 0:
                self._break()
            part = await self._reader.read(_CHUNK)

    async def _answers(self, reader: asyncio.StreamReader) -> None:
        while part := await reader.read(_CHUNK):
            if self._cuts:
                self._break()
            if not self._mute:
                self._writer.write(part)
                await self._writer.drain()
