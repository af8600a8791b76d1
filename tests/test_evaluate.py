"""The retrieval measurement over the embedded engine."""

import csv
import json
import math
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.neighbors import NearestNeighbors

import evaluate.trial
from cbmir.cli import cli
from cbmir.errors import CbmirError, ProtocolError
from cbmir.fingerprint import external_card
from cbmir.options import run
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store import open_store
from evaluate import RetrievalProtocol, conditions, evaluate_retrieval
from evaluate.neighbours import approximate, exact, query_vectors
from evaluate.trial import NONE, read_trial

DIM = 16
ROW = ["measure", "k", "average", "group", "value", "n", "coverage", "search"]
ONE_LABEL = (*(f"CT/chest/finding_{i}" for i in range(6)), *(f"XR/hand/finding_{i}" for i in range(5)))


@pytest.fixture
def fill(tmp_path):
    """A function that puts records and vectors into a new collection, and opens it."""
    with open_store(tmp_path / "store") as store:
        opened = []

        def put(records, vectors, name="probe"):
            card = external_card(name, vectors.shape[1])
            collection = store.create(name, card)
            opened.append(collection)
            collection.upsert(EmbeddedBatch(tuple(records), normalise(vectors), card.fingerprint))
            return collection

        yield put
        for collection in opened:
            collection.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A store on disk with one collection in the published layout; its location."""
    location = tmp_path_factory.mktemp("demo") / "store"
    records, vectors = published_layout(seed=5, gallery=60)
    card = external_card("random", DIM)
    with open_store(location) as store, store.create("demo", card) as collection:
        collection.upsert(EmbeddedBatch(records, vectors, card.fingerprint))
    return str(location)


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


def plain_loops(records, vectors, k):
    """Micro and macro of both measures by the definitions, one image at a time."""
    gallery = [i for i, record in enumerate(records) if record.split == "train"]
    capped, plain = {}, {}
    for query, record in enumerate(records):
        if record.split == "train":
            continue
        cosines = {
            i: math.fsum(float(a) * float(b) for a, b in zip(vectors[query], vectors[i], strict=True)) for i in gallery
        }
        ranked = sorted(gallery, key=lambda i, cosines=cosines: (-cosines[i], records[i].id))
        right = [records[i].labels == record.labels for i in ranked]
        n = min(k, sum(right))
        plain.setdefault(record.labels, []).append(sum(right[:k]) / k)
        if n:
            capped.setdefault(record.labels, []).append(sum(right[:n]) / n)
    return {name: _means(values) for name, values in (("precision_capped", capped), ("precision", plain))}


def _means(by_class):
    values = [value for item in by_class.values() for value in item]
    means = [sum(item) / len(item) for item in by_class.values()]
    return {"micro": sum(values) / len(values), "macro": sum(means) / len(means), "n": len(values)}


@pytest.mark.parametrize(("seed", "gallery"), [(0, 120), (1, 30)])
def test_evaluate_retrieval__agrees_with_plain_loops(fill, seed, gallery):
    records, vectors = published_layout(seed, gallery)
    protocol = RetrievalProtocol(queries=conditions(["split=test|val"]), k=tuple(range(1, 100)), searches=("exact",))
    rows = [row for row in evaluate_retrieval(fill(records, vectors), protocol).rows if row.group == "all"]
    expected = {k: plain_loops(records, vectors, k) for k in protocol.k}
    assert len(rows) == 99 * 2 * 2
    for row in rows:
        means = expected[row.k][row.measure]
        assert row.value == pytest.approx(means[row.average], abs=1e-12), row
        assert row.n == means["n"]


def test_evaluate_retrieval__approximate_is_exact_on_a_small_collection(fill):
    records, vectors = published_layout(2, 80)
    records = [ImageRecord(**{**_fields(r), "patient_id": f"p{i % 9}"}) for i, r in enumerate(records)]
    report = evaluate_retrieval(fill(records, vectors), RetrievalProtocol(k=(1, 7, 100)))
    exact_rows = [row for row in report.rows if row.search == "exact"]
    approximate_rows = [row for row in report.rows if row.search == "approximate"]
    assert len(exact_rows) == len(approximate_rows) == 2 * 3 * 3 * 2
    for one, other in zip(exact_rows, approximate_rows, strict=True):
        assert other.value == pytest.approx(one.value, abs=1e-12, nan_ok=True)
        assert (one.measure, one.k, one.group, one.n) == (other.measure, other.k, other.group, other.n)


def test_exact__agrees_with_scikit_learn(fill, monkeypatch):
    monkeypatch.setattr(evaluate.trial, "SCROLL_IMAGES", 17)  # many chunks to merge
    records, vectors = published_layout(3, 150)
    collection = fill(records, vectors)
    trial = read_trial(collection, RetrievalProtocol(queries=conditions(["split=test|val"])))
    found = exact(collection, trial, query_vectors(collection, trial), 100)
    by_id = {record.id.replace("-", ""): vector for record, vector in zip(records, vectors, strict=True)}
    gallery = np.array([by_id[id.ljust(16, b"\0").hex()] for id in trial.gallery.ids.tolist()])
    asked = np.array([by_id[id.ljust(16, b"\0").hex()] for id in trial.queries.ids.tolist()])
    oracle = NearestNeighbors(n_neighbors=100, metric="cosine", algorithm="brute").fit(gallery.astype(np.float64))
    distances, places = oracle.kneighbors(asked.astype(np.float64))
    np.testing.assert_array_equal(found.places, places)
    np.testing.assert_allclose(found.scores, 1 - distances, atol=1e-6)


@pytest.mark.parametrize("search", [exact, approximate])
def test_search__copies_come_by_rising_id_and_missing_places_are_marked(fill, search, monkeypatch):
    monkeypatch.setattr(evaluate.trial, "SCROLL_IMAGES", 3)
    rng = np.random.default_rng(0)
    picture = rng.standard_normal(DIM)
    records = [
        ImageRecord(filepath=f"{i}.png", dataset="syn", split="train" if i else "test", labels=("CT",))
        for i in range(12)
    ]
    vectors = np.array([picture if i % 2 == 0 else rng.standard_normal(DIM) for i in range(12)], np.float32)
    collection = fill(records, vectors)
    trial = read_trial(collection, RetrievalProtocol())
    found = search(collection, trial, query_vectors(collection, trial), 20)
    assert len(trial.gallery) == 11
    copies = found.places[0, :5].tolist()
    assert copies == sorted(copies)
    np.testing.assert_allclose(found.scores[0, :5], 1, atol=1e-6)
    assert all(one >= other for one, other in pairwise(found.scores[0, :11]))
    assert found.places[0, 11:].tolist() == [NONE] * 9
    assert np.isnan(found.scores[0, 11:]).all()


def _hand():
    """Five images on a half circle; a is asked. By angle: b (its patient, right), c (wrong), d (right), e (right)."""
    angles = {"a": 0, "b": 10, "c": 20, "d": 30, "e": 40}
    labels = {"a": "CT/lung/x", "b": "CT/lung/x", "c": "CT/lung/y", "d": "CT/lung/x", "e": "CT/lung/x"}
    patients = {"a": "1", "b": "1", "c": "2", "d": None, "e": "3"}
    records = [
        ImageRecord(
            filepath=name,
            dataset="syn",
            split="test" if name == "a" else "train",
            modality="CT",
            labels=(labels[name],),
            patient_id=patients[name],
        )
        for name in angles
    ]
    turn = np.deg2rad(list(angles.values()))
    return records, np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)


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
def test_evaluate_retrieval__same_patient(fill, same_patient, k, capped, plain):
    report = evaluate_retrieval(fill(*_hand()), RetrievalProtocol(k=(k,), same_patient=same_patient))
    values = {(row.search, row.measure): row.value for row in report.rows if row.group == "all"}
    for search in ("exact", "approximate"):
        assert values[search, "precision_capped"] == pytest.approx(capped)
        assert values[search, "precision"] == pytest.approx(plain)
    exclusion = report.setting.exclusion
    assert (exclusion.queries_affected, exclusion.images_excluded) == ((0, 0) if same_patient else (1, 1))


@pytest.mark.parametrize("same_patient", [False, True])
def test_evaluate_retrieval__leave_one_out_never_finds_the_query(fill, same_patient):
    collection = fill(*_hand())
    protocol = RetrievalProtocol(queries=(), gallery=(), k=(1, 4), same_patient=same_patient)
    trial = read_trial(collection, protocol)
    vectors = query_vectors(collection, trial)
    for search in (exact, approximate):
        places = search(collection, trial, vectors, 5).places
        assert not (places == np.arange(5)[:, np.newaxis]).any()
        assert (places != NONE).sum() == (20 if same_patient else 18)  # a and b don't find each other
    exclusion = evaluate_retrieval(collection, protocol).setting.exclusion
    assert exclusion.images_excluded == (5 if same_patient else 7)
    assert exclusion.queries_without_patient == 1


def test_evaluate_retrieval__list_field_is_relevant_by_any_shared_value(fill):
    sets = [("CT/a/x", "CT/a/y"), ("CT/a/y",), ("CT/a/z",), ("CT/a/z", "CT/a/x"), ()]
    records = [
        ImageRecord(filepath=str(i), dataset="syn", split="train" if i else "test", labels=item)
        for i, item in enumerate(sets)
    ]
    turn = np.deg2rad(10 * np.arange(5))
    collection = fill(records, np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32))
    for label, expected in (("labels", [1, 1 / 2, 2 / 3]), ("pathology", [1, 1 / 2, 2 / 3]), ("primary_label", None)):
        report = evaluate_retrieval(
            collection, RetrievalProtocol(label=label, measures=("precision",), k=(1, 2, 3), searches=("exact",))
        )
        values = [row.value for row in report.rows if row.average == "micro"]
        assert values == pytest.approx(expected or [0, 0, 0])
        assert report.setting.gallery.unlabelled == 1
        assert report.setting.classes == 1


def test_evaluate_retrieval__uncovered_class_is_counted_not_dropped(fill):
    records, vectors = published_layout(4, 60)
    labels = [record.labels[0] for record in records]
    records = [ImageRecord(**{**_fields(r), "labels": r.labels if i != 99 else ()}) for i, r in enumerate(records)]
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
    assert f"{len(set(uncovered))} classes have no relevant gallery image" in report.table()


def test_evaluate_retrieval__nothing_covered_is_no_value(fill):
    records, vectors = _hand()
    records[1:] = [ImageRecord(**{**_fields(r), "labels": ("CT/lung/y",)}) for r in records[1:]]
    report = evaluate_retrieval(fill(records, vectors), RetrievalProtocol(k=(1,), searches=("exact",)))
    (capped, *_), (plain, *_) = (
        [row for row in report.as_json()["rows"] if row["measure"] == name]
        for name in ("precision_capped", "precision")
    )
    assert (capped["value"], capped["n"], capped["coverage"]) == (None, 0, 0.0)
    assert (plain["value"], plain["n"]) == (0.0, 1)
    json.dumps(report.as_json(), allow_nan=False)
    assert " - " in report.table()


def test_read_trial__refuses_too_many_label_values(fill, monkeypatch):
    monkeypatch.setattr(evaluate.trial, "MAX_SETS", 3)
    with pytest.raises(ProtocolError, match="primary_label has more than 3 distinct values in probe"):
        evaluate_retrieval(fill(*published_layout(0, 30)))


def test_write_csv__rows_carry_their_terms(fill, tmp_path):
    report = evaluate_retrieval(fill(*_hand()), RetrievalProtocol(k=(1,)))
    report.write_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[: len(ROW)] == ROW
    assert len(rows) == len(report.rows) == 2 * 1 * 2 * 2 * 2
    assert dict(zip(header, rows[0], strict=True))["fingerprint"] == external_card("probe", 2).fingerprint
    assert list(pd.DataFrame(report.rows).columns) == ROW
    with pytest.raises(CbmirError, match="can't write"):
        report.write_csv(tmp_path / "missing" / "rows.csv")


def test_cli__prints_one_json_object(demo, tmp_path):
    out = tmp_path / "rows.csv"
    arguments = [
        "--store",
        demo,
        "--collection",
        "demo",
        "--queries",
        "split=test|val",
        "-k",
        "5",
        "-k",
        "1",
        "-k",
        "5",
    ]
    result = CliRunner().invoke(cli, ["evaluate", "retrieval", *arguments, "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert list(data) == ["protocol", "encoder", "rows"]
    assert all(list(row) == ROW for row in data["rows"])
    assert len(data["rows"]) == 2 * 2 * 2 * 3 * 2  # measures, k, averages, groups, searches
    assert {row["group"] for row in data["rows"]} == {"all", "modality=CT", "modality=XR"}
    assert data["encoder"] == {**external_card("random", DIM).as_json(), "fingerprint": _fingerprint()}
    protocol = data["protocol"]
    assert (protocol["collection"], protocol["label"], protocol["k"]) == ("demo", "primary_label", [1, 5])
    assert protocol["queries"] == {"filter": "split=test|val", "images": 40, "unlabelled": 0, "datasets": {"syn": 40}}
    assert protocol["gallery"] == {"filter": "split=train", "images": 60, "unlabelled": 0, "datasets": {"syn": 60}}
    assert protocol["exclusion"]["same_patient"] == "excluded"
    assert (protocol["search"], protocol["ef"]) == (["exact", "approximate"], 128)
    assert len(out.read_text().splitlines()) == 1 + len(data["rows"])


def test_cli__prints_a_table_with_its_terms(demo):
    arguments = ["--store", demo, "--modality", "XR", "--label", "anatomic_region", "--search", "exact"]
    result = CliRunner().invoke(cli, ["evaluate", "retrieval", *arguments])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for text in ("split=test and modality=XR", _fingerprint(), "of syn", "precision_capped", "@10", "a scan of all"):
        assert text in result.stdout
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith(("all", "modality"))]
    assert [line[:3] for line in lines] == [
        [group, average, "exact"] for group in ("all", "modality=XR") for average in ("micro", "macro")
    ]
    assert all(line[3:7] == ["1.0000"] * 4 for line in lines)  # every XR image here is a hand


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-k", "0"], 2, "0 is not in the range 1<=x<=100"),
        (["-k", "101"], 2, "101 is not in the range 1<=x<=100"),
        (["--measure", "recal"], 2, "'recal' is not one of"),
        (
            ["--queries", "split=tset"],
            1,
            "error: no image for the queries (split=tset): no split 'tset' in demo; there are",
        ),
        (["--gallery", "modality=MR"], 1, "error: no image for the gallery (modality=MR): no modality 'MR' in demo"),
        (
            ["--split", "test"],
            1,
            "error: no image for the gallery: none of the 100 in demo satisfies split=train and split",
        ),
        (["--queries", "nonsense"], 1, "error: can't read the condition 'nonsense'"),
        (["--collection", "other"], 1, "error: no collection 'other'"),
    ],
)
def test_cli__errors_are_one_line(demo, arguments, code, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cbmir", "evaluate", "retrieval", "--store", demo, *arguments])
    with pytest.raises(SystemExit) as stop:
        run(cli, "cbmir")
    printed = capsys.readouterr()
    assert stop.value.code == code
    assert printed.out == ""
    last = printed.err.strip().splitlines()[-1]
    assert message in last
    assert code == 2 or last == printed.err.strip()


def test_evaluate_retrieval__label_that_nobody_has_names_the_others(fill):
    records, vectors = _hand()
    records = [ImageRecord(**{**_fields(r), "labels": ()}) for r in records]
    with pytest.raises(ProtocolError, match=r"none of the 1 images of the queries .* has primary_label; .* modality$"):
        evaluate_retrieval(fill(records, vectors))


def _fields(record):
    return {name: getattr(record, name) for name in ImageRecord.__dataclass_fields__}


def _fingerprint():
    return external_card("random", DIM).fingerprint
