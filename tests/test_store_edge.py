"""What only a directory has: locks, damage on disk, the HNSW graph built beside the program."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cbmir.errors import CbmirError, CollectionError, StoreDamagedError, StoreError, StoreFullError, StoreLockedError
from cbmir.filters import parse
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store import open_store
from cbmir.store.edge import EdgeStore
from cbmir.store.edge_points import EdgeCollection
from cbmir.store.folders import held, put_aside
from cbmir.store.shard import ENGINE, optimize

pytestmark = pytest.mark.slow

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a child's death with its parent is a Linux feature")

HOLD = """
import sys
from pathlib import Path
from cbmir.store.edge import EdgeStore
with EdgeStore(Path(sys.argv[1])).open(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""
LEFT = """
import sys
import qdrant_edge
shard = qdrant_edge.EdgeShard.load(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""
FINISH = """
import sys
from pathlib import Path
from cbmir.store.edge import EdgeStore
collection = EdgeStore(Path(sys.argv[1])).open(sys.argv[2])
collection.finish(lambda line: print(line, flush=True))
"""


@contextmanager
def _process(code: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """A Python of its own that has printed its first line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


# locks


def test_open__in_use_by_another_process(edge, filled, cbmir):
    filled.close()
    with _process(HOLD, edge.path, "eight"):
        for refused in (edge.open, edge.drop):
            with pytest.raises(StoreLockedError, match="in use by another process") as caught:
                refused("eight")
            assert "\n" not in str(caught.value)
            assert str(edge.path / "eight") in str(caught.value)
        shown = cbmir("collections", "show", "eight", "--store", edge.path)
        assert shown.returncode == 1
        assert shown.stderr.startswith("error: ")
        assert shown.stderr.count("\n") == 1
    with edge.open("eight") as again:
        assert again.count() == 30


def test_open__waits_for_the_engine_that_a_killed_process_has_left(sound, tmp_path):
    """Its helper dies with it, but not at once: as long as the disk is busy it holds the engine's lock."""
    store, opened = _copy(sound, tmp_path), []
    with _process(LEFT, tmp_path / "eight" / "shard") as process:

        def count() -> None:
            with store.open("eight") as collection:
                opened.append(collection.count())

        thread = threading.Thread(target=count)
        thread.start()
        _until(lambda: _holds_a_lock(psutil.Process()))  # ours: the engine's is next
        process.kill()
        thread.join()
    assert opened == [30]


def test_open__another_collection_of_the_store_is_free(edge, filled, card):
    filled.close()
    with _process(HOLD, edge.path, "eight"), edge.create("other", card) as other:
        assert other.count() == 0


def test_upsert__killed_process_loses_nothing_it_stored(edge, filled, make_batch):
    filled.close()
    code = """
import sys, os, signal
from pathlib import Path
import numpy as np
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store.edge import EdgeStore
collection = EdgeStore(Path(sys.argv[1])).open("eight")
vectors = normalise(np.random.default_rng(5).standard_normal((100, 8)).astype(np.float32))
records = tuple(ImageRecord(filepath=f"new {i}", dataset="killed") for i in range(100))
collection.upsert(EmbeddedBatch(records, vectors, collection.card.fingerprint))
print("stored", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with _process(code, edge.path) as process:
        process.wait(30)
    with edge.open("eight") as again:
        assert again.count() == 130


# places


def test_edge_store__a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file; give a directory"):
        open_store(tmp_path / "file")


def test_edge_store__nothing_is_made_by_looking(tmp_path):
    store = EdgeStore(tmp_path / "nothing")
    assert store.names() == []
    with pytest.raises(CollectionError, match="there is no such directory"):
        store.open("a")
    assert not (tmp_path / "nothing").exists()


def test_create__below_a_file_is_a_store_error(tmp_path, card):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="can't make the collection"):
        EdgeStore(tmp_path / "file" / "store").create("a", card)


def test_create__ignores_and_cleans_what_a_killed_process_left(edge, card):
    left, other = edge.path / ".a.abcd_123.new", edge.path / ".a.b.abcd_123.new"
    for folder in (left, other):
        (folder / "shard").mkdir(parents=True)
        (folder / "collection.json").write_text("{}")
    assert edge.names() == []
    edge.create("a", card).close()
    assert not left.exists()
    assert other.exists()  # it belongs to a collection a.b, that another process may be making
    assert edge.names() == ["a"]


def test_create__a_failure_leaves_no_collection(edge, card, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)  # a full disk can't be had in a test
        with pytest.raises(StoreError, match="No space left"):
            edge.create("a", card)
    assert edge.names() == []
    edge.create("a", card).close()


# damage

Damage = Callable[[Path], None]


def _garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(max(path.stat().st_size, 64)))


def _half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _gone(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


DAMAGE = [
    (".", _gone),
    ("edge_config.json", _garbage),
    ("segments", _gone),
    ("segments/*/version.info", _gone),
    ("segments/*/segment.json", _half),
    ("segments/*/mutable_id_tracker.mappings", _garbage),
    ("segments/*/payload_storage/page_0.dat", _gone),
    ("segments/*/payload_index/config.json", _garbage),
    ("segments/*/payload_index/config.json", _gone),
    ("segments/*/vector_storage/deleted/status.dat", _garbage),
    ("segments/*/vector_storage/vectors/chunk_0.mmap", _gone),
    ("segments/*/vector_storage/vectors/status.dat", _gone),
    ("wal/open-1", _empty),
    ("wal/first-index", _garbage),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, card, make_batch) -> Path:
    """The folder of a closed collection."""
    store = EdgeStore(tmp_path_factory.mktemp("sound"))
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(30))
    return store.path / "eight"


def _copy(folder: Path, target: Path) -> EdgeStore:
    sparse = ["--sparse=always"] if sys.platform == "linux" else []  # the engine's files are mostly holes
    subprocess.run(["cp", "-r", *sparse, folder, target / folder.name], check=True)
    return EdgeStore(target)


@pytest.mark.parametrize(("pattern", "damage"), DAMAGE, ids=lambda value: getattr(value, "__name__", value))
def test_open__damaged_files_are_a_store_error(sound, tmp_path, pattern, damage):
    store = _copy(sound, tmp_path)
    shard = tmp_path / "eight" / "shard"
    for path in [shard] if pattern == "." else list(shard.glob(pattern)):
        damage(path)
    with pytest.raises(StoreError) as caught, store.open("eight") as collection:
        _use(collection)
    assert str(tmp_path / "eight") in str(caught.value)
    assert "\n" not in str(caught.value)
    store.drop("eight")  # and it can be deleted
    assert store.names() == []


def _use(collection: EdgeCollection) -> None:
    found = sum(len(page) for page in collection.scroll(vectors=True))
    hits = len(collection.query(np.eye(8, dtype=np.float32)[0], 10))
    facet = collection.facet("modality", (parse("split=train"),))
    assert (found, hits, facet) == (30, 10, {"CT": 10})


@pytest.mark.parametrize("pattern", ["deleted/status.dat", "vectors/status.dat"])
def test_open__an_engine_panic_ends_in_one_error(sound, tmp_path, pattern, cbmir, cbmir_process):
    """Rust prints a panic to stderr itself, before Python sees it; our line comes last, and nothing hangs."""
    _copy(sound, tmp_path)
    for path in (tmp_path / "eight" / "shard").glob(f"segments/*/vector_storage/{pattern}"):
        _half(path)
    shown = cbmir_process("collections", "show", "eight", "--store", tmp_path)
    assert shown.returncode == 1
    assert "panicked" in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'eight'} is damaged, the engine gave up on it")
    gone = cbmir("collections", "drop", "eight", "--yes", "--store", tmp_path)
    assert gone.returncode == 0


@pytest.mark.parametrize(
    "text",
    ["", "not json", '{"format": 1', "[]", "null", "{}", '{"format": 1, "engine": "ENGINE"}', "\0\xff", '"text"'],
)
def test_open__damaged_collection_json(sound, tmp_path, text):
    store = _copy(sound, tmp_path)
    path = tmp_path / "eight" / "collection.json"
    path.write_text(text.replace("ENGINE", ENGINE), encoding="latin-1")
    with pytest.raises((CollectionError, StoreDamagedError)) as caught:
        store.open("eight")
    assert str(tmp_path / "eight") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "has format 2; this cbmir reads 1: update cbmir"),
        ({"engine": "qdrant-edge 0.8.3"}, "was written by qdrant-edge 0.8.3, here runs qdrant-edge "),
        ({"engine": None}, "was written by None"),
        ({"fingerprint": "0" * 16}, "doesn't have the fingerprint that stands beside it"),
        ({"encoder": {"name": "x"}}, "not made by cbmir or its metadata is damaged"),
        ({"encoder": {"name": "x", "dim": "y", "weights": "", "preprocessing": {}}}, "metadata is damaged"),
        ({"encoder": []}, "metadata is damaged"),
    ],
)
def test_open__metadata_of_others_is_refused(sound, tmp_path, change, reason):
    store = _copy(sound, tmp_path)
    path = tmp_path / "eight" / "collection.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CollectionError, match=reason):
        store.open("eight")


def test_open__a_patch_release_of_the_engine_is_taken(sound, tmp_path):
    store = _copy(sound, tmp_path)
    path = tmp_path / "eight" / "collection.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"engine": ENGINE.rpartition(".")[0] + ".99"}))
    store.open("eight").close()


# finish

WIDE = external_card("wide", 1024)
"""The engine builds a graph from 10,000 KB of vectors on; 2,700 of 1024 dimensions are just above."""
N_WIDE = 2_700


def _fill(store: EdgeStore) -> EdgeCollection:
    rng = np.random.default_rng(3)
    plane = rng.standard_normal((16, WIDE.dim))  # few degrees of freedom, as embeddings have
    vectors = normalise((rng.standard_normal((N_WIDE, 16)) @ plane).astype(np.float32))
    collection = store.create("wide", WIDE)
    for start in range(0, N_WIDE, 900):
        records = tuple(ImageRecord(filepath=str(i), dataset="wide") for i in range(start, start + 900))
        collection.upsert(EmbeddedBatch(records, vectors[start : start + 900], WIDE.fingerprint))
    return collection


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a closed collection that is large enough for an HNSW graph and has none yet."""
    with _fill(EdgeStore(tmp_path_factory.mktemp("wide"))) as collection:
        assert collection.info().indexed == 0
        return collection.folder


def test_finish__builds_the_graph_while_this_process_goes_on(wide, tmp_path):
    counted, stop, said = [0], threading.Event(), []

    def count() -> None:
        while not stop.wait(0.01):
            counted[0] += 1

    with _copy(wide, tmp_path).open("wide") as collection:
        thread = threading.Thread(target=count)
        thread.start()
        try:
            collection.finish(lambda line: said.append((line, counted[0])))
        finally:
            stop.set()
            thread.join()
        assert collection.info().indexed == N_WIDE
        indexing = [count for line, count in said if "indexing 2,700 vectors" in line]
        assert len(indexing) > 1  # with the GIL held nothing of this process would go on
        assert indexing[-1] > indexing[0]
        assert _recall(collection) >= 0.95
        collection.finish()  # nothing left to do
        assert collection.count() == N_WIDE


def _recall(collection: EdgeCollection) -> float:
    ids = [point.id for point in next(collection.scroll(batch=100, fields=False))]
    vectors = np.stack([point.vector for point in collection.get(ids, fields=False, vectors=True)])
    queries = normalise(vectors + np.random.default_rng(4).normal(0, 0.01, vectors.shape).astype(np.float32))
    found, true = (
        [{hit.id for hit in hits} for hits in collection.query_batch(queries, 10, way=way, fields=False)]
        for way in ("approximate", "exact")
    )
    return float(np.mean([len(one & other) / 10 for one, other in zip(found, true, strict=True)]))


@LINUX
def test_finish__killing_the_program_leaves_no_lock(wide, tmp_path):
    store = _copy(wide, tmp_path)
    with _process(FINISH, tmp_path, "wide") as process:
        child = _until(lambda: next((c for c in psutil.Process(process.pid).children() if _holds_a_lock(c)), None))
        with pytest.raises(StoreLockedError):
            store.open("wide")
        process.send_signal(signal.SIGKILL)
        process.wait(300)
    assert _until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    with store.open("wide") as collection:
        assert collection.count() == N_WIDE


def _holds_a_lock(process: psutil.Process) -> bool:
    return any(line.split()[4] == str(process.pid) for line in Path("/proc/locks").read_text().splitlines())


def _until(condition: Callable[[], Any], timeout_s: float = 300.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (met := condition()):
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.01)
    return met


def test_finish__interrupted_leaves_the_collection_open(wide, tmp_path):
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with _copy(wide, tmp_path).open("wide") as collection:
        with pytest.raises(KeyboardInterrupt):
            collection.finish(interrupt)
        assert collection.count() == N_WIDE


def test_finish__a_failure_says_why(edge, filled, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StoreError, match="failed, nothing is lost: it ended with 1"):
        filled.finish()
    assert filled.count() == 30


def test_optimize__a_missing_collection_is_a_store_error(tmp_path):
    with pytest.raises(StoreError):
        optimize(tmp_path / "nothing")


@LINUX
def test_optimize__ends_at_once_when_nobody_waits_for_it(sound):
    done = subprocess.run(
        [sys.executable, "-m", "cbmir.store.optimize", str(sound), "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "the process that asked for this is gone\n"


def test_upsert__flushes_by_itself(edge, filled, make_batch, monkeypatch):
    flushed = []
    filled.flush()
    monkeypatch.setattr("cbmir.store.edge_points.FLUSH_EVERY", 20)
    monkeypatch.setattr(filled, "flush", lambda: flushed.append(filled._unflushed))
    filled.upsert(make_batch(19, first=100))
    assert flushed == []
    filled.upsert(make_batch(1, first=200))
    assert flushed == [20]


def test_upsert__a_full_disk_is_a_store_error(filled, make_batch, monkeypatch):
    before = filled.count()
    monkeypatch.setattr("cbmir.store.edge_points.SPARE_BYTES", 1 << 62)  # no disk has as much
    with pytest.raises(StoreFullError, match=r"is full: .* bytes are free"):
        filled.upsert(make_batch(3, first=1000))
    assert filled.count() == before


def test_close__a_closed_collection_is_an_error_of_ours(filled):
    filled.close()
    with pytest.raises(CbmirError):
        filled.count()


LOUD = """
import os, sys
os.write(2, b"x" * 300_000 + b"\\xff\\n" + b"the last line\\n")
sys.exit(int(os.environ.get("FAILS", "0")))
"""


@pytest.mark.parametrize("fails", [0, 1])
def test_finish__a_child_that_writes_much_to_stderr_is_read(filled, tmp_path, monkeypatch, fails):
    loud = tmp_path / "loud"
    loud.write_text(f"#!{sys.executable}\n{LOUD}")
    loud.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(loud))
    monkeypatch.setenv("FAILS", str(fails))
    if fails:
        with pytest.raises(StoreError, match=r"nothing is lost: the last line$"):
            filled.finish()
    else:
        filled.finish()
    assert filled.count() == 30


# a drop that is killed, and what else is left


DROP = """
import os, sys
from pathlib import Path
from cbmir.store import folders
from cbmir.store.edge import EdgeStore
calls = [int(sys.argv[2])]
def counted(real):
    def call(*arguments, **how):
        if not calls[0]:
            os.kill(os.getpid(), 9)
        calls[0] -= 1
        return real(*arguments, **how)
    return call
for name in ("rename", "unlink", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))
Path.rename, Path.unlink = counted(Path.rename), counted(Path.unlink)
EdgeStore(Path(sys.argv[1])).drop("eight")
"""


@pytest.mark.parametrize("step", [0, 1, 2, 5, 20])
def test_drop__killed_at_any_step_leaves_the_collection_or_says_what_is_left(sound, tmp_path, cbmir, step):
    store = _copy(sound, tmp_path)
    done = subprocess.run([sys.executable, "-c", DROP, str(tmp_path), str(step)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    listed = cbmir("collections", "list", "--store", tmp_path)
    if "eight" in store.names():
        assert store.remains() == []
        store.drop("eight")
    else:
        assert "left over: " in listed.stderr
        assert f"cbmir collections drop eight --store {tmp_path}" in listed.stderr
        assert "left over" in cbmir("doctor", "--store", tmp_path).stdout
        assert cbmir("collections", "drop", "eight", "--yes", "--store", tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert "no collection 'eight'" in cbmir("collections", "drop", "eight", "--yes", "--store", tmp_path).stderr


def test_remains__what_a_process_is_at_is_not_left_over(edge, card):
    edge.create("eight", card).close()
    aside = put_aside(edge.path / "eight")
    lock = held(aside)
    assert edge.remains() == []
    with pytest.raises(CollectionError, match="no collection 'eight'"):
        edge.drop("eight")
    lock.close()
    assert len(edge.remains()) == 1
    with edge.create("eight", card):
        assert edge.remains() == []  # a new one of the name cleans up


def test_remains__of_a_name_that_is_in_use_again_don_t_point_at_the_collection(edge, card):
    edge.create("eight", card).close()
    aside = put_aside(edge.path / "eight")
    edge.create("other", card).close()
    (edge.path / "other").rename(edge.path / "eight")
    (line,) = edge.remains()
    assert str(aside) in line
    assert "collections drop" not in line


# a store that is removed under a running program


@pytest.mark.parametrize(
    "work",
    [
        lambda collection, batch: collection.upsert(batch),
        lambda collection, _: collection.flush(),
        lambda collection, _: collection.finish(),
        lambda collection, _: collection.count(),
        lambda collection, _: list(collection.scroll()),
        lambda collection, _: collection.facet("split"),
        lambda collection, _: collection.set_payloads({}),
        lambda collection, _: collection.close(),
    ],
)  # fmt: skip
def test_collection__whose_store_is_removed_meanwhile_raises_errors_of_ours_only(edge, card, make_batch, work):
    with edge.create("eight", card) as collection:
        collection.upsert(make_batch(30))
        shutil.rmtree(edge.path)
        with suppress(CbmirError):
            work(collection, make_batch(3, first=100))
        with suppress(CbmirError):
            collection.close()
