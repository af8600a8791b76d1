"""Who may see what: every endpoint with every role and filter, keys, sessions."""

import io
import json
import re

import pytest
from PIL import Image
from serving import IDS, PLANTED, ROWS, bearer, key, keys, made_store, picture, pool_of, principal, serving

from cbmir.errors import CbmirError
from cbmir.search.api.access import OPEN_FIELDS, ROLES, Keys, Principal
from cbmir.search.api.errors import ServiceError
from cbmir.search.api.sessions import IDLE_S, Sessions

pytestmark = pytest.mark.slow

HIDDEN = "dataset=a"
"""What the key filters show: the rows of even numbers."""

OPEN = ("/healthz", "/readyz", "/session")
ASKERS = [
    principal("searcher", "search"),
    principal("looker", "search", "images"),
    principal("only-images", "images"),
    principal("identifier", "search", "identify"),
    principal("vectors", "search", "vectors"),
    principal("admin", "admin"),
    principal("all", *ROLES),
    principal("half", *ROLES, where=HIDDEN),
    principal("half-searcher", "search", where=HIDDEN),
    principal("elsewhere", *ROLES, collections=("other_pixels",)),
    principal("nothing-there", *ROLES, where="dataset=nowhere"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def client(folder):
    with pool_of(made_store(folder), "pixels", "other_pixels") as pool, serving(pool, keys(*ASKERS)) as client:
        yield client


def png(folder, row):
    return picture(folder, row).read_bytes()


def requests(folder, path, method, row):
    """Requests of an endpoint that ask for a row of the table, each as arguments of httpx, in all its ways."""
    place = path.replace("{id}", IDS[row])
    if (method, path) == ("post", "/search"):
        like = {"like": [{"id": IDS[row]}], "k": 50}
        yield {"json": like}
        yield {"json": {"like": [{"id": IDS[0]}], "unlike": [{"id": IDS[row]}], "k": 50}}
        yield {"files": {"image": ("q.png", png(folder, row))}, "data": {"query": '{"k": 50}'}}
        yield {"files": {"image": ("q.png", png(folder, row))}, "data": {"query": json.dumps(like)}}
    elif (method, path) == ("post", "/facets"):
        yield {"json": {"fields": ["dataset", "modality"], "limit": 100}}
    elif (method, path) == ("post", "/preview"):
        yield {"files": {"image": ("q.png", png(folder, row))}}
    elif (method, path) == ("post", "/session"):
        yield {"json": {"key": "a guess"}}
    else:
        yield {"url": place}
        if path == "/records/{id}":
            yield {"url": f"{place}?vector=true"}


def endpoints(client):
    paths = client.get("/openapi.json").json()["paths"]
    return [(path, method, of["x-role"] or None) for path, methods in paths.items() for method, of in methods.items()]


@pytest.mark.parametrize("who", ASKERS, ids=lambda who: who.name)
def test_every_endpoint__shows_what_the_role_and_the_filter_allow(client, folder, who):
    tried = 0
    for path, method, role in endpoints(client):
        if (path, method) == ("/session", "delete"):
            continue
        for row in (0, 1):  # the second is hidden by the filter
            for request in requests(folder, path, method, row):
                request = {"url": path, **request}
                answer = client.request(method.upper(), **request, headers=bearer(who.name))
                check(who, path, role, row, request, answer)
                tried += 1
                without = client.request(method.upper(), **request)
                assert without.status_code in ((200, 401) if path in OPEN else (401,)), (path, without.text)
                unknown = client.request(method.upper(), **request, headers={"authorization": "Bearer guess"})
                assert unknown.status_code in ((200, 401) if path in OPEN else (401,)), path
    assert tried > 20


def check(who: Principal, path, role, row, request, answer):
    place = f"{who.name} {path} {request} {answer.text[:300]}"
    assert answer.status_code < 500, place
    wants_vector = "vector=true" in request["url"]
    if role is not None and (role not in who.roles or (wants_vector and "vectors" not in who.roles)):
        assert answer.status_code == 403, place
    check_records(who, answer, place)
    if path in ("/records/{id}", "/thumbnails/{id}.jpg", "/images/{id}") and role in who.roles and not wants_vector:
        seen = 403 if who.name == "nothing-there" else 404 if who.where and row else 200
        assert answer.status_code == seen, place
    if answer.status_code == 200 and who.name.startswith("half"):
        check_half(path, row, answer, place)
    if who.name == "elsewhere" and answer.status_code == 200 and path in ("/search", "/collections", "/records/{id}"):
        assert re.findall(r'"(?:collection|name)":"(\w+)"', answer.text) == ["other_pixels"], place


def check_records(who, answer, place):
    if "identify" not in who.roles:
        assert PLANTED not in answer.text, place
    if answer.headers["content-type"] != "application/json":
        return
    for shown in found(answer.json()):
        assert "identify" in who.roles or set(shown) <= set(OPEN_FIELDS), place
        assert not who.where or shown["dataset"] == "a", place


def check_half(path, row, answer, place):
    """What a key shows whose filter lets half of the images pass."""
    if path == "/facets":
        assert answer.json()["fields"]["dataset"] == {"a": 12}, place
        assert answer.json()["total"] == 12
    if path == "/collections":
        assert [item["images"] for item in answer.json()] == [12, 12]
    assert not [id for id in IDS[1::2] if id in answer.text], place


def found(value):
    """All records in an answer."""
    if isinstance(value, dict):
        yield from [value["record"]] if isinstance(value.get("record"), dict) else []
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from found(item)


def test_filter__hidden_examples_are_as_unknown_ones(client):
    def asked(id, kind):
        query = {"like": [{"id": IDS[0]}], "k": 3} | {kind: [{"id": id}]}
        return client.post("/search", json=query, headers=bearer("half"))

    for kind in ("like", "unlike"):
        hidden, unknown = asked(IDS[1], kind), asked("00000000-0000-0000-0000-000000000000", kind)
        assert hidden.status_code == unknown.status_code == 404
        assert hidden.json() == unknown.json()


def test_filter__errors_name_no_value_that_is_hidden(client):
    for where in ("dataset=c", "modality=PET", "site=x", "dataset~x*", "patient_id=nobody", "nothing=1"):
        query = {"like": [{"id": IDS[0]}], "where": [where]}
        answer = client.post("/search", json=query, headers=bearer("half"))
        assert answer.status_code == 400
        assert PLANTED not in answer.text
        assert "MR" not in answer.text
    mine = client.post("/search", json={"like": [{"id": IDS[0]}], "where": ["dataset=b"]}, headers=bearer("half"))
    assert mine.json()["hits"] == []


def test_thumbnails__one_key_s_are_not_given_to_another(client):
    """They are kept in memory."""
    assert client.get(f"/thumbnails/{IDS[1]}.jpg", headers=bearer("all")).status_code == 200
    assert client.get(f"/thumbnails/{IDS[1]}.jpg", headers=bearer("half")).status_code == 404
    assert client.get(f"/thumbnails/{IDS[1]}.jpg?collection=pixels", headers=bearer("elsewhere")).status_code == 404


def test_identify__sees_and_filters_by_what_others_do_not(client):
    found = client.get(f"/records/{IDS[3]}", headers=bearer("identifier")).json()["record"]
    assert found["filepath"] == ROWS[3]["filepath"]
    assert found["patient_id"] == ROWS[3]["patient_id"]
    query = {"like": [{"id": IDS[0]}], "where": [f"site={PLANTED}-s1"], "k": 50}
    hits = client.post("/search", json=query, headers=bearer("identifier")).json()["hits"]
    assert {hit["record"]["extra"]["site"] for hit in hits} == {f"{PLANTED}-s1"}


def test_session__the_cookie_stands_for_the_key(client):
    headers = {"origin": str(client.base_url).rstrip("/")}
    signed = client.post("/session", json={"key": key("looker")}, headers=headers)
    assert signed.status_code == 200
    cookie = signed.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert key("looker") not in cookie
    token = {"x-csrf-token": signed.json()["csrf"]}
    try:
        assert client.get("/session").json()["name"] == "looker"
        assert client.get(f"/images/{IDS[0]}").status_code == 200
        query = {"like": [{"id": IDS[0]}]}
        assert client.post("/search", json=query).status_code == 403
        assert client.post("/search", json=query, headers={"x-csrf-token": "x"}).status_code == 403
        assert client.post("/search", json=query, headers=token).status_code == 200
        forged = client.post("/search", json=query, headers={**token, "origin": "http://evil.example"})
        assert forged.status_code == 403
        assert client.delete("/session").status_code == 403
        assert client.delete("/session", headers=token).status_code == 204
    finally:
        value = cookie.partition("=")[2].partition(";")[0]
        client.cookies.clear()
    assert client.get("/session", headers={"cookie": f"cbmir_session={value}"}).status_code == 401


def test_session__a_key_in_an_address_is_no_key(client):
    for name in ("key", "token", "api_key", "authorization"):
        assert client.get(f"/collections?{name}={key('all')}").status_code == 401


def test_sessions__end_when_idle():
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    value, session = sessions.begin(ASKERS[0])
    now[0] = IDLE_S - 1
    assert sessions.of(value) is session
    now[0] += IDLE_S - 1
    assert sessions.of(value) is session
    now[0] += IDLE_S
    assert sessions.of(value) is None
    now[0] -= IDLE_S
    assert sessions.of(value) is None
    assert sessions.of("another") is None


ENTRY = 'sha256 = "' + "0" * 64 + '"\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "keys"),
        ("keys = 3", "keys"),
        ("[keys.a]\n" + ENTRY, "keys.a.roles"),
        ("[keys.a]\n" + ENTRY + 'roles = ["root"]', "keys.a.roles.0"),
        ("[keys.a]\n" + ENTRY + "roles = []", "keys.a.roles"),
        ("[keys.a]\n" + ENTRY + 'roles = ["search"]\ncollection = "x"', "keys.a.collection"),
        ("[keys.a]\n" + ENTRY + 'roles = ["search"]\nfilter = "dataset"', "keys.a.filter"),
        ("[keys.a]\n" + ENTRY + 'roles = ["search"]\ncollections = []', "keys.a.collections"),
        ('[keys.a]\nsha256 = "abc"\nroles = ["search"]', "keys.a.sha256"),
        ('[keys."a b"]\n' + ENTRY + 'roles = ["search"]', "'a b'"),
        ("".join(f'[keys.{name}]\n{ENTRY}roles = ["search"]\n' for name in "ab"), "are the same key"),
        ("[keys.a", "no TOML"),
    ],
)
def test_keys__a_file_that_cannot_be_used(tmp_path, text, reason):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(CbmirError, match=r"keys\.toml") as raised:
        Keys.read(path)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_keys__a_file_that_others_can_change(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text("[keys.a]\n" + ENTRY + 'roles = ["search"]')
    path.chmod(0o666)
    with pytest.raises(CbmirError, match="chmod go-w"):
        Keys.read(path)


def test_key__made_by_the_command_opens_what_it_says(cbmir, tmp_path):
    words = ["key", "ward-3", "--role", "search", "--role", "images", "--collection", "pixels"]
    done = cbmir(*words, "--where", 'labels~CT/"quoted"/*', "--where", "dataset=a")
    assert done.returncode == 0
    path = tmp_path / "keys.toml"
    path.write_text(done.stdout)
    path.chmod(0o600)
    secret = done.stderr.split()[-1]
    assert secret not in done.stdout
    who = Keys.read(path).of(secret)
    assert (who.name, who.roles, who.collections) == ("ward-3", {"search", "images"}, {"pixels"})
    assert [condition.field for condition in who.where] == ["labels", "dataset"]
    assert Keys.read(path).of(secret + "x") is None
    assert cbmir("key", "a", "--role", "root").returncode == 2
    made = tmp_path / "made.toml"
    secrets = [cbmir("key", name, "--role", "search", "--to", made).stderr.split()[-1] for name in ("ann", "bob")]
    assert [Keys.read(made).of(secret).name for secret in secrets] == ["ann", "bob"]
    assert made.stat().st_mode & 0o077 == 0
    again = cbmir("key", "ann", "--role", "search", "--to", made)
    assert again.returncode == 1
    assert "a key ann already" in again.stderr


def test_principal__refuses_what_it_may_not():
    who = ASKERS[0]
    who.check_group("patient")
    with pytest.raises(ServiceError, match="identify"):
        who.check_group("study_date")
    for field in ("extra.site", "patient_id", "sha256", "study_date"):
        with pytest.raises(ServiceError, match="identify"):
            who.check_field(field)


def test_preview__needs_no_image_of_the_store(client, folder):
    answer = client.post("/preview", files={"image": ("q.png", png(folder, 1))}, headers=bearer("half-searcher"))
    assert Image.open(io.BytesIO(answer.content)).size == (40, 48)
