"""What goes wrong with calls over REST, which snapshots and questions to a cluster take, against a real HTTP peer."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from faults import Fault, Faults
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from cbmir.errors import StoreError
from cbmir.store import retry as policy

pytestmark = pytest.mark.slow

SCALE = 0.1
"""Of the waits between tries, but those that the server asks for."""

PLANS = {
    "busy": Fault("busy", "/count", seconds=1),
    "unavailable": Fault("unavailable", "/count", times=3),
    "reset at once": Fault("reset", "/count", times=2),
    "reset in the middle": Fault("reset", "/count", times=2, nbytes=60),
    "cut after it was done": Fault("cut", "/count", times=2),
    "mute": Fault("mute", "/count"),
    "refused": Fault("refuse", "/count", seconds=0.3),
    "late": Fault("delay", "/count", seconds=0.3),
    "reset at the door": Fault("reset", "connect", times=2),
}


class _Peer(BaseHTTPRequestHandler):
    """Answers as a server does, and counts what it is asked."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append(self.path)
        body = json.dumps({"result": {"count": 7}, "status": "ok", "time": 0.0}).encode()
        with suppress(OSError):  # whoever asked may be gone
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def peer() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Peer) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_s = policy.retry_after_s

    def shorter(error: Exception, attempt: int) -> float | None:
        asked = wait_s(error, attempt)
        return asked if asked is None or isinstance(error, ResourceExhaustedResponse) else asked * SCALE

    monkeypatch.setattr(policy, "retry_after_s", shorter)


def counted(url: str, timeout_s: int = 1) -> int:
    client = QdrantClient(url=url, timeout=timeout_s, check_compatibility=False)
    try:
        return policy.retried(f"{url} (a)", lambda: client.count("a")).count
    finally:
        client.close()


@pytest.mark.parametrize("name", PLANS)
def test_retried__over_rest(peer, caplog, name):
    fault = PLANS[name]
    with Faults(f"http://127.0.0.1:{peer.server_port}", [fault], http=True) as faults:
        started = time.monotonic()
        # on a busy machine a call that is only late may take longer than a second
        assert counted(faults.url, 120 if fault.kind == "delay" else 1) == 7
        took_s = time.monotonic() - started
    assert faults.hits == [fault] * fault.times
    assert len(peer.asked) == (1 + fault.times if fault.kind == "cut" else 1)
    assert took_s >= (1.0 if fault.kind == "busy" else 0.0)  # as it asked for
    said = [record.message for record in caplog.records if record.name == policy.__name__]
    assert len(said) >= fault.times if fault.kind != "delay" else not said
    assert all(f"{faults.url} (a)" in text for text in said)


@pytest.mark.parametrize("kind", ["unavailable", "reset", "cut", "refuse"])
def test_retried__over_rest_what_never_ends_is_one_error(peer, kind):
    plan = [Fault(kind, "/count", times=None, seconds=3600)]
    with Faults(f"http://127.0.0.1:{peer.server_port}", plan, http=True) as faults:
        with pytest.raises(StoreError) as caught:
            counted(faults.url)
        assert f"{faults.url} (a)" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(faults.hits) == (1 if kind == "refuse" else policy.RETRIES)
        faults.heal()
        assert counted(faults.url) == 7
