"""The stand-in of a server keeps to what a server does where the store's contract doesn't look."""

import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import grpc
import pytest
from qdrant_client import QdrantClient, models
from standin import Standin

from cbmir.errors import StoreError
from cbmir.fingerprint import external_card
from cbmir.store import open_store

pytestmark = pytest.mark.slow

KEY = "a-key"
CARD = external_card("eight", 8)
ID = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    with Standin(tmp_path / "server", KEY) as made:
        yield made


@pytest.fixture
def client(standin: Standin) -> Iterator[QdrantClient]:
    with open_store(standin.url, KEY) as store:
        store.create("a", CARD).close()
        yield store.client


def refused(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def modality(field: str) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=field, match=models.MatchAny(any=["CT"]))])


def batch(dim: int, id: str = ID) -> models.Batch:
    return models.Batch(ids=[id], vectors=[[1.0] * dim], payloads=[{"modality": "CT"}])


@pytest.mark.parametrize(("key", "says"), [(None, "asks for a key"), ("another", "refuses the key")])
def test_standin__asks_for_its_key(standin, key, says):
    with pytest.raises(StoreError, match=says):
        open_store(standin.url, key)


def test_standin__refuses_as_a_server_does(client):
    bad, missing, unknown = (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
    )
    nearest = models.QueryRequest(query=[1.0] * 7, limit=3)
    unindexed = models.QueryRequest(query=[1.0] * 8, limit=3, filter=modality("filepath"))
    nested = models.Filter(should=[models.Filter(must_not=[modality("extra")])])
    calls = {
        (bad, "expected dim: 8, got 7"): [
            lambda: client.upsert("a", batch(7)),
            lambda: client.query_batch_points("a", [nearest]),
        ],
        (bad, "Index required"): [
            lambda: client.count("a", modality("filepath")),
            lambda: client.scroll("a", nested),
            lambda: client.query_batch_points("a", [unindexed]),
            lambda: client.facet("a", "extra"),
        ],
        (bad, "failed to parse"): [lambda: client.upsert("a", batch(8, "no-id"))],
        (missing, "`b` doesn't exist"): [
            lambda: client.upsert("b", batch(8)),
            lambda: client.count("b"),
            lambda: client.get_collection("b"),
        ],
        (unknown, "doesn't know"): [
            lambda: client.query_points("a", [1.0] * 8),
            lambda: client.query_batch_points("a", [models.QueryRequest(query=ID, limit=1)]),
            lambda: client.upsert("a", batch(8), update_filter=modality("modality")),
        ],
    }
    for (code, text), wrong in calls.items():
        for call in wrong:
            answered, details = refused(call)
            assert answered == code
            assert text in details
    assert client.count("a").count == 0
    vectors = models.VectorParams(size=8, distance=models.Distance.COSINE)
    assert refused(lambda: client.create_collection("a__v1", vectors))[0] == grpc.StatusCode.ALREADY_EXISTS


def test_standin__aliases_change_all_or_not_at_all(standin, client):
    def alias(name: str, target: str) -> models.CreateAliasOperation:
        return models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=target, alias_name=name))

    gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="a"))
    for wrong in (alias("c", "nothing"), alias("a__v1", "a__v1")):
        refused(lambda wrong=wrong: client.update_collection_aliases([gone, alias("b", "a__v1"), wrong]))
        assert standin.aliases == {"a": "a__v1"}
    assert client.update_collection_aliases([gone, alias("b", "a__v1")])
    assert standin.aliases == {"b": "a__v1"}
    assert client.delete_collection("b") is False  # an alias is no name for that
    assert client.delete_collection("a__v1")
    assert (standin.aliases, standin.names()) == ({}, [])


def test_standin__a_later_one_over_the_same_folder_goes_on(standin, tmp_path, make_batch, card):
    with Standin(tmp_path / "other") as first, open_store(first.url) as store, store.create("eight", card) as made:
        made.upsert(make_batch(30))
        port = urlsplit(first.url).port
    with (
        Standin(tmp_path / "other", port=port) as second,
        open_store(second.url) as store,
        store.open("eight") as again,
    ):
        assert second.url == first.url
        assert again.count() == 30
        assert again.card == card


def test_paused__packs_and_unpacks_a_collection(standin, tmp_path, make_batch, card):
    with open_store(standin.url, KEY) as store, store.create("eight", card) as collection:
        collection.upsert(make_batch(30))
        with standin.paused("eight") as folder, tarfile.open(tmp_path / "kept.tar", "w") as tar:
            assert folder == standin.folder("eight__v1") == standin.root / "eight__v1"
            tar.add(folder, ".")
        collection.delete([record.id for record in make_batch(30).records])
        assert collection.count() == 0
        with standin.paused("eight") as folder, tarfile.open(tmp_path / "kept.tar") as tar:
            shutil.rmtree(folder)
            tar.extractall(folder, filter="data")
        assert collection.count() == 30
        with standin.paused("new__v1") as folder, tarfile.open(tmp_path / "kept.tar") as tar:
            tar.extractall(folder, filter="data")
        with store.open("new__v1") as made:
            assert made.count() == 30


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(" ".join(self.server.standin.names()).encode())

    def log_message(self, *_: object) -> None:
        pass


def test_standin__answers_rest_on_the_port_below_or_keeps_it(tmp_path):
    with Standin(tmp_path / "a", rest_handler=_Handler) as standin, open_store(standin.url) as store:
        store.create("eight", CARD).close()
        with urlopen(f"{standin.url}/collections", timeout=5) as answer:
            assert answer.read() == b"eight__v1"
    with Standin(tmp_path / "b") as standin, socket.socket() as other:
        place = ("127.0.0.1", urlsplit(standin.url).port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        with pytest.raises(OSError, match="in use"):
            other.bind(place)


def test_standin__in_a_process_of_its_own(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("standin.py")), "--root", str(tmp_path), "--key", KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        with open_store(process.stdout.readline().strip(), KEY) as store:
            assert store.names() == []
        process.stdin.close()
        assert process.wait(20) == 0
