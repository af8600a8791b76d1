"""``cbmir evaluate compare``: which encoder ranks better, and is the difference chance?

Every pair is compared on the queries that all collections have, so that all rows of a table speak of the same images.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.comparison_report import CompareRow, ComparisonReport, Entry
from cbmir.evaluate.analyses.retrieval import Measurement, measure
from cbmir.evaluate.analysis import Chosen, analysis
from cbmir.evaluate.configuration import Cutoffs, Measures, Option
from cbmir.evaluate.metrics import Codes, Scores, macro, micro
from cbmir.evaluate.options import Asking, Excluding, OneSearch, Relations
from cbmir.evaluate.protocol import BOTH, RetrievalProtocol
from cbmir.evaluate.ranking.description import patients
from cbmir.evaluate.ranking.trial import Classes
from cbmir.evaluate.results import Average, Result
from cbmir.evaluate.setting import Setting
from cbmir.evaluate.significance import TIE, Resampler, holm, intervals, paired_test, tally
from cbmir.fingerprint import EncoderCard
from cbmir.store import Collection, Store

Ids = NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class ComparedEncoder:
    """One collection's scores, without its vectors.

    Attributes:
        setting: What was measured, and on which terms.
        card: The encoder of the vectors.
        ids: (queries,) 16 bytes of each query's UUID, rising.
        scores: (queries, columns) one column a measure and cutoff, measures outside; NaN where there is no value.
        classes: The names of each query's classes.
        patients: (queries,) code of each query's patient, -1 where it isn't known.
        gallery: (images,) ids of what was searched, rising.
    """

    setting: Setting
    card: EncoderCard
    ids: Ids
    scores: Scores
    classes: tuple[tuple[str, ...], ...]
    patients: Codes
    gallery: Ids


def compare(store: Store, names: Sequence[str], protocol: RetrievalProtocol) -> ComparisonReport:
    """Measure collections on the same terms and compare each with each.

    Args:
        store: Holds the collections, which are opened one after the other.
        names: Two or more.
        protocol: The terms; the first of its searches counts, its groups don't.

    Raises:
        ProtocolError: there are fewer than two names, a collection can't be measured, or no query is in all.
        CollectionError: a collection doesn't exist.
    """
    if len(names) < 2:
        there = ", ".join(store.names()) or "none"
        raise ProtocolError(
            f"a comparison takes two collections or more, got {len(names)}; {store.location} has {there}"
        )
    encoders = []
    for name in names:
        with store.open(name) as collection:
            encoders.append(_measured(collection, protocol))
    return compare_scores(encoders)


def compare_collections(collections: Sequence[Collection], protocol: RetrievalProtocol) -> ComparisonReport:
    """Measure open collections on the same terms and compare each with each; see `compare`.

    Raises:
        ProtocolError: there are fewer than two, one can't be measured, or no query is in all.
    """
    if len(collections) < 2:
        raise ProtocolError(f"a comparison takes two collections or more, got {len(collections)}")
    return compare_scores([_measured(collection, protocol) for collection in collections])


def _measured(collection: Collection, protocol: RetrievalProtocol) -> ComparedEncoder:
    return compared_encoder(measure(collection, replace(protocol, searches=protocol.searches[:1], by=())))


def compared_encoder(measurement: Measurement) -> ComparedEncoder:
    """What a comparison keeps of a measurement: the scores of its first search."""
    trial = measurement.trial
    protocol = trial.protocol
    columns = itertools.product(protocol.measures, protocol.k)
    search = protocol.searches[0]
    return ComparedEncoder(
        setting=measurement.setting,
        card=measurement.card,
        ids=trial.queries.ids,
        scores=np.stack([measurement.scores(search, name, k) for name, k in columns], axis=1),
        classes=tuple(trial.label_sets()),
        patients=patients(trial),
        gallery=trial.gallery.ids,
    )


def compare_scores(encoders: Sequence[ComparedEncoder]) -> ComparisonReport:
    """Compare each with each on the queries they all share; classes and patients are those of the first.

    Args:
        encoders: Two or more, measured on the same terms.

    Raises:
        ProtocolError: no query is in all.
    """
    shared = functools.reduce(np.intersect1d, (item.ids for item in encoders))
    if not len(shared):
        counts = ", ".join(f"{item.setting.collection} {len(item.ids):,}" for item in encoders)
        raise ProtocolError(f"no query is in every collection (queries: {counts}); choose others with --queries")
    aligned = [_among(item, shared) for item in encoders]
    setting = aligned[0].setting
    resampler = Resampler(
        aligned[0].patients, setting.intervals.draws, setting.intervals.seed, setting.intervals.method
    )
    classes = Classes.of(aligned[0].classes)
    rows: list[CompareRow] = []
    keys: list[tuple[str, str, bytes]] = []
    for first, second in itertools.combinations(aligned, 2):
        for row, key in _pair(first, second, classes, resampler):
            rows.append(row)
            keys.append((row.first, row.second, key))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys), 1)}
    rows = [replace(row, test=numbers[key]) for row, key in zip(rows, keys, strict=True)]
    adjusted = holm(np.array([row.p for row in rows]), [row.test for row in rows])
    return ComparisonReport(
        setting=setting,
        entries=_entries(encoders, aligned),
        queries=len(shared),
        clusters=resampler.count,
        alone=resampler.alone,
        rows=tuple(replace(row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)),
    )


def _among(item: ComparedEncoder, shared: Ids) -> ComparedEncoder:
    """An encoder with the shared queries only, all in the same order."""
    rows = np.searchsorted(item.ids, shared)
    classes = tuple(item.classes[row] for row in rows.tolist())
    return replace(item, ids=shared, scores=item.scores[rows], classes=classes, patients=item.patients[rows])


def _entries(encoders: Sequence[ComparedEncoder], aligned: Sequence[ComparedEncoder]) -> tuple[Entry, ...]:
    everywhere = functools.reduce(np.intersect1d, (item.gallery for item in encoders))
    return tuple(
        Entry(
            collection=whole.setting.collection,
            encoder=whole.card.name,
            fingerprint=whole.card.fingerprint,
            queries=len(whole.ids),
            queries_left_out=len(whole.ids) - len(part.ids),
            unlabelled=whole.setting.queries.unlabelled,
            relabelled=sum(set(one) != set(other) for one, other in zip(part.classes, aligned[0].classes, strict=True)),
            gallery=len(whole.gallery),
            gallery_alone=len(whole.gallery) - len(everywhere),
            gallery_unlabelled=whole.setting.gallery.unlabelled,
            queries_without_relevant=whole.setting.queries_without_relevant,
        )
        for whole, part in zip(encoders, aligned, strict=True)
    )


def _pair(
    first: ComparedEncoder, second: ComparedEncoder, classes: Classes, resampler: Resampler
) -> Iterator[tuple[CompareRow, bytes]]:
    """The rows of two collections, each with what tells whether two of them are one test."""
    setting = first.setting
    counts = tally(first.scores, second.scores)
    same = np.abs(first.scores - second.scores) <= TIE  # but for rounding: else an interval could leave out 0 by it
    gaps = np.where(same, 0, first.scores - second.scores)
    ours = np.where(np.isnan(gaps), np.nan, first.scores)
    theirs = np.where(same, ours, np.where(np.isnan(gaps), np.nan, second.scores))
    tests = {
        "micro": paired_test(ours, theirs, resampler),
        "macro": paired_test(ours, theirs, resampler, classes.codes, classes.owners),
    }
    means = {
        "micro": (micro(ours), micro(theirs)),
        "macro": tuple(macro(scores[classes.owners], classes.codes) for scores in (ours, theirs)),
    }
    ends = {}
    if resampler.draws:
        ends = dict(zip(tests, intervals(gaps, classes.codes, resampler, classes.owners), strict=True))
    averages: tuple[Average, ...] = ("micro", "macro")
    known_rows = np.flatnonzero(first.patients >= 0)
    known = first.patients[known_rows]
    for column, (name, k) in enumerate(itertools.product(setting.measures, setting.k)):
        for average in averages:
            row = CompareRow(
                first=setting.collection,
                second=second.setting.collection,
                measure=name,
                k=k,
                average=average,
                first_value=float(means[average][0][column]),
                second_value=float(means[average][1][column]),
                difference=float(tests[average].difference[column]),
                n=int(tests[average].n[column]),
                wins=int(counts.wins[column]),
                ties=int(counts.ties[column]),
                losses=int(counts.losses[column]),
                patients=len(np.unique(known[~np.isnan(gaps[known_rows, column])])),
            )
            if ends:
                low, high = ends[average].low[column], ends[average].high[column]
                row = replace(row, low=float(low), high=float(high), p=float(tests[average].p[column]))
            yield row, tests[average].keys[column]


class CompareConfiguration(Asking, Excluding):
    """What ``compare`` can be asked."""

    measures: Annotated[
        Measures, Option("Repeatable; each adds to the tests that are corrected for.", name="measure")
    ] = ("precision_capped",)
    k: Annotated[Cutoffs, Option("Cutoff. Repeatable; each adds to the tests that are corrected for.", name="k")] = (1,)
    relations: Relations = None
    search: OneSearch = BOTH[0]

    @property
    def protocol(self) -> RetrievalProtocol:
        """The retrieval task."""
        return RetrievalProtocol(**self._terms(), searches=(self.search,), by=())


@analysis("compare", CompareConfiguration, "several")
def comparison(collections: Chosen | Iterable[Collection], asked: CompareConfiguration) -> Result:
    """Compare collections of a store with each other, on the queries that all of them have.

    The test swaps the scores of two collections at random, all queries of a patient together. Its p-values are adjusted
    with Holm's method for all pairs, measures, cutoffs and averages of the table. The difference is first minus second.
    """
    if isinstance(collections, Chosen):
        return compare(collections.store, collections.names, asked.protocol)
    return compare_collections(list(collections), asked.protocol)
