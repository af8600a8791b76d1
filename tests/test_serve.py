"""The service over HTTP: what it answers, what it refuses, and what it never lets out."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from builders import put, until
from PIL import Image
from serving import IDS, PLANTED, ROWS, bearer, keys, made_store, picture, pool_of, principal, serving
from standin import Standin

from cbmir.errors import StoreError
from cbmir.extras import is_installed
from cbmir.schema import ImageRecord
from cbmir.search import Options, Searcher, StoredQuery, WeightedQuery
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
def expected(folder):
    """The hits that `Searcher` finds, asked before the service holds the store."""
    whole = Options(k=5, exclude_same_patient=False)
    with Searcher(folder / "store", "pixels") as searcher:
        likes = WeightedQuery(((StoredQuery(IDS[0]), 2.0), (StoredQuery(IDS[5]), 1.0), (StoredQuery(IDS[9]), -1.0)))
        return {
            "image": searcher.image(picture(folder, 3), Options(k=5)),
            "stored": searcher.like(IDS[4], Options(k=5, where=("modality=CT",))).hits,
            "examples": searcher.ask(likes, whole)[0].hits,
            "diverse": searcher.like(IDS[4], Options(k=5, diversity=0.7, skip=2)).hits,
            "grouped": searcher.like(IDS[4], Options(k=5, group_by="patient")).hits,
        }


@pytest.fixture(scope="module")
def pool(folder, expected):
    with pool_of(folder / "store", "pixels", "other_pixels") as pool:
        yield pool


@pytest.fixture(scope="module")
def client(pool):
    with serving(pool) as client:
        yield client


def asked(client, file=None, **query):
    files = {"image": (f"{PLANTED}.png", file)} if file is not None else None
    if files:
        return client.post("/search", files=files, data={"query": json.dumps(query)})
    return client.post("/search", json=query)


def png():
    file = io.BytesIO()
    Image.linear_gradient("L").resize((30, 20)).save(file, "PNG")
    return file.getvalue()


def same(answer, hits):
    assert answer.status_code == 200, answer.text
    found = answer.json()["hits"]
    assert [hit["id"] for hit in found] == [hit.id for hit in hits]
    assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert [hit["rank"] for hit in found] == [hit.rank for hit in hits]


def test_search__an_upload_finds_what_the_command_finds(client, folder, expected):
    same(asked(client, picture(folder, 3).read_bytes(), k=5), expected["image"])


def test_search__stored_images_examples_and_shaped_answers(client, expected):
    like = [{"id": IDS[4]}]
    same(asked(client, like=like, k=5, where=["modality=CT"]), expected["stored"])
    many = {"like": [{"id": IDS[0], "weight": 2}, {"id": IDS[5]}], "unlike": [{"id": IDS[9]}]}
    same(asked(client, **many, k=5, exclude_same_patient=False), expected["examples"])
    same(asked(client, like=like, k=5, diversity=0.7, skip=2), expected["diverse"])
    same(asked(client, like=like, k=5, group_by="patient"), expected["grouped"])
    least = expected["stored"][2].score - 1e-6
    same(asked(client, like=like, where=["modality=CT"], min_score=least), expected["stored"][:3])


def test_search__a_box_is_what_the_image_cut_out_would_be(client, folder):
    with Image.open(picture(folder, 7)) as image:
        file = io.BytesIO()
        image.crop((4, 4, 28, 28)).save(file, "PNG")  # the box with a fifth of its side around it
    whole = asked(client, picture(folder, 7).read_bytes(), k=4, box=[6, 6, 20, 20], exclude_same_patient=False)
    cut = asked(client, file.getvalue(), k=4, exclude_same_patient=False)
    assert [hit["id"] for hit in whole.json()["hits"]] == [hit["id"] for hit in cut.json()["hits"]]


def test_search__unknown_patient_is_said_and_copies_are_marked(client, folder):
    with Image.open(picture(folder, 3)) as image:
        file = io.BytesIO()
        image.save(file, "BMP")  # the same pixels, another file
    answer = asked(client, file.getvalue(), k=3).json()
    assert "patient is not known" in answer["cautions"][0]
    assert answer["hits"][0]["id"] == IDS[3]
    assert [hit["possibly_same_patient"] for hit in answer["hits"]] == [True, False, False]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({}, 400, "nothing to look for"),
        ({"unlike": [{"id": IDS[0]}]}, 400, "nothing to look for"),
        ({"like": [{"id": "../../etc/passwd"}]}, 400, "like.0.id"),
        ({"like": [{"id": "00000000-0000-0000-0000-000000000000"}]}, 404, "no such image"),
        ({"like": [{}]}, 400, "either an id or a text"),
        ({"like": [{"id": IDS[0], "weight": 0}]}, 400, "weight"),
        ({"like": [{"id": IDS[0]}], "where": ["modality=PET"]}, 400, "there are"),
        ({"like": [{"id": IDS[0]}], "where": ["modality"]}, 400, "can't read the condition"),
        ({"like": [{"id": IDS[0]}], "where": [f"site={PLANTED}-s0"]}, 403, "identify"),
        ({"like": [{"id": IDS[0]}], "where": [f"patient_id={PLANTED}-p0"]}, 403, "identify"),
        ({"like": [{"id": IDS[0]}], "group_by": "site"}, 403, "identify"),
        ({"like": [{"id": IDS[0]}], "k": 0}, 400, "k"),
        ({"like": [{"id": IDS[0]}], "k": 100000}, 400, "k"),
        ({"like": [{"id": IDS[0]}], "box": [0, 0, 5, 5]}, 400, "one uploaded image"),
        ({"like": [{"id": IDS[0]}], "collection": "nowhere"}, 404, "no such collection"),
        ({"text": "a chest"}, 400, "text"),
        ({"image": "/etc/passwd"}, 400, "image"),
        ({"like": [{"id": IDS[0]}], "diversity": 0.5, "skip": 5000}, 400, "skip"),
    ],
)
def test_search__what_cannot_be_asked_is_one_line(client, query, status, words):
    answer = asked(client, **query)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert PLANTED not in answer.json()["error"].replace(str(query), "")


def test_search__uploads_that_cannot_be_used(client):
    assert asked(client, b"").status_code in (400, 415)
    assert asked(client, b"hello").status_code == 415
    assert asked(client, b"%PDF-1.7 and so on").status_code == 415
    damaged = asked(client, png()[:60])
    assert damaged.status_code == 400
    assert "the image" in damaged.json()["error"]
    assert asked(client, png(), box=[0, 0, 500, 500]).status_code == 400
    plain = client.post("/search", content=b"x", headers={"content-type": "text/plain"})
    assert plain.status_code == 415
    odd = client.post("/search", content=b"--x\r\n", headers={"content-type": "multipart/form-data; boundary=x"})
    assert odd.status_code == 400
    none = client.post("/search", content=b"x", headers={"content-type": "multipart/form-data"})
    assert none.status_code == 400
    other = client.post("/search", files={"path": ("a.png", png())})
    assert other.status_code == 400
    many = client.post("/search", files=[("image", ("a.png", png()))] * 40)
    assert many.status_code == 400


def test_search__a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(client):
    file = io.BytesIO()
    Image.new("1", (30000, 30000)).save(file, "PNG")
    answer = asked(client, file.getvalue())
    assert answer.status_code in (400, 413)
    assert "pixels" in answer.json()["error"]


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


def test_search__no_upload_touches_a_disk(client, monkeypatch, tmp_path):
    """Of this process: a file would be made beyond a megabyte. The other one reads bytes only."""

    def refuse(_):
        raise AssertionError("an upload went to a temporary file")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 1500), np.uint8)).save(file, "BMP")
    assert file.tell() > 2_000_000
    assert asked(client, file.getvalue(), k=1).status_code == 200


def test_facets__counts_under_a_filter_but_not_its_own(client):
    counted = client.post("/facets", json={"where": ["modality=CT", "dataset=a"], "fields": ["modality", "dataset"]})
    counts = {
        name: {
            value: sum(row[name] == value and row[other] == wanted for row in ROWS) for value in {r[name] for r in ROWS}
        }
        for name, other, wanted in (("modality", "dataset", "a"), ("dataset", "modality", "CT"))
    }
    assert counted.json() == {"total": 6, "fields": counts, "more": []}
    few = client.post("/facets", json={"fields": ["pathology"], "limit": 2}).json()
    assert few["more"] == ["pathology"]
    assert len(few["fields"]["pathology"]) == 2
    assert client.post("/facets", json={"fields": ["patient_id"]}).status_code == 403
    assert client.post("/facets", json={"fields": ["width"]}).status_code == 400


def test_collections_and_records__what_is_known(client):
    first, other = client.get("/collections").json()
    assert (first["name"], other["name"]) == ("pixels", "other_pixels")
    assert first["images"] == len(ROWS)
    assert (first["takes"], first["texts"], first["reason"]) == ("image", False, "")
    found = client.get(f"/records/{IDS[2]}").json()
    assert found["record"]["modality"] == ROWS[2]["modality"]
    assert found["record"]["width"] == 40
    assert found["vector"] is None
    assert PLANTED not in json.dumps(found)
    assert client.get(f"/records/{IDS[2]}?vector=true").status_code == 403
    for odd in ("nothing", "..%2f..%2fetc%2fpasswd", IDS[2][:-1] + "x"):
        assert client.get(f"/records/{odd}").status_code == 404


def test_images__are_drawn_from_the_stored_file(client, folder):
    with Image.open(picture(folder, 2)) as file:
        stored = np.asarray(file, float)
    for place in (f"/thumbnails/{IDS[2]}.jpg", f"/images/{IDS[2]}"):
        answer = client.get(place)
        assert answer.headers["content-type"] == "image/jpeg"
        shown = Image.open(io.BytesIO(answer.content))
        assert shown.size == (40, 48)
        assert np.abs(np.asarray(shown.convert("L"), float) - stored).mean() < 4
        assert answer.headers["cache-control"] == "no-store"
        assert PLANTED.encode() not in answer.content


def test_images__a_file_that_is_another_now_or_gone_is_not_shown(folder, tmp_path):
    with pool_of(made_store(tmp_path), "pixels") as pool, serving(pool) as client:
        picture(tmp_path, 0).unlink()
        picture(tmp_path, 1).write_bytes(picture(tmp_path, 2).read_bytes())
        for row in (0, 1):
            answer = client.get(f"/images/{IDS[row]}")
            assert answer.status_code == 404
            assert "can't be shown" in answer.json()["error"]
            assert str(tmp_path) not in answer.text
            assert PLANTED not in answer.text
        assert client.get(f"/images/{IDS[2]}").status_code == 200


def test_preview__an_upload_as_it_is_decoded(client):
    file = io.BytesIO()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(file, "TIFF")
    answer = client.post("/preview", files={"image": ("a.tif", file.getvalue())})
    assert answer.headers["x-image-size"] == "30x20"
    assert Image.open(io.BytesIO(answer.content)).size == (30, 20)
    assert client.post("/preview", files={"image": ("a.tif", b"hello")}).status_code == 415


def test_answers__forbid_browsers_all_but_the_page_itself(client):
    for place in ("/", "/healthz", "/static/page.js", "/nothing", "/collections"):
        headers = client.get(place).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_static__only_what_the_page_has(client):
    for odd in ("..%2fpage.py", "%2e%2e/page.py", "page.html.j2", "%2fetc%2fpasswd"):
        assert client.get(f"/static/{odd}").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "localhost.evil.example:8000"},
        {"host": "127.0.0.1.nip.io"},
        {"host": "192.168.0.7:8000"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-host": "localhost"},
        {"forwarded": "for=127.0.0.1"},
        {"x-real-ip": "127.0.0.1"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_loopback__without_keys_only_this_machine_under_its_own_name(client, headers):
    for place in ("/collections", f"/images/{IDS[0]}", "/healthz"):
        answer = client.get(place, headers=headers)
        assert answer.status_code in (400, 403)
        assert "pixels" not in answer.text
    answer = client.post("/search", json={"like": [{"id": IDS[0]}]}, headers=headers)
    assert answer.status_code in (400, 403)


def test_loopback__its_own_names_and_page(client):
    port = client.base_url.port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost", "[::1]"):
        fine = client.get("/collections", headers={"host": host, "origin": f"http://{host}"})
        assert fine.status_code == 200
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=visit).status_code == 200


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
