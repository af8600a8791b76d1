"""--defer-index: the graph of a server is off while much is written, and on again afterwards, whatever happens."""

import json

import h5py
import numpy as np
import pytest
from grpc import StatusCode
from standin import Standin
from standin_calls import Collections
from standin_wire import RefusedError

from cbmir.collections.transfer import is_unused_version
from cbmir.doctor import check_collection
from cbmir.store import open_store

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path):
    with Standin(tmp_path / "standin") as made:
        yield made


@pytest.fixture
def store(server):
    with open_store(server.url) as made:
        yield made


def edges(store, name):
    return store.client.get_collection(name).config.hnsw_config.m


def test_defer_index__off_while_writing_and_on_after_finish(store, card, make_batch):
    with store.create("eight", card) as collection:
        before = edges(store, "eight")
        assert before > 0
        collection.defer_index()
        collection.defer_index()  # a second run of the same command
        assert edges(store, "eight") == 0
        assert collection.info().deferred
        assert "put off" in collection.info().indexing(8)
        collection.upsert(make_batch(30))
        found = collection.query(make_batch(30).vectors[3], 1)
        assert found[0].id == make_batch(30).records[3].id
        collection.finish()
        assert edges(store, "eight") == before
        assert not collection.info().deferred


def test_defer_index__an_interrupted_load_is_finished_by_another(store, card, make_batch, server, cbmir):
    with store.create("eight", card) as collection:
        before = edges(store, "eight")
        collection.defer_index()
        collection.upsert(make_batch(10))
    with store.open("eight") as again:
        check = check_collection(store, again)
        assert (check.state, "cbmir collections optimize eight" in check.text) == ("warning", True)
    assert cbmir("collections", "optimize", "eight", "--store", server.url).returncode == 0
    assert edges(store, "eight") == before


def test_defer_index__a_directory_has_nothing_to_put_off(filled):
    filled.defer_index()
    assert not filled.info().deferred
    filled.finish()


def test_ingest_embeddings__defers_and_finishes(server, store, tmp_path, cbmir, monkeypatch):
    (tmp_path / "table.csv").write_text("filepath\na.png\nb.png\n")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["a.png"], file["b.png"] = np.eye(8, dtype=np.float32)[:2]
    seen = []
    from cbmir.store.points import ServerCollection

    write = ServerCollection._write
    monkeypatch.setattr(
        ServerCollection, "_write", lambda self, batch: (seen.append(edges(store, self.name)), write(self, batch))
    )
    command = ("ingest", "embeddings", tmp_path / "v.h5", "--table", tmp_path / "table.csv", "--encoder", "x")
    done = cbmir(*command, "--store", server.url, "--defer-index", "--json")
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["stored"], seen) == (2, [0])
    assert edges(store, "x") > 0


def test_push__a_version_without_an_alias_is_filled_without_a_graph(server, store, shelf, card, cbmir, monkeypatch):
    store.create("eight", card).close()
    version = store.create_version("eight", card)
    assert [is_unused_version(store, name) for name in ("eight", "eight__v1", version)] == [False, False, True]
    seen = []
    from cbmir.store.points import ServerCollection

    write = ServerCollection._write
    monkeypatch.setattr(
        ServerCollection, "_write", lambda self, batch: (seen.append(edges(store, self.name)), write(self, batch))
    )
    push = ("collections", "push", "eight", "--store", shelf, "--to", server.url)
    assert cbmir(*push, "--as", version).returncode == 0
    assert set(seen) == {0}
    assert edges(store, version) > 0
    seen.clear()
    assert cbmir(*push).returncode == 0
    assert 0 not in seen
    seen.clear()
    assert cbmir(*push, "--as", "third", "--defer-index").returncode == 0
    assert set(seen) == {0}


def test_push__a_key_that_may_not_change_collections(shelf, card, cbmir, monkeypatch, tmp_path):
    def update(*_: object) -> None:
        raise RefusedError(StatusCode.PERMISSION_DENIED, "Global manage access is required")

    monkeypatch.setattr(Collections, "Update", update)
    with Standin(tmp_path / "standin", "a-token") as server, open_store(server.url, "a-token") as store:
        version = store.create_version("eight", card)
        push = ("collections", "push", "eight", "--store", shelf, "--to", server.url, "--as", version)
        refused = cbmir(*push, "--defer-index", QDRANT_TO_API_KEY="a-token")
        assert refused.returncode == 1
        assert "the key in QDRANT_TO_API_KEY, but it may not make, change or drop collections" in refused.stderr
        assert cbmir(*push, QDRANT_TO_API_KEY="a-token").returncode == 0
        with store.open(version) as made:
            assert made.count() == 30
