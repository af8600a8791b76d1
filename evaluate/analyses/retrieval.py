"""``cbmir evaluate retrieval``: how well the nearest images rank."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from pydantic import AfterValidator

from cbmir.errors import CbmirError, ProtocolError
from cbmir.evaluate.analyses.retrieval_report import RetrievalReport
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import Conditions, Listed, OneOf, Option, Written
from cbmir.evaluate.intervals import Interval
from cbmir.evaluate.metrics import Gains, Scores, at, macro, micro, valued
from cbmir.evaluate.options import CutoffsOption, Excluding, Grouped, MeasuresOption, Relations
from cbmir.evaluate.protocol import BOTH, RetrievalProtocol, searches
from cbmir.evaluate.ranking.description import describe, group_masks, patients, resampler_of
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.relevance import Relevance, judge
from cbmir.evaluate.ranking.session import Session
from cbmir.evaluate.ranking.trial import NONE, SCROLL_IMAGES, Images, Trial, packed, text_ids
from cbmir.evaluate.results import Asked, Average, Result, Row, write_asked
from cbmir.evaluate.setting import Setting
from cbmir.evaluate.significance import intervals
from cbmir.filters import Where
from cbmir.fingerprint import EncoderCard
from cbmir.search.ranker import Ranking
from cbmir.store import Collection


@dataclass(frozen=True, slots=True)
class Answers:
    """What one search found, and how right it was.

    Attributes:
        neighbours: What it found.
        gains: The same, judged.
    """

    neighbours: Ranking
    gains: Gains


@dataclass(frozen=True, slots=True)
class Measurement:
    """All that a retrieval measurement knows, before means are taken.

    Attributes:
        trial: Queries and gallery.
        exclusion: What the queries were not to find.
        relevance: Which answers are right.
        answers: By search.
        together: The answers of the first search when nothing but the query itself is excluded; None where that would
            change nothing.
        setting: The terms.
        card: The encoder of the vectors.
    """

    trial: Trial
    exclusion: Exclusion
    relevance: Relevance
    answers: Mapping[str, Answers]
    together: Answers | None
    setting: Setting
    card: EncoderCard

    def scores(self, search: str, measure: str, k: int) -> Scores:
        """(queries,) one measure of every query, NaN where it has none."""
        return at(measure, self.answers[search].gains, (k,))[:, 0]


def evaluate_retrieval(collection: Collection | Session, protocol: RetrievalProtocol | None = None) -> RetrievalReport:
    """Measure how well a collection retrieves.

    Args:
        collection: What is measured, or the session of a run that measures more.
        protocol: The terms; the default asks with ``split=test`` and searches ``split=train``.

    Raises:
        ProtocolError: there are no queries, no gallery or no labels, or the collection changed meanwhile.
    """
    return summarise(measure(collection, protocol or RetrievalProtocol()))


def measure(collection: Collection | Session, protocol: RetrievalProtocol) -> Measurement:
    """Find and judge the neighbours of every query; see `evaluate_retrieval`."""
    session = Session.of(collection)
    trial = session.trial(protocol)
    exclusion = Exclusion(trial, protocol.excluded_fields)
    free = Exclusion(trial, ())
    relevance, grades = session.relevance(trial, exclusion), session.grades(trial, exclusion)
    contrast = exclusion.images > free.images
    answers: dict[str, Answers] = {}
    together = None
    for number, search in enumerate(protocol.searches):
        if number == 0 and contrast:
            plain, found = session.rank(trial, search, ((), protocol.excluded_fields), protocol.depth)
            gains = judge(trial, session.relevance(trial, free), session.grades(trial, free), plain.positions)
            together = Answers(plain, gains)
        else:
            (found,) = session.rank(trial, search, (protocol.excluded_fields,), protocol.depth)
        answers[search] = Answers(found, judge(trial, relevance, grades, found.positions))
    setting = describe(session.collection, trial, exclusion, relevance)
    return Measurement(trial, exclusion, relevance, answers, together, setting, session.collection.card)


def summarise(measurement: Measurement) -> RetrievalReport:
    """Take means, and find how sure they are."""
    trial = measurement.trial
    protocol = trial.protocol
    groups = group_masks(trial)
    rows: list[Row] = []
    for search, answers in measurement.answers.items():
        rows += _rows(trial, answers.gains, groups, search)
    together: list[Row] = []
    if measurement.together is not None:
        everyone = {"all": groups["all"]}
        together += _rows(trial, measurement.together.gains, everyone, protocol.searches[0])
    return RetrievalReport(measurement.setting, measurement.card, tuple(rows), tuple(together))


def _rows(trial: Trial, gains: Gains, groups: Mapping[str, NDArray[np.bool_]], search: str) -> Iterator[Row]:
    protocol = trial.protocol
    columns = [(name, k) for name in protocol.measures for k in protocol.k]
    scores = np.hstack([at(name, gains, protocol.k) for name in protocol.measures])
    covered = gains.relevant > 0
    every, people = trial.class_pairs(), patients(trial)
    for group, rows in groups.items():
        mine, classes = scores[rows], every.take(rows)
        counts, coverage = valued(mine), float(covered[rows].mean())
        known = [people[rows][~np.isnan(column)] for column in mine.T]
        means: dict[Average, Scores] = {
            "micro": micro(mine),
            "macro": macro(mine[classes.owners], classes.codes),
        }
        found = (Interval.none(len(columns)),) * 2
        if protocol.draws:
            found = intervals(mine, classes.codes, resampler_of(trial, rows), classes.owners)
        ends = dict(zip(means, found, strict=True))
        for column, (name, k) in enumerate(columns):
            asked = known[column]
            for average, values in means.items():
                row = Row(name, k, average, group, float(values[column]), int(counts[column]), coverage, search)
                low, high = float(ends[average].low[column]), float(ends[average].high[column])
                yield replace(row, low=low, high=high, patients=len(np.unique(asked[asked >= 0])))


FORMS = (".csv", ".parquet")
_ROWS = 50_000
"""Hits written at once."""


def write_wide(collection: Collection, measurement: Measurement, path: Path, asked: Asked | None = None) -> None:
    """A row a query: the path of its file, and those of its hits in columns ``1`` to the deepest cutoff.

    The layout of the reference program's ``knn.csv``; a missing hit is empty.

    Raises:
        CbmirError: the file can't be written.
    """
    trial = measurement.trial
    places = _first(measurement).positions
    query_paths = _paths(collection, trial.queries_where, trial.queries)
    there = _paths(collection, trial.gallery_where, trial.gallery)
    names = ["query", *(str(rank) for rank in range(1, places.shape[1] + 1))]

    def parts() -> Iterator[pa.Table]:
        step = max(1, _ROWS // places.shape[1])
        for start in range(0, len(places), step):
            block = places[start : start + step]
            columns = [pa.array(query_paths[start : start + step]), *(_taken(there, column) for column in block.T)]
            yield pa.table(dict(zip(names, columns, strict=True)))

    write_parts(parts(), path, asked)


def write_long(collection: Collection, measurement: Measurement, path: Path, asked: Asked | None = None) -> None:
    """A row a hit: ids and paths of query and hit, rank from 1, cosine, and grade of relevance.

    Raises:
        CbmirError: the file can't be written.
    """
    trial = measurement.trial
    neighbours = _first(measurement)
    grades = measurement.relevance.grades(trial, neighbours.positions)
    query_paths = _paths(collection, trial.queries_where, trial.queries)
    there = _paths(collection, trial.gallery_where, trial.gallery)

    def parts() -> Iterator[pa.Table]:
        step = max(1, _ROWS // neighbours.positions.shape[1])
        for start in range(0, len(grades), step):
            block = neighbours.positions[start : start + step]
            rows, ranks = np.nonzero(block != NONE)
            places = block[rows, ranks]
            rows += start
            columns: dict[str, Any] = {
                "query_id": text_ids(trial.queries.ids[rows]),
                "query": query_paths[rows],
                "rank": ranks + 1,
                "hit_id": text_ids(trial.gallery.ids[places]),
                "hit": there[places],
                "cosine": neighbours.scores[rows, ranks],
                "grade": grades[rows, ranks],
            }
            yield pa.table(columns)

    write_parts(parts(), path, asked)


def write_parts(parts: Iterator[pa.Table], path: Path, asked: Asked | None = None) -> None:
    """Write a long table as .csv or .parquet, a part at a time.

    What it is the answer to is in the metadata of a Parquet file under ``cbmir``, and in a file beside a CSV.

    Args:
        parts: One or more of the same columns.
        path: The file, which is replaced.
        asked: What it is the answer to.

    Raises:
        ProtocolError: the name of the file ends otherwise.
        CbmirError: the file can't be written.
    """
    form = path.suffix.lower()
    if form not in FORMS:
        raise ProtocolError(f"can't export to {path}: the name ends in {' or '.join(FORMS)}")
    try:
        part = next(parts)
        opened = pa.csv.CSVWriter if form == ".csv" else pa.parquet.ParquetWriter
        schema = part.schema.with_metadata({"cbmir": json.dumps(asked.as_json())} if asked else None)
        with opened(str(path), schema) as writer:
            writer.write_table(part.cast(schema))
            for part in parts:
                writer.write_table(part.cast(schema))
    except OSError as error:
        raise CbmirError(f"can't write {path}: {error}") from error
    if form == ".csv":
        write_asked(path, asked)


def _first(measurement: Measurement) -> Any:
    return next(iter(measurement.answers.values())).neighbours


def _taken(paths: Any, places: Any) -> pa.Array:
    return pa.array(paths[places], mask=places == NONE)


def _paths(collection: Collection, where: Where, images: Images) -> Any:
    """(images,) path of each image's file."""
    paths = np.full(len(images), "", object)
    for points in collection.scroll(where, fields=["filepath"], batch=SCROLL_IMAGES):
        places = images.places(packed(points))
        there = places != NONE
        paths[places[there]] = np.array([point.payload.get("filepath", "") for point in points], object)[there]
    return paths


