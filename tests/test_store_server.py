"""What only a URL has: connections, keys, versions and retries.

Where no Qdrant server is at hand, a gRPC server in this process gives the answers of one, on a real connection.
"""

import os
import re
from importlib.metadata import version

import grpc
import httpx
import pytest
from answers import Answer, health, in_turn, refusing, served
from qdrant_client import QdrantClient
from qdrant_client import grpc as proto
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from cbmir.errors import CollectionError, StoreError, StoreFullError, StoreKeyError, StoreUnreachableError
from cbmir.fingerprint import external_card
from cbmir.store import open_store
from cbmir.store.connection import _check_version
from cbmir.store.points import ServerCollection, index_timeout_s
from cbmir.store.retry import RETRIES, retry_after_s, translate
from cbmir.store.server import ServerStore

pytestmark = pytest.mark.slow

KEY = "a-secret-key"
CARD = external_card("four", 4)


def _seven(*_: object) -> object:
    return proto.CountResponse(result=proto.CountResult(count=7))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that retries would have waited."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


# connect


def test_open_store__nobody_listens():
    with pytest.raises(StoreError, match=r"^no Qdrant server answers at http://127\.0\.0\.1:1: ") as caught:
        open_store("http://127.0.0.1:1", KEY)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_open_store__cli_says_it_in_one_line(cbmir):
    done = cbmir("collections", "list", "--store", "http://127.0.0.1:1", QDRANT_API_KEY=KEY)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Qdrant server answers at http://127.0.0.1:1")
    assert done.stderr.count("\n") == 1
    assert KEY not in done.stderr


def test_open_store__another_server_listens():
    with served(HealthCheck=refusing(grpc.StatusCode.UNIMPLEMENTED, "")) as (url, _), pytest.raises(StoreError):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["http://", "http://:6333", "http://host:port", "http://host:99999", "http://[::1", "ftp://host", "s3://b/c"]
)
def test_open_store__not_a_url(url):
    with pytest.raises(StoreError, match=r"is no URL|names no host|neither a directory nor"):
        open_store(url)


def test_open_store__password_in_the_url_is_not_repeated():
    with pytest.raises(StoreError) as caught:
        open_store("http://user:password@127.0.0.1:1")
    assert "password" not in str(caught.value)


def test_open_store__sends_the_key_and_hides_it():
    with served() as (url, handler), open_store(url, KEY) as store:
        assert set(handler.keys) == {KEY}
        assert store.location == url


def test_open_store__a_refused_key():
    refused = refusing(grpc.StatusCode.UNAUTHENTICATED, "Must provide an API key")
    with served(HealthCheck=refused) as (url, _), pytest.raises(StoreKeyError, match="refuses the key") as caught:
        open_store(url, KEY)
    assert "QDRANT_API_KEY" in str(caught.value)
    assert KEY not in str(caught.value)


def test_open_store__a_distant_version():
    with served(HealthCheck=health("1.12.4")) as (url, _), pytest.raises(StoreError, match=r"runs Qdrant 1\.12\.4"):
        open_store(url)


@pytest.mark.server
def test_open_store__a_wrong_key_on_a_real_server():
    url, key = os.environ.get("QDRANT_URL"), os.environ.get("QDRANT_API_KEY")
    if not url or not key:
        pytest.skip("QDRANT_URL and QDRANT_API_KEY name no server with a key")
    with pytest.raises(StoreKeyError, match="refuses the key"):
        open_store(url, key + "x")


# retries


def test_retry__what_passes_by_itself(waits):
    count = in_turn(refusing(grpc.StatusCode.UNAVAILABLE, ""), refusing(grpc.StatusCode.ABORTED, ""), _seven)
    with served(Count=count) as (url, _), open_store(url) as store:
        assert ServerCollection(store.connection, "a", CARD).count() == 7
    assert len(waits) == 2
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0


def test_retry__gives_up(waits):
    with served(Count=refusing(grpc.StatusCode.UNAVAILABLE, "gone")) as (url, _), open_store(url) as store:
        collection = ServerCollection(store.connection, "a", CARD)
        with pytest.raises(StoreUnreachableError, match=rf"no Qdrant server answers at {url} \(a\): gone"):
            collection.count()
    assert len(waits) == RETRIES - 1
    assert sum(waits) < 60


