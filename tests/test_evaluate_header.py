"""What every result of an evaluation says first, for every command: label field, what is left out, patients."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import click
import numpy as np
import pytest
from builders import put

from cbmir.evaluate.cli import evaluate
from cbmir.evaluate.header import PatientCounts
from cbmir.evaluate.results import figure
from cbmir.evaluate.setting import Intervals, unknown_patients
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

IMAGES = 60
QUICK = {"--draws": 20, "--count": 8, "--ef": 32, "--max-k": 5, "--galleries": 1, "--pictures": 1}
"""Options that keep a command short, where it has them."""

PLACES = ("--out", "--root", "--store")
NOT_RESULTS = re.compile(r"map_.*|confusion_.*")
"""CSV files that hold coordinates or a matrix, not figures."""


def commands(group=evaluate, path=()):
    """Every command below ``cbmir evaluate`` by the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands())
ANALYSES = {path: command for path, command in ALL.items() if path != ("run",)}


def records(patients):
    """Sixty images, two a patient: every tenth has no label, one class is asked for and in no gallery."""
    for number in range(IMAGES):
        split = ("train", "val", "test")[number % 3]
        labels = [f"XR/chest/finding_{number // 3 % 4}"]
        if number == 5:
            labels = ["XR/chest/asked_for_only"]
        if number // 3 % 5 == 0:
            labels.append("XR/chest/also")
        known = {"none": False, "some": number % 4 < 2, "all": True}[patients]
        yield ImageRecord(
            filepath=f"{number:03}.png",
            dataset="syn",
            split=split,
            modality=("XR", "CT")[number % 2],
            anatomic_region="chest",
            labels=tuple(labels) if number % 10 else (),
            patient_id=f"p{number // 2}" if known else None,
        )


def vectors(sigma, records):
    rng = np.random.default_rng(3)
    centres = {}
    rows = [
        centres.setdefault(item.labels, rng.standard_normal(8)) + sigma * rng.standard_normal(8) for item in records
    ]
    return normalise(np.array(rows, np.float32))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store a kind, each with two collections of the same images."""
    folder = tmp_path_factory.mktemp("stores")
    for kind in ("none", "some", "all"):
        with EdgeStore(folder / kind) as store:
            for name, sigma in (("sharp", 0.5), ("blunt", 1.5)):
                made = list(records(kind))
                put(store, name, made, vectors(sigma, made)).close()
    return folder


def options(command):
    return {name: item for item in command.params if isinstance(item, click.Option) for name in item.opts}


def words(path, command, location, out):
    """A call of a command with what it needs, told from its own parameters."""
    there = options(command)
    call = ["evaluate", *path]
    if any(isinstance(item, click.Argument) for item in command.params):
        call += ["sharp", "blunt"]
    call += ["--store", location] if "--store" in there else []
    call += ["--collection", "sharp"] if "--collection" in there else []
    call += [str(word) for name, value in QUICK.items() if name in there for word in (name, value)]
    call += ["--allow-missing"] if "--allow-missing" in there else []
    folder = "--out" in there and not there["--out"].type.file_okay
    return [*call, "--out", out if folder else out.with_suffix(".csv")]


def expected(kind, *splits):
    """Patients, and images without one, among the images of some splits that have a label or aren't queries."""
    chosen = [item for item in records(kind) if item.split in splits and (item.labels or "test" not in splits)]
    known = [item.patient_id for item in chosen if item.patient_id]
    return {"patients": len(set(known)), "images_without_id": len(chosen) - len(known)}


def headers(data):
    """The header of a JSON result, or one for each collection of a report."""
    if "encoders" in data:
        return [item["protocol"] for item in data["encoders"]]
    return [data.get("protocol", data)]


