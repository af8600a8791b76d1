"""Confounders: are neighbours nearer by site, scanner, view or data set than by label?

Of the neighbours of an image, those of its label from elsewhere (another site, say) speak for the label, those of
another label from the same place for the confounder. The robustness index is the share of the former: Kömen et al.,
"Towards Robust Foundation Models for Digital Pathology", 2025, arXiv:2507.17845. The ratio that came before it, of
neighbours of the same label to those of the same place: de Jong et al., "Current Pathology Foundation Models are
unrobust to Medical Center Differences", 2025, arXiv:2501.18055.

Both papers take data in which labels are as frequent at one place as at another. Elsewhere a figure says little without
its chance level: that of neighbours drawn at random from what each image may find.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cbmir.evaluate.intervals import resampled
from cbmir.evaluate.metrics import Scores, group_sums
from cbmir.evaluate.ranking.description import resampler_of
from cbmir.evaluate.ranking.exclusion import DATASET, Exclusion
from cbmir.evaluate.ranking.relevance import BLOCK
from cbmir.evaluate.ranking.session import Session
from cbmir.evaluate.ranking.trial import NONE, Codes, Places, Trial
from cbmir.evaluate.significance import Resampler

MAX_CELLS = 1 << 25
"""Distinct labels x distinct values of a confounder: a table of them is held."""

Pull = Literal["label", "confounder", "unclear"]
Tally = NDArray[np.int64]
"""(images, 6) images of each kind: of the query's label from elsewhere, of another label from the same place, of the
query's label, of the same place, those with a label and a place, and all."""

_KNOWN, _ALL = 4, 5


MOST_PLACES = 20
"""Values of a confounder that are looked at by themselves: those with most queries."""

_SEEN = 2.8
"""Standard errors by which a figure must differ for four of five samples to tell at a level of .05."""


def _pull(low: float, high: float, chance: float) -> Pull:
    if low > chance:
        return "label"
    return "confounder" if high < chance else "unclear"


def _detectable(low: float, high: float) -> float:
    """The least difference from chance that four of five such samples would show, from a 95% interval."""
    return _SEEN * (high - low) / 3.92


