"""What a retrieval task is, in words and numbers: its setting, the groups of its queries, and their patients."""

import numpy as np
from numpy.typing import NDArray

from cbmir.evaluate.header import PatientCounts
from cbmir.evaluate.protocol import CLASS, further_labels, group_field, wording
from cbmir.evaluate.ranking.exclusion import Exclusion, copies
from cbmir.evaluate.ranking.relevance import Relevance
from cbmir.evaluate.ranking.trial import NONE, Classes, Trial
from cbmir.evaluate.setting import Barred, Intervals, Setting, Side
from cbmir.evaluate.significance import Resampler
from cbmir.filters import SCOPED
from cbmir.search.ranker import ranker_named
from cbmir.search.rankers.engine import Engine
from cbmir.store import Collection
from cbmir.store.ways import search_ef


def group_masks(trial: Trial) -> dict[str, NDArray[np.bool_]]:
    """The queries of each group, as masks: all, then by each field asked for; those without a value are in all only."""
    groups = {"all": np.ones(len(trial.queries), np.bool_)}
    for name in trial.protocol.by:
        if name == CLASS:
            classes = trial.class_pairs()
            for code, value in enumerate(classes.names):
                groups[f"{CLASS}={value}"] = classes.having(code, len(trial.queries))
            continue
        field = group_field(name)
        codes = trial.queries.codes[field]
        holders: dict[str, list[int]] = {}
        for values, code in trial.vocabularies[field].items():
            for value in values[:1] if field in SCOPED else values:
                holders.setdefault(value, []).append(code)
        groups |= {f"{name}={value}": np.isin(codes, holders[value]) for value in sorted(holders)}
    return {name: rows for name, rows in groups.items() if rows.any()}


def patients(trial: Trial) -> NDArray[np.int64]:
    """(queries,) number of each query's patient, -1 where it isn't known: then the query is a cluster of its own."""
    return trial.clusters.astype(np.int64)


def _of_one_patient(classes: Classes, resampler: Resampler) -> int:
    """Classes whose queries are all of one patient."""
    pairs = np.unique(classes.codes * np.int64(resampler.count) + resampler.codes[classes.owners])
    patients = np.bincount(pairs // max(resampler.count, 1), minlength=len(classes.names))
    return int(np.count_nonzero(patients == 1))


def resampler_of(trial: Trial, rows: NDArray[np.bool_] | None = None) -> Resampler:
    """The draws of the patients of all queries, or of some."""
    protocol = trial.protocol
    clusters = patients(trial) if rows is None else patients(trial)[rows]
    return Resampler(clusters, protocol.draws, protocol.seed, protocol.interval)


def in_several_datasets(trial: Trial) -> int:
    """Patient ids that images of several data sets have and that are told apart there."""
    met: dict[str, set[str]] = {}
    names = list(trial.vocabularies["patient_id"])
    for images in (trial.queries, trial.gallery):
        for code in np.unique(images.codes["patient_id"]).tolist():
            for scope in names[code][1:]:
                met.setdefault(names[code][0], set()).add(scope)
    return sum(len(scopes) > 1 for scopes in met.values())


def describe(collection: Collection, trial: Trial, exclusion: Exclusion, relevance: Relevance) -> Setting:
    """What is measured, and on which terms."""
    info = collection.info()
    protocol, queries, gallery = trial.protocol, trial.queries, trial.gallery
    classes = trial.class_pairs()
    met = set(classes.codes.tolist())
    uncovered = met - set(classes.take(relevance.covered).codes.tolist())
    resampler = resampler_of(trial)
    sides = {"queries": queries, "gallery": gallery}
    people = {role: PatientCounts.of(images.codes["patient_id"]) for role, images in sides.items()}
    own_gallery = int((trial.own_places != NONE).sum())
    asks_store = any(issubclass(ranker_named(search), Engine) for search in protocol.searches)
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
        classes=len(met),
        classes_without_gallery=tuple(classes.names[code] for code in sorted(uncovered)),
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
        intervals=Intervals(
            protocol.draws, protocol.seed, resampler.count, resampler.alone, protocol.interval, own_gallery
        ),
        unlabelled=protocol.unlabelled,
        queries_without_relevant=int((~relevance.covered).sum()),
        patients=people,
        patients_by=protocol.patients,
        ids_in_several_datasets=in_several_datasets(trial),
        classes_of_one_patient=_of_one_patient(classes, resampler) if protocol.draws else 0,
        queries_with_copies=copies(trial, exclusion),
    )
