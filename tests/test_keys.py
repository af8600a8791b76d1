"""Whose key is sent where, and what is said when a server refuses it."""

import json

import grpc
import pytest
from answers import refusing, served
from qdrant_client import grpc as proto
from standin import Standin

from cbmir.errors import StoreError
from cbmir.fingerprint import external_card
from cbmir.store import open_store
from cbmir.store.keys import Key, host_variable
from cbmir.store.points import ServerCollection

KEY, OTHER = "key-of-the-store", "key-of-the-other-store"
CARD = external_card("eight", 8)
EXPERIMENT = 'store = "{store}"\nout = "results"\n[recall]\n'


@pytest.mark.parametrize(
    ("host", "variable"),
    [
        ("qdrant.example.org", "QDRANT_API_KEY_QDRANT_EXAMPLE_ORG"),
        ("127.0.0.1", "QDRANT_API_KEY_127_0_0_1"),
        ("my-host", "QDRANT_API_KEY_MY__HOST"),
        ("my_host", "QDRANT_API_KEY_MY___HOST"),
        ("::1", "QDRANT_API_KEY_______1"),
    ],
)
def test_host_variable__upper_case_and_underscores(host, variable):
    assert host_variable(host) == variable


def test_host_variable__hosts_that_look_alike_have_different_ones():
    hosts = [
        "qdrant.example.org",
        "qdrant-example.org",
        "qdrant.example-org",
        "qdrant_example.org",
        "qdrant--example.org",
    ]
    assert len({host_variable(host) for host in hosts}) == len(hosts)


