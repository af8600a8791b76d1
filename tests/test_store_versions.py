"""Versions of a collection behind its alias: over the client's own engine, and a real server where there is one."""

import os
import uuid

import pytest
from qdrant_client import QdrantClient

from cbmir.collections.versions import begin, promote, rollback, versions
from cbmir.errors import CollectionError
from cbmir.store import open_store
from cbmir.store.edge import EdgeStore
from cbmir.store.server import ServerStore

pytestmark = pytest.mark.slow


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.server)])
def server(request):
    if request.param == "memory":
        made = ServerStore.over(QdrantClient(":memory:"), "memory")
    else:
        url = os.environ.get("QDRANT_URL")
        if not url:
            pytest.skip("QDRANT_URL names no server")
        made = open_store(url, os.environ.get("QDRANT_API_KEY"))
    with made:
        yield made


@pytest.fixture
def name(server):
    made = f"test-{uuid.uuid4().hex[:12]}"
    yield made
    for left in server.names():
        if left.startswith(made):
            server.drop(left)


def counts(server, name):
    return {item.name.removeprefix(name): (item.points, item.current) for item in versions(server, name)}


def test_promote__switches_and_rollback_switches_back(server, name, card, make_batch):
    with server.create(name, card) as first:
        first.upsert(make_batch(3))
    new = begin(server, name, card)
    assert new == f"{name}__v2"
    assert counts(server, name) == {"__v2": (0, False), "__v1": (3, True)}
    assert begin(server, name, card) == new  # an empty one is taken up
    with server.open(new) as second:
        second.upsert(make_batch(5))
        second.finish()
    with server.open(name) as reader:
        assert reader.count() == 3
        assert promote(server, new) == name
        assert reader.count() == 5  # a reader needs no new start
        assert counts(server, name) == {"__v2": (5, True), "__v1": (3, False)}
        assert name in server.names()
        assert new not in server.names()
        assert rollback(server, name) == f"{name}__v1"
        assert reader.count() == 3
    with pytest.raises(CollectionError, match="is at its oldest version"):
        rollback(server, name)
    server.drop(new)
    assert counts(server, name) == {"__v1": (3, True)}


def test_promote__refuses_what_would_take_the_images_away(server, name, card, make_batch):
    with server.create(name, card) as first:
        first.upsert(make_batch(3))
    new = begin(server, name, card)
    with pytest.raises(CollectionError, match=f"{new} is empty; fill it before it is promoted"):
        promote(server, new)
    with pytest.raises(CollectionError, match=f"no version '{name}__v7' .* there are {new}, {name}__v1"):
        promote(server, f"{name}__v7")
    assert counts(server, name)["__v1"] == (3, True)


def test_versions__of_a_directory_or_of_nothing(server, edge, card):
    edge.create("eight", card).close()
    for work in (versions, rollback):
        with pytest.raises(CollectionError, match="is a directory: it has no versions"):
            work(edge, "eight")
        with pytest.raises(CollectionError, match="nothing has no versions on"):
            work(server, "nothing")


def test_versions__from_the_command_line(card, make_batch, cbmir, monkeypatch):
    made = ServerStore.over(QdrantClient(":memory:"), "memory")
    monkeypatch.setattr(made, "close", lambda: None)
    monkeypatch.setattr("cbmir.options.open_store", lambda *_: made)
    with made.create("eight", card) as first:
        first.upsert(make_batch(3))
    new = begin(made, "eight", card)
    with made.open(new) as second:
        second.upsert(make_batch(4))
    shown = cbmir("collections", "versions", "eight", "--store", "http://memory")
    assert [line.split()[:3] for line in shown.stdout.splitlines()] == [
        ["eight__v2", "4", "green"],
        ["*", "eight__v1", "3"],
    ]
    done = cbmir("collections", "promote", "eight__v2", "--store", "http://memory")
    assert done.stderr == "eight is eight__v2 now\n"
    done = cbmir("collections", "rollback", "eight", "--store", "http://memory")
    assert done.stderr == "eight is eight__v1 now\n"
    wrong = cbmir("collections", "promote", "nine__v1", "--store", "http://memory")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)


def test_create__makes_an_empty_collection_for_an_encoder(tmp_path, cbmir):
    store = tmp_path / "store"
    done = cbmir("collections", "create", "small", "--encoder", "pixels", "--store", store)
    assert (done.returncode, done.stdout) == (0, "small\n")
    with EdgeStore(store).open("small") as collection:
        assert collection.card.name == "pixels"
        assert collection.count() == 0
    again = cbmir("collections", "create", "small", "--encoder", "pixels", "--store", store)
    assert again.returncode == 1
    beside = cbmir("collections", "create", "small", "--encoder", "pixels", "--store", store, "--next")
    assert beside.returncode == 1
    assert "is a directory: it has no versions" in beside.stderr
