"""``python -m benchmarks.recall``: recall@10 against median time of each way to search with a filter.

FAISS flat is measured beside them, over the vectors that pass.
Made collections on which filtered search is hard: many tight, far-apart groups, as volumes, patients and near copies
are. Each filter takes a share of every group, or whole groups. The ways, in turns over the same queries: the default,
a scan, the HNSW graph at two widths, the graph with ACORN, and FAISS IndexFlatIP over the vectors that pass. Half of
the queries are stored vectors, half are moved to a cosine of about .85.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import qdrant_edge as q

from benchmarks.made import record
from cbmir.filters import Where, parse, to_edge
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, Vectors, normalise
from cbmir.store.edge import EdgeStore
from cbmir.store.edge_points import EdgeCollection

K, BATCH, PER_GROUP = 10, 512, 50
FILTERS = (
    "all",
    "dataset=set0",  # a quarter of every group
    "sex=F",  # half of every group
    "modality=XR",  # half of the groups, whole
    "anatomic_region=r0",  # a quarter of the groups, whole
    "modality=XR and sex=F",
    "dataset=set1 and split=train and age_years<45",
)


@dataclass(frozen=True, slots=True)
class Made:
    """A made collection: (n, dim) vectors, and what is known of each image."""

    vectors: Vectors
    records: tuple[ImageRecord, ...]


def groups(images: int, dim: int, seed: int) -> Made:
    """Groups of about `PER_GROUP` images with a cosine of about .5 within a group, and 0 between groups."""
    rng = np.random.default_rng(seed)
    centres = normalise(rng.standard_normal((images // PER_GROUP, dim)).astype(np.float32))
    group = rng.integers(0, len(centres), images)
    vectors = normalise(centres[group] + normalise(rng.standard_normal((images, dim)).astype(np.float32)))
    records = tuple(
        replace(
            record(number),
            dataset=f"set{number % 4}",
            modality=("XR", "XR", "CT", "MR")[group[number] // 4 % 4],
            anatomic_region=f"r{group[number] % 4}",
            labels=(),
            sex="FM"[number // 4 % 2],
        )
        for number in range(images)
    )
    return Made(vectors, records)


@click.command()
@click.option("--images", default=(40_000, 100_000), show_default=True, multiple=True, help="Repeatable.")
@click.option("--dim", default=512, show_default=True)
@click.option("--queries", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(images: tuple[int, ...], dim: int, queries: int, seed: int) -> None:
    """Measure recall and time of each way, a JSON line a filter, size and way."""
    for size in images:
        made = groups(size, dim, seed)
        with tempfile.TemporaryDirectory() as folder:
            card = external_card("bench", dim)
            with EdgeStore(Path(folder) / "store").create("bench", card) as collection:
                for start in range(0, size, BATCH):
                    part = slice(start, start + BATCH)
                    collection.upsert(EmbeddedBatch(made.records[part], made.vectors[part], card.fingerprint))
                began = time.monotonic()
                collection.finish()
                click.echo(f"{size:,} x {dim}: indexed and measured in {time.monotonic() - began:.0f} s", err=True)
                for text in FILTERS:
                    _measure(collection, made, text, _queries(made, queries, seed))


def _queries(made: Made, count: int, seed: int) -> Vectors:
    rng = np.random.default_rng(seed + 1)
    stored = made.vectors[rng.permutation(len(made.vectors))[:count]]
    moved = normalise(stored + 0.6 * normalise(rng.standard_normal(stored.shape).astype(np.float32)))
    return np.concatenate([stored[: count // 2], moved[count // 2 :]])


def _measure(collection: EdgeCollection, made: Made, text: str, queries: Vectors) -> None:
    where = () if text == "all" else tuple(parse(part) for part in text.split(" and "))
    ids = {point.id for points in collection.scroll(where, fields=False) for point in points}
    passing = made.vectors[[image.id in ids for image in made.records]]
    true = np.sort(queries @ passing.T, axis=1)[:, ::-1][:, :K]
    ways = _ways(collection, where, passing)
    scores: dict[str, list[list[float]]] = {name: [] for name in ways}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for row, vector in enumerate(queries):
        for name in ways if row % 2 else reversed(ways):  # whoever comes first changes
            began = time.perf_counter()
            found = ways[name](vector)
            took[name].append(time.perf_counter() - began)
            scores[name].append(found)
    scan_ms = 1000 * statistics.median(took["exact"])
    for name in ways:
        shares = np.array([
            (np.array(found) >= best[-1] - 1e-5).sum() / K for found, best in zip(scores[name], true, strict=True)
        ])  # fmt: skip
        p50_ms = 1000 * statistics.median(took[name])
        line = {
            "images": len(made.vectors), "filter": text, "passing": len(passing), "way": name,
            "recall": round(float(shares.mean()), 4), "under_90": round(float((shares < 0.9).mean()), 3),
            "lowest": round(float(shares.min()), 2), "p50_ms": round(p50_ms, 2), "of_exact": round(p50_ms / scan_ms, 2),
        }  # fmt: skip
        click.echo(json.dumps(line))


def _ways(collection: EdgeCollection, where: Where, passing: Vectors) -> dict[str, Callable[[Vectors], list[float]]]:
    def ours(**how: object) -> Callable[[Vectors], list[float]]:
        return lambda vector: [hit.score for hit in collection.query(vector, K, where, fields=False, **how)]

    def acorn(vector: Vectors) -> list[float]:
        params = q.SearchParams(hnsw_ef=128, acorn=q.AcornSearchParams(True, 0.6))
        query = q.Query.Nearest(vector.tolist())
        request = q.QueryRequest(limit=K, query=query, filter=to_edge(where), params=params)
        return [point.score for point in collection._shard.query(request)]

    ways = {
        "default": ours(),
        "exact": ours(way="exact"),
        "graph ef=128": ours(way="approximate", ef=128),
        "graph ef=512": ours(way="approximate", ef=512),
        "graph ef=128 acorn": acorn,
    }
    try:
        import faiss
    except ImportError:
        print("FAISS is not installed (pip install faiss-cpu): left out", file=sys.stderr)
        return ways
    faiss.omp_set_num_threads(1)  # as the engine's search of one query has it
    flat = faiss.IndexFlatIP(passing.shape[1])
    flat.add(passing)
    return {**ways, "FAISS flat": lambda vector: flat.search(vector[np.newaxis], K)[0][0].tolist()}


if __name__ == "__main__":
    main()
