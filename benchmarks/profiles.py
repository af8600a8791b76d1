"""``python -m benchmarks.profiles``: what the three profiles take and give, beside what was foretold.

A collection of made images for each profile, with the payload of chest X-rays: how long an answer takes, how many of
the true first ten are found, and the disk it takes. What must be in memory can't be measured with a directory: its files
are mapped, and stay in memory as long as nobody else wants it.
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
import numpy as np

from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, Vectors, normalise
from cbmir.store import Layout, open_store
from cbmir.store.layout import PROFILES, Profile, plan

QUERIES, K, CLUSTERS, BATCH = 500, 10, 500, 512


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
        for start in range(0, images, BATCH):
            numbers = range(start, min(start + BATCH, images))
            records = tuple(map(_record, numbers))
            made.upsert(EmbeddedBatch(records, _vectors(len(numbers), dim, start + 1), made.card.fingerprint))
        made.finish()


def _record(number: int) -> ImageRecord:
    return ImageRecord(
        filepath=f"images_{number % 12:03}/{number:08}_000.png",
        dataset="bench",
        split=("train", "val", "test")[number % 3],
        modality="XR",
        anatomic_region="chest",
        labels=(f"XR/chest/finding_{number % 14}",),
        patient_id=f"bench-{number // 4:07}",
        study_id=f"bench-{number // 2:07}",
        sha256=f"{number:064x}",
        width=1024,
        height=1024,
        age_years=float(number % 90),
        sex="FM"[number % 2],
        view=("pa", "ap")[number % 2],
    )


def _vectors(count: int, dim: int, seed: int) -> Vectors:
    """Around centres, as those of an encoder lie."""
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, dim))
    rng = np.random.default_rng(seed)
    return normalise((centres[rng.integers(0, CLUSTERS, count)] + rng.standard_normal((count, dim))).astype(np.float32))


def _asked(place: Path, dim: int) -> dict[str, float]:
    queries = _vectors(QUERIES, dim, 0)
    with open_store(place) as store, store.open("bench") as collection:
        took, found = [], []
        for query in queries:
            began = time.perf_counter()
            found.append({hit.id for hit in collection.query(query, K)})
            took.append(time.perf_counter() - began)
        true = [{hit.id for hit in collection.query(query, K, exact=True, fields=False)} for query in queries]
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
