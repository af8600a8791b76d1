"""``python -m benchmarks.evaluate``: figures and exact neighbours, beside the usual ways, in one run and in turns.

- figures: precision_capped at every cutoff and kNN votes for every k, from a collection on disk; beside the way of the
  paper's programs, which apply a Python function to each row of a pandas table for each cutoff and each k;
- neighbours: `evaluate.ranking.scan` beside torch's ``matmul`` and ``topk``, and beside FAISS where it is installed
  (``pip install faiss-cpu``), on random unit vectors;
- large: the scan alone over a gallery that is made as it goes, with the memory it takes.
"""

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, Vectors, normalise
from cbmir.store import Collection, open_store
from evaluate.classification.votes import Ballots, Labels, micro_f1
from evaluate.metrics import at, macro, micro
from evaluate.protocol import RetrievalProtocol, conditions
from evaluate.ranking.keys import places_of
from evaluate.ranking.scan import CHUNK_IMAGES, Bar, Scan
from evaluate.retrieval.measurement import measure

GALLERY, QUERIES, DIM, LABELS, K = 20_000, 6_500, 128, 40, 100
_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64))
_BATCH = 512
Places = NDArray[np.int64]


@click.group()
def main() -> None:
    """Measure evaluation."""


@main.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--reference/--no-reference", default=True, show_default=True)
def figures(rounds: int, reference: bool) -> None:
    """All cutoffs and all k: 26,500 images, 128 dimensions, 40 labels."""
    vectors, codes = _made()
    ours, theirs = [], []
    card = external_card("bench", DIM)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(folder) as store,
        store.create("bench", card) as collection,
    ):
        _fill(collection, vectors, codes)
        result = _ours(collection)  # once to warm up: torch is imported
        for _ in range(rounds):
            ours.append(_seconds(lambda: _ours(collection)))
            if reference:
                theirs.append(_seconds(lambda: _same(_reference(vectors, codes), result)))
    _print({"ours_s": statistics.median(ours), "reference_s": statistics.median(theirs) if theirs else None})