@dataclass(frozen=True, slots=True)
class Place:
    """The queries of one value of a confounder: a large site can hide what happens at a small one, and the reverse.

    Attributes:
        value: The value.
        queries: Its queries.
        share: Their part of all queries that have a value.
        index: As of all queries, of these alone.
        low: Lower end of its 95% interval; NaN where there is none.
        high: Upper end.
        chance: The index by chance.
    """

    value: str
    queries: int
    share: float
    index: float
    chance: float
    low: float = math.nan
    high: float = math.nan

    @property
    def pull(self) -> Pull:
        """See `Confounding.pull`."""
        return _pull(self.low, self.high, self.chance)

    @property
    def detectable(self) -> float:
        """See `Confounding.detectable`."""
        return _detectable(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Confounding:
    """How far neighbours follow a confounder rather than the label.

    Attributes:
        field: The confounder.
        values: Distinct values of it among the queries.
        queries: Images with a label and a value: they ask.
        queries_left_out: Images with a label and no value.
        reason: Why there is no figure; empty where there is one.
        neighbours: Neighbours of the queries that have a label and a value.
        neighbours_left_out: Neighbours of the queries that lack one.
        same_label_elsewhere: Neighbours of the query's label with another value.
        other_label_same_place: Neighbours of another label with the query's value.
        index: The first of these over both, 0 to 1; NaN where there is neither.
        low: Lower end of its 95% interval, drawn over patients; NaN where there is none.
        high: Upper end.
        chance: The index of the sums to be expected if neighbours were drawn at random from what each query may find.
        ratio: Neighbours of the query's label over those of its value, 0 or more; NaN where none has its value.
        ratio_low: Lower end of its interval.
        ratio_high: Upper end.
        ratio_chance: The ratio of these sums.
        places: The values with most queries, each by itself.
    """

    field: str
    values: int
    queries: int
    queries_left_out: int
    reason: str = ""
    neighbours: int = 0
    neighbours_left_out: int = 0
    same_label_elsewhere: int = 0
    other_label_same_place: int = 0
    index: float = math.nan
    low: float = math.nan
    high: float = math.nan
    chance: float = math.nan
    ratio: float = math.nan
    ratio_low: float = math.nan
    ratio_high: float = math.nan
    ratio_chance: float = math.nan
    places: tuple[Place, ...] = ()

    @property
    def pull(self) -> Pull:
        """What neighbours follow more than they would by chance; ``unclear`` where the index may be at chance level."""
        return _pull(self.low, self.high, self.chance)

    @property
    def detectable(self) -> float:
        """The least difference of the index from chance that four of five such samples would show; NaN if unknown."""
        return _detectable(self.low, self.high)


@dataclass(frozen=True, slots=True)
class _Sums:
    """The neighbours of the queries of one field.

    Attributes:
        finding: What is known of the field so far.
        clusters: (clusters, 1 + places, 4) the first four kinds of neighbours, summed over the queries of each cluster:
            all of them, then those of each place.
        asked: (1 + places,) clusters that have a query.
    """

    finding: Confounding
    clusters: Scores
    asked: NDArray[np.int64]


def measure_confounding(session: Session, trial: Trial, fields: Sequence[str]) -> tuple[Confounding, ...]:
    """Look at the neighbours of every image that has a label, among all images.

    Args:
        session: Of the audit.
        trial: One of it. Its queries are its gallery, with a column of codes for each field.
        fields: The confounders.

    Raises:
        ProtocolError: the label field has too many distinct values.
    """
    findings = {field: _described(trial, field) for field in fields}
    measured = [finding for finding in findings.values() if not finding.reason]
    if not measured:
        return tuple(findings.values())
    protocol = trial.protocol
    exclusion = Exclusion(trial, protocol.excluded_fields)
    relevance = session.relevance(trial, exclusion)
    alike = relevance.levels[relevance.table] >= relevance.threshold
    (ranking,) = session.rank(trial, protocol.searches[0], (protocol.excluded_fields,), protocol.depth)
    resampler = resampler_of(trial, trial.classes != NONE)
    sums = [_summed(trial, exclusion, alike, ranking.positions, finding, resampler) for finding in measured]
    for item in sums:
        (index, *places), (ratio, *_) = _intervals(item, resampler)
        findings[item.finding.field] = replace(
            item.finding,
            low=index[0],
            high=index[1],
            ratio_low=ratio[0],
            ratio_high=ratio[1],
            places=tuple(
                replace(place, low=low, high=high)
                for place, (low, high) in zip(item.finding.places, places, strict=True)
            ),
        )
    return tuple(findings.values())


def _described(trial: Trial, field: str) -> Confounding:
    """Who asks, and whether there is anything to measure."""
    labels, values = _columns(trial, field)
    asked = (labels > 0) & (values > 0)
    distinct = len(np.unique(values[asked]))
    cells = len(trial.vocabularies[trial.protocol.label]) * len(trial.vocabularies[field])
    reason = ""
    if distinct < 2:
        reason = f"{'all images have one value' if distinct else 'no image has a value'}: nothing to confound with"
    elif cells > MAX_CELLS:
        reason = f"too many values: labels x values are {cells:,}, at most {MAX_CELLS:,} are counted"
    if trial.without_label(trial.gallery) == len(labels):
        reason = f"no image has {trial.protocol.label}"
    return Confounding(field, distinct, int(asked.sum()), int(((labels > 0) & (values == 0)).sum()), reason)


def _summed(
    trial: Trial,
    exclusion: Exclusion,
    alike: NDArray[np.bool_],
    neighbours: Places,
    finding: Confounding,
    resampler: Resampler,
) -> _Sums:
    """Count the neighbours found, and those that chance would find."""
    labels, values = _columns(trial, finding.field)
    asked = (labels > 0) & (values > 0)
    found = _found(alike, labels, values, neighbours) * asked[:, np.newaxis]
    findable = _findable(trial, exclusion, alike, labels, values)
    share = found[:, _ALL] / np.maximum(findable[:, _ALL], 1)
    index, ratio = _figures(found[:, :4].sum(axis=0))
    chance, ratio_chance = _figures(share @ findable[:, :4])
    totals = found.sum(axis=0).tolist()
    finding = replace(
        finding,
        neighbours=totals[_KNOWN],
        neighbours_left_out=totals[_ALL] - totals[_KNOWN],
        same_label_elsewhere=totals[0],
        other_label_same_place=totals[1],
        index=float(index),
        chance=float(chance),
        ratio=float(ratio),
        ratio_chance=float(ratio_chance),
    )
    labelled = labels > 0
    masks = [asked]
    places = []
    names = [", ".join(values) for values in trial.vocabularies[finding.field]]
    queries = np.bincount(values[asked], minlength=len(names))
    for code in np.argsort(-queries, kind="stable")[:MOST_PLACES]:
        if queries[code]:
            mine = asked & (values == code)
            masks.append(mine)
            own, _ = _figures(found[mine, :4].sum(axis=0))
            by_chance, _ = _figures(share[mine] @ findable[mine, :4])
            part = float(queries[code] / queries.sum())
            places.append(Place(names[code], int(queries[code]), part, float(own), float(by_chance)))
    codes = resampler.codes
    clusters = [group_sums((found[:, :4] * mask[:, np.newaxis])[labelled], codes) for mask in masks]
    having = [np.count_nonzero(group_sums(mask[labelled, np.newaxis], codes)) for mask in masks]
    return _Sums(replace(finding, places=tuple(places)), np.stack(clusters, axis=1), np.array(having, np.int64))


def _intervals(sums: _Sums, resampler: Resampler) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Those of the index of all queries and of each place, and those of the ratio; all fields see the same draws."""
    width = sums.clusters.shape[1]
    flat = sums.clusters.reshape(len(sums.clusters), -1).astype(np.float32)

    def figures(blocks: Iterable[NDArray[np.float32]]) -> Scores:
        parts = (np.hstack(_figures((block @ flat).reshape(len(block), width, 4))) for block in blocks)
        return np.concatenate([np.empty((0, 2 * width)), *parts])

    whole = np.concatenate(_figures(sums.clusters.sum(axis=0)))
    without = figures(resampler.lacking()) if resampler.method == "bca" else np.empty((0, 2 * width))
    ends = resampled(figures(resampler.blocks()), np.tile(sums.asked, 2), resampler.method, whole, without)
    pairs = list(zip(ends.low.tolist(), ends.high.tolist(), strict=True))
    return pairs[:width], pairs[width:]


def _figures(sums: NDArray[Any]) -> tuple[Scores, Scores]:
    """Index and ratio from (..., 4) sums of the first four kinds, NaN where nothing is divided by."""
    return _quotient(sums[..., 0], sums[..., 0] + sums[..., 1]), _quotient(sums[..., 2], sums[..., 3])


def _quotient(numerator: NDArray[Any], denominator: NDArray[Any]) -> Scores:
    quotient: Scores = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _columns(trial: Trial, field: str) -> tuple[Codes, Codes]:
    """Codes of label and confounder of all images."""
    return trial.gallery.codes[trial.protocol.label], trial.gallery.codes[field]


def _found(alike: NDArray[np.bool_], labels: Codes, values: Codes, neighbours: Places) -> Tally:
    """The neighbours of each image, by kind."""
    tally = np.zeros((len(neighbours), 6), np.int64)
    for start in range(0, len(neighbours), BLOCK):
        places = neighbours[start : start + BLOCK]
        rows = np.arange(start, start + len(places))[:, np.newaxis]
        kinds = _kinds(alike, labels, values, rows, places) & (places != NONE)
        tally[start : start + BLOCK] = kinds.sum(axis=2).T
    return tally


def _findable(trial: Trial, exclusion: Exclusion, alike: NDArray[np.bool_], labels: Codes, values: Codes) -> Tally:
    """What each image may find, by kind."""
    everyone = np.ones(len(labels), np.bool_)
    tally = _of(alike, labels, values, everyone, everyone)
    if exclusion.across_datasets:
        datasets = trial.gallery.codes[DATASET]
        for dataset in np.unique(datasets[datasets > 0]):
            own = datasets == dataset
            tally[own] -= _of(alike, labels, values, own, own)
    for rows, places in exclusion.blocks():
        other = ~exclusion.same_dataset(rows, places)
        rows, places = rows[other], places[other]
        np.subtract.at(tally, rows, _kinds(alike, labels, values, rows, places).T)
    return tally


def _of(
    alike: NDArray[np.bool_], labels: Codes, values: Codes, asked: NDArray[np.bool_], there: NDArray[np.bool_]
) -> Tally:
    """(asked, 6) images of some part, by kind, from how many there are of each label and value."""
    width = int(values.max()) + 1
    pairs = labels[there].astype(np.int64) * width + values[there]
    counts = np.bincount(pairs, minlength=len(alike) * width).reshape(-1, width).astype(np.float64)
    total = counts.sum()
    counts[0] = counts[:, 0] = 0
    by_label = alike @ counts
    label, value = labels[asked], values[asked]
    both, same_label, same_place = by_label[label, value], by_label.sum(axis=1)[label], counts.sum(axis=0)[value]
    rest = np.broadcast_to([[counts.sum(), total]], (len(both), 2))
    kinds = np.column_stack([same_label - both, same_place - both, same_label, same_place, rest])
    return kinds.round().astype(np.int64)


def _kinds(alike: NDArray[np.bool_], labels: Codes, values: Codes, rows: Places, places: Places) -> NDArray[np.bool_]:
    """(6, ...) of which kinds some images are to the queries, broadcast together."""
    same_label, same_place = alike[labels[rows], labels[places]], values[rows] == values[places]
    known = (labels[places] > 0) & (values[places] > 0)
    kinds = (same_label & ~same_place, ~same_label & same_place, same_label, same_place, known)
    return np.stack([*(kind & known for kind in kinds), np.ones_like(known)])
