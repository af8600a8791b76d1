"""The retrieval measurement over the embedded engine."""

import csv
import json
import math
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from builders import put
from sklearn.neighbors import NearestNeighbors

import cbmir.evaluate.ranking.exact
import cbmir.evaluate.ranking.reading
import cbmir.evaluate.ranking.relevance
import cbmir.evaluate.ranking.trial
from cbmir.errors import CbmirError, ProtocolError
from cbmir.evaluate import RetrievalProtocol, conditions, evaluate_retrieval
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.keys import keys_of
from cbmir.evaluate.ranking.session import read_trial
from cbmir.evaluate.ranking.trial import NONE, StoredGallery
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.search.query import Options, StoredQuery, VectorQuery
from cbmir.search.ranker import ranker_named
from cbmir.search.searcher import Searcher
from cbmir.store import open_store
from cbmir.units import counted

DIM = 16
ROW = ["measure", "k", "average", "group", "value", "n", "coverage", "search", "low", "high", "patients"]
ONE_LABEL = (*(f"CT/chest/finding_{i}" for i in range(6)), *(f"XR/hand/finding_{i}" for i in range(5)))


@pytest.fixture
def fill(tmp_path):
    """A function that puts records and vectors into a new collection, and opens it."""
    with open_store(tmp_path / "store") as store, ExitStack() as opened:
        yield lambda records, vectors, name="probe": opened.enter_context(put(store, name, records, vectors))


@pytest.fixture(scope="module")
def hand(tmp_path_factory):
    """Five images on a circle; a is asked. By angle: b (its patient, right), c (wrong), d (right), e (right)."""
    labels = {"a": "CT/lung/x", "b": "CT/lung/x", "c": "CT/lung/y", "d": "CT/lung/x", "e": "CT/lung/x"}
    patients = {"a": "1", "b": "1", "c": "2", "d": None, "e": "3"}
    records = tuple(
        ImageRecord(
            filepath=name,
            dataset="syn",
            split="test" if name == "a" else "train",
            modality="CT",
            labels=(label,),
            patient_id=patients[name],
        )
        for name, label in labels.items()
    )
    card = external_card("hand", 2)
    with open_store(tmp_path_factory.mktemp("hand")) as store, store.create("hand", card) as collection:
        collection.upsert(EmbeddedBatch(records, on_a_circle(5), card.fingerprint))
        yield collection


def on_a_circle(count):
    """(count, 2) unit vectors, 10 degrees apart."""
    turn = np.deg2rad(10 * np.arange(count))
    return np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)