def test_run__an_experiments_store_never_gets_the_key_of_a_host_that_looks_alike(monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY_QDRANT_EXAMPLE_ORG", KEY)
    assert Key.of_host("https://qdrant.example.org").value == KEY
    assert Key.of_host("HTTPS://Qdrant.Example.Org:7000/x").value == KEY
    for host in (
        "qdrant-example.org",
        "qdrant.example-org",
        "qdrant_example.org",
        "qdrant.example.org.",
        "u@qdrant-example.org",
    ):
        assert Key.of_host(f"https://{host}").value is None


def test_key_of_host__nodes_with_different_keys_are_refused(monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", "never this one")
    monkeypatch.setenv("QDRANT_API_KEY_A", KEY)
    assert Key.of_host("https://a:6333/x").value == KEY
    assert Key.of_host("https://A").value == KEY
    assert Key.of_host("https://b").value is None
    assert Key.of_host("data/store").value is None
    with pytest.raises(StoreError, match="QDRANT_API_KEY_A, QDRANT_API_KEY_B differ") as error:
        Key.of_host("http://a,http://b")
    assert KEY not in str(error.value)
    monkeypatch.setenv("QDRANT_API_KEY_B", KEY)
    assert Key.of_host("http://a,http://b").value == KEY
    assert KEY not in repr(Key.of_host("http://a"))


def test_run__an_experiments_own_store_gets_only_the_key_of_its_host(tmp_path, cbmir):
    file = tmp_path / "experiment.toml"
    with served() as (url, handler):
        file.write_text(EXPERIMENT.format(store=url))
        cbmir("evaluate", "run", file, QDRANT_API_KEY=KEY)
        assert handler.keys
        assert set(handler.keys) == {None}
        cbmir("evaluate", "run", file, QDRANT_API_KEY=KEY, QDRANT_API_KEY_LOCALHOST=KEY)
        assert set(handler.keys) == {None}
        cbmir("evaluate", "run", file, QDRANT_API_KEY=KEY, QDRANT_API_KEY_127_0_0_1=OTHER)
        assert set(handler.keys) == {None, OTHER}
        cbmir("evaluate", "run", file, "--store", url, QDRANT_API_KEY=KEY, QDRANT_API_KEY_127_0_0_1=OTHER)
        assert set(handler.keys) == {None, OTHER, KEY}


def test_run__every_step_of_an_experiment_has_the_key(tmp_path, make_batch, cbmir):
    file = tmp_path / "experiment.toml"
    with Standin(tmp_path / "standin", OTHER) as standin:
        with open_store(standin.url, OTHER) as store, store.create("eight", CARD) as collection:
            collection.upsert(make_batch(30))
        file.write_text(EXPERIMENT.format(store=standin.url))
        refused = cbmir("evaluate", "run", file, QDRANT_API_KEY=OTHER)
        assert refused.returncode == 1
        assert "asks for a key (UNAUTHENTICATED): set QDRANT_API_KEY_127_0_0_1" in refused.stderr
        done = cbmir("evaluate", "run", file, "--json", QDRANT_API_KEY=KEY, QDRANT_API_KEY_127_0_0_1=OTHER)
        assert done.returncode == 0, done.stderr
        assert [item["state"] for item in json.loads(done.stdout)] == ["done"]


def test_push_and_pull__each_store_has_its_own_key(shelf, tmp_path, cbmir):
    with Standin(tmp_path / "standin", OTHER) as standin:
        push = ("collections", "push", "eight", "--store", shelf, "--to", standin.url)
        refused = cbmir(*push, QDRANT_API_KEY=OTHER)
        assert refused.returncode == 1
        assert "set QDRANT_TO_API_KEY" in refused.stderr
        wrong = cbmir(*push, QDRANT_TO_API_KEY=KEY)
        assert "refuses the key in QDRANT_TO_API_KEY" in wrong.stderr
        assert cbmir(*push, QDRANT_API_KEY=KEY, QDRANT_TO_API_KEY=OTHER).returncode == 0
        pull = ("collections", "pull", "eight", "--store", tmp_path / "back", "--from", standin.url)
        refused = cbmir(*pull, QDRANT_API_KEY=OTHER, QDRANT_TO_API_KEY=OTHER)
        assert "set QDRANT_FROM_API_KEY" in refused.stderr
        assert cbmir(*pull, QDRANT_FROM_API_KEY=OTHER).returncode == 0


FORBIDDEN = refusing(grpc.StatusCode.PERMISSION_DENIED, "Global manage access is required")


@pytest.mark.parametrize(
    ("doing", "may_not"),
    [
        (lambda store, _, batch: store.create("a", CARD), "may not make, change or drop collections"),
        (lambda store, points, batch: points.upsert(batch), "may not write points; the full key, or a token with rw"),
        (lambda store, points, batch: points.delete(["00000000-0000-5000-8000-000000000000"]), "may not write points"),
        (lambda store, points, batch: points.count(), "may not read this; the full key, the read-only key"),
    ],
    ids=["create", "upsert", "delete", "count"],
)
def test_refusal__names_what_the_key_may_not_do(make_batch, doing, may_not):
    answers = dict.fromkeys(("Create", "CollectionExists", "Upsert", "Delete", "Count"), FORBIDDEN)
    answers["ListAliases"] = lambda *_: proto.ListAliasesResponse()
    with served(**answers) as (url, _), open_store(url, KEY) as store:
        with pytest.raises(StoreError, match="knows the key in QDRANT_API_KEY") as error:
            doing(store, ServerCollection(store.connection, "a", CARD), make_batch(1))
        assert may_not in str(error.value)
        assert "(PERMISSION_DENIED: Global manage access is required)" in str(error.value)
        assert KEY not in str(error.value)


def test_refusal__an_old_server_says_that_it_doesnt_know_the_key():
    invalid = refusing(grpc.StatusCode.PERMISSION_DENIED, "Invalid api-key")
    with (
        served(List=invalid) as (url, _),
        pytest.raises(StoreError, match="refuses the key in QDRANT_API_KEY: it isn't"),
    ):
        open_store(url, KEY)


def test_key_of_other__the_same_server_has_the_same_key(monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    monkeypatch.delenv("QDRANT_TO_API_KEY", raising=False)
    store = "https://a:6333"
    assert Key.of_other("QDRANT_TO_API_KEY", "https://a:6333", store).value == KEY
    assert Key.of_other("QDRANT_TO_API_KEY", "HTTPS://A/", store).value == KEY  # the same, spelt otherwise
    for other in (
        "https://a:6333/other",
        "https://b:6333",
        "http://a:6333",
        "https://a:7333",
        "https://a:6333,https://b:6333",
        "a",
        "",
    ):
        assert Key.of_other("QDRANT_TO_API_KEY", other, store).value is None
    assert Key.of_other("QDRANT_TO_API_KEY", "data", "data").value is None
    monkeypatch.setenv("QDRANT_TO_API_KEY", OTHER)
    assert Key.of_other("QDRANT_TO_API_KEY", "https://a:6333", store).value == OTHER
