"""What flatters the figures of a collection: planted copies, patients and sites, and slow counts to compare with."""

import csv
import json
import math
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import put
from hypothesis import given
from hypothesis import strategies as st

from cbmir.errors import CbmirError, CutoffError, FilterError, ProtocolError
from cbmir.evaluate import AuditTerms, audit_collection
from cbmir.evaluate.analyses.audit.copies import COPIES, find_copies
from cbmir.evaluate.ranking.session import read_trial
from cbmir.evaluate.significance import Resampler
from cbmir.filters import parse
from cbmir.schema import SPLITS, ImageRecord
from cbmir.store import open_store
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

DIM = 16


def a_record(number, **changes):
    return ImageRecord(**{"filepath": f"{number:03}.png", "dataset": "syn", "labels": ("XR/chest/a",)} | changes)


def noise(count, seed=0, dim=DIM):
    return np.random.default_rng(seed).standard_normal((count, dim))


def stored(collection):
    """All points with vector, by rising id."""
    return [point for points in collection.scroll(vectors=True) for point in points]


# --- near copies


def planted(store):
    """Images 0 to 9 are train, 10 to 14 val, 15 to 21 test; 15 to 18 are near copies of 0 to 3, and 19 of 10 in val."""
    vectors = noise(22)
    vectors[15:19] = vectors[:4] + 0.03 * noise(4, 1)
    vectors[19] = vectors[10]
    splits = ["train"] * 10 + ["val"] * 5 + ["test"] * 7
    changes = {number: {"patient_id": f"p{number}", "sha256": f"hash{number}"} for number in range(22)}
    changes[15] = {"patient_id": "p0", "sha256": "hash0"}  # the same file, of the same patient
    changes[16]["sha256"] = "hash1"  # the same file, told to be of someone else
    changes[17].pop("patient_id")
    changes[18].pop("sha256")
    records = [a_record(number, split=split, **changes[number]) for number, split in enumerate(splits)]
    return put(store, "audited", [*records, a_record(22), a_record(23)], np.vstack([vectors, vectors[:2]]))


def test_audit__planted_copies_are_counted(edge):
    with planted(edge) as collection:
        report = audit_collection(collection, AuditTerms(draws=0))
    train_val, train_test, val_test = report.copies
    assert report.without_split == 2  # copies of train images that take no part
    assert (train_val.pairs, train_test.pairs, val_test.pairs) == (0, 4, 1)
    assert (train_test.same_patient, train_test.other_patient, train_test.unknown_patient) == (1, 2, 1)
    assert (train_test.identical_files, train_test.unknown_files) == (2, 1)
    there, back = train_test.sides
    assert (there.split, there.other, there.images, there.copied, there.capped) == ("train", "test", 10, 4, 0)
    assert (back.split, back.other, back.images, back.copied, back.capped) == ("test", "train", 7, 4, 0)
    assert back.highest == pytest.approx(1, abs=2e-3)
    assert [side.copied for side in val_test.sides] == [1, 1]


def test_audit__an_image_equal_to_itself_is_a_copy_at_any_threshold(edge):
    with planted(edge) as collection:
        report = audit_collection(collection, AuditTerms(threshold=1, draws=0))
    assert [item.pairs for item in report.copies] == [0, 0, 1]  # 19 and 10


