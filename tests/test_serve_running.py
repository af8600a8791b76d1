"""The service as it runs: its queue, its processes, a server that goes away, its command, its logs."""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from builders import put, until
from pictures import write_picture
from serving import IDS, PLANTED, ROWS, asked, bearer, keys, made_store, png, pool_of, principal, same, serving
from standin import Standin

from cbmir import connect
from cbmir.encoders import EncoderSettings
from cbmir.errors import StoreError
from cbmir.extras import is_installed
from cbmir.schema import ImageRecord
from cbmir.search import ImageQuery, Options, Searcher, TextQuery, WeightedQuery
from cbmir.search.api import body
from cbmir.search.api.asked import Plan
from cbmir.search.api.errors import BusyError
from cbmir.search.api.pool import Pool
from cbmir.store import open_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    made_store(folder)
    return folder


@pytest.fixture(scope="module")
def pool(folder):
    with pool_of(folder / "store", "pixels", "other_pixels") as pool:
        yield pool


@pytest.fixture(scope="module")
def client(pool):
    with serving(pool) as client:
        yield client


def test_search__too_many_bytes_are_refused(pool):
    with serving(pool, upload_bytes=10_000) as client:
        assert asked(client, png()).status_code == 200
        assert asked(client, b"x" * 20_000).status_code == 413
        assert asked(client, b"x" * 2_000_000).status_code == 413
        chunks = (b"x" * 1000 for _ in range(5000))  # no length is declared
        kind = {"content-type": "multipart/form-data; boundary=b"}
        assert client.post("/search", content=chunks, headers=kind).status_code == 413


def test_search__an_upload_that_trickles_in_is_ended(pool, monkeypatch):
    monkeypatch.setattr(body, "UPLOAD_S", 0.1)
    with serving(pool) as client, socket.create_connection(("127.0.0.1", client.base_url.port)) as slow:
        head = (
            "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{"
        )
        slow.sendall(head.encode())  # the rest never comes
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")


def test_queue__full_means_429_and_when_to_come_again(folder):
    """The pool isn't started, so that what waits stays waiting."""
    pool = Pool(Plan(str(folder / "store")), most_waiting=1)
    pool.submit("ping")
    with pytest.raises(BusyError):
        pool.submit("ping")
    with serving(pool) as client:
        answer = client.get("/readyz")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200
    pool.close()


def test_engine__killed_is_started_again(folder, tmp_path):
    with pool_of(made_store(tmp_path), "pixels") as pool, serving(pool) as client:
        before = asked(client, like=[{"id": IDS[1]}]).json()
        os.kill(pool._workers[0]._process.pid, signal.SIGKILL)
        pool._workers[0]._process.join()
        again = asked(client, like=[{"id": IDS[1]}])
        if again.status_code != 200:  # the pipe broke before the process was seen to be gone
            assert again.status_code == 503
            assert again.headers["retry-after"]
            again = asked(client, like=[{"id": IDS[1]}])
        assert again.json() == before
        assert "cbmir_engine_restarts_total 1\n" in client.get("/metrics").text


def test_server__two_engines_and_a_server_that_goes_and_comes_back(tmp_path):
    """Vectors that were made elsewhere: asked by stored image only."""
    vectors = np.random.default_rng(3).standard_normal((30, 8))
    records = [ImageRecord(filepath=f"{row}.png", dataset="d", modality="CT") for row in range(30)]
    asks = {"like": [{"id": records[4].id}], "k": 7}
    with Standin(tmp_path) as standin:
        with open_store(standin.url) as store, put(store, "made", records, vectors) as collection:
            hits = Searcher(collection).like(records[4].id, Options(k=7)).hits
        port = int(standin.url.rpartition(":")[2])
        pool = Pool(Plan(standin.url), processes=2)
        pool.start()
    try:
        with serving(pool) as client:
            away = [asked(client, **asks), client.get("/readyz"), client.post("/facets", json={})]
            assert [answer.status_code for answer in away] == [503] * 3
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in away)
            assert str(port) not in away[0].text
            with Standin(tmp_path, port=port):
                until(lambda: client.get("/readyz").status_code == 200, 60)
                until(lambda: all(asked(client, **asks).status_code == 200 for _ in range(6)), 60)  # by both engines
                same(asked(client, **asks), hits)
                assert asked(client, png()).status_code == 400
                assert client.get("/collections").json()[0]["reason"] == "queries by stored image only"
                assert pool.restarts == 0
    finally:
        pool.close()


def test_metrics__count_routes_and_name_nothing(client):
    client.get(f"/records/{IDS[3]}")
    text = client.get("/metrics").text
    assert 'cbmir_requests_total{route="/records/{id}",status="200"}' in text
    assert 'cbmir_request_seconds_bucket{route="/records/{id}",le="+Inf"}' in text
    assert IDS[3] not in text
    assert PLANTED not in text