def test_retry__waits_as_long_as_the_server_asks(waits):
    def busy(_: bytes, context: grpc.ServicerContext) -> object:
        context.set_trailing_metadata((("retry-after", "7"),))
        return context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down")

    with served(Count=in_turn(busy, _seven)) as (url, _), open_store(url) as store:
        assert ServerCollection(store.connection, "a", CARD).count() == 7
    assert waits == [7.0]


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (grpc.StatusCode.INTERNAL, "Service internal error: No space left on device: WAL buffer size", StoreFullError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Out of disk space", StoreFullError),
        (grpc.StatusCode.ABORTED, "shard is being moved", StoreUnreachableError),
        (grpc.StatusCode.PERMISSION_DENIED, "Global access is required", StoreKeyError),
        (grpc.StatusCode.INTERNAL, "Service internal error: task panicked", StoreError),
        (grpc.StatusCode.INVALID_ARGUMENT, "Wrong input", StoreError),
    ],
)
def test_retry__the_kind_of_error(waits, code, said, kind):
    with served(Count=refusing(code, said)) as (url, _), open_store(url) as store, pytest.raises(StoreError) as caught:
        ServerCollection(store.connection, "a", CARD).count()
    assert type(caught.value) is kind


def test_retry__not_longer_than_its_deadline(waits):
    def busy(_: bytes, context: grpc.ServicerContext) -> object:
        context.set_trailing_metadata((("retry-after", "3600"),))
        return context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down")

    with served(Count=busy) as (url, _), open_store(url) as store:
        collection = ServerCollection(store.connection, "a", CARD)
        with pytest.raises(StoreUnreachableError, match=r"it asks to wait 3600 s: try again later$"):
            collection.count()
    assert waits == []


def test_retry__each_wait_is_logged_without_the_key(waits, caplog):
    count = in_turn(refusing(grpc.StatusCode.UNAVAILABLE, "gone"), _seven)
    with served(Count=count) as (url, _), open_store(url, KEY) as store:
        assert ServerCollection(store.connection, "a", CARD).count() == 7
    (record,) = caplog.records
    assert re.fullmatch(rf"no Qdrant server answers at {url} \(a\): gone; trying again in 1 s", record.message)
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("points", "nbytes", "sizes"),
    [(256, 10**9, [30]), (7, 10**9, [7, 7, 7, 7, 2]), (256, 1500, [5] * 6), (256, 1, [1] * 30)],
)
def test_upsert__in_bounded_requests(make_batch, card, monkeypatch, points, nbytes, sizes):
    monkeypatch.setattr("cbmir.store.points.REQUEST_POINTS", points)
    monkeypatch.setattr("cbmir.store.points.REQUEST_BYTES", nbytes)
    batch = make_batch(30)
    with ServerStore.over(QdrantClient(":memory:"), "memory") as store, store.create("a", card) as collection:
        written: list[int] = []
        upsert = collection._upsert
        monkeypatch.setattr(collection, "_upsert", lambda part: (written.append(len(part.ids)), upsert(part)))
        collection.upsert(batch)
        assert {point.id for page in collection.scroll() for point in page} == {record.id for record in batch.records}
    assert written == sizes


def test_retry__not_what_stays_wrong(waits):
    refused = refusing(grpc.StatusCode.INVALID_ARGUMENT, "Vector dimension error:\n expected 4")
    with served(Count=refused) as (url, _), open_store(url) as store:
        collection = ServerCollection(store.connection, "a", CARD)
        with pytest.raises(StoreError, match=r"answered INVALID_ARGUMENT: Vector dimension error: expected 4$"):
            collection.count()
    assert waits == []


def _http(status: int, **headers: str) -> UnexpectedResponse:
    return UnexpectedResponse(status, "reason", b'{"status": "no"}', httpx.Headers(headers))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_retry_after_s__http_that_passes(status):
    assert 2.0 <= retry_after_s(_http(status), 2) <= 4.0


@pytest.mark.parametrize("error", [_http(400), _http(401), _http(404), _http(422), ValueError("x")])
def test_retry_after_s__what_stays(error):
    assert retry_after_s(error, 0) is None


def test_retry_after_s__as_asked():
    assert retry_after_s(_http(429, **{"retry-after": "3"}), 0) == 3.0
    assert retry_after_s(ResourceExhaustedResponse("busy", 4), 0) == 4.0
    assert retry_after_s(_http(429, **{"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), 0) <= 1.0


def test_retry_after_s__grows_to_half_a_minute():
    error = ResponseHandlingException(httpx.ConnectError("refused"))
    assert all(0.5 * 2**n <= retry_after_s(error, n) <= 2**n for n in range(5))
    assert retry_after_s(error, 50) <= 30.0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_http(401), "P asks for a key (HTTP 401): set QDRANT_API_KEY"),
        (_http(403), "P asks for a key (HTTP 403): set QDRANT_API_KEY"),
        (_http(500), 'P answered HTTP 500: {"status": "no"}'),
        (ResponseHandlingException(httpx.ConnectError("[Errno 111]")), "no Qdrant server answers at P: [Errno 111]"),
        (httpx.ReadTimeout("timed\n out"), "no Qdrant server answers at P: timed out"),
        (KeyError("x"), "P: KeyError: 'x'"),
    ],
)
def test_translate__one_line(error, message):
    assert str(translate(error, "P")) == message


# versions


def _shifted(major: int, minor: int) -> str:
    ours = [int(part) for part in version("qdrant-client").split(".")[:2]]
    return f"{ours[0] + major}.{ours[1] + minor}.0"


