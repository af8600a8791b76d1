"""``python -m benchmarks.profiles``: what the three profiles take and give, beside what was foretold.

A collection of made images for each profile, with the payload of chest X-rays: how long an answer takes, how many
of the true first ten are found, and the disk it takes. What must be in memory can't be measured with a directory: its
files are mapped, and stay in memory as long as nobody else wants it.
"""

import json
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click

from benchmarks.made import batches, vectors
from cbmir.fingerprint import external_card
from cbmir.store import Layout, open_store
from cbmir.store.layout import PROFILES, Profile, plan

QUERIES, K = 500, 10


@click.command()
@click.option("--images", default=100_000, show_default=True)
@click.option("--dim", default=512, show_default=True)
def main(images: int, dim: int) -> None:
    """Measure the profiles."""
    with tempfile.TemporaryDirectory() as folder:
        for profile in PROFILES:
            place = Path(folder) / profile
            _apart(_fill, place, profile, images, dim)
            found = _apart(_asked, place, dim)
            planned = plan(Layout(profile, images), dim)
            found["disk_mb"] = sum(file.stat().st_blocks * 512 for file in place.rglob("*")) / 1e6
            found["foretold_disk_mb"] = (planned.disk_bytes or 0) / 1e6
            click.echo(json.dumps({"profile": profile, **{name: round(value, 3) for name, value in found.items()}}))


def _fill(place: Path, profile: Profile, images: int, dim: int) -> None:
    with (
        open_store(place) as store,
        store.create("bench", external_card("bench", dim), Layout(profile, images)) as made,
    ):
        for batch in batches(images, dim, made.card.fingerprint):
            made.upsert(batch)
        made.finish()


def _asked(place: Path, dim: int) -> dict[str, float]:
    queries = vectors(QUERIES, dim, 0)
    with open_store(place) as store, store.open("bench") as collection:
        took, found = [], []
        for query in queries:
            began = time.perf_counter()
            found.append({hit.id for hit in collection.query(query, K, way="approximate")})
            took.append(time.perf_counter() - began)
        true = [{hit.id for hit in collection.query(query, K, way="exact", fields=False)} for query in queries]
    right = sum(len(ours & theirs) for ours, theirs in zip(found, true, strict=True))
    return {
        "recall": right / (QUERIES * K),
        "median_ms": statistics.median(took) * 1000,
        "p95_ms": sorted(took)[int(0.95 * QUERIES)] * 1000,
    }


def _apart(work: Any, *arguments: Any) -> Any:
    """In a process of its own, so that none warms another up."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


if __name__ == "__main__":
    main()
