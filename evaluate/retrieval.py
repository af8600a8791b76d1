"""The retrieval measurement, from a collection to its report."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cbmir.store import Collection
from cbmir.store.base import search_ef
from evaluate.metrics import METRICS, Gains, macro, micro
from evaluate.neighbours import approximate, exact, query_vectors
from evaluate.protocol import RetrievalProtocol, wording
from evaluate.relevance import Relevance, find_relevance, judge
from evaluate.report import Exclusion, RetrievalReport, Row, Setting, Side
from evaluate.trial import NONE, Trial, read_trial

_SEARCHES = {"exact": exact, "approximate": approximate}


def evaluate_retrieval(collection: Collection, protocol: RetrievalProtocol | None = None) -> RetrievalReport:
    """Measure how well a collection retrieves.

    The vectors of the queries are held in memory, those of the gallery are streamed.

    Args:
        collection: What is measured.
        protocol: The terms; the default asks with ``split=test`` and searches ``split=train``.

    Raises:
        ProtocolError: there are no queries, no gallery or no labels, or the collection changed meanwhile.
    """
    protocol = protocol or RetrievalProtocol()
    trial = read_trial(collection, protocol)
    relevance = find_relevance(trial)
    vectors = query_vectors(collection, trial)
    rows: list[Row] = []
    for search in protocol.searches:
        neighbours = _SEARCHES[search](collection, trial, vectors, protocol.depth)
        gains = judge(trial, relevance, neighbours.places)
        rows += _rows(trial, gains, protocol, search)
    return RetrievalReport(_setting(collection, protocol, trial, relevance), collection.card, tuple(rows))


def _rows(trial: Trial, gains: Gains, protocol: RetrievalProtocol, search: str) -> Iterator[Row]:
    covered = gains.relevant > 0
    groups = _groups(trial)
    for measure in protocol.measures:
        for k in protocol.k:
            scores = METRICS[measure](gains, k)
            for group, rows in groups.items():
                n = int((~np.isnan(scores[rows])).sum())
                coverage = float(covered[rows].mean())
                value = micro(scores[rows])
                yield Row(measure, k, "micro", group, value, n, coverage, search)
                value = macro(scores[rows], trial.queries.classes[rows])
                yield Row(measure, k, "macro", group, value, n, coverage, search)


def _groups(trial: Trial) -> dict[str, NDArray[np.bool_]]:
    """The queries of each group, as masks: all, then by modality; queries without one are among all only."""
    groups = {"all": np.ones(len(trial.queries), np.bool_)}
    for name, code in sorted(trial.vocabularies.modalities.items()):
        rows = trial.queries.modalities == code
        if rows.any():
            groups[f"modality={name}"] = rows
    return groups


def _setting(collection: Collection, protocol: RetrievalProtocol, trial: Trial, relevance: Relevance) -> Setting:
    info = collection.info()
    queries, gallery = trial.queries, trial.gallery
    names = list(trial.vocabularies.classes)
    classes = set(queries.classes.tolist())
    uncovered = classes - set(queries.classes[relevance.covered].tolist())
    datasets_of_queries = collection.facet("dataset", trial.queries_where)
    datasets_of_gallery = collection.facet("dataset", trial.gallery_where)
    return Setting(
        collection=collection.name,
        store=info.engine,
        vectors=info.points,
        indexed=info.indexed,
        queries=Side(wording(protocol.queries), len(queries), trial.unlabelled, datasets_of_queries),
        gallery=Side(wording(protocol.gallery), len(gallery), int((gallery.sets == 0).sum()), datasets_of_gallery),
        label=protocol.label,
        classes=len(classes),
        classes_without_gallery=tuple(sorted(names[code] for code in uncovered)),
        exclusion=Exclusion(
            same_patient="included" if protocol.same_patient else "excluded",
            queries_affected=int((relevance.barred > 0).sum()),
            images_excluded=int(relevance.barred.sum()),
            queries_without_patient=int((queries.patients == NONE).sum()),
        ),
        measures=protocol.measures,
        k=protocol.k,
        search=protocol.searches,
        ef=search_ef(protocol.depth) if "approximate" in protocol.searches else None,
    )
