"""How new collections lie in memory and on disk, and that each answers alike."""

import os
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from cbmir.errors import CollectionError
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store import Layout, Store, open_store
from cbmir.store.edge import EdgeStore
from cbmir.store.info import CollectionInfo
from cbmir.store.layout import LARGE_BYTES, PROFILES, announcement, plan
from cbmir.store.server import ServerStore

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

DIM, IMAGES = 768, 4000  # 12 MB: from 10 MB on the engines build a graph, and 8-bit copies
CARD = external_card("long", DIM)


def _batch() -> EmbeddedBatch:
    rng = np.random.default_rng(0)
    records = tuple(ImageRecord(filepath=f"{number}.png", dataset="d") for number in range(IMAGES))
    vectors = rng.standard_normal((20, DIM))[rng.integers(0, 20, IMAGES)] + rng.standard_normal((IMAGES, DIM))
    return EmbeddedBatch(records, normalise(vectors.astype(np.float32)), CARD.fingerprint)


@pytest.fixture(params=["edge", "memory", pytest.param("server", marks=pytest.mark.server)])
def store(request, tmp_path) -> Iterator[Store]:
    if request.param == "edge":
        made: Store = EdgeStore(tmp_path)
    elif request.param == "memory":
        made = ServerStore.over(QdrantClient(":memory:"), "memory")
    else:
        url = os.environ.get("QDRANT_URL")
        if not url:
            pytest.skip("QDRANT_URL names no server")
        made = open_store(url, os.environ.get("QDRANT_API_KEY"))
    with made:
        yield made


@pytest.fixture
def name(store) -> Iterator[str]:
    made = f"test-{uuid.uuid4().hex[:12]}"
    yield made
    if made in store.names():
        store.drop(made)


# the plan


@pytest.mark.parametrize(
    ("profile", "memory", "disk"),
    [
        # a million x 512: vectors 2.048e9, 8-bit copies .512e9, graph 1e6 x 16 x 2 x 4 = .128e9
        ("small", (2.048e9 + 0.128e9) * 1.5, 2.048e9 + 0.128e9),
        ("ram", (0.512e9 + 0.128e9) * 1.5, 2.048e9 + 0.512e9 + 0.128e9),
        ("disk", 0, 2.048e9 + 0.512e9 + 0.128e9),
    ],
)
def test_plan__a_million_images(profile, memory, disk):
    planned = plan(Layout(profile, 1_000_000), 512)
    none = plan(Layout(profile, 1_000_000), 0)  # what the payload takes
    graph = 0.128e9 * 1.5
    assert planned.memory_bytes - none.memory_bytes == pytest.approx(memory - (0 if profile == "disk" else graph))
    assert planned.disk_bytes > disk
    assert (planned.m, planned.ef_construct) == (16, 100)


def test_plan__less_in_memory_with_each_profile():
    small, ram, disk = (plan(Layout(profile, 1_600_000), 768) for profile in PROFILES)
    assert small.memory_bytes > 2.5 * ram.memory_bytes > disk.memory_bytes == 0
    assert (small.quantized, ram.quantized, disk.quantized) == (False, True, True)
    assert [item.vectors_in_memory for item in (small, ram, disk)] == [True, False, False]
    assert [item.graph_in_memory for item in (small, ram, disk)] == [True, True, False]


def test_plan__more_edges_for_large_collections():
    images = LARGE_BYTES // (512 * 4)
    assert plan(Layout(images=images), 512).m == 24
    assert plan(Layout(images=images - 1), 512).m == 16
    assert plan(Layout(), 512).m == 16


def test_announcement__with_and_without_a_number():
    assert announcement(Layout("ram", 1_600_000), 512).startswith(
        "profile ram: 1,600,000 images of 512 dimensions take"
    )
    assert "give --images" in announcement(Layout("disk"), 512)
    one = announcement(Layout("small", 1), 512)
    assert one == "profile small: 1 image of 512 dimensions takes about 3.7 KiB of memory and 5.4 KiB of disk"


@given(st.integers(1, 10**7), st.integers(1, 4096), st.sampled_from(PROFILES))
def test_plan__grows_with_the_images(images, dim, profile):
    one, more = (plan(Layout(profile, count), dim) for count in (images, images + 1))
    assert one.disk_bytes < more.disk_bytes
    assert one.memory_bytes <= more.memory_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 0}, "shards is 0"),
        ({"replicas": -1}, "replicas is -1"),
        ({"write_consistency": 2}, "2 replicas can't have each write, the collection has 1"),
        ({"replicas": 2, "write_consistency": 3}, "3 replicas can't have each write, the collection has 2"),
    ],
)
def test_layout__refuses(options, message):
    with pytest.raises(CollectionError, match=message):
        Layout(**options)


