"""The search that users get against a scan of all vectors: what it misses and what it saves, a filter at a time.

This is about the engine, not about medicine: what is right is what the scan finds. A filter that few images satisfy
changes how the engine searches, so that recall and time of one filter say little about another.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import cbmir
from cbmir.errors import CutoffError, ProtocolError
from cbmir.filters import Condition, Where
from cbmir.schema import Hit, Vectors
from cbmir.store import Collection
from cbmir.store.ways import search_ef
from evaluate.protocol import MAX_K, existing, wording
from evaluate.rows import row_json, write_rows

FILTERED = ("modality", "anatomic_region", "dataset", "primary_label")
"""Fields whose most frequent value makes a filter, where none is asked for."""

EFS = (32, 64, 128, 256, 512)

TIE = 1e-6
"""Cosines that differ by no more are the same but for rounding: either image is the right answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallTerms:
    """The terms of a recall measurement.

    Attributes:
        filters: One row each, beside that of no filter; None for the most frequent values of `FILTERED`.
        efs: Widths of the HNSW beam to try without a filter, each 1 or more; the engines take k where it is less.
        k: Neighbours a query.
        count: Queries: stored vectors, drawn without replacement.
        seed: Of the draw.

    Raises:
        CutoffError: k is out of range.
        ProtocolError: there would be no query, or a width is below 1.
    """

    filters: tuple[Where, ...] | None = None
    efs: tuple[int, ...] = EFS
    k: int = 10
    count: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise CutoffError(f"k is {self.k}; cutoffs lie in 1 to {MAX_K}")
        if self.count < 1:
            raise ProtocolError(f"{self.count} queries are asked for; recall takes 1 or more")
        if any(ef < 1 for ef in self.efs):
            raise ProtocolError(f"ef is {min(self.efs)}; a beam is 1 wide or more")


@dataclass(frozen=True, slots=True)
class RecallRow:
    """One filter and beam width; queries are asked one at a time, without payloads.

    Attributes:
        filter: The filter, in the filter language.
        points: Images that satisfy it.
        selectivity: Their share of the collection, 0 to 1.
        ef: Width of the HNSW beam.
        recall: Mean share of the exact search's hits that the approximate one finds, 0 to 1.
        p50_ms: Median time of a query.
        p95_ms: Time that 95% of the queries don't exceed.
        queries_per_s: Queries over their total time.
        exact_p50_ms: Median time of the exact search.
    """

    filter: str
    points: int
    selectivity: float
    ef: int
    recall: float
    p50_ms: float
    p95_ms: float
    queries_per_s: float
    exact_p50_ms: float