def test_copies__more_than_are_looked_for(edge):
    vectors = np.vstack([np.tile(noise(1), (COPIES + 5, 1)), noise(3, 1)])
    records = [a_record(number, split="test" if number in (0, COPIES + 7) else "train") for number in range(COPIES + 8)]
    with put(edge, "audited", records, vectors) as collection:
        report = audit_collection(collection, AuditTerms(draws=0))
    (item,) = report.copies
    train, test = item.sides
    assert (train.copied, train.capped) == (COPIES + 4, 0)
    assert (test.copied, test.capped) == (1, 1)
    assert f"at least {COPIES + 4} pairs" in report.table()
    assert f"images with {COPIES} copies or more, of which {COPIES} are looked for: 1" in report.table()


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Ninety images of three splits in four dimensions, so that many are near; some have no split."""
    with EdgeStore(tmp_path_factory.mktemp("crowd") / "store") as store:
        splits = [("train", "val", "test", "train", "test", None)[number % 6] for number in range(90)]
        records = [a_record(number, split=split, patient_id=f"p{number % 7}") for number, split in enumerate(splits)]
        with put(store, "audited", records, noise(90, dim=4)) as collection:
            yield collection, stored(collection)


@given(threshold=st.floats(-0.999, 1))
def test_find_copies__agrees_with_a_slow_count(crowd, threshold):
    collection, points = crowd
    trial = read_trial(collection, AuditTerms().protocol, ("split", "dataset"), keep_unlabelled=True)
    counts, pairs = find_copies(collection, trial, threshold, "cpu")
    exact = np.array([point.vector for point in points], np.float64)
    cosines = np.rint((exact @ exact.T) * 2**30) / 2**30
    expected = set()
    for item in counts:
        for side in item.sides:
            mine, others = (
                [place for place, point in enumerate(points) if point.payload.get("split") == split]
                for split in (side.split, side.other)
            )
            near = [sorted(-cosines[place, others])[:COPIES] for place in mine]
            near = [[-value for value in row if -value >= threshold - 1e-6] for row in near]
            assert side.copied == sum(bool(row) for row in near)
            assert side.capped == sum(len(row) == COPIES for row in near)
            highest = [cosines[place, others].max() for place in mine]
            assert (side.median, side.p95) == pytest.approx(tuple(np.quantile(highest, (0.5, 0.95))), abs=1e-8)
            for place, row in zip(mine, near, strict=True):
                taken = sorted(others, key=lambda other, place=place: (-cosines[place, other], other))[: len(row)]
                pair = sorted((SPLITS.index(side.split), SPLITS.index(side.other)))
                forward = pair[0] == SPLITS.index(side.split)
                expected.update((place, other) if forward else (other, place) for other in taken)
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
    assert sum(item.pairs for item in counts) == len(pairs) == len(expected)
    assert (np.diff(pairs.cosines) <= 0).all()
    patients = [point.payload["patient_id"] for point in points]
    same = sum(patients[first] == patients[second] for first, second in expected)
    assert sum(item.same_patient for item in counts) == same


# --- patients


def test_audit__patients_in_two_splits(edge):
    where = [
        ("a", "train"), ("a", "train"), ("a", "test"),  # in two
        ("b", "train"), ("b", "val"), ("b", "test"), ("b", None),  # in all, and an image without split
        ("c", "train"), ("c", "train"), ("c", None),  # in one
        ("d", "test"), (None, "train"), (None, "test"), (None, None),
    ]  # fmt: skip
    records = [
        a_record(number, patient_id=patient, split=split, dataset="other" if number == 5 else "syn")
        for number, (patient, split) in enumerate(where)
    ]
    with put(edge, "audited", records, noise(len(where))) as collection:
        report = audit_collection(collection, AuditTerms(draws=0, patients="global"))
        apart = audit_collection(collection, AuditTerms(draws=0))
    assert [(item.patient_id, item.datasets) for item in apart.patients.shared] == [("a", 1), ("b", 1)]
    assert (apart.patients.patients, apart.patients.images) == (5, 5)  # b of the other data set is someone else
    assert "1 id of several data sets counts as a patient in each (--patients global: as one)" in apart.table()
    assert apart.content()["protocol"]["ids_in_several_datasets"] == 1
    patients = report.patients
    assert (patients.patients, patients.without_patient, patients.images, report.without_split) == (4, 2, 6, 3)
    assert [(item.patient_id, item.images, item.datasets) for item in patients.shared] == [
        ("a", {"train": 2, "test": 1}, 1),
        ("b", {"train": 1, "val": 1, "test": 1}, 2),
    ]
    assert [
        (item.first, item.second, item.patients, item.first_images, item.second_images) for item in patients.splits
    ] == [("train", "val", 1, 1, 1), ("train", "test", 2, 3, 2), ("val", "test", 1, 1, 1)]
    table = report.table()
    assert "they are a, b" in table
    assert "1 of them with images of several data sets" in table


# --- confounders


def sites(store, label_effect, site_effect, spread, count=240):
    """Two labels at two sites, unevenly: three quarters of a site's images have one label; two images a patient."""
    numbers = np.arange(count) // 2
    label, site = numbers % 2, ((numbers // 2) % 4 == 0) ^ (numbers % 2)
    axes = np.eye(DIM)
    vectors = label_effect * axes[label] + site_effect * axes[2 + site] + spread * noise(count)
    records = [
        a_record(
            number,
            labels=(f"XR/chest/{'ab'[label[number]]}",),
            patient_id=f"p{number // 2}",
            extra={"Site": f"s{site[number]}"},
        )
        for number in range(count)
    ]
    return put(store, "audited", records, vectors)


def site_of(report):
    return next(item for item in report.confounding if item.field == "extra.Site")


def test_audit__neighbours_of_the_same_site(edge):
    with sites(edge, label_effect=0.2, site_effect=3, spread=0.05) as collection:
        item = site_of(audit_collection(collection, AuditTerms(draws=500, k=70)))
    assert item.index < 0.05 < item.chance
    assert item.high < item.chance
    assert item.pull == "confounder"
    assert item.ratio < item.ratio_chance


def test_audit__neighbours_of_the_same_label(edge):
    with sites(edge, label_effect=3, site_effect=0.2, spread=0.05) as collection:
        item = site_of(audit_collection(collection, AuditTerms(draws=500, k=70)))
    assert item.index > 0.95 > item.chance
    assert item.low > item.chance
    assert item.pull == "label"
    assert item.ratio > item.ratio_chance


def test_audit__a_small_site_that_neighbours_follow_is_seen_beside_a_large_one(edge):
    """Nine of ten images are of a site where neighbours follow the label; at the other they follow the site."""
    numbers = np.arange(400) // 2
    label, small = numbers % 2, numbers % 10 >= 8
    axes = np.eye(DIM)
    vectors = np.where(small[:, None], 3 * axes[2], 2 * axes[label]) + 0.8 * noise(400)
    records = [
        a_record(
            number,
            labels=(f"XR/chest/{'ab'[label[number]]}",),
            patient_id=f"p{number // 2}",
            extra={"Site": "small" if small[number] else "large"},
        )
        for number in range(400)
    ]
    with put(edge, "audited", records, vectors) as collection:
        report = audit_collection(collection, AuditTerms(draws=300, k=10))
    item = site_of(report)
    large, little = item.places
    assert (large.value, large.share, little.value) == ("large", 0.8, "small")
    assert little.pull == "confounder"
    assert little.high < little.chance
    assert 0 < large.detectable < 0.5
    assert "extra.Site=small" in report.table()
    assert {row.measure for row in report.rows if row.subject == "extra.Site=small"} == {
        "index",
        "index_by_chance",
        "share_of_queries",
        "detectable",
    }


def test_audit__random_neighbours_are_at_chance(edge):
    with sites(edge, label_effect=0, site_effect=0, spread=1) as collection:
        item = site_of(audit_collection(collection, AuditTerms(draws=2000)))
    assert item.low < item.chance < item.high
    assert item.index == pytest.approx(item.chance, abs=0.05)
    assert item.pull == "unclear"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Sixty images with several labels or none, sites as numbers or none, patients of one to five images or none."""
    numbers = np.random.default_rng(5)
    records = []
    for number in range(60):
        labels = tuple(sorted({f"XR/chest/{name}" for name in numbers.choice(list("abc"), numbers.integers(0, 3))}))
        extra = {} if number % 9 == 4 else {"site": int(numbers.integers(3))}
        patient = None if number % 11 == 3 else f"p{numbers.integers(20)}"
        dataset = f"d{numbers.integers(3)}"
        records.append(a_record(number, labels=labels, extra=extra, patient_id=patient, dataset=dataset))
    with (
        EdgeStore(tmp_path_factory.mktemp("mixed") / "store") as store,
        put(store, "audited", records, noise(60, dim=6)) as collection,
    ):
        yield collection, stored(collection)


@pytest.mark.parametrize("label", ["primary_label", "labels"])
@pytest.mark.parametrize("exclude", [(), ("patient",), ("dataset",), ("patient", "dataset")])
def test_audit__confounder_index_agrees_with_a_slow_count(mixed, label, exclude):
    collection, points = mixed
    terms = AuditTerms(
        label=label,
        exclude=exclude,
        k=6,
        confounders=("extra.site",),
        draws=200,
        seed=3,
        interval="percentile",
        patients="global",
    )
    (item,) = audit_collection(collection, terms).confounding
    vectors = np.array([point.vector for point in points], np.float64)
    labels = [set(point.payload["labels"][: None if label == "labels" else 1]) for point in points]
    places = [point.payload.get("extra", {}).get("site") for point in points]
    fields = {"patient": "patient_id", "dataset": "dataset"}

    def barred(one, other):
        own = (points[one].payload.get(fields[name]) for name in exclude)
        there = (points[other].payload.get(fields[name]) for name in exclude)
        return one == other or any(a is not None and a == b for a, b in zip(own, there, strict=True))

    def kinds(one, other):
        known = bool(labels[other]) and places[other] is not None
        alike, here = bool(labels[one] & labels[other]), places[one] == places[other]
        return np.array([alike and not here, here and not alike, alike, here, True], float) * known

    met = list(dict.fromkeys(point.payload.get("patient_id") for point in points))
    found, chance, clusters = np.zeros(5), np.zeros(5), {}
    asked = neighbours = 0
    for one, point in enumerate(points):
        if not labels[one]:
            continue
        patient = point.payload.get("patient_id")
        cluster = (0, met.index(patient)) if patient else (1, one)  # one without a patient is a cluster of its own
        sums = clusters.setdefault(cluster, np.zeros(5))
        if places[one] is None:
            continue
        asked += 1
        findable = [other for other in range(len(points)) if not barred(one, other)]
        nearest = sorted(findable, key=lambda other, one=one: -vectors[one] @ vectors[other])[: terms.k]
        neighbours += len(nearest)
        for other in nearest:
            found += kinds(one, other)
            sums += kinds(one, other)
        chance += len(nearest) / len(findable) * sum(kinds(one, other) for other in findable)
    assert item.queries == asked
    assert item.queries_left_out == sum(bool(own) and place is None for own, place in zip(labels, places, strict=True))
    assert (item.same_label_elsewhere, item.other_label_same_place) == tuple(found[:2])
    assert (item.neighbours, item.neighbours_left_out) == (found[4], neighbours - found[4])
    assert item.index == pytest.approx(found[0] / (found[0] + found[1]))
    assert item.chance == pytest.approx(chance[0] / (chance[0] + chance[1]))
    assert (item.ratio, item.ratio_chance) == pytest.approx((found[2] / found[3], chance[2] / chance[3]))

    resampler = Resampler(np.arange(len(clusters)), terms.draws, terms.seed)
    sums = np.array([clusters[cluster] for cluster in sorted(clusters)])
    drawn = [times @ sums for block in resampler.blocks() for times in block.astype(float)]
    figures = [total[0] / (total[0] + total[1]) for total in drawn]
    assert (item.low, item.high) == pytest.approx(tuple(np.quantile(figures, (0.025, 0.975))), abs=1e-5)
    assert sum(place.queries for place in item.places) == asked
    for place in item.places:
        mine = [n for n, own in enumerate(labels) if own and str(places[n]) == place.value]
        sums, by_chance = np.zeros(5), np.zeros(5)
        for one in mine:
            findable = [other for other in range(len(points)) if not barred(one, other)]
            nearest = sorted(findable, key=lambda other, one=one: -vectors[one] @ vectors[other])[: terms.k]
            sums += sum(kinds(one, other) for other in nearest)
            by_chance += len(nearest) / len(findable) * sum(kinds(one, other) for other in findable)
        assert place.index == pytest.approx(sums[0] / (sums[0] + sums[1]))
        assert place.chance == pytest.approx(by_chance[0] / (by_chance[0] + by_chance[1]))
        assert place.share == pytest.approx(len(mine) / asked)


def test_audit__what_is_no_confounder_says_so(edge):
    records = [
        a_record(0, sex="F", view="frontal"), a_record(1, sex="M", view="frontal"), a_record(2, labels=(), sex="F"),
        a_record(3, labels=("XR/chest/b",)),
    ]  # fmt: skip
    with put(edge, "audited", records, noise(4)) as collection:
        report = audit_collection(collection)
        by_field = {item.field: item for item in report.confounding}
        unlabelled = audit_collection(collection, AuditTerms(label="pathology", where=(parse("sex=F"),)))
    assert list(by_field) == ["dataset", "view", "sex"]
    assert by_field["dataset"].reason.startswith("all images have one value")
    assert (by_field["view"].values, by_field["view"].queries, by_field["view"].queries_left_out) == (1, 2, 1)
    assert by_field["sex"].reason == ""
    assert by_field["sex"].values == 2
    assert (report.unlabelled, report.without_split, report.copies) == (1, 4, ())
    assert unlabelled.images == 2
    assert "no two splits have images" in report.table()
    assert "all images have one value" in report.table()


def test_audit__without_any_label(edge):
    with put(
        edge, "audited", [a_record(number, labels=(), split=SPLITS[number % 3]) for number in range(9)], noise(9)
    ) as collection:
        report = audit_collection(collection)
    assert {item.reason for item in report.confounding} == {"no image has primary_label"}
    assert report.unlabelled == 9
    assert len(report.copies) == 3


def test_audit__confounders_are_found_and_refused(mixed):
    collection, _ = mixed
    assert [item.field for item in audit_collection(collection, AuditTerms(draws=0)).confounding] == [
        "dataset",
        "view",
        "sex",
        "extra.site",
    ]
    with pytest.raises(ProtocolError, match=r"no image has extra.sight; they have extra.site"):
        audit_collection(collection, AuditTerms(confounders=("extra.sight",)))
    with pytest.raises(ProtocolError, match=r"'labels' can't be a confounder; there are dataset, split"):
        audit_collection(collection, AuditTerms(confounders=("labels",)))


# --- terms, report and command


def test_audit__refuses(shelf, filled):
    with (
        open_store(shelf) as store,
        store.open("empty") as empty,
        pytest.raises(ProtocolError, match="none of the 0 in"),
    ):
        audit_collection(empty)
    with pytest.raises(FilterError, match="no modality 'PT' in eight"):
        audit_collection(filled, AuditTerms(where=(parse("modality=PET"),)))
    with pytest.raises(ProtocolError, match="no image to audit: none of the 30"):
        audit_collection(filled, AuditTerms(where=(parse("modality=CT"), parse("split=val"))))
    with pytest.raises(ProtocolError, match=r"the threshold is 1\.5"):
        AuditTerms(threshold=1.5)
    with pytest.raises(ProtocolError, match="the threshold is nan"):
        AuditTerms(threshold=math.nan)
    with pytest.raises(CutoffError, match="k is 0"):
        AuditTerms(k=0)
    with pytest.raises(ProtocolError, match="no label field 'lable'"):
        AuditTerms(label="lable")


def test_audit__contamination_is_judged_by_data_set(edge):
    records = [a_record(number, dataset=("CheXpert", "own", "CheXpert")[number]) for number in range(3)]
    with put(edge, "medclip", records, noise(3)) as collection:
        report = audit_collection(collection)
    assert {item.dataset: item.verdict for item in report.contamination} == {"CheXpert": "seen", "own": "not listed"}
    assert report.as_json()["contamination"][0]["images"] == 2
    assert [row.value for row in report.rows if row.part == "contamination"] == [1, 0]


def test_command__table_json_and_csv_agree(edge, cbmir, tmp_path):
    planted(edge).close()
    arguments = ["evaluate", "audit", "--store", edge.location, "--draws", 50]
    out, pairs = tmp_path / "rows.csv", tmp_path / "pairs.csv"
    done = cbmir(*arguments, "--json", "--out", out, "--pairs", pairs)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(answer["rows"])
    for row, line in zip(answer["rows"], rows, strict=True):
        assert (row["part"], row["subject"], row["measure"]) == (line["part"], line["subject"], line["measure"])
        assert row["value"] == (float(line["value"]) if line["value"] else None)
    assert {line["threshold"] for line in rows} == {"0.99"}
    assert answer["copies"][1]["pairs"] == 4
    with pairs.open() as file:
        lines = list(csv.DictReader(file))
    assert lines[0]["copy_filepath"] == "019.png"  # the nearest first
    assert Counter((line["split"], line["copy_split"]) for line in lines) == {("train", "test"): 4, ("val", "test"): 1}
    by_file = {line["filepath"]: (line["patient"], line["file"]) for line in lines}
    assert by_file == {
        "000.png": ("same", "identical"),
        "001.png": ("other", "identical"),
        "002.png": ("unknown", "other"),
        "003.png": ("other", "unknown"),
        "010.png": ("other", "other"),
    }
    assert [line["id"] for line in lines] == [a_record(int(line["filepath"][:3])).id for line in lines]
    table = cbmir(*arguments, "--pairs", tmp_path / "pairs.parquet").stdout
    assert (
        "train/test: 4 pairs, 1 of the same patient, 2 of two patients, 1 unknown; 2 identical files, 1 unknown"
        in table
    )
    assert "patients in more than one split: 1 of" in table
    assert pq.read_table(tmp_path / "pairs.parquet").to_pylist()[0]["copy_filepath"] == "019.png"


def test_command__no_pairs_make_a_file_without_rows(shelf, cbmir, tmp_path):
    arguments = ["evaluate", "audit", "--store", shelf, "--collection", "eight", "--threshold", 1]
    done = cbmir(*arguments, "--pairs", tmp_path / "pairs.csv")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "pairs.csv").read_text().splitlines()) == 1


def test_command__errors_are_one_line(shelf, cbmir, tmp_path):
    arguments = ["evaluate", "audit", "--store", shelf, "--collection", "eight"]
    for options, words in (
        (["--confounder", "extra.site"], "no image has extra.site; they have nothing in extra"),
        (["--threshold", 2], "the threshold is 2"),
        (["--modality", "PET"], "no modality 'PT'"),
        (["--pairs", tmp_path / "pairs.txt"], "the name ends in .csv or .parquet"),
    ):
        done = cbmir(*arguments, *options)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert words in done.stderr
    assert cbmir(*arguments, "--queries", "all").returncode == 2


def test_write_csv__no_such_folder(filled, tmp_path):
    report = audit_collection(filled, AuditTerms(draws=0))
    with pytest.raises(CbmirError, match=r"can't write .*No such file"):
        report.write_csv(tmp_path / "missing" / "rows.csv")