def published_layout(seed, gallery, queries=40):
    """One label a row; queries are test and val, the gallery is train; the last class is missing from the gallery."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(gallery + queries):
        split = "train" if number < gallery else ("val", "test")[number % 2]
        # squared: rare classes, with fewer gallery images than k
        label = ONE_LABEL[int(rng.random() ** 2 * (len(ONE_LABEL) - (split == "train")))]
        modality, region, _ = label.split("/")
        records.append(
            ImageRecord(
                filepath=f"{number}.png",
                dataset="syn",
                split=split,
                modality=modality,
                anatomic_region=region,
                labels=(label,),
            )
        )
    centres = rng.standard_normal((len(ONE_LABEL), DIM))
    noise = rng.standard_normal((len(records), DIM))
    return tuple(records), normalise(
        (centres[[ONE_LABEL.index(r.labels[0]) for r in records]] + 1.5 * noise).astype(np.float32)
    )


def plain_ranking(records, vectors):
    """For each query its labels and, from the most similar gallery image on, whether it has the same."""
    gallery = [i for i, record in enumerate(records) if record.split == "train"]
    for query, record in enumerate(records):
        if record.split == "train":
            continue
        cosines = {i: math.fsum(a * b for a, b in zip(vectors[query], vectors[i], strict=True)) for i in gallery}
        ranked = sorted(gallery, key=lambda i, cosines=cosines: (-cosines[i], records[i].id))
        yield record.labels, [records[i].labels == record.labels for i in ranked]


def plain_measures(rankings, k):
    """Micro and macro of both measures by their definitions, one query at a time."""
    capped, plain = {}, {}
    for labels, right in rankings:
        n = min(k, sum(right))
        plain.setdefault(labels, []).append(sum(right[:k]) / k)
        if n:
            capped.setdefault(labels, []).append(sum(right[:n]) / n)
    return {"precision_capped": _means(capped), "precision": _means(plain)}


def _means(by_class):
    values = [value for item in by_class.values() for value in item]
    means = [sum(item) / len(item) for item in by_class.values()]
    return {"micro": sum(values) / len(values), "macro": sum(means) / len(means), "n": len(values)}


@pytest.mark.parametrize(("seed", "gallery"), [(0, 120), (1, 30)])
def test_evaluate_retrieval__agrees_with_plain_loops(fill, seed, gallery):
    records, vectors = published_layout(seed, gallery)
    protocol = RetrievalProtocol(queries=conditions(["split=test|val"]), k=tuple(range(1, 100)), searches=("exact",))
    rows = evaluate_retrieval(fill(records, vectors), protocol).rows
    rankings = list(plain_ranking(records, vectors.tolist()))
    expected = {
        (group, k): plain_measures([item for item in rankings if item[0][0].startswith(modality)], k)
        for group, modality in (("all", ""), ("modality=CT", "CT"), ("modality=XR", "XR"))
        for k in protocol.k
    }
    assert len(rows) == 3 * 99 * 2 * 2
    for row in rows:
        means = expected[row.group, row.k][row.measure]
        assert row.value == pytest.approx(means[row.average], abs=1e-12), row
        assert row.n == means["n"]


def test_evaluate_retrieval__approximate_is_exact_on_a_small_collection(fill):
    records, vectors = published_layout(2, 80)
    records = [replace(r, patient_id=f"p{i % 9}") for i, r in enumerate(records)]
    report = evaluate_retrieval(fill(records, vectors), RetrievalProtocol(k=(1, 7, 100)))
    exact_rows = [row for row in report.rows if row.search == "exact"]
    approximate_rows = [row for row in report.rows if row.search == "approximate"]
    assert len(exact_rows) == len(approximate_rows) == 2 * 3 * 3 * 2
    for one, other in zip(exact_rows, approximate_rows, strict=True):
        assert other.value == pytest.approx(one.value, abs=1e-12, nan_ok=True)
        assert (one.measure, one.k, one.group, one.n) == (other.measure, other.k, other.group, other.n)


def ranked(search):
    """A function from a collection, a trial and a depth to the ranking by a search."""

    def rank(collection, trial, depth):
        exclusion = Exclusion(trial, trial.protocol.excluded_fields)
        ranker = ranker_named(search)(collection, "cpu")
        return ranker.rank(trial.query_vectors, StoredGallery(collection, trial), (exclusion,), depth)[0]

    return rank


exact, approximate, engine = map(ranked, ("exact", "approximate", "qdrant-exact"))


@pytest.mark.parametrize("held", [True, False])
def test_scan__agrees_with_scikit_learn(fill, monkeypatch, held):
    monkeypatch.setattr(cbmir.evaluate.ranking.reading, "SCROLL_IMAGES", 17)
    monkeypatch.setattr(cbmir.evaluate.ranking.trial, "SCROLL_IMAGES", 17)
    monkeypatch.setattr(cbmir.evaluate.ranking.exact, "CHUNK_IMAGES", 150 if held else 40)  # one, or several to merge
    if not held:
        monkeypatch.setattr(cbmir.evaluate.ranking.reading, "HELD_BYTES", 0)
    records, vectors = published_layout(3, 150)
    collection = fill(records, vectors)
    trial = read_trial(collection, RetrievalProtocol(queries=conditions(["split=test|val"])))
    assert (trial.gallery_vectors is not None) == held
    found = exact(collection, trial, 100)
    by_id = {record.id.replace("-", ""): vector for record, vector in zip(records, vectors, strict=True)}
    gallery = np.array([by_id[id.ljust(16, b"\0").hex()] for id in trial.gallery.ids.tolist()])
    asked = np.array([by_id[id.ljust(16, b"\0").hex()] for id in trial.queries.ids.tolist()])
    oracle = NearestNeighbors(n_neighbors=100, metric="cosine", algorithm="brute").fit(gallery.astype(np.float64))
    distances, places = oracle.kneighbors(asked.astype(np.float64))
    np.testing.assert_array_equal(found.positions, places)
    np.testing.assert_allclose(found.scores, 1 - distances, atol=1e-6)


def test_search__copies_come_by_rising_id_and_missing_places_are_marked(fill, monkeypatch):
    monkeypatch.setattr(cbmir.evaluate.ranking.trial, "SCROLL_IMAGES", 3)
    rng = np.random.default_rng(0)
    picture = rng.standard_normal(DIM)
    records = [
        ImageRecord(filepath=f"{i}.png", dataset="syn", split="train" if i else "test", labels=("CT",))
        for i in range(12)
    ]
    collection = fill(
        records, np.array([rng.standard_normal(DIM) if i % 2 else picture for i in range(12)], np.float32)
    )
    trial = read_trial(collection, RetrievalProtocol())
    for search in (exact, approximate, engine):
        found = search(collection, trial, 20)
        copies = found.positions[0, :5].tolist()
        assert copies == sorted(copies)
        np.testing.assert_allclose(found.scores[0, :5], 1, atol=1e-6)
        assert all(one >= other for one, other in pairwise(found.scores[0, :11]))
        assert sorted(found.positions[0, :11].tolist()) == list(range(11))
        assert found.positions[0, 11:].tolist() == [NONE] * 9
        assert np.isnan(found.scores[0, 11:]).all()


def test_keys_of__cosines_that_differ_by_the_order_of_summation_tie():
    cosines = np.array([1 - 2**-53, 1, 0.5 - 2**-54, 0.5, -1e-17, 0])
    keys = keys_of(cosines, np.array([0, 1, 3, 2, 4, 5]))
    assert np.argsort(-keys).tolist() == [0, 1, 3, 2, 4, 5]


@pytest.mark.parametrize(
    ("same_patient", "k", "capped", "plain"),
    [
        (False, 1, 0, 0),  # c
        (False, 2, 1 / 2, 1 / 2),  # c d
        (False, 5, 1 / 2, 2 / 5),  # c d e - -, two right ones in reach
        (True, 1, 1, 1),  # b
        (True, 2, 1 / 2, 1 / 2),  # b c
        (True, 5, 2 / 3, 3 / 5),  # b c d e -, three right ones
    ],
)
def test_evaluate_retrieval__same_patient(hand, same_patient, k, capped, plain):
    report = evaluate_retrieval(hand, RetrievalProtocol(k=(k,), exclude=() if same_patient else ("patient",)))
    values = {(row.search, row.measure): row.value for row in report.rows if row.group == "all"}
    for search in ("exact", "approximate"):
        assert values[search, "precision_capped"] == pytest.approx(capped)
        assert values[search, "precision"] == pytest.approx(plain)
    exclusion = report.setting.exclusion
    assert (exclusion.queries_affected, exclusion.images_excluded) == ((0, 0) if same_patient else (1, 1))
    both = {(row.measure, row.average): row.value for row in report.together}
    if same_patient:
        assert not both
    else:
        assert both["precision", "micro"] == pytest.approx({1: 1, 2: 1 / 2, 5: 3 / 5}[k])
        assert both["precision_capped", "macro"] == pytest.approx({1: 1, 2: 1 / 2, 5: 2 / 3}[k])
        assert "when nothing but the query itself is excluded" in report.table()


@pytest.mark.parametrize("same_patient", [False, True])
def test_evaluate_retrieval__leave_one_out_never_finds_the_query(hand, same_patient):
    protocol = RetrievalProtocol(queries=(), gallery=(), k=(1, 4), exclude=() if same_patient else ("patient",))
    trial = read_trial(hand, protocol)
    for search in (exact, approximate, engine):
        places = search(hand, trial, 5).positions
        assert not (places == np.arange(5)[:, np.newaxis]).any()
        assert (places != NONE).sum() == (20 if same_patient else 18)  # a and b don't find each other
    exclusion = evaluate_retrieval(hand, protocol).setting.exclusion
    assert exclusion.images_excluded == (5 if same_patient else 7)
    assert exclusion.queries_without_patient == 1


def test_evaluate_retrieval__list_field_is_relevant_by_any_shared_value(fill):
    sets = [("CT/a/x", "CT/a/y"), ("CT/a/y",), ("CT/a/z",), ("CT/a/z", "CT/a/x"), ()]
    records = [
        ImageRecord(filepath=str(i), dataset="syn", split="train" if i else "test", labels=item)
        for i, item in enumerate(sets)
    ]
    collection = fill(records, on_a_circle(5))
    for label, expected in (("labels", [1, 1 / 2, 2 / 3]), ("pathology", [1, 1 / 2, 2 / 3]), ("primary_label", None)):
        report = evaluate_retrieval(
            collection, RetrievalProtocol(label=label, measures=("precision",), k=(1, 2, 3), searches=("exact",))
        )
        values = [row.value for row in report.rows if row.average == "micro"]
        assert values == pytest.approx(expected or [0, 0, 0])
        assert report.setting.gallery.unlabelled == 1
        assert report.setting.classes == (1 if label == "primary_label" else 2)  # the query counts in both of its own


def test_evaluate_retrieval__macro_of_several_labels_does_not_depend_on_their_order(fill):
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(80, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sets = [tuple(f"CT/a/{name}" for name in rng.permutation(list("wxyz"))[: rng.integers(1, 4)]) for _ in range(80)]
    tables = []
    for order in (1, -1):
        records = [
            ImageRecord(
                filepath=str(i),
                dataset="syn",
                split="train" if i % 2 else "test",
                labels=item[::order],
                patient_id=f"p{i // 4}",
                modality="CT",
            )
            for i, item in enumerate(sets)
        ]
        protocol = RetrievalProtocol(label="labels", k=(5,), searches=("exact",), by=("class",), draws=200)
        report = evaluate_retrieval(fill(records, vectors, f"order{order}".replace("-", "_")), protocol)
        tables.append({(row.measure, row.average, row.group): row for row in report.rows})
    first, second = tables
    assert first == second
    value = first["precision", "macro", "all"].value
    classes = [
        row.value
        for (name, average, group), row in first.items()
        if (name, average) == ("precision", "micro") and group != "all"
    ]
    assert len(classes) == 4
    assert value == pytest.approx(np.mean(classes))
    assert first["precision", "macro", "all"].patients == 20


KEYED = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("patient", "rule", "found"),
    [("17", "dataset", 1), ("17", "global", 0), (KEYED, "dataset", 0), (KEYED, "global", 0)],
)
def test_evaluate_retrieval__one_archive_in_two_data_sets(fill, patient, rule, found):
    """Patient 17 of one data set isn't patient 17 of another, unless the id is a keyed hash."""
    records = [
        ImageRecord(
            filepath=f"{number}.png",
            dataset=name,
            split="test" if number == 0 else "train",
            labels=("CT/a/x",),
            patient_id=patient,
        )
        for name in ("first", "second")
        for number in range(2)
    ]
    vectors = np.tile([[1.0, 0.0]], (4, 1)).astype(np.float32)
    collection = fill(records, vectors)
    searches = ("exact", "approximate", "qdrant-exact")
    protocol = RetrievalProtocol(measures=("precision",), k=(1,), searches=searches, by=("patient_id",), patients=rule)
    report = evaluate_retrieval(collection, protocol)
    assert {row.value for row in report.rows} == {float(found)}  # the image of the other data set
    assert report.setting.exclusion.images_excluded == (2 if found else 4)
    assert report.setting.patients["queries"].patients == (2 if found else 1)
    assert report.setting.ids_in_several_datasets == found
    assert ("1 id of several data sets counts as a patient in each" in report.table()) == bool(found)
    assert {row.group for row in report.rows} == {"all", f"patient_id={patient}"}
    if rule == "dataset":  # the rule of searches
        (answer,) = Searcher(collection).ask(StoredQuery(records[0].id), Options(k=4, exclude_same_patient=True))
        assert sorted(hit.payload["dataset"] for hit in answer.hits) == ["second"] * 2 * found
        one_each = Options(k=4, group_by="patient", exclude_same_patient=False)
        (answer,) = Searcher(collection).ask(VectorQuery(vectors[0]), one_each)
        assert len(answer.hits) == 1 + found