def test_show_paths__local_users_see_all_when_asked_for(pool):
    with serving(pool, shows_paths=True) as client:
        found = client.get(f"/records/{IDS[2]}?vector=true").json()
        assert found["record"]["filepath"] == ROWS[2]["filepath"]
        assert found["record"]["extra"] == {"site": ROWS[2]["site"]}
        assert len(found["vector"]) == client.get("/collections").json()[0]["dim"]
        assert asked(client, like=[{"id": IDS[2]}], where=[f"site={PLANTED}-s0"]).status_code == 200


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--host", "0.0.0.0"], "give --keys FILE"),
        (["--engines", "2"], "only one process can hold a directory"),
        (["--tls-key", "a.pem"], "give both"),
        (["--audit", "a.jsonl"], "give --keys FILE"),
        (["--keys", "nowhere.toml"], "can't read the key file"),
        (["--max-upload", "much"], "no limit of size"),
        (["--root", "nowhere"], "is not a folder"),
        (["--collection", "nothing"], "no collection 'nothing'"),
    ],
)
def test_serve__what_cannot_be_started(cbmir, shelf, words, reason):
    done = cbmir("serve", "--store", shelf, "--port", "0", *words)
    assert done.returncode in (1, 2)
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_serve__says_which_extra_is_missing(cbmir, shelf, monkeypatch):
    monkeypatch.setattr("cbmir.extras.is_installed", lambda module: module != "uvicorn" and is_installed(module))
    done = cbmir("serve", "--store", shelf)
    assert done.returncode == 1
    assert "pip install 'cbmir[serve]'" in done.stderr


def test_serve__stops_gracefully_and_writes_no_name(folder, tmp_path):
    """The program itself, with two collections, of which one can't embed uploads."""
    store = made_store(tmp_path)
    command = [sys.executable, "-m", "cbmir", "serve", "--store", str(store), "--port", "0", "--collection", "pixels"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        while "listens at" not in (lines[-1] if lines else ""):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        import httpx

        with httpx.Client(base_url=lines[-1].split()[-1], timeout=60, trust_env=False) as client:
            assert asked(client, png()).status_code == 200
            assert asked(client, png()[:50]).status_code == 400
            assert client.get(f"/thumbnails/{IDS[0]}.jpg").status_code == 200
            with pytest.raises(StoreError):
                open_store(store).open("pixels")
        process.send_signal(signal.SIGTERM)
        out, rest = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest == "stopped\n"
    assert out == ""
    assert PLANTED not in "".join(lines)
    with open_store(store) as opened, opened.open("pixels") as collection:
        assert collection.count() == len(ROWS)


def test_audit__who_saw_what(pool, tmp_path):
    log = tmp_path / "audit.jsonl"
    with serving(pool, keys(principal("ann", "search", "images")), log) as client:
        hits = asked_by(client, "ann", like=[{"id": IDS[0]}], k=2).json()["hits"]
        client.get(f"/images/{IDS[5]}", headers=bearer("ann"))
        client.get("/metrics", headers=bearer("ann"))
        client.get("/collections", headers={"authorization": "Bearer guess"})
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(entry["who"], entry["action"], entry["status"]) for entry in entries] == [
        ("ann", "search", 200),
        ("ann", "image", 200),
        ("ann", "refused /metrics", 403),
        ("", "refused /collections", 401),
    ]
    assert entries[0]["ids"] == [hit["id"] for hit in hits]
    assert entries[1]["ids"] == [IDS[5]]
    assert entries[0]["collection"] == "pixels"
    assert log.stat().st_mode & 0o077 == 0
    assert "key-of" not in log.read_text()
    assert PLANTED not in log.read_text()


def test_audit__what_cannot_be_noted_is_not_shown(pool, tmp_path):
    with serving(pool, keys(principal("ann", "search")), tmp_path / "audit.jsonl") as client:
        client.service.audit._file = os.open(tmp_path / "audit.jsonl", os.O_RDONLY)
        answer = asked_by(client, "ann", like=[{"id": IDS[0]}])
        assert answer.status_code == 503
        assert "hits" not in answer.json()


def asked_by(client, who, **query):
    return client.post("/search", json=query, headers=bearer(who))


OWN = """
import numpy as np
import torch
from cbmir.encoders import OwnEncoder
from cbmir.media import Preprocessing


def text(texts):
    return np.stack([np.random.default_rng(len(text)).standard_normal(192) for text in texts])


def make():
    how = Preprocessing((8, 8), "squash", 8, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return OwnEncoder(name="mine", network=torch.nn.Flatten(), preprocessing=how, text=text)
"""


def test_search__by_words_alone_and_with_an_image(tmp_path):
    """An encoder of the user's own, with a text tower."""
    (tmp_path / "mine.py").write_text(OWN)
    for row in range(6):
        write_picture(tmp_path / f"images/{row}.png", row)
    settings = EncoderSettings(asked=f"{tmp_path / 'mine.py'}:make")
    connect(tmp_path / "store").ingest(tmp_path / "images", encoder=settings.asked, collection="mine")
    image = ImageQuery(tmp_path / "images/2.png")
    with Searcher(tmp_path / "store", "mine", settings) as searcher:
        (words,) = searcher.ask(TextQuery("a lung without effusion"), Options(k=4))
        (both,) = searcher.ask(WeightedQuery(((image, 1.0), (TextQuery("a lung"), 1.0))), Options(k=4))
    pool = Pool(Plan(str(tmp_path / "store"), ("mine",), settings=settings))
    pool.start()
    try:
        with serving(pool) as client:
            assert client.get("/collections").json()[0]["texts"] is True
            answer = asked(client, text="a lung without effusion", k=4)
            same(answer, words.hits)
            assert "'without'" in answer.json()["cautions"][0]
            fused = asked(client, image.image.read_bytes(), text="a lung", k=4)
            same(fused, both.hits)
            assert fused.json()["score"] == "fused ranks"
            assert asked(client, text=" ").status_code == 400
            assert asked(client, text="a lung", like=[{"id": words.hits[0].id}], min_score=0.5).status_code == 400
    finally:
        pool.close()