def _spelled_out(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for name in names for one in (BOTH if name == "both" else (name,))))


class RetrievalConfiguration(Grouped, Excluding):
    """What ``retrieval`` can be asked."""

    measures: MeasuresOption = ("precision_capped", "precision")
    k: CutoffsOption = (1, 3, 5, 10)
    relations: Relations = None
    search: Annotated[
        tuple[Annotated[str, OneOf("search", lambda: (*searches(), "both"))], ...],
        Listed,
        AfterValidator(_spelled_out),
        Option(
            "exact: a scan of all vectors; approximate or qdrant: the search that users get; qdrant-exact: a scan by "
            "the engine; both: exact and approximate. Repeatable.",
        ),
    ] = BOTH
    export: Annotated[
        Written | None,
        Option(
            "Write the neighbours of the first search, .csv or .parquet: one row for each query, with its path and the "
            "paths of its hits.",
            metavar="FILE",
        ),
    ] = None
    export_queries: Annotated[
        Conditions,
        Option(
            "Images whose neighbours are written by --export and --export-long, where they are others than the queries "
            "that are measured. Repeatable: all must hold.",
            metavar="CONDITION",
            default="the queries",
        ),
    ] = ()
    export_long: Annotated[
        Written | None,
        Option("The same with one row for each hit: rank, cosine, relevance, ids and paths.", metavar="FILE"),
    ] = None

    @property
    def protocol(self) -> RetrievalProtocol:
        """The retrieval task."""
        return RetrievalProtocol(**self._terms(), searches=self.search)


@analysis("retrieval", RetrievalConfiguration)
def retrieval(collection: Collection, asked: RetrievalConfiguration) -> Result:
    """Measure the ranking of the nearest gallery images, over queries and over classes.

    The filter options narrow both queries and gallery. A query never finds itself, and by default no image of its own
    patient. Queries without a relevant image in the gallery score 0 in precision, and are left out where a measure is
    0/0 for them; coverage is the share of the others.
    """
    measurement = measure(collection, asked.protocol)
    report = summarise(measurement).of("retrieval", asked)
    files = [(path, write) for path, write in ((asked.export, write_wide), (asked.export_long, write_long)) if path]
    if files and asked.export_queries:
        others = replace(asked.protocol, queries=asked.export_queries + asked.where)
        measurement = measure(collection, replace(others, searches=others.searches[:1], by=()))
    for path, write in files:
        write(collection, measurement, path, report.asked)
    return report
