"""A small stand-in of a Qdrant server for the tests: real gRPC in front, the real engine behind.

Every collection is a shard of Qdrant Edge in a folder; what is answered is what the engine says. There is no cluster
and no optimiser in the background (a collection is green at once), and only the calls that `cbmir` makes are known:
others are refused with UNIMPLEMENTED. How a collection shall lie in memory, on disk and on nodes is kept and told as it
was asked for, and does nothing.

In a process of its own: ``python tests/standin.py --root DIR`` prints the URL, and ends when its stdin does.
"""

import argparse
import json
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import grpc
import qdrant_edge as q
from qdrant_client import grpc as proto
from standin_calls import Collections, Points, Root
from standin_tokens import access_of, check, shown
from standin_wire import RefusedError, filter_fields, known, refusal

REQUEST_BYTES = 32 * 2**20
"""The largest request that is taken, as by a server."""
PINGS = ("grpc.http2.max_ping_strikes", 0)
"""A client may ask as often as it likes whether the connection lives, as with a server."""

Handler = type[BaseHTTPRequestHandler]


@dataclass
class _Held:
    """An open collection."""

    shard: q.EdgeShard
    config: proto.CollectionConfig


class Standin:
    """A server over a folder; a second one over the same folder later has the same collections.

    Attributes:
        root: One sub-folder a collection.
        url: As `cbmir.store.open_store` takes it: gRPC is on the port one above.
        grpc_port: That port.
        aliases: Aliases to the names of the collections they lead to.
        key: Asked of every call; None for no key.
        lock: Held while a request is answered.
        watch: Called with the name of each method before it is answered; what it raises is the answer.

    Args:
        root: Made unless it is there.
        key: Asked of every call.
        port: Of the URL; 0 for any two free ports side by side.
        strict: Whether filters by own columns (``extra.``) need an index too, as in a server's strict mode.
        rest_handler: Answers on the URL's own port; its ``server.standin`` is the stand-in. None: nobody listens there,
            but the port is kept.
    """

    def __init__(
        self,
        root: Path,
        key: str | None = None,
        *,
        port: int = 0,
        strict: bool = True,
        rest_handler: Handler | None = None,
    ) -> None:
        self.root = root
        self.lock = threading.RLock()
        self.aliases: dict[str, str] = {}
        self.key, self._port, self._rest_handler, self._strict = key, port, rest_handler, strict
        self._held: dict[str, _Held] = {}
        self.watch: Callable[[str], object] = lambda method: None

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        if (self.root / "aliases.json").exists():
            self.aliases.update(json.loads((self.root / "aliases.json").read_text(encoding="utf-8")))
        for config in self.root.glob("*/config.pb"):
            self._open(config.parent.name)
        self._server = self._made_server()
        self._lower = side_by_side(self._port, lambda port: self._server.add_insecure_port(f"127.0.0.1:{port}"))
        self.url = f"http://127.0.0.1:{self._lower.getsockname()[1]}"
        self.grpc_port = self._lower.getsockname()[1] + 1
        self._server.start()
        self._http = _Http(self._lower, self._rest_handler, self) if self._rest_handler else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._http:
            self._http.shutdown()
        self._server.stop(None).wait()
        self._lower.close()
        with self.lock:
            for held in self._held.values():
                held.shard.close()
            self._held.clear()

    def names(self) -> list[str]:
        """The collections' own names, sorted."""
        with self.lock:
            return sorted(self._held)

    def folder(self, name: str) -> Path:
        """The folder of all that makes a collection, given by its own name or an alias; it may not be there yet.

        To be read or replaced as a whole inside `paused` only.
        """
        return self.root / self.own_name(name)

    @contextmanager
    def paused(self, name: str) -> Iterator[Path]:
        """Nothing is answered inside, and the collection is closed: its `folder` may be packed, replaced or made.

        Afterwards what lies in the folder is opened, also a collection that wasn't there before.
        """
        with self.lock:
            folder = self.folder(name)
            held = self._held.pop(folder.name, None)
            if held:
                held.shard.close()
            try:
                yield folder
            finally:
                if (folder / "config.pb").exists():
                    self._open(folder.name)

    # what the servicers need, all under the lock

    def own_name(self, name: str) -> str:
        return self.aliases.get(name, name)

    def find(self, name: str) -> _Held:
        held = self._held.get(self.own_name(name))
        if held is None:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")
        return held

    def make(self, name: str, config: proto.CollectionConfig) -> None:
        if name in self._held or name in self.aliases:
            raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"Wrong input: Collection `{name}` already exists!")
        if Path(name).name != name:
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {name!r} can't name a collection")
        vectors = config.params.vectors_config
        known(vectors, "params")
        distance = getattr(q.Distance, proto.Distance.Name(vectors.params.distance))
        shard = q.EdgeConfig(vectors=q.EdgeVectorParams(size=vectors.params.size, distance=distance))
        (self.root / name / "shard").mkdir(parents=True)
        q.EdgeShard.create(str(self.root / name / "shard"), shard).close()
        self.keep(name, config)
        self._open(name)

    def keep(self, name: str, config: proto.CollectionConfig) -> None:
        (self.folder(name) / "config.pb").write_bytes(config.SerializeToString())

    def drop(self, name: str) -> bool:
        held = self._held.pop(name, None)  # an alias is no name for that, as on a server
        if held is None:
            return False
        held.shard.close()
        shutil.rmtree(self.root / name)
        self.lead({alias: target for alias, target in self.aliases.items() if target != name})
        return True

    def can_lead(self, alias: str, name: str) -> None:
        if alias in self._held:
            text = f"Wrong input: Can't create alias with name {alias}. Collection with the same name already exists"
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, text)
        if name not in self._held:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")

    def lead(self, aliases: dict[str, str]) -> None:
        self.aliases.clear()
        self.aliases.update(aliases)
        (self.root / "aliases.json").write_text(json.dumps(aliases), encoding="utf-8")

    def indexed(self, request: Any, *fields: str) -> q.EdgeShard:
        """The shard for a request, if all fields that it filters or counts by have an index, as in strict mode."""
        shard = self.find(request.collection_name).shard
        filtered = filter_fields(request.filter) if request.HasField("filter") else ()
        asked = {*fields, *(key for key in filtered if self._strict or not key.startswith("extra."))}
        for field in sorted(asked - set(shard.info().payload_schema)):
            text = f'Bad request: Index required but not found for "{field}". Help: Create an index for this key'
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, text)
        return shard

    def _open(self, name: str) -> None:
        config = proto.CollectionConfig.FromString((self.root / name / "config.pb").read_bytes())
        self._held[name] = _Held(q.EdgeShard.load(str(self.root / name / "shard")), config)

    def _made_server(self) -> grpc.Server:
        options = (
            ("grpc.so_reuseport", 0),  # else two servers may have the same port
            ("grpc.max_receive_message_length", REQUEST_BYTES),
            ("grpc.max_send_message_length", -1),
            PINGS,
        )
        server = grpc.server(ThreadPoolExecutor(16), interceptors=[_Guard(self)], options=options)
        proto.add_QdrantServicer_to_server(Root(), server)
        proto.add_CollectionsServicer_to_server(Collections(self), server)
        proto.add_PointsServicer_to_server(Points(self), server)
        return server


