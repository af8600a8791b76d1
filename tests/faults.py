"""A way to a server on which things go wrong as planned.

What a client sends passes through a TCP relay that reads the frames of HTTP/2 (or the head of a request of HTTP/1.1) to
know the method, and, for gRPC, through a server that hands raw requests on to the real one. The relay cuts, delays and
silences connections; the server in the middle gives the answers of a busy one. Without a plan everything passes.
"""

import asyncio
import math
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import grpc
from faults_link import Link
from standin import PINGS, side_by_side

Kind = Literal["refuse", "reset", "delay", "mute", "cut", "busy", "unavailable", "aborted"]

_CODES = {
    "busy": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "aborted": grpc.StatusCode.ABORTED,
}
_PASSED_ON = ("api-key", "authorization")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one call.

    Attributes:
        kind: ``refuse``: all connections are reset, and new ones refused for some seconds. ``reset``: the connection is
            reset when so many bytes of the request have passed. ``delay``: nothing is sent on for some seconds.
            ``mute``: the connection stays, and nothing passes any more, either way. ``cut``: the request is done, and
            the connection reset before the answer. ``busy`` (with the seconds to wait), ``unavailable``, ``aborted``:
            errors that the server gives, and the request is not done.
        method: Last part of a gRPC method's name, or a part of an HTTP path; ``connect`` for a new connection.
        after: Calls of the method that pass before.
        times: Calls it happens to; None: to all.
        seconds: See `kind`.
        nbytes: See `kind`.
    """

    kind: Kind
    method: str = "Upsert"
    after: int = 0
    times: int | None = 1
    seconds: float = 1.0
    nbytes: int = 0


class Faults:
    """A relay before a server, with a plan of what goes wrong.

    Attributes:
        url: To be opened instead of the server's.
        hits: The faults that have happened, in order.

    Args:
        target: URL of the server.
        plan: Each call meets the first fault that is due for its method.
        http: Whether the server speaks HTTP/1.1 on the URL's port, and not gRPC on the port above.
    """

    def __init__(self, target: str, plan: Sequence[Fault] = (), *, http: bool = False) -> None:
        self.hits: list[Fault] = []
        self._plan = list(plan)
        self._passed = dict.fromkeys(range(len(self._plan)), 0)
        self._answers: dict[str, deque[Fault]] = {}
        self._lock = threading.Lock()
        self._http = http
        self._target = (urlsplit(target).port or 0) + (not http)
        self._loop = asyncio.new_event_loop()
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._refusing: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._middle = None if self._http else _Middle(self._target, self._answer)
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._lower = side_by_side(0, self._bind)
        self._do(self._listen())
        self.url = f"http://127.0.0.1:{self._port - (not self._http)}"
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._bound.close()
        self._lower.close()
        if self._middle:
            self._middle.close()

    def heal(self) -> None:
        """Nothing goes wrong any more; connections that are mute stay so."""
        with self._lock:
            self._plan.clear()
        self._do(self._listen())

    # for the connections, in the loop

    def take(self, method: str) -> Fault | None:
        """The fault that a call meets, if any; those that the server answers with are put by for it."""
        with self._lock:
            for number, fault in enumerate(self._plan):
                if not (fault.method in method if self._http else fault.method == method):
                    continue
                self._passed[number] += 1
                met = self._passed[number] - fault.after
                if met > 0 and (fault.times is None or met <= fault.times):
                    self.hits.append(fault)
                    if self._http or fault.kind not in _CODES:
                        return fault
                    self._answers.setdefault(method, deque()).append(fault)
                    return None
        return None

    def refuse(self, seconds: float) -> None:
        """Reset all connections and take no new one for a while."""
        self._refusing = asyncio.ensure_future(self._refuse(seconds))

    async def _refuse(self, seconds: float) -> None:
        self._shut()
        self._bind(self._port)  # nobody listens, and nobody else gets the port
        await asyncio.sleep(seconds)
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, sock=self._bound)

    def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None
        for link in tuple(self._links):
            link.reset()

    async def _end(self) -> None:
        if self._refusing:
            self._refusing.cancel()
        self._shut()
        for task in self._links.values():
            task.cancel()
        if self._links:
            await asyncio.wait(self._links.values())

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, (reader, writer), self._http)
        self._links[link] = asyncio.ensure_future(link.run(self._middle.port if self._middle else self._target))
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await self._links[link]
        link.close()
        del self._links[link]

    # elsewhere

    def _answer(self, method: str) -> Fault | None:
        with self._lock:
            return self._answers[method].popleft() if self._answers.get(method) else None

    def _bind(self, port: int) -> None:
        bound = socket.socket(proto=socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle's delay on
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", port))
        except OSError:
            bound.close()
            raise
        self._bound, self._port = bound, port

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class _Middle(grpc.GenericRpcHandler):
    """Hands raw requests on to a server, or answers with the error that is due."""

    def __init__(self, target: int, due: Callable[[str], Fault | None]) -> None:
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._due = due
        self._channel = grpc.insecure_channel(f"127.0.0.1:{target}", limits)
        self._server = grpc.server(ThreadPoolExecutor(16), handlers=[self], options=[*limits, PINGS])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method
        metadata = [(key, value) for key, value in details.invocation_metadata if key in _PASSED_ON]

        def answer(request: bytes, context: grpc.ServicerContext) -> Any:
            fault = self._due(method.rpartition("/")[2])
            if fault:
                if fault.kind == "busy":
                    context.set_trailing_metadata((("retry-after", str(math.ceil(fault.seconds))),))
                return context.abort(_CODES[fault.kind], f"as planned: {fault.kind}")
            timeout = min(context.time_remaining(), 3600.0)
            try:
                return self._channel.unary_unary(method)(request, metadata=metadata, timeout=timeout)
            except grpc.RpcError as error:
                return context.abort(error.code(), error.details())

        return grpc.unary_unary_rpc_method_handler(answer)

    def close(self) -> None:
        self._server.stop(None).wait()
        self._channel.close()
