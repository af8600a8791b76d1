"""Figures against the size of the gallery: the draws, and small collections over the embedded engine."""

import csv
import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cbmir.evaluate.analyses.sweep
import cbmir.evaluate.ranking.exact
import cbmir.evaluate.ranking.reading
from cbmir.errors import ProtocolError
from cbmir.evaluate import METRICS, RetrievalProtocol, conditions, evaluate_retrieval
from cbmir.evaluate.analyses.sweep import SIZES, Size, SweepTerms, draw_order, evaluate_sweep, units_of
from cbmir.evaluate.ranking.trial import Images
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store import open_store

pytestmark = pytest.mark.slow

DIM = 8
QUERIES, GALLERY = 24, 60
CARD = external_card("sweeper", DIM)
FIGURE = ("value", "low", "high", "n", "coverage")


def records():
    """Queries, then a gallery: patients on both sides, some unknown, two data sets, rare classes, several labels."""
    made = []
    for number in range(QUERIES + GALLERY):
        finding = f"CT/chest/finding_{(number * number) % 7}"
        more = ("CT/chest/extra",) if number % 5 == 0 else ()
        made.append(
            ImageRecord(
                filepath=f"{number:03}.png",
                dataset=("one", "two")[number % 3 == 0],
                split="test" if number < QUERIES else "train",
                modality=("CT", "MR")[number % 2],
                labels=() if number % 17 == 16 else (finding, *more),
                patient_id=f"p{number % 13}" if number % 4 else None,
            )
        )
    return made


def vectors():
    return normalise(np.random.default_rng(1).standard_normal((QUERIES + GALLERY, DIM)).astype(np.float32))


def put(store, name, stored, rows):
    collection = store.create(name, CARD)
    collection.upsert(EmbeddedBatch(tuple(stored), vectors()[rows], CARD.fingerprint))
    return collection


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(tmp_path_factory.mktemp("sweep") / "store") as opened:
        put(opened, "whole", records(), np.arange(QUERIES + GALLERY)).close()
        yield opened


def only(store, kept):
    """A collection of the queries and the images kept, which are ``view=in``; made once."""
    name = hashlib.sha256("".join(sorted(kept)).encode()).hexdigest()
    if name in store.names():
        return store.open(name)
    places, stored = zip(
        *(
            (place, replace(record, view="in" if record.id in kept else None))
            for place, record in enumerate(records())
            if record.id in kept or record.split == "test"
        ),
        strict=True,
    )
    return put(store, name, stored, list(places))


@pytest.fixture
def whole(store):
    with store.open("whole") as collection:
        yield collection


def gallery_of(gallery, seed, number, size, unit):
    """The ids of a smaller gallery, by lists: ids in a random order, whole patients at a time."""
    ids = sorted(record.id for record in gallery)
    patient_of = {  # an id is another patient in another data set
        record.id: f"{record.dataset}/{record.patient_id}" if record.patient_id else record.id for record in gallery
    }
    if unit == "image":
        patient_of = {id: id for id in ids}
    names = list(dict.fromkeys(patient_of[id] for id in ids))
    rank = dict(zip(names, np.random.default_rng([seed, number]).permutation(len(names)), strict=True))
    together = [[id for id in ids if rank[patient_of[id]] < count] for count in range(1, len(names) + 1)]
    return set(min(together, key=lambda kept: abs(len(kept) - size)))


def figures(rows):
    return {(row.measure, row.k, row.average, row.group): [getattr(row, name) for name in FIGURE] for row in rows}


@pytest.mark.parametrize(
    ("text", "number", "percent", "of_300"),
    [("1000", 1000, False, 1000), ("5%", 5, True, 15), (" 0.5% ", 0.5, True, 2), (".1%", 0.1, True, 0)],
)
def test_size_read__images_and_percent(text, number, percent, of_300):
    size = Size.read(text)
    assert (size, size.images(300)) == (Size(number, percent), of_300)
    assert Size.read(str(size)) == size


@pytest.mark.parametrize("text", ["", "many", "-1", "5 %", "1.5", "%", "nan%", "1e3"])
def test_size_read__names_what_it_cannot_read(text):
    with pytest.raises(ProtocolError, match=f"can't read the size {text!r}; write images, as 1000"):
        Size.read(text)


