"""The queries that a collection answers best and worst, with what it found for them, as pictures."""

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cbmir.errors import FilterError, ImageError
from cbmir.evaluate.analyses.report.terms import AVERAGE_PRECISION, CURVE_K, ReportTerms
from cbmir.evaluate.analyses.retrieval import Measurement
from cbmir.evaluate.metrics import Codes, Scores
from cbmir.evaluate.ranking.description import patients
from cbmir.evaluate.ranking.trial import NONE, text_ids
from cbmir.filters import resolve
from cbmir.search.shelf import Shelf
from cbmir.store import Collection, Store

HITS = 6
"""First hits shown of a query."""

TILE_PX = 128
_QUALITY = 85
_NO_LABEL = "no label"


@dataclass(frozen=True, slots=True)
class Tile:
    """An image of a query or of a hit.

    Attributes:
        id: UUID.
        filepath: As it is stored.
        label: The values of the label field, in words.
        picture: ``data:`` URI of a JPEG; empty where there is none.
        reason: Why there is none; empty otherwise.
        rank: Of a hit, from 1; 0 for a query.
        cosine: Of a hit; 1 for a query.
        right: Whether a hit is relevant.
        labelled: Whether a hit has a value of the label field; one without is neither relevant nor not.
    """

    id: str
    filepath: str
    label: str
    picture: str
    reason: str
    rank: int = 0
    cosine: float = 1.0
    right: bool = True
    labelled: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """A query and its first hits.

    Attributes:
        kind: ``best`` or ``worst``.
        score: Average precision of the query.
        relevant: Gallery images that would be right answers.
        query: What was asked.
        hits: What was found, the nearest first.
    """

    kind: Literal["best", "worst"]
    score: float
    relevant: int
    query: Tile
    hits: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class CaseRow:
    """A hit of a case, for the CSV.

    Attributes:
        kind: ``best`` or ``worst``.
        query_id: UUID of the query.
        query: Its file.
        query_label: Its label.
        average_precision: Of the query.
        rank: Of the hit.
        hit_id: Its UUID.
        hit: Its file.
        hit_label: Its label.
        cosine: Of query and hit.
        right: Whether it is relevant.
        missing: Why its picture isn't shown; empty where it is.
    """

    kind: str
    query_id: str
    query: str
    query_label: str
    average_precision: float
    rank: int
    hit_id: str
    hit: str
    hit_label: str
    cosine: float
    right: bool
    missing: str

    @classmethod
    def of(cls, cases: Sequence[Case]) -> "list[CaseRow]":
        """A row a hit."""
        return [
            cls(
                kind=case.kind,
                query_id=case.query.id,
                query=case.query.filepath,
                query_label=case.query.label,
                average_precision=case.score,
                rank=hit.rank,
                hit_id=hit.id,
                hit=hit.filepath,
                hit_label=hit.label,
                cosine=hit.cosine,
                right=hit.right,
                missing=hit.reason,
            )
            for case in cases
            for hit in case.hits
        ]


def look_for_pictures(store: Store, names: Sequence[str], terms: ReportTerms) -> None:
    """Look for the images of some collections before they are measured, which may take long.

    Raises:
        CollectionError: one doesn't exist.
        SourceError: of a data set no image is where it should be.
    """
    for name in names:
        with store.open(name) as collection, suppress(FilterError):  # why it can't be measured is in the report
            Shelf(collection, terms.root).check(resolve(terms.where, collection))


