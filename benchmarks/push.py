"""``python -m benchmarks.push``: a collection from a directory to a server, beside qdrant-client's own upload.

No Qdrant server is needed: the server is the tests' stand-in, a process of its own with the real engine behind real
gRPC. So the figures compare two clients; a real server, with threads of its own, takes more from both.

- ours: `cbmir.collections.transfer`, which looks what is there, writes, counts, and compares a sample;
- upload_points: qdrant-client's, in as large batches, waiting for each, of points made from the same directory.

Both are timed until all is written, and until the server has indexed all, by the same wait: an index that is built
while one of them writes would else count for the one and not for the other. At the end every id, payload and vector of
the copy is compared with the original.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from qdrant_client import models

from benchmarks.made import batches
from cbmir.collections.transfer import BATCH, transfer
from cbmir.fingerprint import external_card
from cbmir.options import store_key
from cbmir.schema import StoredPoint, Vectors
from cbmir.store import Collection, open_store
from cbmir.store.collection import Progress
from cbmir.store.server import ServerStore

_STANDIN = Path(__file__).resolve().parent.parent / "tests" / "standin.py"


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds from the start of a push.

    Attributes:
        written_s: Until every point is on the server.
        indexed_s: Until the server has nothing left to index as well.
    """

    written_s: float
    indexed_s: float


@click.command()
@click.option("--points", default=100_000, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--url", help="A real server (key: QDRANT_API_KEY), on which collections bench-... are made and dropped.")
def main(points: int, dim: int, rounds: int, url: str | None) -> None:
    """Measure a push until all is written and until all is indexed, and compare what has come."""
    card = external_card("bench", dim)
    took: dict[str, list[Took]] = {"ours": [], "upload_points": []}
    ways: dict[str, Callable[[Collection, ServerStore, str], Took]] = {"ours": _ours, "upload_points": _theirs}
    equal = True
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(Path(folder) / "store") as store,
        store.create("bench", card) as original,
        nullcontext(url) if url else _standin(Path(folder) / "server") as place,
        open_store(place, store_key()) as server,
    ):
        assert isinstance(server, ServerStore)
        for batch in batches(points, dim, card.fingerprint):
            original.upsert(batch)
        for number in range(rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                copy = f"bench-{name}-{number}"
                server.create(copy, card).close()
                took[name].append(ways[name](original, server, copy))
                with server.open(copy) as made:
                    equal = equal and _equal(original, made)
                server.drop(copy)
                click.echo(f"round {number + 1}: {name} {took[name][-1]}", err=True)
    click.echo(json.dumps({**_rates(points, took), "equal": equal}, indent=2))


def _rates(points: int, took: dict[str, list[Took]]) -> dict[str, float]:
    rates = {}
    for phase in ("written", "indexed"):
        for name, rounds in took.items():
            seconds = statistics.median(getattr(item, f"{phase}_s") for item in rounds)
            rates[f"{name}_{phase}_points_per_s"] = round(points / seconds, 2)
        ours, theirs = (rates[f"{name}_{phase}_points_per_s"] for name in ("ours", "upload_points"))
        rates[f"ours/upload_points_{phase}"] = round(ours / theirs, 2)
    return rates


def _ours(original: Collection, server: ServerStore, name: str) -> Took:
    began = time.perf_counter()
    ended: dict[str, float] = {}
    with server.open(name) as copy:
        finish = copy.finish

        def timed(progress: Progress | None = None) -> None:
            ended["written"] = time.perf_counter() - began
            finish(progress)
            ended["indexed"] = time.perf_counter() - began

        copy.finish = timed  # type: ignore[method-assign]  # the copy goes on to compare a sample
        transfer(original, copy)
    return Took(ended["written"], ended["indexed"])


def _theirs(original: Collection, server: ServerStore, name: str) -> Took:
    def points() -> Iterator[models.PointStruct]:
        for page in original.scroll(vectors=True, batch=BATCH):
            for point in page:
                assert point.vector is not None
                yield models.PointStruct(id=point.id, vector=point.vector.tolist(), payload=dict(point.payload))

    began = time.perf_counter()
    server.client.upload_points(name, points(), batch_size=BATCH, wait=True)
    written_s = time.perf_counter() - began
    with server.open(name) as copy:
        copy.finish()
    return Took(written_s, time.perf_counter() - began)


def _equal(original: Collection, copy: Collection) -> bool:
    pages = zip(original.scroll(vectors=True), copy.scroll(vectors=True), strict=True)
    return all(
        [(point.id, point.payload) for point in ours] == [(point.id, point.payload) for point in theirs]
        and np.allclose(_vectors(ours), _vectors(theirs), rtol=0, atol=1e-6)
        for ours, theirs in pages
    )


def _vectors(points: list[StoredPoint]) -> Vectors:
    return np.stack([point.vector for point in points if point.vector is not None])


@contextmanager
def _standin(root: Path) -> Iterator[str]:
    """The URL of a stand-in in a process of its own; it ends when its stdin does."""
    command = [sys.executable, str(_STANDIN), "--root", str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


if __name__ == "__main__":
    main()
