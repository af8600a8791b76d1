"""What ``--store`` may say: a directory, a server, never one for the other; and over what a server is reached."""

from pathlib import Path

import numpy as np
import pytest
from answers import served
from PIL import Image
from standin import Standin
from standin_rest_calls import RestCalls, below

from cbmir.errors import StoreError
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord
from cbmir.store import Store, open_store
from cbmir.store.connection import Way

CARD = external_card("four", 4)
KEY = "a-secret-key"


def _used(store: Store) -> list[str]:
    """Files of the images found, after one was written."""
    record = ImageRecord(filepath="a", dataset="d")
    with store.create("c", CARD) as collection:
        collection.upsert(EmbeddedBatch((record,), np.eye(4, dtype=np.float32)[:1], CARD.fingerprint))
        assert collection.count() == 1
        return [hit.payload["filepath"] for hit in collection.query(np.eye(4, dtype=np.float32)[0], 1)]


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:6333",
        "localhost:6333",
        "localhost",
        "127.0.0.1",
        "[::1]:6333",
        "server:6333/qdrant",
        "node_1:6333,node_2:6333",
        "qdrant.example.org",
        "qdrant.example.org/qdrant",
    ],
)
def test_open_store__a_server_without_http_is_no_directory(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError) as caught:
        open_store(text)
    assert f"http://{text.replace(',', ',http://')} " in str(caught.value)
    assert f"./{text} " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["http:/u:secret@h", "u:secret@host:6333", "u:secret@qdrant.example.org/x", "HTTPS:u:se/cret@h", "http:h", "u@h:1"],
)
def test_open_store__a_slip_is_no_directory_and_its_password_is_not_repeated(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="may be a server or a directory: write http://") as caught:
        open_store(text)
    assert not [word for word in ("secret", "cret", "u:", "u@") if word in str(caught.value)]


@pytest.mark.parametrize(
    "text",
    ["store", "a@b", "./u:p@host:1", "my_store/v1.2", "./qdrant.example.org", "../x/a.b", "store-2", "./a:6333", "1.5"],
)
def test_open_store__a_directory(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store(text) as store:
        assert store.location == str(Path(text))


def test_open_store__a_directory_that_exists_and_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans.v2").mkdir()
    for place in ("scans.v2", Path("new.v3")):
        with open_store(place) as store:
            assert store.location == str(place)


# transport


@pytest.mark.parametrize(("transport", "port"), [("grpc", None), ("rest", None), ("auto", None), ("grpc", "own")])
def test_open_store__over(transport, port, tmp_path):
    with Standin(tmp_path, KEY, rest_handler=RestCalls) as standin:
        given = standin.grpc_port if port else None
        with open_store(standin.url, KEY, transport=transport, grpc_port=given) as store:
            assert store.client._client._prefer_grpc == (transport != "rest")
            assert _used(store) == ["a"]


def test_open_store__a_path_of_a_proxy(tmp_path):
    """All below it, over REST; gRPC only where its port is named."""
    with Standin(tmp_path, KEY, rest_handler=below("/qdrant")) as standin:
        for url in (f"{standin.url}/qdrant", f"{standin.url}/qdrant/"):
            with open_store(url, KEY) as store:
                assert store.location == f"{standin.url}/qdrant"
                assert not store.client._client._prefer_grpc
        with open_store(f"{standin.url}/qdrant", KEY) as store:
            assert _used(store) == ["a"]
        with open_store(f"{standin.url}/qdrant", KEY, grpc_port=standin.grpc_port) as store:
            assert store.client._client._prefer_grpc
            assert store.names() == ["c"]
        with pytest.raises(StoreError, match="answered HTTP 404"):
            open_store(standin.url, KEY, transport="rest")


def test_open_store__grpc_is_silent_and_rest_answers(tmp_path, caplog):
    with Standin(tmp_path, rest_handler=RestCalls) as standin:
        with open_store(standin.url, grpc_port=1) as store:
            assert _used(store) == ["a"]
        assert caplog.messages == [
            f"no gRPC at port 1 of {standin.url}: it goes on over REST, which is slower; --grpc-port names another port"
        ]
        with pytest.raises(StoreError, match="no Qdrant server answers"):
            open_store(standin.url, transport="grpc", grpc_port=1)


@pytest.mark.parametrize(
    ("url", "over_grpc", "place"),
    [
        ("http://h", True, "http://h:6333"),
        ("https://h", True, "https://h:6333"),
        ("https://h:443", False, "https://h:443"),
        ("https://h/qdrant", False, "https://h:443/qdrant"),
        ("http://h/qdrant/", False, "http://h:80/qdrant"),
        ("http://h:7000/a/b", False, "http://h:7000/a/b"),
        ("http://[::1]:6333", True, "http://[::1]:6333"),
        ("http://user:secret@h:6333", True, "http://h:6333"),
    ],
)
def test_place__port_path_and_transport(url, over_grpc, place):
    from cbmir.store.connection import _Place

    parsed = _Place.parse(url)
    assert (str(parsed), parsed.over_grpc(Way())) == (place, over_grpc)


def test_way__from_the_environment_and_the_options(cbmir, tmp_path):
    with Standin(tmp_path, KEY, rest_handler=RestCalls) as standin:
        with open_store(standin.url, KEY) as store:
            _used(store)
        for options, environment in (
            (("--transport", "rest"), {}),
            ((), {"CBMIR_TRANSPORT": "rest"}),
            (("--transport", "grpc", "--grpc-port", standin.grpc_port), {"CBMIR_GRPC_PORT": "1"}),
        ):
            done = cbmir("collections", "list", "--store", standin.url, *options, QDRANT_API_KEY=KEY, **environment)
            assert (done.returncode, done.stdout.split()[0]) == (0, "c"), done.stderr
    for environment, words in (({"CBMIR_TRANSPORT": "ws"}, "no transport 'ws'"), ({"CBMIR_GRPC_PORT": "x"}, "'x'")):
        assert words in cbmir("collections", "list", "--store", "http://127.0.0.1:1", **environment).stderr


def test_connect__a_key_in_the_open_is_one_line(caplog, monkeypatch, recwarn):
    monkeypatch.setattr("cbmir.store.connection.LOOPBACK", ())
    with served() as (url, _), open_store(url, KEY):
        pass
    assert caplog.messages == [f"the key travels unencrypted to {url}: use https"]
    assert not recwarn.list


# nothing stored, no collection


@pytest.mark.parametrize("kind", ["no image", "not an image", "stored"])
def test_ingest__a_run_that_stores_nothing_leaves_no_collection(kind, cbmir, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    if kind == "not an image":
        (images / "a.png").write_bytes(b"no image")
    elif kind == "stored":
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(images / "a.png")
    store = tmp_path / "store"
    done = cbmir(
        *("ingest", "images", images, "--labels", "none", "--encoder", "pixels", "--store", store),
        *("--failures", tmp_path / "failures.csv", "--embeddings", tmp_path / "out"),
    )
    names = cbmir("collections", "list", "--store", store).stdout.split()[:1]
    if kind == "stored":
        assert (done.returncode, names) == (0, ["pixels"])
        return
    assert done.returncode == (1 if kind == "no image" else 3)
    assert names == []
    assert not store.exists()
    if kind == "not an image":
        assert "no image was stored: there is no collection pixels" in done.stderr
