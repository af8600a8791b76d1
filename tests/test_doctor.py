"""What `cbmir doctor` finds."""

import json
import os

import pytest
import qdrant_edge as q
import torch
from builders import copied
from pictures import cbmir as program
from qdrant_client import QdrantClient

from cbmir.doctor import check_collection, check_directory
from cbmir.schema import INDEXED_FIELDS
from cbmir.store.info import CollectionInfo
from cbmir.store.server import ServerStore

pytestmark = pytest.mark.slow


def states(done):
    return {item["name"]: (item["state"], item["text"]) for item in json.loads(done.stdout)}


def test_doctor__a_store_in_order(shelf, cbmir):
    done = cbmir("doctor", "--store", shelf, "--encoder", "pixels", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stdout
    found = states(done)
    assert found["program"][1].startswith("cbmir ")
    assert found["store"] == ("ok", f"{shelf} answers and holds 2 collections")
    assert found["eight"][0] == "ok"
    assert found["eight"][1].startswith("30 images of eight, fingerprint ")
    assert found["encoder"][0] == "ok"
    assert found["encoder"][1].startswith("pixels loads: 1024 dimensions")
    assert found["directory"][0] == "ok"
    plain = cbmir("doctor", "--store", shelf)
    assert plain.stdout.count("\n") == len(found) - 1
    assert [line.split()[:2] for line in plain.stdout.splitlines()[-2:]] == [["ok", "eight"], ["ok", "empty"]]


def test_doctor__a_damaged_collection_and_an_unknown_encoder(shelf, tmp_path, cbmir):
    store = tmp_path / "store"
    copied(shelf, store)
    (store / "eight" / "collection.json").write_text("{")
    done = cbmir("doctor", "--store", store, "--encoder", "no-such", "--json")
    assert done.returncode == 1
    found = states(done)
    assert found["eight"][0] == "failed"
    assert "damaged" in found["eight"][1]
    assert found["empty"][0] == "ok"
    assert found["encoder"][0] == "failed"
    assert "no encoder 'no-such'" in found["encoder"][1]


def test_doctor__torch_compile_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "no-such"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    timm = pytest.importorskip("timm")
    weights = tmp_path / "small.pt"
    torch.save(timm.create_model("test_vit").state_dict(), weights)
    how = (
        "--encoder",
        "timm:test_vit",
        "--weights",
        weights,
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--torch-compile",
    )
    done = program("doctor", *how, "--json")
    assert done.returncode == 1
    state, text = states(done)["encoder"]
    assert state == "failed"
    assert text.startswith("torch.compile can't compile this network here; go on without it:")


def test_doctor__no_store_yet_and_no_server(tmp_path, cbmir):
    done = cbmir("doctor", "--store", tmp_path / "nowhere", "--json")
    assert done.returncode == 0
    assert states(done)["store"] == ("warning", f"there is no {tmp_path / 'nowhere'} yet; ingest makes it")
    done = cbmir("doctor", "--store", "http://127.0.0.1:1", "--json", QDRANT_API_KEY="a-secret-key")
    assert done.returncode == 1
    assert states(done)["store"][1].startswith("no Qdrant server answers at http://127.0.0.1:1")
    assert "a-secret-key" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "state"),
    [("ext4", "ok"), ("overlay", "ok"), ("nfs4", "failed"), ("cifs", "failed"), ("fuse.sshfs", "failed")],
)
def test_check_directory__refuses_file_systems_of_the_network(tmp_path, kind, state):
    mounts = tmp_path / "mounts"
    folder = tmp_path / "with space"
    folder.mkdir()
    escaped = str(folder.resolve()).replace(" ", "\\040")
    mounts.write_text(f"/dev/root / ext4 rw 0 0\nserver:/x {escaped} {kind} rw 0 0\n")
    found = {check.name: check for check in check_directory(folder / "deep" / "er", mounts)}
    assert found["file system"].state == state
    assert found["file system"].text.startswith(kind)
    assert "file system" not in {check.name for check in check_directory(folder, tmp_path / "none")}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_directory__without_rights(tmp_path):
    tmp_path.chmod(0o500)
    found = {check.name: check for check in check_directory(tmp_path)}
    tmp_path.chmod(0o700)
    assert found["directory"].state == "failed"


@pytest.mark.parametrize(
    ("status", "fields", "state", "words"),
    [
        ("green", None, "ok", "30 images of eight"),
        ("yellow", None, "warning", "the server is indexing; cbmir collections optimize eight"),
        ("grey", None, "warning", "nothing is indexed before the next change"),
        ("red", None, "failed", "the server failed to index it"),
        ("green", {"split"}, "failed", "no index on age_years"),
    ],
)
def test_check_collection__by_its_state(edge, filled, monkeypatch, status, fields, state, words):
    every = frozenset(field.name for field in INDEXED_FIELDS)
    info = CollectionInfo(30, 0, status, "engine", every if fields is None else frozenset(fields))
    monkeypatch.setattr(filled, "info", lambda: info)
    check = check_collection(edge, filled)
    assert check.state == state
    assert words in check.text


def test_check_collection__the_engine_tells_its_indexes(filled, card):
    assert filled.info().fields == {field.name for field in INDEXED_FIELDS}
    with ServerStore.over(QdrantClient(":memory:"), "memory") as store, store.create("eight", card) as collection:
        assert collection.info().fields == frozenset()  # that engine has none


def test_check_collection__points_without_a_vector(edge, filled):
    ids = [point.id for page in filled.scroll() for point in page][:3]
    filled._shard.update(q.UpdateOperation.delete_vectors(ids, [""]))
    check = check_collection(edge, filled)
    assert check.state == "warning"
    assert "no search finds: 3; ingest them again" in check.text


def test_check_collection__a_node_that_is_down(edge, filled, monkeypatch):
    monkeypatch.setattr(edge, "unhealthy", lambda name: ["shard 1 on node 22 is Dead"])
    check = check_collection(edge, filled)
    assert check.state == "failed"
    assert "shard 1 on node 22 is Dead: start that node" in check.text


@pytest.mark.parametrize("state", ["Recovery", "Initializing", "PartialSnapshot", "Resharding"])
def test_check_collection__a_shard_on_its_way_is_no_dead_one(edge, filled, monkeypatch, state):
    monkeypatch.setattr(edge, "recovering", lambda name: [f"shard 5 on node 22 is {state}"])
    check = check_collection(edge, filled)
    assert check.state == "warning"
    assert f"shard 5 on node 22 is {state}: it gets there by itself" in check.text
    assert "start that node" not in check.text