class Text(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.parts = []
        self.feed(page)

    def handle_data(self, data):
        self.parts.append(data)


def test_evaluate__every_command_is_an_analysis_or_runs_them():
    assert set(ALL) - set(ANALYSES) == {("run",)}
    assert len(ANALYSES) >= 8


@pytest.mark.parametrize("kind", ["none", "some", "all"])
@pytest.mark.parametrize("path", ANALYSES, ids=" ".join)
def test_evaluate__the_header_of_every_result(cbmir, stores, tmp_path, path, kind):
    call = words(path, ANALYSES[path], stores / kind, tmp_path / "out")
    done = cbmir(*call, "--json")
    assert done.returncode == 0, done.stderr
    found = headers(json.loads(done.stdout))
    written = [*tmp_path.glob("out.csv"), *tmp_path.glob("out/csv/*.csv")]
    tables = [item for item in written if not NOT_RESULTS.fullmatch(item.stem)]
    done_table = cbmir(*call)
    assert found
    assert tables
    by_label = "--label" in options(ANALYSES[path])
    for header in found:
        assert header["label"] == ("primary_label" if by_label else None)
        assert header["unlabelled"] == ("exclude" if by_label else None)
        assert header["left_out"]
        assert all(isinstance(count, int) for count in header["left_out"].values())
        if "gallery" in header["images_without_label"]:
            assert (header["images_without_label"]["queries"], header["images_without_label"]["gallery"]) in (
                (2, 2),
                (4, 4),
            )
            assert header["left_out"]["queries_without_relevant"] in (1, 2)
        if "gallery" in header["patients"]:
            assert header["patients"] == {"queries": expected(kind, "test"), "gallery": expected(kind, "train")}
        assert all(bool(item["patients"]) == (kind != "none") for item in header["patients"].values())
        assert any(item["images_without_id"] for item in header["patients"].values()) == (kind != "all")
    for table in tables:
        first = next(csv.DictReader(table.open(newline="", encoding="utf-8")))
        role = next(iter(found[0]["patients"]))
        assert first["label"] == (found[0]["label"] or "")
        assert int(first[f"{role}_patients"]) == found[0]["patients"][role]["patients"]
        assert int(first[f"{role}_without_patient_id"]) == found[0]["patients"][role]["images_without_id"]
        assert set(found[0]["left_out"]) <= set(first) or path == ("report",)
    lines = [re.split(r"\s+", line.strip(), maxsplit=1) for line in done_table.stdout.splitlines() if line.strip()]
    terms = {item[0] for item in lines}
    assert {"label", "patients"} <= terms
    assert "left" in terms
    assert ("unlabelled" in terms) == by_label
    (line, *_) = [item[1] for item in lines if item[0] == "patients" and len(item) > 1]
    everything = [done_table.stdout, done.stdout, *(item.read_text(encoding="utf-8") for item in written)]
    everything += [" ".join(Text(item.read_text(encoding="utf-8")).parts) for item in tmp_path.glob("out/*.html")]
    if kind == "none":
        assert re.match("no (image|query) has a patient id: each (image|query) is counted on its own", line)
        for text in everything:
            assert not re.search(r"[1-9][\d,]* (whole )?patients", text), text
            assert not re.search(r"(over|draws of|among) patients", text), text
    elif kind == "some":
        assert re.search(r"\d+ patients? and \d+ images without a patient id \(each counted on its own\)", line)
        assert all("no image has a patient" not in text for text in everything)
    else:
        assert re.search(r"\d+ patients", line)
        assert all("without a patient id" not in text for text in everything if text is not done.stdout)


def test_run__results_have_the_header_of_their_command(cbmir, stores, tmp_path):
    tables = [
        f"[{path[0]}]\n"
        + "".join(f"{name.lstrip('-')} = {value}\n" for name, value in QUICK.items() if name in options(command))
        for path, command in ANALYSES.items()
        if path[0] != "report"
    ]
    (tmp_path / "e.toml").write_text("\n".join(tables))
    done = cbmir("evaluate", "run", tmp_path / "e.toml", "--store", stores / "some", "--out", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    results = list((tmp_path / "r").rglob("*.json"))
    assert len(results) == 2 * (len(tables) - 1) + 1
    for path in results:
        (header,) = headers(json.loads(path.read_text())["result"])
        assert {"label", "unlabelled", "left_out", "patients"} <= set(header)


# --- images without a label


def twin(item):
    """The same image, with a label where it has none; it sorts behind all others, as `NO_LABEL` does."""
    return replace(item, labels=item.labels or ("XR/chest/zzz",))


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A store with images without a label, and one in which these have a label that says so."""
    folder = tmp_path_factory.mktemp("twins")
    for name, change in (("bare", lambda item: item), ("named", twin)):
        with EdgeStore(folder / name) as store:
            images = list(records("some"))
            for collection, sigma in (("sharp", 0.5), ("blunt", 1.5)):
                card = external_card(collection, 8)
                with store.create(collection, card) as opened:
                    some = tuple(change(item) for item in images)
                    opened.upsert(EmbeddedBatch(some, vectors(sigma, images), card.fingerprint))
    return folder


MORE = {
    "retrieval": [["--relevance", rule, "--by", "class"] for rule in ("any", "exact", "jaccard")]
    + [["--measure", "ndcg", "--measure", "map"]],
}


@pytest.mark.parametrize("label", ["primary_label", "labels", "pathology"])
@pytest.mark.parametrize(
    "path", [path for path, item in ANALYSES.items() if "--unlabelled" in options(item)], ids=" ".join
)
def test_unlabelled__included_is_the_same_as_a_label_of_its_own(cbmir, twins, tmp_path, path, label):
    if path == ("report",) and label != "labels":
        pytest.skip("made of the others, and slow")
    for more in MORE.get(path[0], [[]]):
        rows = []
        for name, how in (("bare", ["--unlabelled", "include"]), ("named", [])):
            call = words(path, ANALYSES[path], twins / name, tmp_path / name)
            done = cbmir(*call, "--label", label, *how, *more, "--json")
            assert done.returncode == 0, done.stderr
            data = json.loads(re.sub("(XR/chest/)?zzz", "no label", done.stdout))
            rows.append([item["cells"] for item in data["encoders"]] if "encoders" in data else data["rows"])
        assert rows[0] == rows[1]


def test_unlabelled__included_is_counted_and_said(cbmir, stores):
    call = ("evaluate", "retrieval", "--store", stores / "all", "--collection", "sharp", "--draws", 0)
    without, within = (cbmir(*call, "--unlabelled", how).stdout for how in ("exclude", "include"))
    assert "exclude: 2 queries and 2 gallery images without primary_label" in without
    assert "include: 2 queries and 2 gallery images without primary_label, taken as the class 'no label'" in within
    assert "split=test: 18 images" in without
    assert "split=test: 20 images" in within


def test_unlabelled__only_images_without_a_label_are_an_error_either_way(cbmir, tmp_path):
    with EdgeStore(tmp_path / "s") as store:
        made = [replace(item, labels=()) for item in records("all")]
        put(store, "bare", made, vectors(0.5, made)).close()
    for how in ("exclude", "include"):
        done = cbmir("evaluate", "retrieval", "--store", tmp_path / "s", "--unlabelled", how)
        assert done.returncode == 1
        assert "has primary_label" in done.stderr


# --- patients


@pytest.mark.parametrize(
    ("clusters", "alone", "own_gallery", "words"),
    [
        (1, 0, 0, "no intervals: the queries are of 1 patient, which says nothing of others"),
        (2, 0, 0, "the queries are of 2 patients, fewer than 20: don't rely on intervals and tests"),
        (5, 5, 0, "the queries are of 5 images"),
        (20, 0, 7, "7 queries in the gallery too: intervals are too narrow"),
        (20, 0, 0, ""),
    ],
)
def test_intervals__caution(clusters, alone, own_gallery, words):
    made = Intervals(100, 0, clusters, alone, own_gallery=own_gallery)
    assert words in made.warning
    assert bool(made.warning) == bool(words)
    lines = list(made.lines())
    assert "held fixed" in lines[0]
    assert len(lines) == 1 + bool(words)
    none = Intervals(0, 0, clusters, alone, own_gallery=own_gallery)
    assert (none.warning, list(none.lines())) == ("", [])


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (-1e-9, "", "0.0000"),
        (-1e-9, "+", "+0.0000"),
        (0.5, "+", "+0.5000"),
        (-0.25, "", "-0.2500"),
        (float("nan"), "", "-"),
    ],
)
def test_figure__has_no_sign_before_a_zero(value, sign, text):
    assert figure(value, sign) == text


@pytest.mark.parametrize(
    ("codes", "words", "over"),
    [
        ([1, 1, 2], "2 patients", "patients"),
        ([0, 0, 0], "3 images, as none has a patient id (each counted on its own)", "images"),
        (
            [1, 0, 1, -1],
            "1 patient and 2 images without a patient id (each counted on its own)",
            "patients and images without a patient id",
        ),
    ],
)
def test_patient_counts__words(codes, words, over):
    counts = PatientCounts.of(np.array(codes))
    assert (counts.words, counts.over) == (words, over)


def test_audit__images_without_split_and_patient_are_drawn_as_images(cbmir, tmp_path):
    with EdgeStore(tmp_path / "s") as store:
        made = [replace(item, split=None) for item in records("none")]
        put(store, "bare", made, vectors(0.5, made)).close()
    out = cbmir("evaluate", "audit", "--store", tmp_path / "s", "--draws", 5).stdout
    assert "5 draws of 54 images, as none has a patient id" in out  # six have no label and don't ask
    assert "patients in more than one split: can't be told, no image has a patient_id" in out


def test_recall__a_filter_of_ones_own_has_nothing_to_do_with_patients(cbmir, stores):
    call = (
        "evaluate",
        "recall",
        "--store",
        stores / "some",
        "--collection",
        "sharp",
        "--count",
        20,
        "--ef",
        32,
        "--json",
    )
    own, usual = (json.loads(cbmir(*call, *more).stdout)["left_out"] for more in (["--filter", "modality=CT"], []))
    assert own["queries_without_patient_filter"] == 0 < usual["queries_without_patient_filter"]


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ((0, 0), ""),
        ((9, 20), "no image has a patient_id"),
        ((9, 1), "no query has a patient_id"),
        ((1, 20), "no gallery image has a patient_id"),
        ((2, 0), "2 of 9 queries without patient_id"),
        ((0, 3), "3 of 20 gallery images without patient_id"),
    ],
)
def test_unknown_patients__says_whose(without, words):
    assert unknown_patients(without, (9, 20)).partition(":")[0] == words


@pytest.mark.parametrize("path", [("retrieval",), ("classify",), ("probe",), ("compare",)], ids=" ".join)
def test_evaluate__labels_beyond_the_first_are_counted(cbmir, stores, tmp_path, path):
    """Where an image has several labels, an evaluation by the first of them says what it leaves out."""
    further = {
        role: sum(len(item.labels) - 1 for item in records("all") if item.split == split and item.labels)
        for role, split in (("queries", "test"), ("gallery", "train"))
    }
    assert further["queries"] > 0
    call = words(path, ANALYSES[path], stores / "all", tmp_path / "out")
    (header,) = headers(json.loads(cbmir(*call, "--json").stdout))
    assert header["further_labels"] == further
    told = cbmir(*call).stdout
    assert f"further labels (queries {further['queries']}, gallery {further['gallery']}) don't count" in told
    (all_labels,) = headers(json.loads(cbmir(*call, "--json", "--label", "labels").stdout))
    assert all_labels["further_labels"] == {"queries": 0, "gallery": 0}
