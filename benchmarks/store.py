"""``python -m benchmarks.store``: the store against the bare engine it stands on, side by side on the same images.

In turns, each in a process and a directory of its own: images a second into an empty collection, then, with the HNSW
graph built once, the latency of a filtered query for ten hits. What is compared is the price of the house's own layer:
ids, payloads, checks and hits.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import qdrant_edge as q

from cbmir.filters import parse
from cbmir.fingerprint import EncoderCard, external_card
from cbmir.schema import INDEXED_FIELDS, EmbeddedBatch, ImageRecord, PayloadField, Vectors, normalise
from cbmir.store.edge import EdgeStore
from cbmir.store.shard import ENGINE
from cbmir.store.ways import search_ef

GOAL_INGEST, GOAL_QUERY = 0.8, 1.5
K, QUERIES, BATCH = 10, 400, 512
_NAME = "bench"
_MODALITIES = ("CT", "MR", "XR", "US")
_SEED = 7

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is stored.

    Attributes:
        points: Images.
        dim: Length of a vector.
    """

    points: int
    dim: int

    @property
    def card(self) -> EncoderCard:
        """The encoder the vectors are said to come from."""
        return external_card(_NAME, self.dim)


@dataclass(frozen=True, slots=True)
class Latency:
    """Of single queries, in milliseconds."""

    median_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over the rounds.

    Attributes:
        ingest: Images a second; ratio ours / raw, the goal is `GOAL_INGEST` or more.
        query: Latency; ratio of the medians ours / raw, the goal is `GOAL_QUERY` or less.
    """

    size: Size
    rounds: int
    ingest: dict[str, float]
    ingest_ratio: float
    query: dict[str, Latency]
    query_ratio: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.store", description="The store against the bare engine.")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    options = parser.parse_args(arguments)
    figures = measure(Size(options.points, options.dim), options.rounds)
    print(json.dumps(asdict(figures), indent=2) if options.json else table(figures))


def measure(size: Size, rounds: int) -> Figures:
    """All rounds, below a temporary directory that is removed."""
    ingest: dict[str, list[float]] = {name: [] for name in SIDES}
    query: dict[str, list[Latency]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory(prefix="cbmir-bench-") as folder:
        places: dict[str, Path] = {}
        for number in range(rounds):
            for name in _turn(number):
                places[name] = Path(folder) / f"{name}-{number}"
                ingest[name].append(_apart(SIDES[name].ingest, places[name], size))
                _say(f"round {number + 1}: {name} stored {ingest[name][-1]:,.0f} images/s")
        for name in SIDES:
            indexed = _apart(SIDES[name].optimize, places[name])
            _say(f"{name}: {indexed:,} of {size.points:,} vectors in the HNSW graph")
        for number in range(rounds):
            for name in _turn(number):
                query[name].append(_apart(SIDES[name].query, places[name], size))
                _say(f"round {number + 1}: {name} answered in {query[name][-1].median_ms:.2f} ms")
    speed = {name: statistics.median(values) for name, values in ingest.items()}
    latency = {
        name: Latency(
            statistics.median(item.median_ms for item in values), statistics.median(item.p95_ms for item in values)
        )
        for name, values in query.items()
    }
    return Figures(
        size, rounds, speed, speed["ours"] / speed["raw"], latency, latency["ours"].median_ms / latency["raw"].median_ms
    )


def table(figures: Figures) -> str:
    """The figures for people."""
    size, speed, latency = figures.size, figures.ingest, figures.query
    return "\n".join(
        [
            f"{size.points:,} x {size.dim}, {figures.rounds} rounds in turns, {ENGINE}, k={K} with a modality filter",
            f"{'':24}{'raw':>12}{'ours':>12}{'ratio':>10}  goal",
            f"{'ingest, images/s':24}{speed['raw']:12,.0f}{speed['ours']:12,.0f}{figures.ingest_ratio:10.2f}"
            f"  >= {GOAL_INGEST}",
            f"{'query, median ms':24}{latency['raw'].median_ms:12.2f}{latency['ours'].median_ms:12.2f}"
            f"{figures.query_ratio:10.2f}  <= {GOAL_QUERY}",
            f"{'query, 95th percentile':24}{latency['raw'].p95_ms:12.2f}{latency['ours'].p95_ms:12.2f}"
            f"{latency['ours'].p95_ms / latency['raw'].p95_ms:10.2f}",
        ]
    )


# what is stored and asked


def _vectors(size: Size, n: int, seed: int) -> Vectors:
    """Points near a surface of 32 dimensions, as embeddings lie; with independent values HNSW has nothing to follow."""
    surface = np.random.default_rng(_SEED).standard_normal((32, size.dim)).astype(np.float32)
    rng = np.random.default_rng(seed)
    return normalise(rng.standard_normal((n, 32), dtype=np.float32) @ surface)


def _records(size: Size) -> list[ImageRecord]:
    return [
        ImageRecord(
            filepath=f"images/{i // 1000:03}/{i:07}.png",
            dataset="synthetic",
            split=("train", "train", "train", "val", "test")[i % 5],
            modality=_MODALITIES[i % len(_MODALITIES)],
            anatomic_region="chest",
            labels=(f"{_MODALITIES[i % len(_MODALITIES)]}/chest/finding_{i % 12}",),
            patient_id=f"p{i // 4:06}",
            study_id=f"s{i // 2:06}",
            sha256=f"{i:064x}",
            width=512,
            height=512,
            age_years=float(i % 90),
            sex="FM"[i % 2],
            view="pa",
        )
        for i in range(size.points)
    ]


def _batches(size: Size) -> list[slice]:
    return [slice(start, start + BATCH) for start in range(0, size.points, BATCH)]


def _timed(ask: Callable[[Vectors, str], object], size: Size) -> Latency:
    """Median and 95th percentile of single queries, after some that don't count."""
    queries = _vectors(size, QUERIES, seed=_SEED + 1)
    took_ms = []
    for i, vector in enumerate(np.concatenate([queries[:50], queries])):
        started = time.perf_counter()
        ask(vector, _MODALITIES[i % len(_MODALITIES)])
        took_ms.append((time.perf_counter() - started) * 1000)
    counted = took_ms[50:]
    return Latency(statistics.median(counted), float(np.percentile(counted, 95)))