@dataclass(frozen=True, slots=True)
class RecallReport:
    """The result of a recall measurement.

    Attributes:
        collection: Its name.
        encoder: Name of its encoder.
        fingerprint: Of that encoder.
        store: Engine that holds it.
        vectors: Images in it.
        indexed: Vectors in an HNSW graph; the approximate search scans the others.
        k: Neighbours a query.
        queries: Queries drawn; fewer than were asked for where the collection has no more.
        seed: Of the draw.
        fields_without_value: Those of `FILTERED` that made no filter, because no image has a value.
        rows: No filter, then the others, at the beam width that users get.
        sweep: No filter, by rising beam width.
        version: Of cbmir.
    """

    collection: str
    encoder: str
    fingerprint: str
    store: str
    vectors: int
    indexed: int
    k: int
    queries: int
    seed: int
    fields_without_value: tuple[str, ...]
    rows: tuple[RecallRow, ...]
    sweep: tuple[RecallRow, ...]
    version: str = cbmir.__version__

    def as_json(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {
            **asdict(self),
            "rows": [row_json(row) for row in self.rows],
            "sweep": [row_json(row) for row in self.sweep],
        }

    def write_csv(self, path: Path) -> None:
        """Write the rows and those of the sweep, each with its terms.

        Raises:
            CbmirError: the file can't be written.
        """
        names = ("collection", "encoder", "fingerprint", "store", "vectors", "indexed", "k", "queries", "seed")
        terms: Mapping[str, object] = {name: getattr(self, name) for name in (*names, "version")}
        write_rows(path, self.rows + self.sweep, terms)

    def table(self) -> str:
        """The report for people: the terms, then the filters, then the sweep."""
        return "\n".join([*self._terms(), "", *self._lines(self.rows), *self._swept()])

    def _terms(self) -> Iterator[str]:
        yield f"collection  {self.collection}: {self.vectors:,} images, {self.store}, cbmir {self.version}"
        yield f"encoder     {self.encoder}, fingerprint {self.fingerprint}"
        yield f"index       {self.indexed:,} of {self.vectors:,} vectors in the HNSW graph, the others are scanned"
        yield (
            f"queries     {self.queries:,} stored vectors, seed {self.seed}; one at a time, without payloads; each may "
            "find itself"
        )
        yield f"right       what an exact search finds, or as near to {TIE:g}"
        if self.fields_without_value:
            yield f"no filter   of {', '.join(self.fields_without_value)}: no image has a value"

    def _swept(self) -> Iterator[str]:
        if self.sweep:
            yield from ("", "by width of the HNSW beam:", *self._lines(self.sweep))

    def _lines(self, rows: Sequence[RecallRow]) -> Iterator[str]:
        wide = max(len("filter"), *(len(row.filter) for row in rows))
        yield (
            f"{'filter':{wide}}  {'images':>10}  selectivity    ef  {f'recall@{self.k}':>10}  {'p50 ms':>8}"
            f"  {'p95 ms':>8}  queries/s  exact p50 ms"
        )
        for row in rows:
            yield (
                f"{row.filter:{wide}}  {row.points:>10,}  {row.selectivity:>11.4f}  {row.ef:>4}  {row.recall:>10.4f}"
                f"  {row.p50_ms:>8.2f}  {row.p95_ms:>8.2f}  {row.queries_per_s:>9,.0f}  {row.exact_p50_ms:>12.2f}"
            )


@dataclass(frozen=True, slots=True)
class _Timed:
    """The answers to all queries, and the seconds each took."""

    answers: list[list[Hit]]
    seconds: NDArray[np.float64]


def measure_recall(collection: Collection, terms: RecallTerms | None = None) -> RecallReport:
    """Ask a collection for the neighbours of its own vectors, exactly and as users do.

    Raises:
        ProtocolError: the collection is empty, no image satisfies a filter, or images vanish meanwhile.
        FilterError: a filter names a value that doesn't exist.
    """
    terms = terms or RecallTerms()
    if not collection.count():
        raise ProtocolError(f"{collection.name} holds no image: there is nothing to ask")
    filters, without = _frequent(collection) if terms.filters is None else (terms.filters, ())
    wheres: list[Where] = [(), *(existing(where, collection, "filter") for where in filters)]
    vectors = _drawn(collection, terms)
    default = search_ef(terms.k)
    efs = sorted(set(terms.efs))
    rows: list[RecallRow] = []
    sweep: list[RecallRow] = []
    with tqdm(total=2 * len(wheres) + len(efs), desc="recall", unit="pass", leave=False, disable=None) as bar:
        for number, where in enumerate(wheres):
            bench = _Bench(collection, vectors, terms.k, where, bar)
            rows.append(bench.row(default))
            if number == 0:
                sweep += [bench.row(ef) for ef in efs]
    info = collection.info()
    return RecallReport(
        collection=collection.name,
        encoder=collection.card.name,
        fingerprint=collection.card.fingerprint,
        store=info.engine,
        vectors=info.points,
        indexed=info.indexed,
        k=terms.k,
        queries=len(vectors),
        seed=terms.seed,
        fields_without_value=without,
        rows=tuple(rows),
        sweep=tuple(sweep),
    )


def recall(found: Sequence[Hit], exact: Sequence[Hit]) -> float:
    """Share of an exact search's hits that another search found; a hit as near as the last of them is right too.

    Args:
        found: The hits of the other search, at most as many.
        exact: One hit or more, by falling score.
    """
    least = exact[-1].score - TIE
    return sum(hit.score >= least for hit in found) / len(exact)


class _Bench:
    """One filter, asked exactly once and approximately as often as need be."""

    def __init__(self, collection: Collection, vectors: Vectors, k: int, where: Where, bar: "tqdm[Any]") -> None:
        self._collection, self._vectors, self._k, self._where, self._bar = collection, vectors, k, where, bar
        self._points = collection.count(where)
        self._selectivity = self._points / collection.count()
        self._exact = self._timed(None)

    def row(self, ef: int) -> RecallRow:
        timed = self._timed(ef)
        shares = [recall(*pair) for pair in zip(timed.answers, self._exact.answers, strict=True)]
        p50_ms, p95_ms = 1000 * np.percentile(timed.seconds, (50, 95))
        return RecallRow(
            filter=wording(self._where),
            points=self._points,
            selectivity=self._selectivity,
            ef=ef,
            recall=float(np.mean(shares)),
            p50_ms=float(p50_ms),
            p95_ms=float(p95_ms),
            queries_per_s=float(len(timed.seconds) / timed.seconds.sum()),
            exact_p50_ms=float(1000 * np.median(self._exact.seconds)),
        )

    def _timed(self, ef: int | None) -> _Timed:
        """Ask all queries one at a time; None for the exact search."""

        def ask(vector: Vectors) -> list[Hit]:
            return self._collection.query(
                vector, self._k, self._where, way="exact" if ef is None else "approximate", ef=ef, fields=False
            )

        ask(self._vectors[0])  # what the engine does only once is no query's time
        answers, seconds = [], np.empty(len(self._vectors))
        for row, vector in enumerate(self._vectors):
            started = time.perf_counter()
            answers.append(ask(vector))
            seconds[row] = time.perf_counter() - started
        self._bar.update()
        return _Timed(answers, seconds)


def _frequent(collection: Collection) -> tuple[tuple[Where, ...], tuple[str, ...]]:
    """A filter for the most frequent value of each of `FILTERED`, and the fields that have none."""
    filters: list[Where] = []
    without: list[str] = []
    for field in FILTERED:
        values = collection.facet(field, limit=1)
        filters += [(Condition(field, "=", (value,)),) for value in values]
        without += [] if values else [field]
    return tuple(filters), tuple(without)


def _drawn(collection: Collection, terms: RecallTerms) -> Vectors:
    """(queries, dim) stored vectors, in the order drawn."""
    ids = [point.id for points in collection.scroll(fields=False) for point in points]
    drawn = np.random.default_rng(terms.seed).permutation(len(ids))[: terms.count]
    points = collection.get([ids[number] for number in drawn], fields=False, vectors=True)
    vectors = {point.id: point.vector for point in points if point.vector is not None}
    if lost := len(drawn) - len(vectors):
        raise ProtocolError(f"{collection.name} lost {lost:,} images while it was measured; start again")
    return np.stack([vectors[ids[number]] for number in drawn])