# collections


@pytest.mark.parametrize("profile", PROFILES)
def test_create__every_profile_finds_the_true_neighbours_with_their_true_cosines(store, name, profile):
    batch = _batch()
    with store.create(name, CARD, Layout(profile, IMAGES)) as collection:
        collection.upsert(batch)
        collection.finish()
        info = collection.info()
        if isinstance(store, EdgeStore):
            assert info.indexed == IMAGES
        else:  # a server indexes no segment below its threshold, and is green
            assert info.status == "green"
            assert 0 <= info.indexed <= IMAGES
        queries = batch.vectors[:40]
        found = collection.query_batch(queries, 10)
        exact = collection.query_batch(queries, 10, way="exact")
    cosines = queries @ batch.vectors.T
    ids = [record.id for record in batch.records]
    right = 0
    for row, (ours, true) in enumerate(zip(found, exact, strict=True)):
        assert [hit.id for hit in true] == [ids[place] for place in np.argsort(-cosines[row])[:10]]
        right += len({hit.id for hit in ours} & {hit.id for hit in true})
        for hit in ours:
            assert hit.score == pytest.approx(cosines[row, ids.index(hit.id)], abs=1e-5)
    assert right / 400 >= 0.99


def test_create__a_directory_has_no_shards(tmp_path):
    with EdgeStore(tmp_path) as store:
        for options in ({"shards": 2}, {"replicas": 1}, {"replicas": 2, "write_consistency": 2}):
            with pytest.raises(CollectionError, match="it has no shards and replicas"):
                store.create("a", CARD, Layout(**options))
        assert store.names() == []


def test_create__what_a_server_is_asked_for(monkeypatch):
    client = QdrantClient(":memory:")
    asked = {}
    make = client.create_collection
    monkeypatch.setattr(
        client, "create_collection", lambda name, **options: (asked.update(options), make(name, **options))
    )
    ServerStore.over(client, "memory").create("a", CARD, Layout("disk", 10, shards=6, replicas=2, write_consistency=2))
    assert (asked["shard_number"], asked["replication_factor"], asked["write_consistency_factor"]) == (6, 2, 2)
    assert asked["vectors_config"].on_disk
    assert asked["hnsw_config"].on_disk
    assert asked["quantization_config"].scalar.type == models.ScalarType.INT8
    assert asked["quantization_config"].scalar.always_ram is False


# the command line


def test_create_command__says_what_it_will_take(tmp_path, cbmir):
    done = cbmir(
        *("collections", "create", "a", "--store", tmp_path / "s", "--encoder", "pixels"),
        *("--profile", "ram", "--images", 1_000_000),
    )
    assert done.returncode == 0
    assert done.stdout == "a\n"
    assert done.stderr.startswith("profile ram: 1,000,000 images of 1024 dimensions take about ")
    refused = cbmir("collections", "create", "b", "--store", tmp_path / "s", "--encoder", "pixels", "--shards", 3)
    assert refused.returncode == 1
    assert "it has no shards and replicas" in refused.stderr


def test_push__says_it_for_a_new_collection_only(tmp_path, shelf, cbmir):
    command = ("collections", "push", "eight", "--store", shelf, "--to", tmp_path / "copy", "--profile", "disk")
    assert cbmir(*command).stderr.startswith(
        "profile disk: 30 images of 8 dimensions take about next to no memory and "
    )
    assert cbmir(*command).stderr == ""


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (CollectionInfo(4000, 0, "green", "qdrant-client 1"), "searched exactly: too small to index"),
        (CollectionInfo(4000, 0, "yellow", "qdrant-client 1"), "searched exactly: not indexed yet"),
        (CollectionInfo(30_000, 20_480, "green", "qdrant-client 1"), "20,480 in the HNSW graph, the others searched"),
        (CollectionInfo(30_000, 30_000, "green", "qdrant-client 1"), "30,000 in the HNSW graph"),
        (CollectionInfo(30_000, 0, "green", "qdrant-edge 1"), "searched exactly: not indexed yet"),
        (CollectionInfo(30, 0, "green", "qdrant-edge 1"), "searched exactly: too small to index"),
        (CollectionInfo(0, 0, "green", "qdrant-edge 1"), "searched exactly: too small to index"),
    ],
)
def test_indexing__in_words(info, words):
    assert info.indexing(512).startswith(words)