@pytest.mark.parametrize("text", ["0", "0%", "100.1%"])
def test_size_read__refuses_what_is_no_size(text):
    with pytest.raises(ProtocolError, match=f"can't have the size {text}; sizes are whole images"):
        Size.read(text)


def test_size__no_part_of_an_image():
    with pytest.raises(ProtocolError, match=r"can't have the size 1\.5"):
        Size(1.5)


def images(codes):
    ids = np.array([f"{number:04}".encode() for number in range(len(codes))], "S16")
    return Images(ids, {"patient_id": np.array(codes, np.int32)})


def test_units_of__an_image_without_a_patient_is_alone():
    gallery = images([0, 5, 0, 2, 5])
    assert units_of(gallery, "image").tolist() == [0, 1, 2, 3, 4]
    assert units_of(gallery, "patient").tolist() == [0, 1, 2, 3, 1]


@given(
    codes=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    unit=st.sampled_from(["image", "patient"]),
    seed=st.integers(0, 5),
)
def test_draw_order__galleries_are_nested_and_of_the_sizes_asked(codes, sizes, unit, seed):
    units = units_of(images(codes), unit)
    order, again = draw_order(units, seed, 1), draw_order(units, seed, 1)
    before = np.zeros(len(codes), np.bool_)
    for size in sorted(min(size, len(codes)) for size in sizes):
        kept = order.first(size)
        assert not (before & ~kept).any()
        assert np.array_equal(kept, again.first(size))
        assert not set(units[kept]) & set(units[~kept])  # whole patients
        if unit == "image":
            assert kept.sum() == size
        before = kept
    assert order.first(len(codes)).all()


def test_draw_order__takes_the_nearest_number_of_whole_patients():
    units = np.repeat([0, 1, 2, 3], [1, 4, 10, 5])
    for number in range(6):
        order = draw_order(units, 0, number)
        ends = np.cumsum([np.count_nonzero(order.ranks == rank) for rank in range(4)])
        for size in range(1, 21):
            nearest = min(ends, key=lambda end: (abs(end - size), end))
            assert order.first(size).sum() == nearest


def test_draw_order__draws_and_seeds_differ():
    ranks = [draw_order(np.arange(50), *at).ranks.tolist() for at in ((0, 1), (0, 2), (1, 1), (1, 0))]
    assert len({tuple(item) for item in ranks}) == 4


