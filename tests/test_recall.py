"""Approximate against exact: hand-worked recall, and small collections over the embedded engine."""

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbmir.errors import CutoffError, ProtocolError
from cbmir.evaluate.analyses.recall import EFS, RecallTerms, measure_recall
from cbmir.filters import parse
from cbmir.schema import Hit
from cbmir.store import open_store
from cbmir.store.tuning import recall
from cbmir.store.ways import search_ef

pytestmark = pytest.mark.slow


def hits(*scores):
    return [Hit(str(rank), rank, score, {}) for rank, score in enumerate(scores, start=1)]


@pytest.mark.parametrize(
    ("found", "exact", "expected"),
    [
        ((0.9, 0.8, 0.7), (0.9, 0.8, 0.7), 1),
        ((0.9, 0.7, 0.6), (0.9, 0.8, 0.7), 2 / 3),  # 0.8 was missed, 0.6 is too far
        ((0.9, 0.7 - 9e-7), (0.9, 0.7), 1),  # equal but for rounding
        ((0.9, 0.7 - 2e-6), (0.9, 0.7), 1 / 2),
        ((0.9,), (0.9, 0.8, 0.7), 1 / 3),  # fewer hits than there are
        ((), (0.9, 0.8), 0),
    ],
)
def test_recall__hand_worked(found, exact, expected):
    assert recall(hits(*found), hits(*exact)) == pytest.approx(expected)


@given(scores=st.lists(st.integers(-99, 99), min_size=1, max_size=20), data=st.data())
def test_recall__is_the_share_of_a_sample_of_the_truth(scores, data):
    exact = hits(*(score / 100 for score in sorted(scores, reverse=True)))
    found = data.draw(st.lists(st.sampled_from(exact), unique_by=lambda hit: hit.id))
    assert recall(found, exact) == len(found) / len(exact)


def test_measure_recall__a_collection_without_an_index_misses_nothing(filled):
    report = measure_recall(filled, RecallTerms(k=5))
    assert (report.vectors, report.indexed, report.queries) == (30, 0, 30)  # no more than there are
    assert [(row.filter, row.points, row.selectivity) for row in report.rows if row.way == "auto"] == [
        ("all", 30, 1),
        ("modality=CT", 10, pytest.approx(1 / 3)),
        ("anatomic_region=chest", 30, 1),
        ("dataset=synthetic", 30, 1),
        ("split=test", 10, pytest.approx(1 / 3)),
        ("primary_label=CT/chest/finding_0", 6, 0.2),
        ("modality=CT and anatomic_region=chest", 10, pytest.approx(1 / 3)),
        ("modality=CT and dataset=synthetic", 10, pytest.approx(1 / 3)),
        ("modality=CT and primary_label=CT/chest/finding_0", 2, pytest.approx(1 / 15)),
        ("anatomic_region=chest and dataset=synthetic", 30, 1),
        ("anatomic_region=chest and split=test", 10, pytest.approx(1 / 3)),
        ("anatomic_region=chest and primary_label=CT/chest/finding_0", 6, 0.2),
        ("dataset=synthetic and split=test", 10, pytest.approx(1 / 3)),
        ("dataset=synthetic and primary_label=CT/chest/finding_0", 6, 0.2),
        ("split=test and primary_label=CT/chest/finding_0", 2, pytest.approx(1 / 15)),
        ("modality=another than the query's", 10, pytest.approx(1 / 3)),
    ]
    assert [row.filter for row in report.rows if row.way == "approximate"] == [
        row.filter for row in report.rows if row.way == "auto"
    ]
    assert {row.ef for row in report.rows} == {search_ef(5)}
    assert [(row.filter, row.ef) for row in report.sweep] == [("all", ef) for ef in EFS]
    for row in report.rows + report.sweep:
        assert (row.recall, row.lowest, row.under_90) == (1, 1, 0)
        assert row.by_graph == (row.way == "approximate")
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.queries_per_s > 0
        assert row.exact_p50_ms > 0
    assert report.fields_without_value == ("sex", "patient_id")


