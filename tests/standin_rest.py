"""The REST half of the stand-in of a Qdrant server: the calls around snapshots, with tar files of its folders.

Source: Qdrant's REST reference. A stand-in takes it as its `rest_handler`; `node_of` makes one that says it belongs to
a cluster.
"""

import hashlib
import io
import json
import re
import shutil
import tarfile
from contextlib import suppress
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_SNAPSHOTS = re.compile(r"/collections/([^/]+)/snapshots(?:/([^/]+))?$")


class Rest(BaseHTTPRequestHandler):
    """Answers for `self.server.standin`; snapshots are kept in memory, in ``standin.snapshots``."""

    protocol_version = "HTTP/1.1"
    own: int | None = None
    others: dict[int, str] = {}  # noqa: RUF012  the class is made for one node
    version = version("qdrant-client")

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, *_: Any) -> None:
        """Nothing: what is logged belongs to the program under test."""

    @property
    def standin(self) -> Any:
        return self.server.standin  # type: ignore[attr-defined]

    @property
    def kept(self) -> dict[str, bytes]:
        return self.standin.__dict__.setdefault("snapshots", {})

    def _answer(self, method: str) -> None:
        body = self._body()
        if body is None:
            return None
        parts = urlsplit(self.path)
        if self.standin.key is not None and self.headers.get("api-key") != self.standin.key:
            return self._send(401, {"status": {"error": "Must provide an API key"}})
        if parts.path == "/":
            return self._send(200, {"title": "stand-in of qdrant", "version": self.version})
        if parts.path == "/cluster":
            return self._send(200, {"result": self._cluster()})
        found = _SNAPSHOTS.match(parts.path)
        if not found:
            return self._send(404, {"status": {"error": "no such call"}})
        name, file = unquote(found[1]), unquote(found[2] or "")
        if method == "POST" and file == "upload":
            return self._recover(name, body, parse_qs(parts.query))
        return self._kept(method, name, file)

    def _kept(self, method: str, name: str, file: str) -> None:
        if name not in self.standin.names():
            return self._send(404, {"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}})
        if method == "POST":
            return self._create(name)
        if file not in self.kept:
            return self._send(404, {"status": {"error": f"no snapshot {file}"}})
        if method == "DELETE":
            del self.kept[file]
            return self._send(200, {"result": True})
        return self._send(200, self.kept[file])

    def _body(self) -> bytes | None:
        """What the client sends; None where it went away meanwhile."""
        wanted, body = int(self.headers.get("content-length") or 0), b""
        with suppress(ConnectionError):
            body = self.rfile.read(wanted)
        if len(body) == wanted:
            return body
        self.close_connection = True
        return None

    def _cluster(self) -> dict[str, Any]:
        if self.own is None:
            return {"status": "disabled"}
        peers = {self.own: "http://own:6335", **self.others}
        uris = {str(number): {"uri": uri} for number, uri in peers.items()}
        return {"status": "enabled", "peer_id": self.own, "peers": uris}

    def _create(self, name: str) -> None:
        packed = io.BytesIO()
        with self.standin.paused(name) as folder, tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
            tar.add(folder, ".")
        file = f"{name}-{len(self.kept)}.snapshot"
        self.kept[file] = packed.getvalue()
        digest = hashlib.sha256(packed.getvalue()).hexdigest()
        self._send(200, {"result": {"name": file, "size": len(packed.getvalue()), "checksum": digest}})

    def _recover(self, name: str, body: bytes, query: dict[str, list[str]]) -> None:
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        (part,) = BytesParser().parsebytes(head + body).get_payload()
        packed = part.get_payload(decode=True)
        digest = hashlib.sha256(packed).hexdigest()
        if query.get("checksum", [digest]) != [digest] or query["priority"] != ["snapshot"]:
            return self._send(400, {"status": {"error": "Bad request: checksum mismatch"}})
        with self.standin.paused(name) as folder, tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            shutil.rmtree(folder, ignore_errors=True)  # a server puts it over what it has
            folder.mkdir()
            tar.extractall(folder, filter="data")
        return self._send(200, {"result": True})

    def _send(self, status: int, body: dict[str, Any] | bytes) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def node_of(own: int, others: dict[int, str], number: str | None = None) -> type[Rest]:
    """A handler that says it is this node of a cluster, of this version."""
    return type("Node", (Rest,), {"own": own, "others": others, "version": number or Rest.version})