def test_evaluate_retrieval__uncovered_class_is_counted_not_dropped(fill):
    records, vectors = published_layout(4, 60)
    labels = [record.labels[0] for record in records]
    records = [replace(r, labels=r.labels if i != 99 else ()) for i, r in enumerate(records)]
    protocol = RetrievalProtocol(queries=conditions(["split=test|val"]), k=(3,), searches=("exact",))
    report = evaluate_retrieval(fill(records, vectors), protocol)
    held = {label for label, record in zip(labels, records, strict=True) if record.split == "train"}
    asked = [r.labels[0] for r in records if r.split != "train" and r.labels]
    uncovered = [label for label in asked if label not in held]
    assert uncovered
    assert report.setting.classes_without_gallery == tuple(sorted(set(uncovered)))
    assert (report.setting.queries.images, report.setting.queries.unlabelled) == (39, 1)
    rows = {(row.measure, row.average): row for row in report.rows if row.group == "all"}
    assert rows["precision", "micro"].n == 39
    assert rows["precision_capped", "micro"].n == 39 - len(uncovered)
    assert rows["precision", "micro"].coverage == pytest.approx(1 - len(uncovered) / 39)
    assert f"{counted(len(set(uncovered)), 'class')} without a relevant gallery image" in report.table()


def test_evaluate_retrieval__nothing_covered_is_no_value(hand):
    wrong = conditions(["split=train", "pathology=y"])
    report = evaluate_retrieval(hand, RetrievalProtocol(gallery=wrong, k=(1,), searches=("exact",)))
    (capped, *_), (plain, *_) = (
        [row for row in report.as_json()["rows"] if row["measure"] == name]
        for name in ("precision_capped", "precision")
    )
    assert (capped["value"], capped["n"], capped["coverage"]) == (None, 0, 0.0)
    assert (plain["value"], plain["n"]) == (0.0, 1)
    json.dumps(report.as_json(), allow_nan=False)
    assert " - " in report.table()


def test_find_relevance__refuses_too_many_label_values(hand, monkeypatch):
    monkeypatch.setattr(cbmir.evaluate.ranking.relevance, "MAX_SETS", 2)
    with pytest.raises(ProtocolError, match="primary_label has more than 2 distinct values; choose another --label"):
        evaluate_retrieval(hand)


def test_write_csv__rows_carry_their_terms(hand, tmp_path):
    report = evaluate_retrieval(hand, RetrievalProtocol(k=(1,)))
    report.write_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[: len(ROW)] == ROW
    assert len(rows) == len(report.rows) == 2 * 1 * 2 * 2 * 2
    assert dict(zip(header, rows[0], strict=True))["fingerprint"] == external_card("hand", 2).fingerprint
    assert list(pd.DataFrame(report.rows).columns) == ROW
    with pytest.raises(CbmirError, match="can't write"):
        report.write_csv(tmp_path / "missing" / "rows.csv")


def test_evaluate_retrieval__label_that_nobody_has_names_the_others(hand):
    message = r"of 1 image of the queries in hand none has anatomic_region; .* primary_label, labels, modality, path"
    with pytest.raises(ProtocolError, match=message):
        evaluate_retrieval(hand, RetrievalProtocol(label="anatomic_region"))