PROTOCOLS = {
    "default": (RetrievalProtocol(k=(1, 10)), "image"),
    "all measures": (RetrievalProtocol(measures=tuple(METRICS), k=(1, 7), by=("modality", "class"), seed=3), "image"),
    "several labels": (RetrievalProtocol(label="labels", relevance="jaccard", measures=("map", "ndcg")), "image"),
    "across data sets": (RetrievalProtocol(exclude=("patient", "dataset"), measures=("recall",)), "image"),
    "nothing excluded": (RetrievalProtocol(exclude=(), k=(5,)), "image"),
    "queries within": (RetrievalProtocol(gallery=(), measures=("precision", "map_r"), k=(1, 10)), "image"),
    "whole patients": (RetrievalProtocol(k=(1, 10)), "patient"),
    "patients within": (RetrievalProtocol(gallery=(), k=(3,), seed=1), "patient"),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_evaluate_sweep__is_retrieval_from_what_is_left(store, whole, name):
    protocol, unit = PROTOCOLS[name]
    protocol = replace(protocol, searches=("exact",), draws=100)
    report = evaluate_sweep(whole, protocol, SweepTerms(sizes=(Size(8), Size(25), SIZES[-1]), galleries=2, unit=unit))
    everything = evaluate_retrieval(whole, protocol)
    total = everything.setting.gallery.images
    assert list(dict.fromkeys((row.asked, row.gallery) for row in report.rows)) == [
        (8, 1),
        (8, 2),
        (25, 1),
        (25, 2),
        (total, 1),
    ]
    last = [row for row in report.rows if row.asked == total]
    np.testing.assert_equal(figures(last), figures(everything.rows))  # the very same figures
    assert {(row.size, row.share) for row in last} == {(total, 1)}
    assert report.setting == everything.setting
    searched = [record for record in records() if protocol.gallery == () or record.split == "train"]
    kept = gallery_of(searched, protocol.seed, 2, 8, unit)
    rows = [row for row in report.rows if (row.asked, row.gallery) == (8, 2)]
    assert {(row.size, row.share) for row in rows} == {(len(kept), len(kept) / total)}
    with only(store, kept) as alone:
        expected = evaluate_retrieval(alone, replace(protocol, gallery=conditions(["view=in"])))
    assert figures(rows).keys() == figures(expected.rows).keys()
    for key, figure in figures(expected.rows).items():
        assert figures(rows)[key] == pytest.approx(figure, abs=1e-12, nan_ok=True), key
    uncovered = {row.uncovered_classes for row in rows if row.group == "all"}
    assert uncovered == {len(expected.setting.classes_without_gallery)}


def test_evaluate_sweep__a_gallery_too_large_to_hold(whole, monkeypatch):
    protocol, terms = RetrievalProtocol(draws=0), SweepTerms(galleries=2)
    expected = evaluate_sweep(whole, protocol, terms)
    monkeypatch.setattr(cbmir.evaluate.ranking.reading, "HELD_BYTES", 0)
    monkeypatch.setattr(cbmir.evaluate.ranking.exact, "CHUNK_IMAGES", 5)
    np.testing.assert_equal(evaluate_sweep(whole, protocol, terms).as_json(), expected.as_json())


def test_evaluate_sweep__parts_that_are_ranked_one_by_one(whole, monkeypatch):
    protocol, terms = RetrievalProtocol(draws=0), SweepTerms(galleries=2)
    expected = evaluate_sweep(whole, protocol, terms)
    monkeypatch.setattr("cbmir.evaluate.analyses.sweep.PARTS_BYTES", 0)
    np.testing.assert_equal(evaluate_sweep(whole, protocol, terms).as_json(), expected.as_json())


def test_evaluate_sweep__a_gallery_without_a_right_answer_counts_as_such(edge):
    """One query and two gallery images, one of them right: a gallery of one image has it or hasn't."""
    labels = ("CT/chest/x", "CT/chest/x", "CT/chest/y")
    stored = [
        ImageRecord(filepath=str(i), dataset="d", split="train" if i else "test", labels=(label,))
        for i, label in enumerate(labels)
    ]
    with put(edge, "three", stored, [0, 1, 2]) as collection:
        report = evaluate_sweep(
            collection, RetrievalProtocol(k=(1,), draws=0, by=()), SweepTerms(sizes=(Size(1),), galleries=10)
        )
    right = next(rank for rank, id in enumerate(sorted(record.id for record in stored[1:])) if id == stored[1].id)
    found = [draw_order(np.arange(2), 0, number).ranks[right] == 0 for number in range(1, 11)]
    assert 0 < sum(found) < 10
    for row in report.rows:
        has = found[row.gallery - 1]
        assert (row.size, row.share, row.coverage, row.uncovered_classes) == (1, 0.5, has, not has)
        if row.measure == "precision":
            assert (row.value, row.n) == (has, 1)
            assert (row.mean, row.lowest, row.highest) == (sum(found) / 10, 0, 1)
        else:
            assert (row.n, row.mean, row.lowest, row.highest) == (has, 1, 1, 1)
            assert row.value == 1 if has else math.isnan(row.value)
    assert "0-1" in report.table()
    json.dumps(report.as_json(), allow_nan=False)


def test_evaluate_sweep__spread_is_that_of_the_rows(whole):
    report = evaluate_sweep(whole, RetrievalProtocol(draws=0), SweepTerms(sizes=(Size(3), Size(30)), galleries=4))
    frame = pd.DataFrame(report.rows)
    same = frame.groupby(["asked", "measure", "k", "average", "group"])
    for name, how in (("mean", "mean"), ("lowest", "min"), ("highest", "max")):
        assert frame[name].to_numpy() == pytest.approx(same["value"].transform(how).to_numpy(), nan_ok=True)
    assert (frame.lowest < frame.highest).any()


def test_evaluate_sweep__is_repeatable_and_the_seed_counts(whole):
    terms = SweepTerms(sizes=(Size(20),), galleries=2)
    one, again, other = (evaluate_sweep(whole, RetrievalProtocol(draws=0, seed=seed), terms) for seed in (0, 0, 1))
    np.testing.assert_equal(one.as_json(), again.as_json())
    assert [row.value for row in one.rows] != [row.value for row in other.rows]


def test_evaluate_sweep__sizes_that_no_gallery_has_are_named(whole):
    sizes = (*SIZES, Size(61), Size(0.5, percent=True), Size(6))  # 10% is 6 images too
    report = evaluate_sweep(whole, RetrievalProtocol(draws=0), SweepTerms(sizes=sizes))
    assert report.sizes_left_out == ("61", "0.5%")
    assert list(dict.fromkeys(row.asked for row in report.rows)) == [1, 3, 6, 12, 30, 60]
    assert "left out    2 sizes (61, 0.5%): not 1 to 60 images" in report.table()
    with pytest.raises(ProtocolError, match="the gallery has 60 images, none of the sizes 61, 1000 fits"):
        evaluate_sweep(whole, terms=SweepTerms(sizes=(Size(61), Size(1000))))


def test_evaluate_sweep__images_without_a_patient_are_counted(whole):
    terms = SweepTerms(sizes=(Size(30),), galleries=1, unit="patient")
    report = evaluate_sweep(whole, RetrievalProtocol(draws=0), terms)
    assert report.without_patient == GALLERY // 4
    assert "patients and 15 images without a patient id (each counted on its own)" in report.table()
    assert evaluate_sweep(whole, RetrievalProtocol(draws=0), replace(terms, unit="image")).without_patient == 0


def test_sweep_terms__refuses():
    with pytest.raises(ProtocolError, match="sizes 0, galleries a size 3"):
        SweepTerms(sizes=())
    with pytest.raises(ProtocolError, match="sizes 1, galleries a size 0"):
        SweepTerms(sizes=(Size(1),), galleries=0)
    with pytest.raises(ProtocolError, match="no unit 'study' to draw; there are image, patient"):
        SweepTerms(unit="study")


def test_command__table_json_and_csv_agree(store, cbmir, tmp_path):
    arguments = ["evaluate", "sweep", "--store", store.location, "--collection", "whole", "--draws", 50, "-k", 3]
    arguments += ["--measure", "precision", "--size", "50%", "--size", 6, "--size", "0.1%", "--galleries", 2]
    out = tmp_path / "rows.csv"
    done = cbmir(*arguments, "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    with out.open() as file:
        lines = list(csv.DictReader(file))
    assert len(answer["rows"]) == len(lines) == 2 * 2 * 2 * 3  # sizes, galleries, averages, groups
    for row, line in zip(answer["rows"], lines, strict=True):
        assert (row["size"], row["gallery"], row["group"]) == (
            int(line["size"]),
            int(line["gallery"]),
            line["group"],
        )
        assert row["value"] == float(line["value"])
        assert (line["fingerprint"], line["configuration.seed"], line["gallery_filter"]) == (
            CARD.fingerprint,
            "0",
            "split=train",
        )
    assert answer["sizes_left_out"] == ["0.1%"]
    assert answer["protocol"]["search"] == ["exact"]
    assert answer["encoder"]["fingerprint"] == CARD.fingerprint
    table = cbmir(*arguments).stdout
    row = answer["rows"][0]
    assert f"{row['mean']:.4f} {row['lowest']:.4f}-{row['highest']:.4f}" in table
    sizes = [line.split()[:3] for line in table.splitlines() if "%  " in line]
    assert sizes == [["6", "6", "10.00%"], ["30", "30", "50.00%"]] * 2
    assert "Figures of 2 groups" in table


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--size", "5x"], 2, "can't read the size '5x'; write images, as 1000, or a part of the gallery, as 5%"),
        (["--size", "0"], 2, "a gallery can't have the size 0"),
        (["--galleries", 0], 2, "0 is not in the range"),
        (
            ["--search", "approximate"],
            1,
            "approximate can't be asked for a part of a gallery drawn at random; use exact",
        ),
        (["--size", 61], 1, "error: the gallery has 60 images, none of the sizes 61 fits"),
        (["--gallery", "split=val"], 1, "error: no image for the gallery"),
    ],
)
def test_command__errors_are_one_line(store, cbmir, arguments, code, message):
    done = cbmir("evaluate", "sweep", "--store", store.location, "--collection", "whole", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr.strip().splitlines()[-1]
    assert code == 2 or done.stderr.count("\n") == 1