def cases_of(collection: Collection, measurement: Measurement, shelf: Shelf, count: int) -> tuple[Case, ...]:
    """The best queries of a collection, then the worst, see `choose`.

    Args:
        collection: Where the images are.
        measurement: Of the same collection, of `CURVE_K` places or more.
        shelf: Where the images are.
        count: Best, and worst, queries at most.
    """
    trial = measurement.trial
    (answers,) = measurement.answers.values()
    scores = measurement.scores(trial.protocol.searches[0], AVERAGE_PRECISION, CURVE_K)
    best, worst = choose(scores, patients(trial), count)
    rows = np.array([*best, *worst], np.int64)
    places = answers.neighbours.positions[rows, :HITS]
    asked, found = text_ids(trial.queries.ids[rows]), [text_ids(trial.gallery.ids[row[row != NONE]]) for row in places]
    names = list(dict.fromkeys([*asked, *(name for names in found for name in names)]))
    fields = list(dict.fromkeys(["filepath", "dataset", "sha256", trial.protocol.label]))
    payloads = {point.id: point.payload for point in collection.get(names, fields=fields)} if names else {}
    pictures = _Pictures(payloads, trial.protocol.label, shelf)
    cases = []
    for number, (row, query, hits) in enumerate(zip(rows, asked, found, strict=True)):
        tiles = tuple(
            pictures.tile(
                hit, rank, float(answers.neighbours.scores[row, rank - 1]), bool(answers.gains.hits[row, rank - 1])
            )
            for rank, hit in enumerate(hits, start=1)
        )
        kind: Literal["best", "worst"] = "best" if number < len(best) else "worst"
        cases.append(Case(kind, float(scores[row]), int(answers.gains.relevant[row]), pictures.tile(query), tiles))
    return tuple(cases)


def choose(scores: Scores, clusters: Codes, count: int) -> tuple[list[int], list[int]]:
    """The queries with the highest and with the lowest scores, one a patient in each list, none in both.

    Queries of equal score come in their order, which is by id. Those without a score are in neither list.

    Args:
        scores: (queries,) NaN for no score.
        clusters: (queries,) code of the patient, negative where it isn't known: then nobody shares it.
        count: Length of each list at most.

    Returns:
        Rows of the best, best first, and rows of the worst, worst first.
    """
    best = _first(np.argsort(-scores, kind="stable"), scores, clusters, count)
    taken = set(best)
    rest = np.array([row for row in np.argsort(scores, kind="stable") if row not in taken], np.int64)
    return best, _first(rest, scores, clusters, count)


def _first(order: NDArray[np.int64], scores: Scores, clusters: Codes, count: int) -> list[int]:
    rows: list[int] = []
    seen: set[int] = set()
    for row in order.tolist():
        cluster = int(clusters[row])
        if len(rows) == count:
            break
        if np.isnan(scores[row]) or cluster in seen:
            continue
        rows.append(row)
        if cluster >= 0:
            seen.add(cluster)
    return rows


class _Pictures:
    """The pictures of some stored images, each read once."""

    def __init__(self, payloads: Mapping[str, Mapping[str, Any]], label: str, shelf: Shelf) -> None:
        self._payloads = payloads
        self._label = label
        self._shelf = shelf
        self._drawn: dict[str, tuple[str, str]] = {}

    def tile(self, id: str, rank: int = 0, cosine: float = 1.0, right: bool = True) -> Tile:
        payload = self._payloads.get(id, {})
        values = payload.get(self._label)
        label = ", ".join([values] if isinstance(values, str) else values or [_NO_LABEL])
        filepath = str(payload.get("filepath", ""))
        if id not in self._drawn:
            self._drawn[id] = _picture(self._shelf, payload)
        return Tile(id, filepath, label, *self._drawn[id], rank, cosine, right, bool(values))


def _picture(shelf: Shelf, payload: Mapping[str, Any]) -> tuple[str, str]:
    """A ``data:`` URI and nothing, or nothing and the reason."""
    try:
        small = ImageOps.contain(shelf.draw(payload), (TILE_PX, TILE_PX))
    except ImageError as error:
        return "", str(error)
    square = Image.new("RGB", (TILE_PX, TILE_PX))
    square.paste(small, ((TILE_PX - small.width) // 2, (TILE_PX - small.height) // 2))
    data = io.BytesIO()
    square.save(data, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}", ""
