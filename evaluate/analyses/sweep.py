"""``cbmir evaluate sweep``: how good the same encoder is with a smaller gallery.

Retrieval is measured again and again, on nested random parts of the gallery. The question, results against the size of
the index, is from Denner et al., "Leveraging foundation models for content-based image retrieval in radiology", 2025,
doi:10.1016/j.compbiomed.2025.110640.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.retrieval import Answers, Measurement, summarise
from cbmir.evaluate.analyses.sweep_report import SweepReport, SweepRow
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import Listed, OneOf, Option, Unique
from cbmir.evaluate.metrics import micro
from cbmir.evaluate.options import CutoffsOption, Excluding, Grouped, MeasuresOption, OneSearch, Relations
from cbmir.evaluate.protocol import BOTH, RetrievalProtocol
from cbmir.evaluate.ranking.description import describe, group_masks
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.relevance import judge
from cbmir.evaluate.ranking.session import Session
from cbmir.evaluate.ranking.trial import Images, StoredGallery, Trial
from cbmir.evaluate.results import Result
from cbmir.evaluate.setting import Setting
from cbmir.search.ranker import Ranking, ranker_named, rankers
from cbmir.store import Collection
from cbmir.units import counted

UNITS = ("image", "patient")
"""What is drawn: single images, or all images of a patient at once."""

_SIZE = re.compile(r"(\d+)|(\d+(?:\.\d+)?|\.\d+)%")


@dataclass(frozen=True, slots=True)
class Size:
    """How large a gallery shall be.

    Attributes:
        number: Images, or percent of all.
        percent: Which of the two.

    Raises:
        ProtocolError: it is not above 0, above 100 percent, or a part of an image.
    """

    number: float
    percent: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.number <= (100 if self.percent else np.inf) or not (self.percent or self.number % 1 == 0):
            raise ProtocolError(
                f"a gallery can't have the size {self}; sizes are whole images from 1 on, or above 0% and up to 100%"
            )

    def __str__(self) -> str:
        """As people write it; the inverse of `read`."""
        return f"{self.number:.15g}{'%' if self.percent else ''}"

    @classmethod
    def read(cls, text: str) -> "Size":
        """Read ``1000`` (images) or ``2.5%``.

        Raises:
            ProtocolError: it is neither.
        """
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ProtocolError(f"can't read the size {text!r}; write images, as 1000, or a part of the gallery, as 5%")
        images, percent = match.groups()
        return cls(float(images or percent), percent=images is None)

    def images(self, total: int) -> int:
        """Images that a gallery of this size has, the nearest number; 0 or more than `total` where there is none."""
        return round(total * self.number / 100) if self.percent else int(self.number)


@dataclass(frozen=True, slots=True)
class Order:
    """A random order of the units of a gallery; its first ones are the smaller galleries, so that these are nested.

    Attributes:
        ranks: (images,) place of each image's unit in the order, from 0.
        ends: (units,) images of the units up to each place.
    """

    ranks: NDArray[np.int64]
    ends: NDArray[np.int64]

    def first(self, images: int) -> NDArray[np.bool_]:
        """(images,) the gallery of the first units that have together the nearest number of images, one at least.

        Of two numbers that are as near it has the lower one.
        """
        kept: NDArray[np.bool_] = self.ranks <= np.argmin(np.abs(self.ends - images))
        return kept


def units_of(gallery: Images, unit: str) -> NDArray[np.int64]:
    """(images,) number of the unit of each image, by their first images; an image without a patient is a unit alone."""
    if unit == "image":
        return np.arange(len(gallery))
    codes = gallery.codes["patient_id"].astype(np.int64)
    codes = np.where(codes > 0, codes, -np.arange(len(gallery)))
    _, first, units = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[units]


def draw_order(units: NDArray[np.int64], seed: int, number: int) -> Order:
    """A random order, the same for the same units, seed and number.

    Images stand by rising id, which depends on neither encoder nor queries: collections whose whole galleries are the
    same images get the same smaller ones.

    Args:
        units: (images,) see `units_of`.
        seed: Of all draws.
        number: Of this one.
    """
    shuffled = np.random.default_rng([seed, number]).permutation(int(units.max()) + 1)
    ranks = shuffled[units]
    return Order(ranks, np.cumsum(np.bincount(ranks)))


PARTS_BYTES = 2 << 30
"""Memory of the rankings of parts that are made at once."""

_PLACE_BYTES = 20  # of a rank position: its key, position and score
SIZES = tuple(Size(percent, percent=True) for percent in (1, 2, 5, 10, 20, 50, 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTerms:
    """The galleries of a sweep.

    Attributes:
        sizes: How large they are; sizes that come to the same number of images are one.
        galleries: Draws of each size but the whole.
        unit: What is drawn, one of `UNITS`.

    Raises:
        ProtocolError: there would be no gallery, or the unit is unknown.
    """

    sizes: tuple[Size, ...] = SIZES
    galleries: int = 3
    unit: str = UNITS[0]

    def __post_init__(self) -> None:
        if not self.sizes or self.galleries < 1:
            raise ProtocolError(
                f"sizes {len(self.sizes)}, galleries a size {self.galleries}; a sweep takes 1 or more of both"
            )
        if self.unit not in UNITS:
            raise ProtocolError(f"no unit {self.unit!r} to draw; there are {', '.join(UNITS)}")


@dataclass(frozen=True, slots=True)
class _Part:
    """One smaller gallery.

    Attributes:
        asked: Images that were asked for.
        number: Of the draw.
        exclusion: What the queries may not find, and which part of the gallery is kept.
    """

    asked: int
    number: int
    exclusion: Exclusion

    @property
    def images(self) -> int | None:
        """How many there are; None for the whole gallery."""
        return None if self.exclusion.kept is None else int(self.exclusion.kept.sum())


def evaluate_sweep(
    collection: Collection | Session, protocol: RetrievalProtocol | None = None, terms: SweepTerms | None = None
) -> SweepReport:
    """Measure how well a collection retrieves, with smaller and smaller parts of its gallery.

    The parts of one draw are nested: each is the first images, or patients, of one random order. What is relevant, how
    much of it there is and which classes have none is counted in each part anew, so that its figures are those of a
    collection that holds nothing else.

    All parts are ranked at once: the vectors are read and multiplied once, whatever the number of parts. Memory beyond
    that of a retrieval measurement: 20 bytes a rank position, query and part. Where that would exceed `PARTS_BYTES`, as
    many parts as fit are ranked at once.

    Args:
        collection: What is measured, or the session of a run that measures more.
        protocol: The terms, as of `evaluate_retrieval`; the first of its searches counts, and its seed is that of the
            draws of galleries too.
        terms: The galleries.

    Raises:
        ProtocolError: there are no queries, no gallery or no labels, no size fits the gallery, the search can't rank
            a part of a gallery, or the collection changed meanwhile.
    """
    protocol = protocol or RetrievalProtocol()
    protocol = replace(protocol, searches=protocol.searches[:1])
    terms = terms or SweepTerms()
    _check_search(protocol.searches[0])
    session = Session.of(collection)
    trial = session.trial(protocol)
    counts, left_out = _fitting(terms.sizes, len(trial.gallery))
    exclusion = Exclusion(trial, protocol.excluded_fields)
    setting = describe(session.collection, trial, exclusion, session.relevance(trial, exclusion))
    rows: list[SweepRow] = []
    total = terms.galleries * len(counts) - (terms.galleries - 1) * (len(trial.gallery) in counts)
    step = max(1, PARTS_BYTES // (_PLACE_BYTES * protocol.depth * len(trial.queries)))
    parts = _parts(trial, exclusion, terms, counts)
    ranker = session.ranker(protocol.searches[0], protocol.device)
    with tqdm(total=total, desc="galleries", unit="gallery", leave=False, disable=None) as bar:
        while some := list(islice(parts, step)):
            gallery = StoredGallery(session.collection, trial)
            exclusions = [part.exclusion for part in some]
            rankings = ranker.rank(trial.query_vectors, gallery, exclusions, protocol.depth)
            for part, ranking in zip(some, rankings, strict=True):
                rows += _rows(_measured(session, trial, part, ranking, setting), part)
                bar.update()
    rows.sort(key=lambda row: (row.asked, row.gallery))  # stable: figures stay in the order of a retrieval report
    no_patient = trial.gallery.codes["patient_id"] == 0
    return SweepReport(
        setting=setting,
        encoder=session.collection.card,
        unit=terms.unit,
        without_patient=int(no_patient.sum()) if terms.unit == "patient" else 0,
        galleries=terms.galleries,
        sizes_left_out=left_out,
        rows=tuple(_spread(rows)),
    )


def _check_search(search: str) -> None:
    if not ranker_named(search).ranks_parts:
        able = ", ".join(name for name, ranker in rankers().items() if ranker.ranks_parts)
        raise ProtocolError(f"the search {search} can't be asked for a part of a gallery drawn at random; use {able}")


def _fitting(sizes: Sequence[Size], total: int) -> tuple[list[int], tuple[str, ...]]:
    """The distinct numbers of images, falling, and the sizes that no part of the gallery has."""
    left_out = tuple(str(size) for size in sizes if not 1 <= size.images(total) <= total)
    counts = {count for size in sizes if 1 <= (count := size.images(total)) <= total}
    if not counts:
        raise ProtocolError(f"the gallery has {counted(total, 'image')}, none of the sizes {', '.join(left_out)} fits")
    return sorted(counts, reverse=True), left_out


def _parts(trial: Trial, exclusion: Exclusion, terms: SweepTerms, counts: Sequence[int]) -> Iterator[_Part]:
    """The nested parts of each draw; the whole gallery in the first draw only."""
    for number in range(1, terms.galleries + 1):
        order = draw_order(units_of(trial.gallery, terms.unit), trial.protocol.seed, number)
        for count in counts:
            if count < len(trial.gallery):
                yield _Part(count, number, exclusion.within(order.first(count)))
            elif number == 1:
                yield _Part(count, number, exclusion)


def _measured(session: Session, trial: Trial, part: _Part, ranking: Ranking, setting: Setting) -> Measurement:
    """What a retrieval measurement with this gallery knows, on the setting of the whole."""
    relevance = session.relevance(trial, part.exclusion)
    gains = judge(trial, relevance, session.grades(trial, part.exclusion), ranking.positions)
    answers = {trial.protocol.searches[0]: Answers(ranking, gains)}
    return Measurement(trial, part.exclusion, relevance, answers, None, setting, session.collection.card)


def _rows(measured: Measurement, part: _Part) -> Iterator[SweepRow]:
    trial, covered = measured.trial, measured.relevance.covered
    images = len(trial.gallery) if part.images is None else part.images
    classes = trial.class_pairs()
    uncovered = {
        group: len(set(classes.take(rows).codes.tolist()) - set(classes.take(rows & covered).codes.tolist()))
        for group, rows in group_masks(trial).items()
    }
    for row in summarise(measured).rows:
        yield SweepRow(
            asked=part.asked,
            size=images,
            share=images / len(trial.gallery),
            gallery=part.number,
            measure=row.measure,
            k=row.k,
            average=row.average,
            group=row.group,
            value=row.value,
            low=row.low,
            high=row.high,
            n=row.n,
            coverage=row.coverage,
            uncovered_classes=uncovered[row.group],
        )


def _spread(rows: Sequence[SweepRow]) -> Iterator[SweepRow]:
    """The rows, with mean, lowest and highest over the galleries of a size."""
    values: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        values.setdefault(_figure(row), []).append(row.value)
    means = {figure: float(micro(np.array(same)[:, np.newaxis])[0]) for figure, same in values.items()}
    for row in rows:
        same = values[_figure(row)]
        ends = (float(np.fmin.reduce(same)), float(np.fmax.reduce(same)))  # a NaN only where all are
        yield replace(row, mean=means[_figure(row)], lowest=ends[0], highest=ends[1])


def _figure(row: SweepRow) -> tuple[object, ...]:
    """What the rows of the galleries of one size have in common."""
    return row.asked, row.measure, row.k, row.average, row.group


class SweepConfiguration(Grouped, Excluding):
    """What ``sweep`` can be asked."""

    measures: MeasuresOption = ("precision_capped", "precision")
    k: CutoffsOption = (1, 10)
    relations: Relations = None
    sizes: Annotated[
        tuple[Annotated[str, AfterValidator(lambda text: str(Size.read(text)))], ...],
        Listed,
        Unique,
        Option(
            "Images in a smaller gallery, or their share of the whole one. Repeatable.", name="size", metavar="N|P%"
        ),
    ] = ("1%", "2%", "5%", "10%", "20%", "50%", "100%")
    galleries: Annotated[
        int, Field(ge=1), Option("Random galleries of each size; --seed is the seed of these draws too.")
    ] = 3
    unit: Annotated[
        str,
        OneOf("unit to draw", lambda: UNITS),
        Option(
            "What is drawn. Whole patients come as near to a size as they can; an image without a patient id is drawn "
            "alone."
        ),
    ] = UNITS[0]

    search: OneSearch = BOTH[0]

    @property
    def protocol(self) -> RetrievalProtocol:
        """The retrieval task."""
        return RetrievalProtocol(**self._terms(), searches=(self.search,))


@analysis("sweep", SweepConfiguration)
def sweep(collection: Collection, asked: SweepConfiguration) -> Result:
    """Measure retrieval with smaller and smaller galleries, drawn at random from the whole one.

    Galleries of one draw are nested. Each is judged by itself: its relevant images, its coverage and its classes are
    those of a collection that holds nothing else. Read precision_capped and other measures that leave out queries
    without a relevant image together with coverage: small galleries leave out the rare classes. The search is always
    exact, as an approximate index can't be made smaller. Intervals say how much a value would change with other
    patients among the queries; lowest and highest, how much it changed between galleries of one size.
    """
    terms = SweepTerms(sizes=tuple(map(Size.read, asked.sizes)), galleries=asked.galleries, unit=asked.unit)
    return evaluate_sweep(collection, asked.protocol, terms)
