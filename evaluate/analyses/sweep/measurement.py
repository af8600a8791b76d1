"""How good the same encoder is with a smaller gallery: retrieval measured again and again, on nested random parts.

The question, figures against the size of the index, is from Denner et al., "Leveraging foundation models for
content-based image retrieval in radiology", 2025, doi:10.1016/j.compbiomed.2025.110640.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cbmir.encoders.device import place
from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.retrieval.measurement import Answers, Measurement, describe, group_masks, summarise
from cbmir.evaluate.analyses.retrieval.setting import Setting
from cbmir.evaluate.analyses.sweep.galleries import UNITS, Size, draw_order, units_of
from cbmir.evaluate.analyses.sweep.report import SweepReport, SweepRow
from cbmir.evaluate.metrics import micro
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.neighbours import scan
from cbmir.evaluate.ranking.relevance import find_grades, find_relevance, judge
from cbmir.evaluate.ranking.scan import CHUNK_IMAGES
from cbmir.evaluate.ranking.trial import HELD_BYTES, Trial, read_trial, stream_gallery
from cbmir.store import Collection
from cbmir.units import counted

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


def evaluate_sweep(
    collection: Collection, protocol: RetrievalProtocol | None = None, terms: SweepTerms | None = None
) -> SweepReport:
    """Measure how well a collection retrieves, with smaller and smaller parts of its gallery.

    The parts of one draw are nested: each is the first images, or patients, of one random order. What is relevant, how
    much of it there is and which classes have none is counted in each part anew, so that its figures are those of a
    collection that holds nothing else.

    The search is exact. Each part is scanned by itself, which takes the time of a scan of the sum of their sizes. A
    gallery of more than `HELD_BYTES` of vectors is read from the store once a draw, and again for every part that is
    as large. Memory beyond that of a retrieval measurement: the vectors of two parts, at most `HELD_BYTES` each.

    Args:
        collection: What is measured.
        protocol: The terms, as of `evaluate_retrieval`; its searches don't count, and its seed is that of the draws of
            galleries too.
        terms: The galleries.

    Raises:
        ProtocolError: there are no queries, no gallery or no labels, no size fits the gallery, or the collection
            changed meanwhile.
    """
    protocol = replace(protocol or RetrievalProtocol(), searches=("exact",))
    terms = terms or SweepTerms()
    trial = read_trial(collection, protocol)
    counts, left_out = _fitting(terms.sizes, len(trial.gallery))
    exclusion = Exclusion(trial, protocol.excluded_fields)
    setting = describe(collection, trial, exclusion, find_relevance(trial, exclusion))
    rows: list[SweepRow] = []
    total = terms.galleries * len(counts) - (terms.galleries - 1) * (len(trial.gallery) in counts)
    with tqdm(total=total, desc="galleries", unit="gallery", leave=False, disable=None) as bar:
        for number in range(1, terms.galleries + 1):
            for asked, part in _parts(collection, trial, terms.unit, counts, number):
                measured = _measured(collection, part, setting)
                rows += _rows(measured, asked, len(part.gallery) / len(trial.gallery), number)
                bar.update()
    rows.sort(key=lambda row: (row.asked, row.gallery))  # stable: figures stay in the order of a retrieval report
    no_patient = trial.gallery.codes["patient_id"] == 0
    return SweepReport(
        setting=setting,
        encoder=collection.card,
        unit=terms.unit,
        without_patient=int(no_patient.sum()) if terms.unit == "patient" else 0,
        galleries=terms.galleries,
        sizes_left_out=left_out,
        rows=tuple(_spread(rows)),
    )


def _fitting(sizes: Sequence[Size], total: int) -> tuple[list[int], tuple[str, ...]]:
    """The distinct numbers of images, falling, and the sizes that no part of the gallery has."""
    left_out = tuple(str(size) for size in sizes if not 1 <= size.images(total) <= total)
    counts = {count for size in sizes if 1 <= (count := size.images(total)) <= total}
    if not counts:
        raise ProtocolError(f"the gallery has {counted(total, 'image')}, none of the sizes {', '.join(left_out)} fits")
    return sorted(counts, reverse=True), left_out


def _parts(
    collection: Collection, trial: Trial, unit: str, counts: Sequence[int], number: int
) -> Iterator[tuple[int, Trial]]:
    """The numbers of images asked for and the nested parts of one draw; the whole gallery in the first draw only."""
    order = draw_order(units_of(trial.gallery, unit), trial.protocol.seed, number)
    part, inside = trial, np.ones(len(trial.gallery), np.bool_)
    for count in counts:
        if count == len(trial.gallery):
            if number == 1:
                yield count, trial
            continue
        kept = order.first(count)
        part, inside = _held(collection, _part(part, kept[inside])), kept
        yield count, part


def _part(trial: Trial, kept: NDArray[np.bool_]) -> Trial:
    """A trial with some of the gallery."""
    gallery = trial.gallery.take(kept)
    vectors = None if trial.gallery_vectors is None else trial.gallery_vectors[kept]
    return replace(trial, gallery=gallery, gallery_vectors=vectors, own_places=gallery.places(trial.queries.ids))


def _held(collection: Collection, trial: Trial) -> Trial:
    """A trial that holds the vectors of its gallery, unless they are too many."""
    if trial.gallery_vectors is not None or len(trial.gallery) * collection.card.dim * 4 > HELD_BYTES:
        return trial
    held = np.empty((len(trial.gallery), collection.card.dim), np.float32)
    for places, vectors in stream_gallery(collection, trial, CHUNK_IMAGES):
        held[places] = vectors
    return replace(trial, gallery_vectors=held)


def _measured(collection: Collection, trial: Trial, setting: Setting) -> Measurement:
    """What a retrieval measurement with this gallery knows, on the setting of the whole."""
    protocol = trial.protocol
    exclusion = Exclusion(trial, protocol.excluded_fields)
    relevance = find_relevance(trial, exclusion)
    grades = find_grades(trial, exclusion) if protocol.graded else None
    neighbours = scan(collection, trial, (exclusion,), protocol.depth, place(protocol.device, "fp32").device)[0]
    answers = Answers(neighbours, judge(trial, relevance, grades, neighbours.places))
    return Measurement(trial, exclusion, relevance, {"exact": answers}, None, setting, collection.card)


def _rows(measured: Measurement, asked: int, share: float, number: int) -> Iterator[SweepRow]:
    trial, covered = measured.trial, measured.relevance.covered
    uncovered = {
        group: len(set(trial.classes[rows]) - set(trial.classes[rows & covered]))
        for group, rows in group_masks(trial).items()
    }
    for row in summarise(measured).rows:
        yield SweepRow(
            asked=asked,
            size=len(trial.gallery),
            share=share,
            gallery=number,
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
