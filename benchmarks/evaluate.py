"""``python -m benchmarks.evaluate``: figures and exact neighbours, beside the usual ways, in one run and in turns.

- figures: precision_capped at every cutoff and kNN classification for every k, from a collection on disk; beside the
  way of the paper's programs, which apply a Python function to each row of a pandas table for each cutoff and each k;
- neighbours: `cbmir.evaluate.ranking.scan.Scan` beside torch's ``matmul`` and ``topk``, and beside FAISS where it is
  installed (``pip install faiss-cpu``), on random unit vectors;
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
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from cbmir.evaluate.analyses.classification.assessment import Cohort
from cbmir.evaluate.analyses.classification.knn import Asked, KnnTerms, VoteRules, classify, evaluate_classification
from cbmir.evaluate.analyses.classification.splits import VALIDATION, read_splits
from cbmir.evaluate.analyses.retrieval import evaluate_retrieval
from cbmir.evaluate.metrics import at, macro, micro
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.keys import places_of
from cbmir.evaluate.ranking.relevance import judge
from cbmir.evaluate.ranking.scan import CHUNK_IMAGES, ExclusionMask, Scan
from cbmir.evaluate.ranking.session import Session
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, Vectors, normalise
from cbmir.store import Collection, open_store

GALLERY, QUERIES, DIM, LABELS, K = 20_000, 6_500, 128, 40, 100
PROTOCOL = RetrievalProtocol(
    measures=("precision_capped",), k=tuple(range(1, K + 1)), searches=("exact",), by=(), draws=0
)
PAPER = VoteRules(paper=True)
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
    tables, nearest = _tables(codes), _nearest(vectors)
    took: dict[str, list[float]] = {"ours": [], "commands": [], "reference": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(folder) as store,
        store.create("bench", external_card("bench", DIM)) as collection,
    ):
        _fill(collection, vectors, codes)
        result = _ours(collection)  # once to warm up: torch is imported
        for _ in range(rounds):
            took["ours"].append(_seconds(lambda: _ours(collection)))
            took["commands"].append(_seconds(lambda: _commands(collection)))
            if reference:
                took["reference"].append(_seconds(lambda: _same(_reference(tables, nearest), result)))
    medians = {f"{name}_s": statistics.median(values) for name, values in took.items() if values}
    if reference:
        medians |= {f"{name}/reference": medians[f"{name}_s"] / medians["reference_s"] for name in ("ours", "commands")}
    _print(medians)


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
        scan.add(np.arange(start, stop), vectors, [lambda block: ExclusionMask(_NOTHING)], last=stop == gallery)
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


def _label(code: int) -> str:
    return f"CT/chest/{code:02}"


def _fill(collection: Collection, vectors: Vectors, codes: NDArray[np.int64]) -> None:
    for start in range(0, len(vectors), _BATCH):
        numbers = range(start, min(start + _BATCH, len(vectors)))
        records = tuple(
            ImageRecord(
                filepath=f"{number}.png",
                dataset="bench",
                split=_split(number),
                labels=(_label(codes[number]),),
            )
            for number in numbers
        )
        collection.upsert(EmbeddedBatch(records, vectors[start : numbers.stop], collection.card.fingerprint))


def _ours(collection: Collection) -> dict[str, Any]:
    """All figures from one reading of the store."""
    session = Session(collection)
    splits = read_splits(session, PROTOCOL, VALIDATION)
    assert splits.val is not None
    trials, fields = (splits.test, splits.val), PROTOCOL.excluded_fields
    found, chosen = (session.rank(trial, "exact", (fields,), K)[0] for trial in trials)
    relevance = session.relevance(splits.test, Exclusion(splits.test, fields))
    gains = judge(splits.test, relevance, None, found.positions)
    precision = at("precision_capped", gains, PROTOCOL.k)[:, : K - 1]
    first, second = (
        Asked(ranking.positions, ranking.scores, splits.truth(trial))
        for trial, ranking in zip(trials, (found, chosen), strict=True)
    )
    voted = classify(splits.gallery(), first, Cohort.plain(len(splits.test.queries)), PAPER, second)
    return {
        "micro": micro(precision),
        "macro": macro(precision, splits.test.classes),
        "val": voted.choice.scores[: K - 1],
        "test": {f"{item.average}_{item.measure}": item.value for item in voted.assessment.figures},
    }


def _commands(collection: Collection) -> None:
    """What ``cbmir evaluate retrieval`` and ``cbmir evaluate classify`` do; each reads the store."""
    evaluate_retrieval(collection, PROTOCOL)
    evaluate_classification(collection, PROTOCOL, KnnTerms(rules=PAPER))


def _tables(codes: NDArray[np.int64]) -> dict[str, pd.DataFrame]:
    """The images of each split in the published layout: a row a file, a column of 0 and 1 a label."""
    paths = pd.Index([f"{number}.png" for number in range(len(codes))], dtype=object)
    fields = {"dataset": "bench", "split": list(map(_split, range(len(codes)))), "modality": "CT", "region": "chest"}
    ones = pd.DataFrame(np.eye(LABELS, dtype=np.int64)[codes], paths, [_label(code) for code in range(LABELS)])
    table = pd.DataFrame(fields, paths).join(ones)
    return {str(name): rows for name, rows in table.groupby("split")}


def _nearest(vectors: Vectors) -> pd.DataFrame:
    """The file names of the first K images of the gallery, a row a query."""
    paths = np.array([f"{number}.png" for number in range(len(vectors))], object)
    order = np.argsort(-(vectors[GALLERY:] @ vectors[:GALLERY].T), axis=1)[:, :K]
    return pd.DataFrame(paths[order], pd.Index(paths[GALLERY:], dtype=object), range(1, K + 1), dtype=object)


def _reference(tables: dict[str, pd.DataFrame], nearest: pd.DataFrame) -> dict[str, Any]:
    """As the paper's programs do it, from the neighbours on: a function applied to each row for each cutoff and each k.

    They look a query's class up in its row, those of its neighbours in the rows of the gallery, and take at most as
    many as the gallery has of that class. k is chosen by micro F1 on val, of measures that are all taken for each k.
    """
    train, test = (tables[name].iloc[:, 4:] for name in ("train", "test"))
    there = train.sum()
    label_of = train.idxmax(axis=1)
    right = nearest.loc[test.index].map(label_of.get)
    right.index = pd.Index(test.idxmax(axis=1))
    right = right.apply(lambda column: column == right.index)

    def precision(row: Any, cutoff: int) -> float:
        n = min(cutoff, there[row.name])
        return float(sum(row[:n]) / n)

    def vote(row: Any, table: pd.DataFrame, k: int) -> Any:
        n = min(k, there[pd.to_numeric(table.loc[row.name].iloc[4:]).idxmax()])
        return train.reindex(row[:n]).to_numpy().mean(axis=0)

    def measures(split: str, k: int) -> dict[str, float]:
        table = tables[split]
        votes = nearest.loc[table.index].apply(vote, axis=1, result_type="expand", table=table, k=k).to_numpy()
        return _measures(table.iloc[:, 4:].to_numpy(), votes)

    cutoffs = range(1, K)
    columns = [right.apply(precision, axis=1, cutoff=cutoff) for cutoff in cutoffs]
    on_val = [measures("val", k)["micro_f1"] for k in cutoffs]
    return {
        "micro": np.array([column.mean() for column in columns]),
        "macro": np.array([column.groupby(level=0).mean().mean() for column in columns]),
        "val": np.array(on_val),
        "test": measures("test", max(1, int(np.argmax(on_val)))),  # the place of the best, where places start at 0
    }


def _measures(truth: NDArray[np.int64], votes: NDArray[np.float64]) -> dict[str, float]:
    true, said = truth.argmax(axis=1), votes.argmax(axis=1)
    result = {"micro_f1": f1_score(true, said, average="micro"), "micro_accuracy": accuracy_score(true, said)}
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        result[f"macro_{name}"] = score(true, said, average="macro", zero_division=0)
    for average in ("micro", "macro"):
        result[f"{average}_roc_auc"] = roc_auc_score(truth, votes, average=average)
    return {name: float(value) for name, value in result.items()}


def _same(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Whether the figures agree but for neighbours that lie closer together than float32 tells."""
    for name in ("micro", "macro", "val"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-3)
    for name, value in theirs["test"].items():
        np.testing.assert_allclose(ours["test"][name], value, atol=1e-3, err_msg=name)


def _random(count: int, dim: int, seed: int) -> Vectors:
    return normalise(np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32))


def _scanned(asked: Vectors, there: Vectors, device: str) -> Places:
    scan = Scan(asked, K, device=device)
    for start in range(0, len(there), CHUNK_IMAGES):
        stop = min(start + CHUNK_IMAGES, len(there))
        scan.add(
            np.arange(start, stop), there[start:stop], [lambda block: ExclusionMask(_NOTHING)], last=stop == len(there)
        )
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
    click.echo(json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in result.items()}, indent=2))


if __name__ == "__main__":
    main()
