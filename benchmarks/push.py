"""``python -m benchmarks.push``: a collection from a directory to a server, beside qdrant-client's own upload.

No Qdrant server is needed: the server is the tests' stand-in, a process of its own with the real engine behind real
gRPC. So the figures compare two clients; a real server, with threads of its own, takes more from both.

- ours: `cbmir.collections.transfer`, which looks what is there, writes, counts, and compares a sample;
- upload_points: qdrant-client's, in as large batches, waiting for each, of points made from the same directory.

At the end every id, payload and vector of the copy is compared with the original.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from qdrant_client import models

from benchmarks.made import batches
from cbmir.collections.transfer.transfer import BATCH, transfer
from cbmir.fingerprint import external_card
from cbmir.schema import StoredPoint, Vectors
from cbmir.store import Collection, open_store
from cbmir.store.server import ServerStore

_STANDIN = Path(__file__).resolve().parent.parent / "tests" / "standin.py"


@click.command()
@click.option("--points", default=100_000, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(points: int, dim: int, rounds: int) -> None:
    """Measure a push, and compare what has come."""
    card = external_card("bench", dim)
    took: dict[str, list[float]] = {"ours": [], "upload_points": []}
    ways: dict[str, Callable[[Collection, ServerStore, str], None]] = {"ours": _ours, "upload_points": _theirs}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(Path(folder) / "store") as store,
        store.create("bench", card) as original,
        _standin(Path(folder) / "server") as url,
        open_store(url) as server,
    ):
        assert isinstance(server, ServerStore)
        for batch in batches(points, dim, card.fingerprint):
            original.upsert(batch)
        for number in range(rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                copy = f"{name}-{number}"
                server.create(copy, card).close()
                began = time.perf_counter()
                ways[name](original, server, copy)
                took[name].append(time.perf_counter() - began)
                click.echo(f"round {number + 1}: {name} {points / took[name][-1]:,.0f} points/s", err=True)
        with server.open("ours-0") as made:
            equal = _equal(original, made)
    rates = {f"{name}_points_per_s": points / statistics.median(seconds) for name, seconds in took.items()}
    rates["ours/upload_points"] = rates["ours_points_per_s"] / rates["upload_points_points_per_s"]
    click.echo(json.dumps({**{name: round(rate, 2) for name, rate in rates.items()}, "equal": equal}, indent=2))


def _ours(original: Collection, server: ServerStore, name: str) -> None:
    with server.open(name) as copy:
        transfer(original, copy)


def _theirs(original: Collection, server: ServerStore, name: str) -> None:
    def points() -> Iterator[models.PointStruct]:
        for page in original.scroll(vectors=True, batch=BATCH):
            for point in page:
                assert point.vector is not None
                yield models.PointStruct(id=point.id, vector=point.vector.tolist(), payload=dict(point.payload))

    server.client.upload_points(name, points(), batch_size=BATCH, wait=True)


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