def test_measure_recall__fewer_images_than_k(filled):
    report = measure_recall(filled, RecallTerms(filters=((parse("labels~*finding_3"),),), efs=(), k=20, count=4))
    assert [(row.filter, row.points, row.recall) for row in report.rows if row.way == "auto"] == [
        ("all", 30, 1),
        ("labels=CT/chest/finding_3", 6, 1),  # the pattern, as it was asked
    ]
    assert (report.queries, report.sweep) == (4, ())


def test_measure_recall__a_field_without_values_is_named(edge, card, make_batch):
    batch = make_batch(5)
    bare = tuple(replace(record, labels=(), anatomic_region=None) for record in batch.records)
    with edge.create("bare", card) as collection:
        collection.upsert(replace(batch, records=bare))
        report = measure_recall(collection, RecallTerms(efs=(), k=2))
    assert report.fields_without_value == ("anatomic_region", "sex", "primary_label", "patient_id")
    assert "4 fields that made no filter: anatomic_region, sex, primary_label, patient_id: no image" in report.table()


def test_measure_recall__a_seed_gives_the_same_queries(filled):
    asked = [
        [row.recall for row in measure_recall(filled, RecallTerms(efs=(1,), count=3, seed=seed)).rows]
        for seed in (7, 7)
    ]
    assert asked[0] == asked[1]


def test_measure_recall__exclusion_and_queries_of_a_part(edge, card, make_batch):
    batch = make_batch(12)
    records = tuple(replace(record, patient_id=f"p{number // 4}") for number, record in enumerate(batch.records))
    with edge.create("patients", card) as collection:
        collection.upsert(replace(batch, records=records))
        report = measure_recall(collection, RecallTerms(queries=(parse("split=val"),), efs=(), k=3))
    assert (report.queries, report.drawn_from) == (4, "split=val")
    (row,) = [row for row in report.rows if row.filter == "patient_id!=the query's" and row.way == "auto"]
    assert (row.points, row.recall) == (8, 1)


def test_measure_recall__refuses(shelf, filled):
    with (
        open_store(shelf) as store,
        store.open("empty") as empty,
        pytest.raises(ProtocolError, match="empty holds no image"),
    ):
        measure_recall(empty)
    with pytest.raises(ProtocolError, match="no image for the filter"):
        measure_recall(filled, RecallTerms(filters=((parse("modality=CT"), parse("split=val")),)))
    with pytest.raises(CutoffError, match="k is 0"):
        RecallTerms(k=0)
    with pytest.raises(ProtocolError, match="0 queries are asked for"):
        RecallTerms(count=0)
    with pytest.raises(ProtocolError, match="ef is 0"):
        RecallTerms(efs=(64, 0))


def test_command__table_json_and_csv_agree(shelf, cbmir, tmp_path):
    arguments = ["evaluate", "recall", "--store", shelf, "--collection", "eight", "--count", 5, "--ef", 16]
    out = tmp_path / "rows.csv"
    done = cbmir(*arguments, "--filter", "modality=CT|MR", "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    with out.open() as file:
        lines = list(csv.DictReader(file))
    rows = answer["rows"] + answer["sweep"]
    assert (
        [row["filter"] for row in rows]
        == [line["filter"] for line in lines]
        == [*("all", "all", "modality=CT|MR", "modality=CT|MR", "all")]
    )
    assert [row["ef"] for row in rows] == [int(line["ef"]) for line in lines] == [128, 128, 128, 128, 16]
    assert all(line["configuration.k"] == "10" and line["fingerprint"] == answer["fingerprint"] for line in lines)
    table = cbmir(*arguments).stdout
    assert "0 of 30 vectors in the HNSW graph" in table
    assert "recall@10" in table
    done = cbmir(*arguments, "--filter", "modality=PET")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
