"""What the tests share: small collections of known content, and the program run as users run it."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from builders import copied
from hypothesis import settings
from threadpoolctl import threadpool_limits

from cbmir.__main__ import main
from cbmir.fingerprint import EncoderCard, external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store.edge import EdgeStore
from cbmir.store.edge_points import EdgeCollection

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on what a hub answers
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # as several processes run: their threads would wait
    os.environ.setdefault(_name, "1")  # for one another; torch and programs that tests start read it when they begin
threadpool_limits(1, "blas")  # NumPy's is loaded already
os.environ.pop("RUST_BACKTRACE", None)  # a panic of the engine shall look as it does to users

settings.register_profile("cbmir", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("cbmir")

Batch = Callable[..., EmbeddedBatch]

LONGEST = ("test_safepath.py", "test_names.py", "test_encoders_checkpoints.py", "test_earlier_paths.py")
"""Files that take minutes: begun first, so that no process is left alone with one at the end."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where slow tests are left out, files of slow tests only are not imported: their libraries take long."""
    if not config.option.markexpr.startswith(("not slow", "not (slow")) or collection_path.suffix != ".py":
        return None
    whole = re.search(r"^pytestmark = \[?\s*pytest\.mark\.slow", collection_path.read_text("utf-8"), re.MULTILINE)
    return True if whole else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files; otherwise the order stays."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _as_a_shell_starts_programs() -> None:
    """Programs that a test starts find the modules beside them: `cbmir`, run in this process, sets it otherwise."""
    os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(autouse=True)
def _own_dicom_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test makes its own key of DICOM identifiers, and its own list of files, not the user's."""
    own = tmp_path_factory.getbasetemp() / f"dicom-{uuid.uuid4().hex}"
    monkeypatch.setenv("CBMIR_DICOM_KEY", str(own / "dicom.key"))
    monkeypatch.setenv("CBMIR_DICOM_PLACES", str(own))


@pytest.fixture(scope="session")
def card() -> EncoderCard:
    """An encoder of eight dimensions."""
    return external_card("eight", 8)


@pytest.fixture(scope="session")
def make_batch(card: EncoderCard) -> Batch:
    """A function that makes `n` images with random vectors; the same seed gives the same batch."""

    def make(n: int, *, first: int = 0, seed: int = 0, encoder: EncoderCard = card) -> EmbeddedBatch:
        vectors = np.random.default_rng(seed).standard_normal((n, encoder.dim)).astype(np.float32)
        records = tuple(
            ImageRecord(
                filepath=f"{first + i:05}.png",
                dataset="synthetic",
                split=("train", "val", "test")[i % 3],
                modality=("CT", "MR", "XR")[i % 3],
                anatomic_region="chest",
                labels=(f"CT/chest/finding_{i % 5}",),
            )
            for i in range(n)
        )
        return EmbeddedBatch(records, normalise(vectors), encoder.fingerprint)

    return make


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeStore]:
    """An empty directory store."""
    with EdgeStore(tmp_path / "store") as store:
        yield store


@pytest.fixture
def filled(edge: EdgeStore, shelf: Path) -> Iterator[EdgeCollection]:
    """A collection ``eight`` of thirty images in the store `edge`."""
    copied(shelf / "eight", edge.path / "eight")
    with edge.open("eight") as collection:
        yield collection


@pytest.fixture
def held_elsewhere() -> Callable[[Path, str], AbstractContextManager[Callable[[], None]]]:
    """A function that has another process hold a collection of a directory; what it gives makes that let go."""

    @contextmanager
    def hold(store: Path, name: str) -> Iterator[Callable[[], None]]:
        code = "import sys; from pathlib import Path; from cbmir.store.edge import EdgeStore\n"
        code += "with EdgeStore(Path(sys.argv[1])).open(sys.argv[2]): print('held', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", code, str(store), name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process.stdin.close

    return hold


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, card: EncoderCard, make_batch: Batch) -> Path:
    """A directory with a collection ``eight`` of thirty images and an empty one, for tests that only read."""
    store = EdgeStore(tmp_path_factory.mktemp("shelf") / "store")
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(30))
    store.create("empty", card).close()
    return store.path


@dataclass(frozen=True)
class Done:
    """A command that has ended, with what it wrote."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cbmir(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The program ``cbmir`` in this process; whatever it doesn't catch fails the test."""
    ours = ("CBMIR_STORE", "CBMIR_READ_CONSISTENCY", "QDRANT_TO_API_KEY", "QDRANT_FROM_API_KEY", "QDRANT_CLUSTER_URLS")
    for name in (*ours, *(name for name in os.environ if name.startswith("QDRANT_API_KEY"))):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object, **environment: str) -> Done:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["cbmir", *map(str, arguments)])
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def cbmir_process(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """The program ``cbmir`` in a process of its own, as users run it; it never shows a traceback."""

    def run(*arguments: object) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "cbmir", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            cwd=tmp_path_factory.getbasetemp(),
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run