@pytest.mark.parametrize("minor", [-1, 0, 1])
def test_check_version__one_minor_is_near(minor):
    _check_version(_shifted(0, minor), "P")
    _check_version(_shifted(0, minor) + "-dev", "P")


@pytest.mark.parametrize(("major", "minor"), [(0, -2), (0, 2), (1, 0), (-1, 0)])
def test_check_version__more_is_far(major, minor):
    with pytest.raises(StoreError, match="a distance of one minor version"):
        _check_version(_shifted(major, minor), "P")


# aliases, with the client's own engine


def test_create__an_alias_over_a_version():
    client = QdrantClient(":memory:")
    store = ServerStore.over(client, "memory")
    store.create("a", CARD)
    assert [item.name for item in client.get_collections().collections] == ["a__v1"]
    assert store.names() == ["a"]
    store.drop("a")
    assert client.get_collections().collections == []
    assert client.get_aliases().aliases == []


def test_create__never_over_a_version_that_is_there():
    client = QdrantClient(":memory:")
    store = ServerStore.over(client, "memory")
    store.create("a", CARD)
    client.delete_collection("a__v1")
    store.create("b", CARD)
    store.create("a__v1", CARD)
    assert "a__v1" in store.names()


def test_open__a_collection_of_others_is_refused():
    client = QdrantClient(":memory:")
    client.create_collection("theirs", vectors_config={})
    with pytest.raises(CollectionError, match="was not made by cbmir"):
        ServerStore.over(client, "memory").open("theirs")


# finish


def _state(status: int) -> Answer:
    config = proto.CollectionConfig(
        hnsw_config=proto.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10_000),
        wal_config=proto.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
        optimizer_config=proto.OptimizersConfigDiff(
            deleted_threshold=0.2, vacuum_min_vector_number=1000, default_segment_number=0, flush_interval_sec=5
        ),
    )
    optimizer = proto.OptimizerStatus(ok=False, error="disk full")
    info = proto.CollectionInfo(status=status, optimizer_status=optimizer, config=config)
    return lambda _, __: proto.GetCollectionInfoResponse(result=info)


def test_finish__waits_until_green(waits):
    states = in_turn(_state(proto.Yellow), _state(proto.Yellow), _state(proto.Green))
    said: list[str] = []
    with served(Get=states) as (url, _), open_store(url) as store:
        ServerCollection(store.connection, "a", CARD).finish(said.append)
    assert len(waits) == len(said) == 2


def test_finish__wakes_what_waits_since_a_restart(waits):
    woken: list[bytes] = []

    def update(request: bytes, _: grpc.ServicerContext) -> object:
        woken.append(request)
        return proto.CollectionOperationResponse(result=True)

    states = in_turn(_state(proto.Grey), _state(proto.Yellow), _state(proto.Green))
    with served(Get=states, Update=update) as (url, _), open_store(url) as store:
        ServerCollection(store.connection, "a", CARD).finish()
    assert len(woken) == 1


def test_finish__a_failed_optimisation_is_an_error(waits):
    with served(Get=_state(proto.Red)) as (url, _), open_store(url) as store:
        collection = ServerCollection(store.connection, "a", CARD)
        with pytest.raises(StoreError, match=r"has failed to index: .*disk full"):
            collection.finish()


def test_finish__waits_no_longer_than_it_may(waits, monkeypatch):
    monkeypatch.setenv("CBMIR_INDEX_TIMEOUT", "7")
    seconds = iter(range(0, 100, 3))
    monkeypatch.setattr("cbmir.store.points.time.monotonic", lambda: float(next(seconds)))
    with served(Get=_state(proto.Yellow)) as (url, _), open_store(url) as store:
        collection = ServerCollection(store.connection, "a", CARD)
        with pytest.raises(StoreError, match=r"still indexing after 7 s.*cbmir collections optimize a --timeout 70"):
            collection.finish()


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "²", "soon", "9" * 30])
def test_index_timeout_s__refuses_what_is_no_number(monkeypatch, text):
    monkeypatch.setenv("CBMIR_INDEX_TIMEOUT", text)
    with pytest.raises(StoreError, match="give seconds, such as 86400"):
        index_timeout_s()


def test_index_timeout_s__a_day_unless_given(monkeypatch):
    monkeypatch.delenv("CBMIR_INDEX_TIMEOUT", raising=False)
    assert index_timeout_s() == 86_400


@pytest.mark.parametrize(
    "command",
    ["collections optimize", "collections push", "collections pull", "collections import", "collections restore",
     "ingest images", "ingest embeddings", "ingest reindex"],
)  # fmt: skip
def test_timeout__is_an_option_of_all_commands_that_wait_for_an_index(cbmir, command):
    assert "--timeout SECONDS" in cbmir(*command.split(), "--help").stdout
