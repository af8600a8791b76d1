"""Several nodes of a cluster as one store: who is asked, and what with."""

import os
import threading
import uuid
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
from answers import Answer, health, in_turn, refusing, served
from qdrant_client import QdrantClient
from qdrant_client import grpc as proto

from cbmir.doctor import check_key
from cbmir.errors import StoreError
from cbmir.fingerprint import external_card
from cbmir.ingest.writer import Writer
from cbmir.schema import EmbeddedBatch, ImageRecord
from cbmir.store import Layout, open_store
from cbmir.store.connection import STREAMS, parse_consistency
from cbmir.store.points import ServerCollection
from cbmir.store.server import ServerStore

pytestmark = pytest.mark.slow

DEAD = "http://127.0.0.1:1"
KEY = "a-secret-key"
CARD = external_card("four", 4)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that retries would have waited."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


def counted(number: int) -> Answer:
    return lambda *_: proto.CountResponse(result=proto.CountResult(count=number))


def count(store: ServerStore) -> int:
    return ServerCollection(store.connection, "a", CARD).count()


# nodes


def test_connect__the_first_node_that_answers():
    with served(Count=counted(7)) as (url, _), open_store(f"{DEAD}, {url}") as store:
        assert store.location == f"{url},{DEAD}"
        assert count(store) == 7


def test_connect__no_node_answers():
    with pytest.raises(StoreError, match=rf"^no Qdrant server answers at {DEAD}: "):
        open_store(f"{DEAD},http://127.0.0.1:2")


@pytest.mark.parametrize("answer", [refusing(grpc.StatusCode.UNAUTHENTICATED, "no"), health("1.2.3")])
def test_connect__what_is_wrong_at_one_node_is_not_passed_over(answer):
    with served(HealthCheck=answer) as (url, _), served() as (other, _), pytest.raises(StoreError) as caught:
        open_store(f"{url},{other}")
    assert url in str(caught.value)


def test_call__goes_on_with_another_node(waits):
    gone = in_turn(counted(1), refusing(grpc.StatusCode.UNAVAILABLE, "going down"))
    with served(Count=gone) as (one, _), served(Count=counted(2)) as (two, _), open_store(f"{one},{two}") as store:
        assert [count(store), count(store), count(store)] == [1, 2, 2]
    assert len(waits) == 1


def test_call__a_node_that_ends_its_work(waits):
    with ExitStack() as first, served(Count=counted(2)) as (two, _):
        one, _ = first.enter_context(served(Count=counted(1)))
        with open_store(f"{one},{two}") as store:
            assert count(store) == 1
            first.close()
            assert count(store) == 2


def test_call__a_busy_node_is_not_left(waits):
    busy = in_turn(refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down"), counted(1))
    with served(Count=busy) as (one, _), served(Count=counted(2)) as (two, _), open_store(f"{one},{two}") as store:
        assert count(store) == 1


# read consistency


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("majority", "type", proto.Majority),
        ("quorum", "type", proto.Quorum),
        ("all", "type", proto.All),
        ("2", "factor", 2),
    ],
)
def test_read_consistency__goes_with_every_read(text, field, value):
    seen = []

    def scrolled(request: bytes, _: grpc.ServicerContext) -> object:
        seen.append(proto.ScrollPoints.FromString(request).read_consistency)
        return proto.ScrollResponse()

    def got(request: bytes, _: grpc.ServicerContext) -> object:
        seen.append(proto.GetPoints.FromString(request).read_consistency)
        return proto.GetResponse()

    def asked(request: bytes, _: grpc.ServicerContext) -> object:
        seen.append(proto.QueryBatchPoints.FromString(request).read_consistency)
        return proto.QueryBatchResponse(result=[proto.BatchResult()])

    def faceted(request: bytes, _: grpc.ServicerContext) -> object:
        seen.append(proto.FacetCounts.FromString(request).read_consistency)
        return proto.FacetResponse()

    answers = {"Scroll": scrolled, "Get": got, "QueryBatch": asked, "Facet": faceted}
    with served(**answers) as (url, _), open_store(url, read_consistency=text) as store:
        collection = ServerCollection(store.connection, "a", CARD)
        list(collection.scroll())
        collection.get([ImageRecord(filepath="a", dataset="d").id])
        collection.query(np.eye(4, dtype=np.float32)[0], 1)
        collection.facet("split")
    assert [getattr(item, field) for item in seen] == [value] * 4


@pytest.mark.parametrize("text", ["most", "0", "-1", "1.5", ""])
def test_parse_consistency__refuses(text):
    with pytest.raises(StoreError, match="is none of majority, quorum, all, or a number"):
        parse_consistency(text)


def test_read_consistency__from_the_environment(cbmir):
    with served() as (url, _):
        done = cbmir("collections", "list", "--store", url, CBMIR_READ_CONSISTENCY="most")
    assert done.returncode == 1
    assert "read consistency 'most' is none of" in done.stderr


# streams


def test_writer__several_streams_at_a_server():
    all_here = threading.Barrier(STREAMS)

    def upsert(*_: object) -> object:
        all_here.wait(10)
        return proto.PointsOperationResponse(result=proto.UpdateResult(operation_id=1, status=proto.Completed))

    records = [ImageRecord(filepath=f"{number}", dataset="d") for number in range(2 * STREAMS)]
    with served(Upsert=upsert) as (url, _), open_store(url) as store:
        collection = ServerCollection(store.connection, "a", CARD)
        with Writer(collection) as writer:
            for record in records:
                writer.put(EmbeddedBatch((record,), np.eye(4, dtype=np.float32)[:1], CARD.fingerprint))
    assert writer.stored == len(records)