@main.command()
@click.option("--gallery", default=1_000_000, show_default=True)
@click.option("--queries", default=512, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def neighbours(gallery: int, queries: int, dim: int, rounds: int, device: str) -> None:
    """The first 100 neighbours of random vectors, by scan, torch and FAISS."""
    there, asked = _random(gallery, dim, 0), _random(queries, dim, 1)
    ways: dict[str, Callable[[], Any]] = {
        "scan": lambda: _scanned(asked, there, device),
        "torch": lambda: _torch(asked, there, device),
    }
    try:
        import faiss

        index = faiss.IndexFlatIP(dim)
        index.add(there)
        ways["faiss"] = lambda: index.search(asked, K)
    except ImportError:
        click.echo("faiss is not installed", err=True)
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            took[name].append(_seconds(way))
    medians = {f"{name}_s": statistics.median(values) for name, values in took.items()}
    _print(medians | {f"{name}/scan": medians[f"{name}_s"] / medians["scan_s"] for name in ways})


@main.command()
@click.option("--gallery", default=1_300_000, show_default=True)
@click.option("--queries", default=20_000, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def large(gallery: int, queries: int, dim: int, device: str) -> None:
    """The scan alone, with its memory; the gallery is made chunk by chunk and never held."""
    asked = _random(queries, dim, 1)
    scan = Scan(asked, K, device=device)
    spent = 0.0
    for start in range(0, gallery, CHUNK_IMAGES):
        stop = min(start + CHUNK_IMAGES, gallery)
        vectors = _random(stop - start, dim, start)
        began = time.perf_counter()
        scan.show(np.arange(start, stop), vectors, [lambda block: Bar(_NOTHING)], last=stop == gallery)
        spent += time.perf_counter() - began
        click.echo(f"{stop:,} images, {spent:.0f} s", err=True)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate = queries * gallery / spent
    _print({"scan_s": spent, "peak_rss_gib": rss, "pairs_per_s": rate, "200k_queries_h": 2e5 * gallery / rate / 3600})


def _made() -> tuple[Vectors, NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, LABELS, GALLERY + QUERIES)
    noise = rng.standard_normal((len(codes), DIM))
    return normalise((0.25 * rng.standard_normal((LABELS, DIM))[codes] + noise).astype(np.float32)), codes


def _split(number: int) -> str:
    return "train" if number < GALLERY else ("val", "test")[number % 2]


def _fill(collection: Collection, vectors: Vectors, codes: NDArray[np.int64]) -> None:
    for start in range(0, len(vectors), _BATCH):
        numbers = range(start, min(start + _BATCH, len(vectors)))
        records = tuple(
            ImageRecord(
                filepath=f"{number}.png",
                dataset="bench",
                split=_split(number),
                labels=(f"CT/chest/{codes[number]:02}",),
            )
            for number in numbers
        )
        collection.upsert(EmbeddedBatch(records, vectors[start : numbers.stop], collection.card.fingerprint))


def _ours(collection: Collection) -> dict[str, Any]:
    protocol = RetrievalProtocol(
        queries=conditions(["split=val|test"]),
        measures=("precision_capped",),
        k=tuple(range(1, K + 1)),
        searches=("exact",),
        by=(),
        draws=0,
    )
    measured = measure(collection, protocol)
    trial = measured.trial
    answers = measured.answers["exact"]
    scores = at("precision_capped", answers.gains, protocol.k)
    values = list(trial.vocabularies[protocol.label])
    names = {name: code for code, name in enumerate(trial.class_names)}
    of_value = np.array([names[value[0]] if value else -1 for value in values])
    labels = Labels(of_value[trial.gallery.codes[protocol.label]].astype(np.int32), len(names))
    ballots = Ballots(places=answers.neighbours.places, cosines=answers.neighbours.scores, labels=labels)
    accuracy = micro_f1(ballots, Labels(trial.classes, len(names)))  # of every k
    return {"micro": micro(scores), "macro": macro(scores, trial.classes), "accuracy": accuracy}


def _reference(vectors: Vectors, codes: NDArray[np.int64]) -> dict[str, Any]:
    """As the paper's programs do it: tables of file names, and a function applied to each row for each cutoff."""
    paths = np.array([f"{number}.png" for number in range(len(codes))], object)
    order = np.argsort(-(vectors[GALLERY:] @ vectors[:GALLERY].T), axis=1)[:, :K]
    table = pd.DataFrame(paths[order], index=pd.Index(paths[GALLERY:], dtype=object), dtype=object)
    label_of = dict(zip(paths, codes.tolist(), strict=True))
    one_hot = {path: np.eye(LABELS)[code] for path, code in label_of.items()}
    there = np.bincount(codes[:GALLERY], minlength=LABELS)
    truth = pd.Series(codes[GALLERY:], index=table.index)

    def precision(row: "pd.Series[str]", k: int) -> float:
        label = label_of[str(row.name)]
        n = min(k, there[label])
        return float(sum(label_of[path] == label for path in row.to_numpy()[:n]) / n)

    def vote(row: "pd.Series[str]", k: int) -> int:
        return int(np.mean([one_hot[path] for path in row.to_numpy()[:k]], axis=0).argmax())

    ks = range(1, K + 1)
    columns = [table.apply(precision, axis=1, k=k) for k in ks]
    return {
        "micro": np.array([column.mean() for column in columns]),
        "macro": np.array([column.groupby(truth).mean().mean() for column in columns]),
        "accuracy": np.array([(table.apply(vote, axis=1, k=k) == truth).mean() for k in ks]),
    }


def _same(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for name in ("micro", "macro"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4)  # near ties in float32 fall otherwise
    np.testing.assert_allclose(ours["accuracy"], theirs["accuracy"], atol=0.05)  # ties of votes too


def _random(count: int, dim: int, seed: int) -> Vectors:
    return normalise(np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32))


def _scanned(asked: Vectors, there: Vectors, device: str) -> Places:
    scan = Scan(asked, K, device=device)
    for start in range(0, len(there), CHUNK_IMAGES):
        stop = min(start + CHUNK_IMAGES, len(there))
        scan.show(np.arange(start, stop), there[start:stop], [lambda block: Bar(_NOTHING)], last=stop == len(there))
    return places_of(scan.keys[0])


def _torch(asked: Vectors, there: Vectors, device: str) -> Places:
    import torch

    left, right = (torch.from_numpy(item).to(device) for item in (asked, there))
    with torch.inference_mode():
        found = [(part @ right.T).topk(K, dim=1).indices.cpu() for part in torch.split(left, 256)]
    places: Places = torch.cat(found).numpy()
    return places


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _print(result: dict[str, Any]) -> None:
    if result.get("reference_s"):
        result["share"] = result["ours_s"] / result["reference_s"]
    click.echo(json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in result.items()}, indent=2))


if __name__ == "__main__":
    main()
