"""The retrieval measurement, from a collection to its report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cbmir.device import place
from cbmir.evaluate.analyses.retrieval.report import Average, RetrievalReport, Row
from cbmir.evaluate.analyses.retrieval.setting import Barred, Intervals, Setting, Side
from cbmir.evaluate.header import PatientCounts
from cbmir.evaluate.metrics import Gains, Scores, at, macro, micro, valued
from cbmir.evaluate.protocol import RetrievalProtocol, further_labels, group_field, wording
from cbmir.evaluate.ranking.exclusion import Exclusion, copies
from cbmir.evaluate.ranking.neighbours import Neighbours, ask, scan
from cbmir.evaluate.ranking.relevance import Relevance, find_grades, find_relevance, judge
from cbmir.evaluate.ranking.trial import Trial, read_trial
from cbmir.evaluate.significance import Interval, Resampler, intervals
from cbmir.fingerprint import EncoderCard
from cbmir.store import Collection
from cbmir.store.ways import search_ef


@dataclass(frozen=True, slots=True)
class Answers:
    """What one search found, and how right it was.

    Attributes:
        neighbours: What it found.
        gains: The same, judged.
    """

    neighbours: Neighbours
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


def evaluate_retrieval(collection: Collection, protocol: RetrievalProtocol | None = None) -> RetrievalReport:
    """Measure how well a collection retrieves.

    Args:
        collection: What is measured.
        protocol: The terms; the default asks with ``split=test`` and searches ``split=train``.

    Raises:
        ProtocolError: there are no queries, no gallery or no labels, or the collection changed meanwhile.
    """
    return summarise(measure(collection, protocol or RetrievalProtocol()))


def measure(collection: Collection, protocol: RetrievalProtocol) -> Measurement:
    """Find and judge the neighbours of every query; see `evaluate_retrieval`."""
    trial = read_trial(collection, protocol)
    exclusion = Exclusion(trial, protocol.excluded_fields)
    free = Exclusion(trial, ())
    relevance = find_relevance(trial, exclusion)
    grades = find_grades(trial, exclusion) if protocol.graded else None
    contrast = exclusion.images > free.images
    found = _found(collection, trial, (free, exclusion) if contrast else (exclusion,))
    answers = {
        search: Answers(neighbours[-1], judge(trial, relevance, grades, neighbours[-1].places))
        for search, neighbours in found.items()
    }
    together = None
    if contrast:
        neighbours = found[protocol.searches[0]][0]
        grades = find_grades(trial, free) if protocol.graded else None
        together = Answers(neighbours, judge(trial, find_relevance(trial, free), grades, neighbours.places))
    setting = describe(collection, trial, exclusion, relevance)
    return Measurement(trial, exclusion, relevance, answers, together, setting, collection.card)


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


def group_masks(trial: Trial) -> dict[str, NDArray[np.bool_]]:
    """The queries of each group, as masks: all, then by each field asked for; those without a value are in all only."""
    groups = {"all": np.ones(len(trial.queries), np.bool_)}
    for name in trial.protocol.by:
        if name == "class":
            for code, value in enumerate(trial.class_names):
                groups[f"class={value}"] = trial.classes == code
            continue
        field = group_field(name)
        codes = trial.queries.codes[field]
        holders: dict[str, list[int]] = {}
        for values, code in trial.vocabularies[field].items():
            for value in values:
                holders.setdefault(value, []).append(code)
        groups |= {f"{name}={value}": np.isin(codes, holders[value]) for value in sorted(holders)}
    return {name: rows for name, rows in groups.items() if rows.any()}


def patients(trial: Trial) -> NDArray[np.int64]:
    """(queries,) code of each query's patient, -1 where it isn't known: then the query is a cluster of its own."""
    codes = trial.queries.codes["patient_id"].astype(np.int64)
    return np.where(codes > 0, codes, -1)


def _found(collection: Collection, trial: Trial, exclusions: tuple[Exclusion, ...]) -> dict[str, list[Neighbours]]:
    """By search, the neighbours on the last of these terms; by the first search on all of them."""
    protocol = trial.protocol
    found: dict[str, list[Neighbours]] = {}
    for number, search in enumerate(protocol.searches):
        terms = exclusions if number == 0 else exclusions[-1:]
        if search == "exact":
            found[search] = scan(collection, trial, terms, protocol.depth, place(protocol.device, "fp32").device)
        else:
            exact = search == "qdrant-exact"
            found[search] = [ask(collection, trial, one, protocol.depth, exact=exact) for one in terms]
    return found


def _rows(trial: Trial, gains: Gains, groups: Mapping[str, NDArray[np.bool_]], search: str) -> Iterator[Row]:
    protocol = trial.protocol
    columns = [(name, k) for name in protocol.measures for k in protocol.k]
    scores = np.hstack([at(name, gains, protocol.k) for name in protocol.measures])
    covered = gains.relevant > 0
    clusters = patients(trial)
    for group, rows in groups.items():
        mine, classes = scores[rows], trial.classes[rows]
        counts, coverage = valued(mine), float(covered[rows].mean())
        means: dict[Average, Scores] = {"micro": micro(mine), "macro": macro(mine, classes)}
        ends = dict(zip(means, _intervals(mine, classes, clusters[rows], protocol), strict=True))
        for column, (name, k) in enumerate(columns):
            for average, values in means.items():
                row = Row(name, k, average, group, float(values[column]), int(counts[column]), coverage, search)
                interval = ends[average]
                yield replace(row, low=float(interval.low[column]), high=float(interval.high[column]))


def _intervals(
    scores: Scores, classes: NDArray[np.int32], clusters: NDArray[np.int64], protocol: RetrievalProtocol
) -> tuple[Interval, Interval]:
    if not protocol.draws:
        none = Interval(*np.full((2, scores.shape[1]), np.nan))
        return none, none
    return intervals(scores, classes, Resampler(clusters, protocol.draws, protocol.seed))


def describe(collection: Collection, trial: Trial, exclusion: Exclusion, relevance: Relevance) -> Setting:
    """What is measured, and on which terms."""
    info = collection.info()
    protocol, queries, gallery = trial.protocol, trial.queries, trial.gallery
    classes = set(trial.classes.tolist())
    uncovered = classes - set(trial.classes[relevance.covered].tolist())
    resampler = Resampler(patients(trial))
    sides = {"queries": queries, "gallery": gallery}
    people = {role: PatientCounts.of(images.codes["patient_id"]) for role, images in sides.items()}
    asks_store = any(search != "exact" for search in protocol.searches)
    return Setting(
        collection=collection.name,
        store=info.engine,
        vectors=info.points,
        indexed=info.indexed,
        queries=Side(
            wording(protocol.queries),
            len(queries),
            trial.unlabelled,
            collection.facet("dataset", trial.queries_where),
            further_labels(collection, trial.queries_where, protocol.label),
        ),
        gallery=Side(
            wording(protocol.gallery),
            len(gallery),
            trial.without_label(gallery),
            collection.facet("dataset", trial.gallery_where),
            further_labels(collection, trial.gallery_where, protocol.label),
        ),
        label=protocol.label,
        relevance=protocol.relevance,
        relations=str(protocol.relations) if protocol.relations else None,
        classes=len(classes),
        classes_without_gallery=tuple(trial.class_names[code] for code in sorted(uncovered)),
        exclusion=Barred(
            same_patient="excluded" if "patient" in protocol.exclude else "included",
            by=protocol.exclude,
            queries_affected=exclusion.queries,
            images_excluded=exclusion.images,
            queries_without_patient=people["queries"].images_without_id,
            gallery_without_patient=people["gallery"].images_without_id,
        ),
        measures=protocol.measures,
        k=protocol.k,
        search=protocol.searches,
        ef=search_ef(protocol.depth) if asks_store else None,
        intervals=Intervals(protocol.draws, protocol.seed, resampler.count, resampler.alone),
        unlabelled=protocol.unlabelled,
        queries_without_relevant=int((~relevance.covered).sum()),
        patients=people,
        queries_with_copies=copies(trial, exclusion),
    )
