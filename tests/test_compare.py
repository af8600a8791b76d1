"""Collections against each other: hand-worked rows, and small collections over the embedded engine."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from builders import put
from scipy.stats import permutation_test

from cbmir.errors import CbmirError, CollectionError, ProtocolError
from cbmir.evaluate import RetrievalProtocol
from cbmir.evaluate.analyses.comparison import ComparedEncoder, compare, compare_scores
from cbmir.evaluate.setting import Barred, Intervals, Setting, Side
from cbmir.fingerprint import external_card
from cbmir.schema import ImageRecord, normalise
from cbmir.store import open_store

pytestmark = pytest.mark.slow

DIM = 8
QUERIES, GALLERY, CLASSES = 60, 90, 3
PROTOCOL = RetrievalProtocol(measures=("precision_capped",), k=(1, 5), searches=("exact",), draws=2000)


def a_record(number, **changes):
    """A query below `QUERIES`, then a gallery image; two images a patient."""
    return ImageRecord(
        **{
            "filepath": f"{number:03}.png",
            "dataset": "syn",
            "split": "test" if number < QUERIES else "train",
            "labels": (f"CT/chest/finding_{number % CLASSES}",),
            "patient_id": f"p{number // 2}",
        }
        | changes
    )


RECORDS = [a_record(number) for number in range(QUERIES + GALLERY)]


def vectors(noise, seed=0):
    """(QUERIES + GALLERY, DIM) a centre a class, blurred."""
    rng = np.random.default_rng(seed)
    centres = np.eye(DIM)[:CLASSES]
    codes = np.arange(QUERIES + GALLERY) % CLASSES
    return normalise((centres[codes] + noise * rng.standard_normal((len(codes), DIM))).astype(np.float32))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """sharp and copy have the same vectors, blunt has noise; odd lacks queries and gallery images, and relabels one."""
    with open_store(tmp_path_factory.mktemp("shelf") / "store") as store:
        put(store, "sharp", RECORDS, vectors(0.05)).close()
        put(store, "copy", RECORDS, vectors(0.05)).close()
        put(store, "blunt", RECORDS, vectors(9.0, seed=1)).close()
        kept = [*range(6, QUERIES), *range(QUERIES + 4, QUERIES + GALLERY)]
        changes = {6: {"labels": ("CT/chest/finding_1",)}, 7: {"labels": ()}}
        put(store, "odd", [a_record(number, **changes.get(number, {})) for number in kept], vectors(0.05)[kept]).close()
        put(store, "stranger", [replace(record, dataset="other") for record in RECORDS], vectors(0.05)).close()
        yield store


def by_hand(name, scores, *, ids=None, classes=None, patients=None, draws=1000):
    """An encoder with one column of scores; each query is a patient, unless told otherwise."""
    count = len(scores)
    side = Side("all", count, 0, {})
    setting = Setting(
        collection=name,
        store="by hand",
        vectors=count,
        indexed=0,
        queries=side,
        gallery=side,
        label="primary_label",
        relevance="any",
        relations=None,
        classes=1,
        classes_without_gallery=(),
        exclusion=Barred("included", (), 0, 0, 0),
        measures=("precision",),
        k=(1,),
        search=("exact",),
        ef=None,
        intervals=Intervals(draws, 0, count),
    )
    numbers = range(count) if ids is None else ids
    return ComparedEncoder(
        setting=setting,
        card=external_card(name, DIM),
        ids=np.array([f"{number:04}".encode() for number in numbers], "S16"),
        scores=np.array(scores, float)[:, np.newaxis],
        classes=tuple((name,) for name in classes or ["a"] * count),
        patients=np.full(count, -1) if patients is None else np.array(patients),
        gallery=np.array([b"g"], "S16"),
    )


def test_compare_scores__hand_worked():
    one = by_hand("one", [1, 1, 1, 0, math.nan], classes=["a", "a", "a", "b", "b"])
    other = by_hand("other", [0, 1, 0, 1, 1], classes=["a", "a", "a", "b", "b"])
    micro, macro = compare_scores([one, other]).rows
    assert (micro.first, micro.second, micro.average, macro.average) == ("one", "other", "micro", "macro")
    assert (micro.first_value, micro.second_value) == (3 / 4, 2 / 4)  # the query without a value is left out of both
    assert micro.difference == pytest.approx(1 / 4)
    assert (macro.first_value, macro.second_value) == (1 / 2, pytest.approx((1 / 3 + 1) / 2))
    assert macro.difference == pytest.approx((2 / 3 - 1) / 2)
    assert (micro.n, micro.wins, micro.ties, micro.losses) == (4, 2, 1, 1)
    assert micro.low <= micro.difference <= micro.high


def test_compare_scores__interval_has_the_sign_of_the_difference():
    one, other = by_hand("one", [0.9, 0.8, 1.0, 0.7] * 5), by_hand("other", [0.2, 0.1, 0.5, 0.1] * 5)
    better, worse = compare_scores([one, other]).rows[0], compare_scores([other, one]).rows[0]
    assert better.difference == pytest.approx(0.625)
    assert 0 < better.low < better.difference < better.high
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))
    assert (worse.difference, worse.p) == (pytest.approx(-better.difference), better.p)
    assert (worse.wins, worse.losses) == (better.losses, better.wins) == (0, 20)


def test_compare_scores__what_differs_by_rounding_is_equal():
    numbers = np.random.default_rng(3).random(30)
    report = compare_scores([by_hand("a", numbers), by_hand("b", numbers + 1e-12)])
    for row in report.rows:
        assert (row.difference, row.low, row.high, row.p) == (0, 0, 0, 1)
        assert (row.wins, row.ties, row.losses) == (0, 30, 0)
    assert "-0.0000" not in report.table()


def test_compare_scores__says_how_many_draws_a_corrected_p_takes():
    numbers = np.random.default_rng(0)
    scores = {name: numbers.random(30) for name in "abcdefgh"}
    report = compare_scores([by_hand(name, item, draws=500) for name, item in scores.items()])
    assert (report.tests, report.draws_needed) == (28, 559)  # 28 / .05 - 1
    assert "reaching .05 takes --draws 559 or fewer tests" in report.table()
    assert report.content()["draws_needed"] == 559
    assert compare_scores([by_hand(name, item, draws=559) for name, item in scores.items()]).draws_needed == 0


def test_compare_scores__agrees_with_scipy():
    rng = np.random.default_rng(4)
    first, second = rng.random(9), rng.random(9)
    row = compare_scores([by_hand("one", first, draws=20_000), by_hand("other", second, draws=20_000)]).rows[0]
    oracle = permutation_test(
        (first, second), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert row.difference == pytest.approx(oracle.statistic)
    assert row.p == pytest.approx(oracle.pvalue, abs=0.015)


def test_compare_scores__a_patient_counts_once():
    scores, patients = [1, 0.5] * 10, [0] * 20
    alone = compare_scores([by_hand("one", scores), by_hand("other", [0] * 20)])
    patient = compare_scores([by_hand("one", scores, patients=patients), by_hand("other", [0] * 20)])
    assert (alone.clusters, patient.clusters) == (20, 1)
    assert alone.rows[0].p < 0.01
    assert patient.rows[0].p == 1
    assert math.isnan(patient.rows[0].low)


def test_compare_scores__aligns_queries_by_id_and_counts_the_others():
    one = by_hand("one", [0.1, 0.2, 0.3, 0.4], ids=[1, 2, 3, 4], classes=["a", "a", "b", "b"])
    other = by_hand("other", [0.3, 0.4, 0.5], ids=[3, 4, 5], classes=["b", "a", "a"])
    report = compare_scores([one, other])
    assert report.queries == 2
    assert [(entry.queries, entry.queries_left_out, entry.relabelled) for entry in report.entries] == [
        (4, 2, 0),
        (3, 1, 1),
    ]
    assert (report.rows[0].first_value, report.rows[0].ties) == (pytest.approx(0.35), 2)


def test_compare_scores__holm_takes_all_rows_together():
    numbers = np.random.default_rng(0)
    encoders = [by_hand(name, numbers.random(30) + shift) for name, shift in (("a", 0), ("b", 0.1), ("c", 0.6))]
    report = compare_scores(encoders)
    assert report.tests == 3  # there is one class, so that micro and macro mean are one test
    assert [row.test for row in report.rows] == [1, 1, 2, 2, 3, 3]
    for average in ("micro", "macro"):
        ordered = sorted((row for row in report.rows if row.average == average), key=lambda row: row.p)
        steps = [min(1, (3 - place) * row.p) for place, row in enumerate(ordered)]
        assert [row.p_holm for row in ordered] == pytest.approx(np.maximum.accumulate(steps))


def test_compare_scores__no_draws_means_no_test():
    report = compare_scores([by_hand("one", [1, 0], draws=0), by_hand("other", [0, 0], draws=0)])
    assert all(math.isnan(value) for row in report.rows for value in (row.p, row.p_holm, row.low, row.high))
    assert report.tests == 0
    assert report.as_json()["rows"][0]["p"] is None
    assert "none was asked for" in report.table()


def test_compare__a_copy_is_no_better(shelf):
    report = compare(shelf, ["sharp", "copy"], PROTOCOL)
    assert report.same_gallery
    assert len(report.rows) == 4
    for row in report.rows:
        assert (row.p, row.p_holm, row.difference, row.low, row.high) == (1, 1, 0, 0, 0)
        assert (row.wins, row.ties, row.losses) == (0, QUERIES, 0)


def test_compare__itself(shelf):
    assert all(row.p == 1 and row.ties == QUERIES for row in compare(shelf, ["sharp", "sharp"], PROTOCOL).rows)


def test_compare__better_than_noise(shelf):
    report = compare(shelf, ["sharp", "blunt", "copy"], PROTOCOL)
    assert [(row.first, row.second) for row in report.rows[::4]] == [
        ("sharp", "blunt"),
        ("sharp", "copy"),
        ("blunt", "copy"),
    ]
    assert report.clusters == QUERIES // 2
    for row in report.rows[:4]:
        assert row.first_value == 1
        assert row.low > 0
        assert row.p_holm < 0.05
        assert row.wins > row.losses == 0
    assert all(row.high < 0 and row.p_holm < 0.05 for row in report.rows[8:])


def test_compare__what_a_collection_lacks_is_counted(shelf):
    report = compare(shelf, ["sharp", "odd"], PROTOCOL)
    sharp, odd = report.entries
    assert report.queries == QUERIES - 7  # six are missing, one has no label
    assert (sharp.queries, sharp.queries_left_out, sharp.unlabelled, sharp.relabelled) == (QUERIES, 7, 0, 0)
    assert (odd.queries, odd.queries_left_out, odd.unlabelled, odd.relabelled) == (QUERIES - 7, 0, 1, 1)
    assert (sharp.gallery_alone, odd.gallery_alone) == (4, 0)
    assert not report.same_gallery
    assert "DIFFERENT images" in report.table()
    assert "sharp 4 of 90" in report.table()


def test_compare__refuses(shelf):
    with pytest.raises(
        ProtocolError, match=r"two collections or more, got 1; .* has blunt, copy, odd, sharp, stranger"
    ):
        compare(shelf, ["sharp"], PROTOCOL)
    with pytest.raises(CollectionError, match="no collection 'sharper'"):
        compare(shelf, ["sharp", "sharper"], PROTOCOL)
    with pytest.raises(ProtocolError, match=r"no query is in every collection .queries: sharp 60, stranger 60."):
        compare(shelf, ["sharp", "stranger"], PROTOCOL)


def test_command__table_json_and_csv_agree(shelf, cbmir, tmp_path):
    arguments = ["evaluate", "compare", "sharp", "blunt", "--store", shelf.location, "--draws", 500, "-k", 1, "-k", 5]
    out = tmp_path / "rows.csv"
    done = cbmir(*arguments, "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    with out.open() as file:
        lines = list(csv.DictReader(file))
    assert len(answer["rows"]) == len(lines) == 4
    for row, line in zip(answer["rows"], lines, strict=True):
        assert (row["measure"], row["k"], row["p"]) == (line["measure"], int(line["k"]), float(line["p"]))
        assert line["same_gallery"] == "True"
    assert answer["tests"] == len({row["test"] for row in answer["rows"]}) in (2, 4)
    table = cbmir(*arguments).stdout
    assert "the same 90 images" in table
    assert f"{answer['rows'][0]['difference']:+.4f}" in table


def test_command__no_groups_and_one_name(shelf, cbmir):
    arguments = ["evaluate", "compare", "sharp", "--store", shelf.location]
    assert cbmir(*arguments, "--by", "modality").returncode == 2
    done = cbmir(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a comparison takes two")
    assert done.stderr.count("\n") == 1


def test_write_csv__no_such_folder(shelf, tmp_path):
    report = compare(shelf, ["sharp", "copy"], PROTOCOL)
    with pytest.raises(CbmirError, match=r"can't write .*No such file"):
        report.write_csv(tmp_path / "missing" / "rows.csv")
