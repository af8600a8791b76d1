"""Backups: a directory as a tar file, a server's snapshots from each node, and back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from builders import contents, copied
from faults import Fault, Faults
from standin import Standin
from standin_rest import Rest, node_of

from cbmir.collections.backup_folder import writing
from cbmir.collections.backups import check, restore, snapshot
from cbmir.collections.manifests import BACKUP, BackupManifest
from cbmir.collections.seals import Seal, seal_of
from cbmir.errors import CollectionError, SourceError, StoreError, StoreLockedError
from cbmir.store import Store, open_store
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

KEY = "a-secret-key"


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbmir.store.retry.time.sleep", lambda _: None)


def rewritten(folder: Path, **changes: object) -> None:
    data = json.loads((folder / BACKUP.name).read_text())
    (folder / BACKUP.name).write_text(json.dumps(data | changes))


# a directory


@pytest.fixture(scope="module")
def taken(shelf, tmp_path_factory) -> Path:
    """A backup of the collection that `filled` holds."""
    folder = tmp_path_factory.mktemp("taken")
    store = EdgeStore(copied(shelf, folder / "store"))
    with store.open("eight") as collection:
        before = contents(collection)
    report = snapshot(store, "eight", folder / "backup")
    assert (report.collection, report.points, report.files) == ("eight", 30, 1)
    with store.open("eight") as collection:
        assert contents(collection) == before
    return folder / "backup"


@pytest.fixture
def backup(filled, taken, tmp_path) -> Path:
    """A copy of the backup, to be changed or restored beside the collection it is of."""
    filled.close()
    return copied(taken, tmp_path / "backup")


def test_restore__a_directory_answers_as_before(edge, backup, tmp_path, make_batch):
    query = make_batch(1, seed=9).vectors
    with edge.open("eight") as original, EdgeStore(tmp_path / "other") as other:
        report = restore(backup, other)
        with other.open("eight") as copy:
            assert contents(copy) == contents(original)
            assert copy.query_batch(query, 10) == original.query_batch(query, 10)
            assert copy.info().fields == original.info().fields
            copy.upsert(make_batch(5, first=100))
            assert copy.count() == 35
    assert str(report).startswith("eight: 30 images, fingerprint ")
    assert sorted(path.name for path in backup.iterdir()) == ["backup.json", "collection.tar.gz"]


def test_restore__under_another_name_and_never_over_one(edge, backup):
    with pytest.raises(CollectionError, match="exists already"):
        restore(backup, edge)
    restore(backup, edge, "copy")
    assert edge.names() == ["copy", "eight"]


def test_snapshot__waits_for_nobody_else(edge, filled, held_elsewhere, tmp_path):
    filled.close()
    with held_elsewhere(edge.path, "eight"), pytest.raises(StoreLockedError, match="is in use"):
        snapshot(EdgeStore(edge.path), "eight", tmp_path / "second")
    assert list((tmp_path / "second").iterdir()) == []


def test_snapshot__of_a_collection_that_is_open_here(edge, filled, tmp_path):
    snapshot(EdgeStore(edge.path), "eight", tmp_path / "second")
    assert filled.count() == 30
    assert restore(tmp_path / "second", edge, "again").points == 30


def test_snapshot__what_is_not_of_the_collection_is_left_out(edge, filled, tmp_path):
    """A killed process may have left a part of a file; a backup with it could not be put back."""
    filled.close()
    for name in (".collection.json.part", ".files.json.part", "notes.txt"):
        (edge.path / "eight" / name).write_text("left")
    (edge.path / "eight" / "more").mkdir()
    (edge.path / "eight" / "more" / "notes.txt").write_text("left")
    snapshot(edge, "eight", tmp_path / "mine")
    assert restore(tmp_path / "mine", edge, "again").points == 30
    assert {path.name for path in (edge.path / "again").iterdir()} <= {"collection.json", "shard", "lock", "files.json"}


def test_snapshot__of_a_damaged_collection_is_refused(edge, filled, tmp_path):
    filled.finish()
    filled.close()
    path = max((edge.path / "eight/shard/segments").rglob("*.dat"), key=lambda item: item.stat().st_size)
    with path.open("r+b") as file:
        file.write(b"\xff\xff")
    with pytest.raises(StoreError, match=r"aren't as they were .* cbmir collections salvage eight NEW"):
        snapshot(edge, "eight", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_snapshot__only_into_an_empty_folder(edge, backup):
    with pytest.raises(SourceError, match="isn't empty"):
        snapshot(edge, "eight", backup)
    assert check(backup) == []


def _killed(folder: Path, *files: str) -> Path:
    """A folder as a run that was killed leaves it."""
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(b"torn")
    (folder / "backup.unfinished").write_text('{"format": "cbmir-backup", "unfinished": true}')
    return folder


@pytest.mark.parametrize(
    "files",
    [
        (),
        ("collection.tar.gz.partial",),
        ("collection.tar.gz", "backup.json.partial"),
        ("node-1.snapshot", "node-2.snapshot.partial"),
    ],
)
def test_snapshot__replaces_what_an_interrupted_run_has_left(edge, filled, tmp_path, files):
    filled.close()
    folder = _killed(tmp_path / "backup", *files)
    with pytest.raises(SourceError, match="is no backup"):
        restore(folder, edge, "copy")
    snapshot(edge, "eight", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["backup.json", "collection.tar.gz"]
    assert check(folder) == []


@pytest.mark.parametrize("foreign", ["letter.txt", "backup.json", "node-x.snapshot", "collection.tar.gz.old"])
def test_snapshot__never_deletes_what_is_not_ours(edge, filled, tmp_path, foreign):
    filled.close()
    folder = _killed(tmp_path / "backup", "collection.tar.gz", foreign)
    with pytest.raises(SourceError, match=f"isn't empty, it holds {foreign}"):
        snapshot(edge, "eight", folder)
    assert (folder / foreign).read_bytes() == b"torn"
    (folder / foreign).unlink()
    (folder / "backup.unfinished").write_text("{}")  # the mark is another program's
    with pytest.raises(SourceError, match="isn't empty"):
        snapshot(edge, "eight", folder)
    assert (folder / "collection.tar.gz").read_bytes() == b"torn"


def test_snapshot__two_at_once_into_one_folder(edge, filled, tmp_path):
    filled.close()
    with writing(tmp_path / "backup"), pytest.raises(SourceError, match="another run is writing a backup"):
        snapshot(edge, "eight", tmp_path / "backup")


def test_snapshot__a_killed_run_is_done_again(edge, filled, tmp_path):
    """The real program, killed while it packs."""
    filled.close()
    code = (
        "import os, signal, sys, tarfile\nfrom pathlib import Path\n"
        "from cbmir.collections.backups import snapshot\nfrom cbmir.store.edge import EdgeStore\n"
        "tarfile.TarFile.add = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "snapshot(EdgeStore(Path(sys.argv[1])), 'eight', Path(sys.argv[2]))"
    )
    done = subprocess.run([sys.executable, "-c", code, edge.path, tmp_path / "backup"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "backup").iterdir()] != []
    snapshot(edge, "eight", tmp_path / "backup")
    assert check(tmp_path / "backup") == []


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../secret", "/etc/passwd", "a\\b", "a\0b", ""])
def test_restore__names_in_the_manifest_stay_in_the_folder(edge, backup, name):
    rewritten(backup, files={name: {"sha256": "0", "bytes": 1}})
    for read in (lambda: restore(backup, edge, "copy"), lambda: check(backup)):
        with pytest.raises(SourceError, match="is no file name"):
            read()


def test_verify__a_link_out_of_the_folder_is_not_followed(edge, backup, tmp_path):
    (backup / "collection.tar.gz").rename(tmp_path / "elsewhere")
    (backup / "collection.tar.gz").symlink_to(tmp_path / "elsewhere")
    assert "is no plain file" in check(backup)[0]
    with pytest.raises(SourceError, match="is no plain file"):
        restore(backup, edge, "copy")


def test_snapshot__a_full_disk_leaves_nothing_whole(edge, filled, tmp_path, monkeypatch):
    filled.close()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "add", full)
    with pytest.raises(SourceError, match=r"can't write the backup .*: No space left on device"):
        snapshot(edge, "eight", tmp_path / "backup")
    assert list((tmp_path / "backup").iterdir()) == []
    with pytest.raises(SourceError, match=r"is no backup: it has no backup\.json, which is written last"):
        restore(tmp_path / "backup", edge, "copy")
    with edge.open("eight") as collection:
        assert collection.count() == 30


def test_verify__finds_a_flipped_byte(edge, backup):
    tar = backup / "collection.tar.gz"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    (flaw,) = check(backup)
    assert "its SHA-256 is" in flaw
    with pytest.raises(SourceError, match="its SHA-256 is"):
        restore(backup, edge, "copy")
    tar.write_bytes(data[:-1])
    assert "bytes, not" in check(backup)[0]
    tar.unlink()
    assert "can't read" in check(backup)[0]
    assert edge.names() == ["eight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "something"}, "was not written by"),
        ({"version": 2}, "has version 2, this cbmir reads 1"),
        ({"points": "many"}, "is damaged"),
        ({"fingerprint": "0"}, "is damaged: its parts don't fit"),
        ({"kind": "cloud"}, "is damaged: its parts don't fit"),
        ({"files": {}}, "is damaged: its parts don't fit"),
        ({"files": {"../up.tar": {"sha256": "0", "bytes": 1}}}, "is no file name"),
        ({"kind": "server"}, "is the backup of a server"),
        ({"points": 31}, "has 30 images of fingerprint"),
    ],
)
def test_restore__refuses(edge, backup, changes, message):
    rewritten(backup, **changes)
    with pytest.raises((SourceError, StoreError), match=message):
        restore(backup, edge, "copy")


def _smuggled(backup: Path, member: tarfile.TarInfo) -> None:
    with tarfile.open(backup / "collection.tar.gz", "w:gz") as tar:
        tar.addfile(member)
    seal = seal_of(backup / "collection.tar.gz")
    rewritten(backup, files={"collection.tar.gz": {"sha256": seal.sha256, "bytes": seal.bytes}})


MEMBERS = {
    "up": ("../../up", None),
    "up from within": ("shard/../../up", None),
    "absolute": ("/tmp/abs", None),
    "link": ("shard/link", tarfile.SYMTYPE),
    "hard link": ("shard/hard", tarfile.LNKTYPE),
    "pipe": ("shard/pipe", tarfile.FIFOTYPE),
    "device": ("shard/device", tarfile.CHRTYPE),
    "folder": ("shard/folder", tarfile.DIRTYPE),
    "beside": ("beside", None),
    "the lock": ("lock", None),
}


@pytest.mark.parametrize(("name", "kind"), MEMBERS.values(), ids=MEMBERS)
def test_restore__nothing_outside_the_collection(edge, backup, tmp_path, name, kind):
    member = tarfile.TarInfo(name)
    if kind is not None:
        member.type, member.linkname = kind, "/etc/passwd"
    _smuggled(backup, member)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((SourceError, CollectionError), match=r"can't be unpacked|is damaged"):
        restore(backup, edge, "copy")
    assert edge.names() == ["eight"]
    assert sorted(tmp_path.rglob("*")) == before


# a server


@pytest.fixture
def server(tmp_path) -> Iterator[Standin]:
    with Standin(tmp_path / "server", KEY, rest_handler=Rest) as made:
        yield made


@pytest.fixture
def store(server) -> Iterator[Store]:
    with open_store(server.url, KEY) as made:
        yield made


def test_restore__a_server_with_its_alias(server, store, card, make_batch, tmp_path):
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(40))
        before = contents(collection)
    taken = snapshot(store, "eight", tmp_path / "backup", api_key=KEY)
    assert (taken.collection, taken.aliases, taken.points) == ("eight__v1", ("eight",), 40)
    assert server.snapshots == {}  # nothing is left on the node
    store.drop("eight")
    assert store.names() == []
    back = restore(tmp_path / "backup", store, api_key=KEY)
    assert (back.collection, back.aliases, back.points) == ("eight__v1", ("eight",), 40)
    with store.open("eight") as collection:
        assert contents(collection) == before
        assert collection.facet("modality") == {"CT": 14, "MR": 13, "XR": 13}


def test_restore__beside_the_one_in_use(store, card, make_batch, tmp_path):
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(10))
    snapshot(store, "eight", tmp_path / "backup", api_key=KEY)
    with pytest.raises(CollectionError, match="eight__v1 exists already"):
        restore(tmp_path / "backup", store, api_key=KEY)
    copy = restore(tmp_path / "backup", store, "copy", api_key=KEY)
    assert (copy.collection, copy.aliases) == ("copy__v1", ("copy",))
    next_one = restore(tmp_path / "backup", store, "eight", api_key=KEY)
    assert (next_one.collection, next_one.aliases) == ("eight__v2", ())  # people go on with what they have
    assert store.aliases() == {"copy": "copy__v1", "eight": "eight__v1"}


def test_snapshot__what_the_server_refuses(server, store, card, make_batch, tmp_path):
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(3))
    with pytest.raises(StoreError, match="refuses the key") as caught:
        snapshot(store, "eight", tmp_path / "one", api_key="wrong-key")
    assert "wrong-key" not in str(caught.value)
    with pytest.raises(CollectionError, match="no collection 'nothing'"):
        snapshot(store, "nothing", tmp_path / "two", api_key=KEY)
    assert list((tmp_path / "one").iterdir()) == list((tmp_path / "two").iterdir()) == []


def test_snapshot__a_file_that_came_otherwise_is_no_backup(server, store, card, make_batch, tmp_path, monkeypatch):
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(3))
    create = Rest._create

    def spoilt(self, name):
        create(self, name)
        for file, data in self.kept.items():
            self.kept[file] = data[:-1] + b"x"

    monkeypatch.setattr(Rest, "_create", spoilt)
    with pytest.raises(StoreError, match="came with another SHA-256 than it has there"):
        snapshot(store, "eight", tmp_path / "backup", api_key=KEY)
    assert list((tmp_path / "backup").iterdir()) == []
    assert server.snapshots == {}


def test_restore__another_minor_version(store, card, make_batch, tmp_path):
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(3))
    snapshot(store, "eight", tmp_path / "backup", api_key=KEY)
    rewritten(tmp_path / "backup", engine="qdrant 1.2.3")
    with pytest.raises(StoreError, match=r"the backup was written by qdrant 1\.2\.3: snapshots can be put back within"):
        restore(tmp_path / "backup", store, "copy", api_key=KEY)
    rewritten(tmp_path / "backup", kind="directory")
    with pytest.raises(StoreError, match="is the backup of a directory"):
        restore(tmp_path / "backup", store, "copy", api_key=KEY)


@pytest.mark.parametrize(
    "plan",
    [
        [Fault("busy", "/snapshots", times=2), Fault("unavailable", "/cluster")],
        [Fault("cut", ".snapshot", times=2)],
        [Fault("reset", ".snapshot"), Fault("cut", "/upload"), Fault("busy", "/upload")],
        [Fault("reset", "/upload", nbytes=3000), Fault("unavailable", "/upload", times=2)],
    ],
)
def test_restore__over_a_connection_with_faults(server, store, card, make_batch, tmp_path, caplog, plan):
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(40))
        before = contents(collection)
    with Faults(server.url, plan, http=True) as faults:
        snapshot(store, "eight", tmp_path / "backup", [faults.url], KEY)
        restore(tmp_path / "backup", store, "copy", [faults.url], KEY)
        assert len(faults.hits) == sum(fault.times for fault in plan)
        assert caplog.text.count(f"{faults.url}") >= len(faults.hits)
    with store.open("copy") as collection:
        assert contents(collection) == before
    assert server.snapshots == {}
    assert KEY not in caplog.text


def test_snapshot__a_node_that_is_cut_off_while_it_packs(server, store, card, make_batch, tmp_path):
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(4))
    with (
        Faults(server.url, [Fault("cut", "/snapshots?")], http=True) as faults,
        pytest.raises(StoreError, match=f"no Qdrant server answers at {faults.url}"),
    ):
        snapshot(store, "eight", tmp_path / "backup", [faults.url], KEY)
    assert list((tmp_path / "backup").iterdir()) == []


# the nodes of a cluster


@pytest.fixture
def nodes(tmp_path) -> Iterator[list[Standin]]:
    """Two servers that say they are one cluster; each holds its own part."""
    others = {11: {22: "http://b:6335"}, 22: {11: "http://a:6335"}}
    with ExitStack() as stack:
        yield [
            stack.enter_context(Standin(tmp_path / f"node{own}", KEY, rest_handler=node_of(own, peers)))
            for own, peers in others.items()
        ]


def test_snapshot__every_node_of_a_cluster(nodes, card, make_batch, tmp_path):
    urls = [node.url for node in nodes]
    parts = [make_batch(12), make_batch(12, first=50)]
    for url, part in zip(urls, parts, strict=True):
        with open_store(url, KEY) as store, store.create("eight", card) as collection:
            collection.upsert(part)
    with open_store(urls[0], KEY) as store:
        with pytest.raises(StoreError, match=r"nodes that were not named, .*: http://b:6335; give every node with"):
            snapshot(store, "eight", tmp_path / "part", api_key=KEY)
        with pytest.raises(StoreError, match="are the same node"):
            snapshot(store, "eight", tmp_path / "twice", [urls[0], urls[0]], KEY)
        taken = snapshot(store, "eight", tmp_path / "backup", urls, KEY)
        assert taken.files == 2
        assert list(BackupManifest.read(tmp_path / "backup").files) == ["node-1.snapshot", "node-2.snapshot"]
    for url in urls:
        with open_store(url, KEY) as store:
            store.drop("eight")
    with open_store(urls[0], KEY) as store:
        restore(tmp_path / "backup", store, nodes=urls, api_key=KEY)
    for url, part in zip(urls, parts, strict=True):
        with open_store(url, KEY) as store, store.open("eight__v1") as collection:
            assert contents(collection).keys() == {record.id for record in part.records}


def test_restore__onto_as_many_nodes_only(nodes, store, card, make_batch, tmp_path):
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(3))
    snapshot(store, "eight", tmp_path / "backup", api_key=KEY)
    with open_store(nodes[0].url, KEY) as cluster, pytest.raises(StoreError, match=r"is of 1 node and can .* named: 2"):
        restore(tmp_path / "backup", cluster, nodes=[node.url for node in nodes], api_key=KEY)
    with pytest.raises(StoreError, match="is a server of its own and no node of a cluster"):
        snapshot(store, "eight", tmp_path / "mixed", [store.location, nodes[0].url], KEY)


# the command line


def test_snapshot_command__and_back(server, store, card, make_batch, tmp_path, cbmir):
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(9))
    command = ("collections", "snapshot", "eight", "--store", server.url, "--out", tmp_path / "backup")
    done = cbmir(*command, QDRANT_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("eight__v1 (eight): 9 images")
    assert cbmir("collections", "verify", tmp_path / "backup").stderr == f"{tmp_path / 'backup'} is whole\n"
    store.drop("eight")
    restoring = ("collections", "restore", tmp_path / "backup", "--store", server.url, "--json")
    done = cbmir(*restoring, QDRANT_API_KEY=KEY)
    assert json.loads(done.stdout)["points"] == 9
    assert cbmir(*restoring, QDRANT_API_KEY=KEY).returncode == 1
    (tmp_path / "backup" / "node-1.snapshot").write_bytes(b"")
    done = cbmir("collections", "verify", tmp_path / "backup", "--json")
    assert done.returncode == 1
    assert "node-1.snapshot isn't as it was written" in json.loads(done.stdout)["damaged"][0]


def test_seal__of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-2, appendix B.1
    assert seal_of(tmp_path / "a") == Seal(expected, 3)


# real ones


@pytest.mark.server
@pytest.mark.parametrize("variable", ["QDRANT_URL", "QDRANT_CLUSTER_URLS"])
def test_restore__on_a_real_server(variable, card, make_batch, tmp_path):
    urls, key = os.environ.get(variable, ""), os.environ.get("QDRANT_API_KEY")
    if not urls:
        pytest.skip(f"{variable} names no server")
    name = f"test-{uuid.uuid4().hex[:12]}"
    with open_store(urls, key) as store:
        try:
            with store.create(name, card) as collection:
                collection.upsert(make_batch(300))
                collection.finish()
                before = contents(collection)
            taken = snapshot(store, name, tmp_path / "backup", urls.split(","), key)
            assert taken.points == 300
            store.drop(name)
            back = restore(tmp_path / "backup", store, nodes=urls.split(","), api_key=key)
            assert (back.points, back.aliases) == (300, (name,))
            with store.open(name) as collection:
                after = contents(collection)
                assert after.keys() == before.keys()
                assert [after[id][0] for id in after] == [before[id][0] for id in after]
                vectors = [[np.frombuffer(side[id][1], np.float32) for id in before] for side in (before, after)]
                np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
        finally:
            for left in (name, f"{name}__v1"):
                if left in store.names():
                    store.drop(left)
            shutil.rmtree(tmp_path / "backup", ignore_errors=True)
