"""The search that users get against a scan of all vectors: what it misses and what it saves, a filter at a time.

This is about the engine, not about medicine: the truth is what the scan finds. Each filter has two rows: the search
that users get by default (``auto``), and the HNSW graph alone (``approximate``).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

import cbmir
from cbmir.errors import CutoffError, ProtocolError
from cbmir.evaluate.analyses.recall_cases import FILTERED, OTHER_PATIENTS, Case, cases
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import Conditions, Configuration, Listed, Option
from cbmir.evaluate.header import Header, Omission, PatientCounts
from cbmir.evaluate.protocol import MAX_K, existing, wording
from cbmir.evaluate.results import Asked, Result, TabularResult, row_json
from cbmir.filters import Where, scope_of
from cbmir.schema import StoredPoint, Vectors
from cbmir.store import Collection, tuning
from cbmir.store.ways import Found, Wanted, search_ef
from cbmir.units import counted

EFS = (32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallTerms:
    """The terms of a recall measurement.

    Attributes:
        filters: Rows for each, beside those of no filter. None for the most frequent values of `FILTERED`, pairs of
            them, another modality and region than the query's, and all images but those of the query's patient.
        queries: Which stored images are drawn as queries.
        efs: Widths of the HNSW beam to try without a filter, each 1 or more; the engines take k where it is less.
        k: Neighbours a query.
        count: Queries: stored vectors, drawn without replacement.
        seed: Of the draw.

    Raises:
        CutoffError: k is out of range.
        ProtocolError: there would be no query, or a width is below 1.
    """

    filters: tuple[Where, ...] | None = None
    queries: Where = ()
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
    """One filter and way of searching; queries are asked one at a time, without payloads.

    Attributes:
        filter: The filter, in the filter language, or in words where it depends on the query.
        way: ``auto``: the search that users get. ``approximate``: the HNSW graph, unchecked.
        points: Images that satisfy it; the median over the queries where it depends on the query.
        selectivity: Their share of the collection, 0 to 1.
        ef: Width of the HNSW beam, where the graph is asked for k neighbours.
        recall: Mean recall@k: the share of the exact search's hits that this search finds, 0 to 1.
        lowest: Recall of the worst query.
        under_90: Share of the queries with a recall under .9.
        by_graph: Share of the queries that the graph answered.
        p50_ms: Median time of a query.
        p95_ms: Time that 95% of the queries don't exceed.
        queries_per_s: Queries over their total time.
        exact_p50_ms: Median time of the exact search.
        count_ms: Time to count the images that satisfy the filter.
    """

    filter: str
    way: str
    points: int
    selectivity: float
    ef: int
    recall: float
    lowest: float
    under_90: float
    by_graph: float
    p50_ms: float
    p95_ms: float
    queries_per_s: float
    exact_p50_ms: float
    count_ms: float


@dataclass(frozen=True, slots=True, repr=False)
class RecallReport(TabularResult):
    """The result of a recall measurement.

    Attributes:
        collection: Its name.
        encoder: Name of its encoder.
        fingerprint: Of that encoder.
        store: Engine that holds it.
        vectors: Images in it.
        indexed: Vectors in an HNSW graph; the approximate search scans the others.
        k: Neighbours a query.
        queries: Queries drawn; fewer than were asked for where there are no more.
        drawn_from: Which stored images they were drawn from.
        seed: Of the draw.
        fields_without_value: Those of `FILTERED` that made no filter, because no image has a value; ``patient_id`` too,
            where no query has one.
        patients: Of the queries.
        rows: No filter, then the others, both ways each.
        sweep: No filter, approximate, by rising beam width.
        version: Of cbmir.
        asked: What it is the answer to.
    """

    collection: str
    encoder: str
    fingerprint: str
    store: str
    vectors: int
    indexed: int
    k: int
    queries: int
    drawn_from: str
    seed: int
    fields_without_value: tuple[str, ...]
    patients: PatientCounts
    rows: tuple[RecallRow, ...]
    sweep: tuple[RecallRow, ...]
    version: str = cbmir.__version__
    asked: Asked | None = None

    @property
    def header(self) -> Header:
        """What the result says first; no label has a part."""
        words = "without a patient id: the filter by the query's patient lets all images pass for them"
        by_patient = any(row.filter == OTHER_PATIENTS for row in self.rows)
        left_out = (
            Omission(
                "fields_without_value",
                len(self.fields_without_value),
                "field",
                f"that made no filter: {', '.join(self.fields_without_value)}: no image, or no query, has a value",
            ),
            Omission(
                "queries_without_patient_filter",
                self.patients.images_without_id if by_patient else 0,
                "query",
                words,
            ),
        )
        return Header(None, None, {}, left_out, {"queries": self.patients})

    def content(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {
            **asdict(replace(self, asked=None)),
            **self.header.as_json(),
            "rows": [row_json(row) for row in self.rows],
            "sweep": [row_json(row) for row in self.sweep],
        }

    def csv_rows(self) -> tuple[RecallRow, ...]:
        """The rows and those of the sweep."""
        return self.rows + self.sweep

    def csv_terms(self) -> dict[str, object]:
        """Collection, encoder and header."""
        names = ("collection", "encoder", "fingerprint", "store", "vectors", "indexed", "queries", "version")
        return {**{name: getattr(self, name) for name in names}, **self.header.columns()}

    def table(self) -> str:
        """The report for people: the terms, then the filters, then the sweep."""
        return "\n".join([*self._terms(), "", *self._lines(self.rows), *self._swept()])

    def _terms(self) -> Iterator[str]:
        yield f"collection  {self.collection}: {counted(self.vectors, 'image')}, {self.store}, cbmir {self.version}"
        yield f"encoder     {self.encoder}, fingerprint {self.fingerprint}"
        vectors = counted(self.vectors, "vector")
        yield f"index       {self.indexed:,} of {vectors} in the HNSW graph, the others are scanned"
        yield (
            f"queries     {counted(self.queries, 'stored vector')} ({self.drawn_from}), seed {self.seed}; one at a "
            "time, without payloads; each may find itself"
        )
        yield from self.header.lines()
        yield f"relevant    what an exact search finds, or as near to {tuning.TIE:g}"
        yield "way         auto: what users get by default; approximate: the HNSW graph, unchecked"

    def _swept(self) -> Iterator[str]:
        if self.sweep:
            yield from ("", "by width of the HNSW beam:", *self._lines(self.sweep))

    def _lines(self, rows: Sequence[RecallRow]) -> Iterator[str]:
        wide = max(len("filter"), *(len(row.filter) for row in rows))
        yield (
            f"{'filter':{wide}}  {'way':11}  {'images':>10}  selectivity    ef  {f'recall@{self.k}':>10}  lowest"
            f"  under .9  by graph  {'p50 ms':>8}  {'p95 ms':>8}  exact p50  count ms"
        )
        for row in rows:
            yield (
                f"{row.filter:{wide}}  {row.way:11}  {row.points:>10,}  {row.selectivity:>11.4f}  {row.ef:>4}"
                f"  {row.recall:>10.4f}  {row.lowest:>6.2f}  {row.under_90:>8.3f}  {row.by_graph:>8.3f}"
                f"  {row.p50_ms:>8.2f}  {row.p95_ms:>8.2f}  {row.exact_p50_ms:>9.2f}  {row.count_ms:>8.2f}"
            )


@dataclass(frozen=True, slots=True)
class _Timed:
    """The answers to all queries, and the seconds each took."""

    answers: list[Found]
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
    queries = existing(terms.queries, collection, "queries") if terms.queries else ()
    drawn = _drawn(collection, terms, queries)
    given = None
    if terms.filters is not None:
        given = tuple(existing(where, collection, "filter") for where in terms.filters)
    measured, without = cases(collection, [point.payload for point in drawn], given)
    vectors = np.stack([point.vector for point in drawn if point.vector is not None])
    efs = sorted(set(terms.efs))
    rows: list[RecallRow] = []
    sweep: list[RecallRow] = []
    with tqdm(total=3 * len(measured) + len(efs), desc="recall", unit="pass", leave=False, disable=None) as bar:
        for number, case in enumerate(measured):
            bench = _Bench(collection, vectors, terms.k, case, bar)
            rows += [bench.row("auto"), bench.row("approximate")]
            if number == 0:
                sweep += [bench.row("approximate", ef) for ef in efs]
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
        drawn_from=wording(terms.queries),
        seed=terms.seed,
        fields_without_value=without,
        patients=_patients(drawn),
        rows=tuple(rows),
        sweep=tuple(sweep),
    )


class _Bench:
    """One filter, asked exactly once and otherwise as often as need be."""

    def __init__(self, collection: Collection, vectors: Vectors, k: int, case: Case, bar: "tqdm[Any]") -> None:
        self._collection, self._vectors, self._k, self._case, self._bar = collection, vectors, k, case, bar
        started = time.perf_counter()
        counts = {where: collection.count(where) for where in set(case.wheres)}
        self._count_ms = 1000 * (time.perf_counter() - started) / len(counts)
        self._points = int(np.median([counts[where] for where in case.wheres]))
        self._exact = self._timed("exact", None)

    def row(self, way: Wanted, ef: int | None = None) -> RecallRow:
        timed = self._timed(way, ef)
        pairs = zip(timed.answers, self._exact.answers, strict=True)
        shares = np.array([tuning.recall(found.hits, exact.hits) for found, exact in pairs if exact.hits] or [1.0])
        p50_ms, p95_ms = 1000 * np.percentile(timed.seconds, (50, 95))
        return RecallRow(
            filter=self._case.name,
            way=way,
            points=self._points,
            selectivity=self._points / self._collection.count(),
            ef=ef or search_ef(self._k),
            recall=float(np.mean(shares)),
            lowest=float(np.min(shares)),
            under_90=float(np.mean(shares < 0.9)),
            by_graph=float(np.mean([found.way != "exact" for found in timed.answers])),
            p50_ms=float(p50_ms),
            p95_ms=float(p95_ms),
            queries_per_s=float(len(timed.seconds) / timed.seconds.sum()),
            exact_p50_ms=float(1000 * np.median(self._exact.seconds)),
            count_ms=self._count_ms,
        )

    def _timed(self, way: Wanted, ef: int | None) -> _Timed:
        """Ask all queries one at a time."""

        def ask(row: int) -> Found:
            where = self._case.wheres[row]
            vector = self._vectors[row : row + 1]
            return self._collection.search(vector, self._k, where, way=way, ef=ef, fields=False)[0]

        ask(0)  # what the engine does only once is no query's time
        answers, seconds = [], np.empty(len(self._vectors))
        for row in range(len(self._vectors)):
            started = time.perf_counter()
            answers.append(ask(row))
            seconds[row] = time.perf_counter() - started
        self._bar.update()
        return _Timed(answers, seconds)


def _patients(drawn: Sequence[StoredPoint]) -> PatientCounts:
    payloads = (point.payload for point in drawn)
    known = [
        (patient, scope_of(str(patient), payload.get("dataset")))
        for payload in payloads
        if (patient := payload.get("patient_id"))
    ]
    return PatientCounts(len(set(known)), len(drawn) - len(known))


def _drawn(collection: Collection, terms: RecallTerms, where: Where) -> list[StoredPoint]:
    """Stored images in the order drawn, with payload and vector."""
    ids = [point.id for points in collection.scroll(where, fields=False) for point in points]
    drawn = np.random.default_rng(terms.seed).permutation(len(ids))[: terms.count]
    found = {point.id: point for point in collection.get([ids[number] for number in drawn], vectors=True)}
    if lost := len(drawn) - len(found):
        raise ProtocolError(f"{collection.name} lost {counted(lost, 'image')} while it was measured; start again")
    return [found[ids[number]] for number in drawn]


class RecallConfiguration(Configuration):
    """What ``recall`` can be asked."""

    k: Annotated[int, Field(ge=1, le=MAX_K), Option("Neighbours a query.")] = 10
    filters: Annotated[
        tuple[Conditions, ...],
        Listed,
        Option(
            "Measure this filter beside no filter; join conditions by ' and '. Repeatable.",
            name="filter",
            metavar="CONDITION",
            default=f"the most frequent value of {', '.join(FILTERED)}, pairs of them, another modality and region "
            "than the query's, and all images but those of the query's patient",
        ),
    ] = ()
    efs: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Listed,
        Option(
            "Beam width of the HNSW search to try without a filter; the engine takes k where that is larger. "
            "Repeatable.",
            name="ef",
        ),
    ] = (32, 64, 128, 256, 512)
    queries: Annotated[
        Conditions, Option("Stored images that queries are drawn from. Repeatable: all must hold.", metavar="FILTER")
    ] = ()
    count: Annotated[int, Field(ge=1), Option("Number of queries: stored vectors.")] = 200
    seed: Annotated[int, Field(ge=0), Option("Of the draw of queries.")] = 0


@analysis("recall", RecallConfiguration)
def recall(collection: Collection, asked: RecallConfiguration) -> Result:
    """Compare the default search, and the HNSW graph alone, with a scan of all vectors: recall and time by filter.

    Queries are vectors drawn from the collection, sent one at a time; each may find itself.
    """
    terms = RecallTerms(
        filters=asked.filters or None,
        queries=asked.queries,
        efs=asked.efs,
        k=asked.k,
        count=asked.count,
        seed=asked.seed,
    )
    return measure_recall(collection, terms)