# the two sides


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared.

    Attributes:
        ingest: Images a second into a new directory.
        optimize: Builds the graph, and ours measures its recall too; how many vectors the graph holds.
        query: Latency in that directory.
    """

    ingest: Callable[[Path, Size], float]
    optimize: Callable[[Path], int]
    query: Callable[[Path, Size], Latency]


def _ingest_ours(folder: Path, size: Size) -> float:
    vectors, records, card = _vectors(size, size.points, _SEED), _records(size), size.card
    with EdgeStore(folder).create(_NAME, card) as collection:
        started = time.perf_counter()
        for part in _batches(size):
            collection.upsert(EmbeddedBatch(tuple(records[part]), vectors[part], card.fingerprint))
        collection.flush()
        return size.points / (time.perf_counter() - started)


def _optimize_ours(folder: Path) -> int:
    with EdgeStore(folder).open(_NAME) as collection:
        collection.finish()
    return _indexed(folder / _NAME / "shard")


def _query_ours(folder: Path, size: Size) -> Latency:
    filters = {modality: (parse(f"modality={modality}"),) for modality in _MODALITIES}
    with EdgeStore(folder).open(_NAME) as collection:
        return _timed(lambda vector, modality: collection.query(vector, K, filters[modality]), size)


def _ingest_raw(folder: Path, size: Size) -> float:
    vectors, records = _vectors(size, size.points, _SEED), _records(size)
    ids, payloads = [record.id for record in records], [record.payload() for record in records]
    folder.mkdir()
    config = q.EdgeConfig(
        vectors=q.EdgeVectorParams(size=size.dim, distance=q.Distance.Cosine),
        hnsw_config=q.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
    )
    shard = q.EdgeShard.create(str(folder), config)
    for field in INDEXED_FIELDS:
        shard.update(q.UpdateOperation.create_field_index(field.name, _index(field)))
    started = time.perf_counter()
    for part in _batches(size):
        points = [
            q.Point(id, vector, payload)
            for id, vector, payload in zip(ids[part], vectors[part].tolist(), payloads[part], strict=True)
        ]
        shard.update(q.UpdateOperation.upsert_points(points))
    shard.flush()
    speed = size.points / (time.perf_counter() - started)
    shard.close()
    return speed


def _optimize_raw(folder: Path) -> int:
    shard = q.EdgeShard.load(str(folder))
    shard.optimize()
    shard.close()
    return _indexed(folder)


def _query_raw(folder: Path, size: Size) -> Latency:
    shard = q.EdgeShard.load(str(folder))
    params = q.SearchParams(hnsw_ef=search_ef(K), exact=False)
    filters = {
        modality: q.Filter(must=[q.FieldCondition(key="modality", match=q.MatchAny(any=[modality]))])
        for modality in _MODALITIES
    }

    def ask(vector: Vectors, modality: str) -> list[tuple[str, float, Any]]:
        found = shard.query(
            q.QueryRequest(
                limit=K,
                query=q.Query.Nearest(vector.tolist()),
                filter=filters[modality],
                params=params,
                with_payload=True,
            )
        )
        return [(str(point.id), point.score, point.payload) for point in found]

    latency = _timed(ask, size)
    shard.close()
    return latency


def _index(field: PayloadField) -> Any:
    if field.kind == "keyword":
        return q.KeywordIndexParams(is_tenant=field.tenant or None)
    return getattr(q.PayloadSchemaType, field.kind.title())


def _indexed(shard_folder: Path) -> int:
    shard = q.EdgeShard.load(str(shard_folder))
    indexed = shard.info().indexed_vectors_count
    shard.close()
    return indexed


SIDES = {
    "raw": Side(_ingest_raw, _optimize_raw, _query_raw),
    "ours": Side(_ingest_ours, _optimize_ours, _query_ours),
}


def _turn(number: int) -> Iterator[str]:
    """Who comes first changes with every round."""
    return iter(SIDES) if number % 2 == 0 else reversed(SIDES)


def _apart(call: Callable[..., T], *arguments: object) -> T:
    """Call in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(call, *arguments).result()


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