class _Guard(grpc.ServerInterceptor):
    """Asks for the key or a token, lets one request in at a time, and turns what is raised into a server's errors."""

    def __init__(self, standin: Standin) -> None:
        self._standin, self._key = standin, standin.key

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        given = dict(details.invocation_metadata).get("api-key")

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                access = access_of(given, self._key) if self._key and given != self._key else None
                if self._key and given != self._key and access is None:
                    raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")
                with self._standin.lock:
                    self._standin.watch(details.method)
                    if access is None:
                        return handler.unary_unary(request, context)
                    check(details.method, request, access, self._standin.aliases)
                    return shown(handler.unary_unary(request, context), access)
            except BaseException as error:  # a panic of the engine is no Exception
                code, text = refusal(error)
            return context.abort(code, text)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def side_by_side(port: int, bind: Callable[[int], object]) -> socket.socket:
    """Find two free ports, one above the other.

    Args:
        port: The lower one; 0 for any.
        bind: Takes the upper one, or raises OSError or RuntimeError.

    Returns:
        A socket that is bound to the lower one and doesn't listen: connections are refused, and nobody else gets it.
    """
    for _ in range(100):
        lower = socket.socket()
        if port:
            lower.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            lower.bind(("127.0.0.1", port))
            bind(lower.getsockname()[1] + 1)
        except (OSError, RuntimeError):
            lower.close()
            if port:
                raise
            continue
        return lower
    raise RuntimeError("no two free ports side by side")


class _Http(ThreadingHTTPServer):
    """What answers on the URL's own port."""

    daemon_threads = True

    def __init__(self, bound: socket.socket, handler: Handler, standin: Standin) -> None:
        super().__init__(bound.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.server_name, self.server_port = bound.getsockname()
        self.standin = standin
        self.server_activate()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(prog="standin.py", description="A stand-in of a Qdrant server, for tests.")
    parser.add_argument("--root", type=Path, required=True, help="folder of its collections")
    parser.add_argument("--port", type=int, default=0, help="of the URL; gRPC is one above")
    parser.add_argument("--key", help="asked of every call")
    options = parser.parse_args()
    with Standin(options.root, options.key, port=options.port) as standin:
        print(standin.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