def test_writer__an_error_of_one_stream_comes_out():
    refused = refusing(grpc.StatusCode.INVALID_ARGUMENT, "no")
    batch = EmbeddedBatch((ImageRecord(filepath="a", dataset="d"),), np.eye(4, dtype=np.float32)[:1], CARD.fingerprint)
    with served(Upsert=refused) as (url, _), open_store(url) as store:
        writer = Writer(ServerCollection(store.connection, "a", CARD))
        with pytest.raises(StoreError, match="answered INVALID_ARGUMENT: no"), writer:
            writer.put(batch)
    assert writer.stored == 0


# keys

FORBIDDEN = refusing(grpc.StatusCode.PERMISSION_DENIED, "Global manage access is required")


def deleted(*_: object) -> object:
    return proto.PointsOperationResponse(result=proto.UpdateResult(operation_id=1, status=proto.Completed))


def listed(*_: object) -> object:
    return proto.ListCollectionsResponse(collections=[proto.CollectionDescription(name="a")])


def dropped(*_: object) -> object:
    return proto.CollectionOperationResponse(result=False)


@pytest.mark.parametrize(
    ("collections", "points", "words"),
    [
        (dropped, deleted, "may do everything"),
        (FORBIDDEN, deleted, "may write to a, not make or drop collections"),
        (FORBIDDEN, FORBIDDEN, "may read, not write"),
    ],
)
def test_check_key__what_it_may_do(collections, points, words):
    def delete(request: bytes, context: grpc.ServicerContext) -> object:
        of_points = proto.DeletePoints.FromString(request).HasField("points")
        return (points if of_points else collections)(request, context)

    answers = {"Delete": delete, "List": listed, "ListAliases": lambda *_: proto.ListAliasesResponse()}
    with served(**answers) as (url, _), open_store(url, KEY) as store:
        check = check_key(store, given=True)
    assert check.state == "ok"
    assert check.text.startswith(words)


def test_check_key__none_and_one_in_the_open():
    for location, given, state, words in (
        ("http://127.0.0.1:6333", False, "ok", "no key was given and none is asked for"),
        ("http://qdrant.hospital:6333", False, "warning", "no key was given and none is asked for"),
        ("http://qdrant.hospital:6333", True, "warning", "it travels unencrypted: use https"),
        ("https://qdrant.hospital:6333", True, "ok", "may do everything"),
    ):
        with ServerStore.over(QdrantClient(":memory:"), location) as store:
            check = check_key(store, given)
        assert check.state == state
        assert words in check.text


@pytest.mark.server
def test_rights__of_a_real_key():
    url = os.environ.get("QDRANT_URL")
    if not url:
        pytest.skip("QDRANT_URL names no server")
    with open_store(url, os.environ.get("QDRANT_API_KEY")) as store:
        assert store.rights() == "manage"
        before = store.names()
        assert [store.rights(name) for name in before] == ["write"] * len(before)
        assert store.names() == before


# replicas


def test_ailing__dead_replicas_and_those_on_their_way():
    local = [proto.LocalShardInfo(shard_id=0, points_count=1, state=proto.ReplicaState.Active)]
    remote = [
        proto.RemoteShardInfo(shard_id=0, peer_id=22, state=proto.ReplicaState.Dead),
        proto.RemoteShardInfo(shard_id=1, peer_id=33, state=proto.ReplicaState.Partial),
        proto.RemoteShardInfo(shard_id=1, peer_id=22, state=proto.ReplicaState.Active),
        proto.RemoteShardInfo(shard_id=2, peer_id=22, state=proto.ReplicaState.Recovery),
        proto.RemoteShardInfo(shard_id=2, peer_id=33, state=proto.ReplicaState.Listener),
    ]
    answer = proto.CollectionClusterInfoResponse(
        peer_id=11, shard_count=2, local_shards=local, remote_shards=remote, shard_transfers=[]
    )
    with served(CollectionClusterInfo=lambda *_: answer) as (url, _), open_store(url) as store:
        assert store.unhealthy("a") == ["shard 0 on node 22 is Dead"]
        assert store.recovering("a") == ["shard 1 on node 33 is Partial", "shard 2 on node 22 is Recovery"]


# a real cluster


@pytest.fixture
def cluster() -> str:
    urls = os.environ.get("QDRANT_CLUSTER_URLS")
    if not urls or "," not in urls:
        pytest.skip("QDRANT_CLUSTER_URLS names no cluster: URLs of its nodes, parted by commas")
    return urls


@pytest.mark.server
def test_cluster__written_at_one_node_and_read_at_all(cluster):
    key, nodes = os.environ.get("QDRANT_API_KEY"), cluster.split(",")
    name = f"test-{uuid.uuid4().hex[:12]}"
    vectors = np.eye(4, dtype=np.float32)
    records = tuple(ImageRecord(filepath=f"{number}", dataset="d", split="test") for number in range(4))
    layout = Layout(shards=len(nodes), replicas=2, write_consistency=2)
    with open_store(cluster, key) as store:
        try:
            with store.create(name, CARD, layout) as collection:
                collection.upsert(EmbeddedBatch(records, vectors, CARD.fingerprint))
                collection.finish()
            assert store.unhealthy(name) == []
            for node in nodes:
                with open_store(node, key, "all") as other, other.open(name) as copy:
                    assert copy.count() == 4
                    assert copy.facet("split") == {"test": 4}
                    assert [copy.query(vector, 1)[0].id for vector in vectors] == [record.id for record in records]
        finally:
            store.drop(name)


@pytest.mark.server
def test_cluster__a_node_that_is_down_is_passed_over(cluster):
    with open_store(f"{DEAD},{cluster}", os.environ.get("QDRANT_API_KEY")) as store:
        assert isinstance(store.names(), list)
