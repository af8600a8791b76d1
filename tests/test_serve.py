"""The service over HTTP: what it answers, what it refuses, and what it never lets out."""

import io
import json
import tempfile

import numpy as np
import pytest
from pictures import pixels
from PIL import Image
from planted import planted
from serving import IDS, PLANTED, ROWS, asked, made_store, picture, png, pool_of, same, serving

from cbmir.search import Options, Searcher, StoredQuery, WeightedQuery

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


def test_dicom__uploads_and_stored_images_let_nothing_out_that_identifies(tmp_path, cbmir, monkeypatch):
    """Values that are planted in the headers are in no answer, and the upload's patient is left out."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # where the key is made
    monkeypatch.chdir(tmp_path)  # where ingest writes its audit
    secrets, files = [], [tmp_path / f"in/Geheimnis-{number}.dcm" for number in range(4)]
    for number, file in enumerate(files):
        secrets += planted(file, pixels(number).astype(np.int16) * 4, number)
    done = cbmir("ingest", "images", tmp_path / "in", "--encoder", "pixels", "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    with pool_of(tmp_path / "store", "pixels") as pool, serving(pool) as client:
        answers = [
            asked(client, file.read_bytes(), exclude_same_patient=same) for file in files for same in (True, False)
        ]
        assert [len(answer.json()["hits"]) for answer in answers] == [3, 4] * 4
        hits = answers[1].json()["hits"]
        assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
        answers.append(client.post("/preview", files={"image": ("q.dcm", files[0].read_bytes())}))
        assert answers[-1].headers["x-image-size"] == "40x48"
        answers += [client.get(f"/{kind}/{hit['id']}") for hit in hits for kind in ("records", "images")]
        answers += [client.post("/facets", json={}), asked(client, files[0].read_bytes()[:900])]
        assert {answer.status_code for answer in answers[:-1]} == {200}
        assert answers[-1].status_code == 400
    seen = b"".join(answer.content + repr(answer.headers).encode() for answer in answers)
    assert [secret for secret in (*secrets, "Geheimnis") if len(secret) > 6 and secret.encode() in seen] == []
