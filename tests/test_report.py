"""The page about collections: its figures against the other commands', its pictures, and what a browser makes of it."""

import base64
import csv
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import browser
import numpy as np
import pytest
from builders import put
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.decomposition import PCA

from cbmir.errors import CbmirError, CollectionError, ProtocolError
from cbmir.evaluate import KnnTerms, RetrievalProtocol, conditions, evaluate_classification, evaluate_retrieval
from cbmir.evaluate.analyses.comparison import compare
from cbmir.evaluate.analyses.comparison_report import CompareRow, ComparisonReport, Entry
from cbmir.evaluate.analyses.report.cases import HITS, choose
from cbmir.evaluate.analyses.report.charts import Drawing, Series, condensed, curves
from cbmir.evaluate.analyses.report.embedding_map import map_of, principal
from cbmir.evaluate.analyses.report.figures import winners
from cbmir.evaluate.analyses.report.files import write_report
from cbmir.evaluate.analyses.report.findings import FIXED_K
from cbmir.evaluate.analyses.report.page import render
from cbmir.evaluate.analyses.report.report import make_report
from cbmir.evaluate.analyses.report.terms import ReportTerms
from cbmir.evaluate.significance import holm
from cbmir.filters import parse
from cbmir.schema import ImageRecord
from cbmir.store import open_store

pytestmark = pytest.mark.slow

DIM = 8
CLASSES = ("CT/chest/<script>alert(1)</script>", 'MR/brain/a$b$c & "d"', "XR/hand/plain")
IMAGES = 90
MISSING = 7  # every so many-th picture isn't there
MOMENT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
TITLE = "<b>\"Title\" & 'more'</b>"
PROTOCOL = RetrievalProtocol(measures=("precision",), k=(1, 5), searches=("exact",), draws=200)


def a_record(number, **changes):
    """Two images a patient; splits and classes in turn."""
    label = CLASSES[number % 3]
    return ImageRecord(
        **{
            "filepath": f'it\'s "{number:03}" <i>.png',
            "dataset": "syn",
            "split": ("train", "train", "test", "val", "train")[number // 2 % 5],
            "modality": label[:2],
            "labels": (label,),
            "patient_id": f"p{number // 2}",
        }
        | changes
    )


def blurred(store, name, noise, records=None, seed=0):
    """A new collection: a centre a class, blurred."""
    records = records or [a_record(number) for number in range(IMAGES)]
    rng = np.random.default_rng(seed)
    centres = np.eye(DIM)[np.arange(len(records)) % 3]
    put(store, name, records, centres + noise * rng.standard_normal((len(records), DIM))).close()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of the pictures, but for some."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(IMAGES):
        if number % MISSING:
            Image.new("L", (20, 30), number).save(folder / a_record(number).filepath)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """sharp finds all, blunt doesn't; bare has no labels, several has two an image and no validation images."""
    with open_store(tmp_path_factory.mktemp("store") / "store") as made:
        blurred(made, "sharp", 0.05)
        blurred(made, "blunt", 2.0, seed=1)
        blurred(made, "bare", 0.05, [a_record(number, labels=()) for number in range(30)])
        both = [a_record(number, labels=(CLASSES[number % 3], "CT/chest/also")) for number in range(30)]
        blurred(made, "several", 0.05, [replace(record, split="train") for record in both])
        yield made


@pytest.fixture(scope="module")
def terms(root):
    return ReportTerms(protocol=PROTOCOL, root=root, pictures=4, title=TITLE)


@pytest.fixture(scope="module")
def report(store, terms):
    return make_report(store, ["sharp", "blunt"], terms, MOMENT)


@pytest.fixture(scope="module")
def written(report, tmp_path_factory):
    """The report, its folder and its files."""
    out = tmp_path_factory.mktemp("out")
    return report, out, write_report(report, out)


class Html(HTMLParser):
    """Elements of a page and its text, and whether all is closed."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_choose__hand_worked():
    scores = np.array([1, 1, 0.5, math.nan, 0.2, 0.2, 0.9])
    patients = np.array([3, 3, 3, 4, -1, -1, 5])
    assert choose(scores, patients, 2) == ([0, 6], [4, 5])  # 1 is of the patient of 0; -1 is nobody's
    assert choose(scores, patients, 9) == ([0, 6, 4, 5], [2])  # 1 and 2 are of one patient, and 2 is worse
    assert choose(scores, patients, 0) == ([], [])


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0, math.nan]), st.integers(-1, 3)), max_size=12),
    st.integers(0, 5),
)
def test_choose__as_a_slow_walk_does(queries, count):
    def walk(order, barred):
        rows, seen = [], set()
        for row in order:
            score, patient = queries[row]
            if len(rows) < count and not math.isnan(score) and row not in barred and patient not in seen:
                rows.append(row)
                seen |= {patient} - {-1}
        return rows

    rows = range(len(queries))
    best = walk(sorted(rows, key=lambda row: (-np.nan_to_num(queries[row][0]), row)), ())
    worst = walk(sorted(rows, key=lambda row: (np.nan_to_num(queries[row][0]), row)), best)
    scores = np.array([score for score, _ in queries], float)
    assert choose(scores, np.array([patient for _, patient in queries], int), count) == (best, worst)


def test_principal__agrees_with_sklearn():
    vectors = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32) * [5, 3, 1, 1, 1, 1]
    points, shares = principal(vectors.astype(np.float32))
    theirs = PCA(2)
    expected = theirs.fit_transform(vectors)
    assert np.abs(points) == pytest.approx(np.abs(expected), abs=1e-4)
    assert shares == pytest.approx(theirs.explained_variance_ratio_, abs=1e-5)


def test_principal__nothing_varies():
    points, shares = principal(np.ones((4, 3), np.float32))
    assert not points.any()
    assert shares == (0, 0)
    line = np.array([[0.0], [2.0], [4.0]], np.float32)
    points, shares = principal(line)
    assert points == pytest.approx(np.array([[-2, 0], [0, 0], [2, 0]]))
    assert shares == (1, 0)


def test_condensed__hand_worked():
    counts = np.array([[5, 1, 0, 0], [0, 2, 1, 0], [0, 0, 9, 0], [0, 0, 0, 0]])
    table, names = condensed(counts, ("a", "b", "c", "never"), 4)
    assert (table.tolist(), names) == ([[5, 1, 0], [0, 2, 1], [0, 0, 9]], ["a", "b", "c"])
    table, names = condensed(counts, ("a", "b", "c", "never"), 1)  # c is the most frequent
    assert (table.tolist(), names) == ([[9, 0], [1, 8]], ["c", "2 others"])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_condensed__keeps_all_counts(classes, most, seed):
    counts = np.random.default_rng(seed).integers(0, 4, (classes, classes))
    table, names = condensed(counts, [str(code) for code in range(classes)], most)
    assert table.sum() == counts.sum()
    assert table.shape == (len(names),) * 2
    assert len(names) <= most + 1


def a_chart(name):
    one = Series('a <b> & "c" \x07 $x$', np.array([0.5, 0.4]), np.array([0.4, math.nan]), np.array([0.6, math.nan]))
    return Drawing.of(curves([one], "P@k"), name, "Ti<t>le", "caption")


def test_drawing__same_bytes_again_and_texts_stay_texts():
    first, again, other = a_chart("one"), a_chart("one"), a_chart("two")
    assert (first.svg, first.png) == (again.svg, again.png)
    assert first.svg == other.svg
    kind, _, content = first.svg.partition(";base64,")
    assert kind == "data:image/svg+xml"
    assert 'a <b> & "c" \ufffd $x$' in Html(base64.b64decode(content).decode()).text


def a_comparison(report, *, alone=0, **differences):
    """Rows of pairs ``a_b`` with difference and corrected p."""
    rows = []
    for pair, (difference, p) in differences.items():
        first, second = pair.split("_")
        values = {"first_value": 0, "second_value": 0, "n": 9, "wins": 0, "ties": 0, "losses": 0}
        names = {"first": first, "second": second, "measure": "precision", "k": 1, "average": "micro"}
        rows.append(CompareRow(**names, **values, difference=difference, p=p, p_holm=p))
    entries = tuple(Entry(name, name, "f", 9, 0, 0, 0, 9, alone) for name in "abc")
    return ComparisonReport(report.measured[0].retrieval.setting, entries, 9, 9, tuple(rows))


def test_winners__hand_worked(report):
    figure = ("precision", 1, "micro")
    sure, chance = 0.01, 0.05
    made = a_comparison(report, a_b=(-0.1, sure), a_c=(0.1, sure), b_c=(0.2, sure))
    assert winners(made) == {("b", figure)}
    assert winners(a_comparison(report, a_b=(-0.1, chance), a_c=(0.1, sure), b_c=(0.2, sure))) == set()
    assert winners(a_comparison(report, a_b=(-0.1, math.nan), a_c=(0.1, sure), b_c=(0.2, sure))) == set()
    assert winners(a_comparison(report, alone=1, a_b=(-0.1, sure), a_c=(0.1, sure), b_c=(0.2, sure))) == set()


def test_make_report__figures_are_those_of_the_other_commands(store, report):
    names = ("precision", "map")
    for finding in report.findings:
        with store.open(finding.collection) as collection:
            wide = evaluate_retrieval(collection, replace(PROTOCOL, measures=names, by=("modality", "class")))
            curve = evaluate_retrieval(collection, replace(PROTOCOL, k=tuple(range(1, 55)), by=()))
            votes = evaluate_classification(collection, replace(PROTOCOL, by=()), KnnTerms(measures=("accuracy",)))
        assert finding.measured.retrieval.rows == wide.rows
        assert finding.measured.votes.rows == votes.rows
        mine = finding.measured.curve
        assert len(mine) == wide.setting.gallery.images == 54
        theirs = [row for row in curve.rows if row.average == "micro"]
        assert [(row.k, row.n, row.coverage) for row in mine] == [(row.k, row.n, row.coverage) for row in theirs]
        for field in ("value", "low", "high"):
            expected = [getattr(row, field) for row in theirs]
            assert [getattr(row, field) for row in mine] == pytest.approx(expected, abs=1e-6)


def test_make_report__comparison_corrects_for_what_it_shows(store, report):
    theirs = compare(store, ["sharp", "blunt"], replace(PROTOCOL, measures=("precision", "map")))
    kept = [row for row in theirs.rows if (row.measure, row.k) != ("map", 1)]
    assert [replace(row, p_holm=0) for row in report.comparison.rows] == [replace(row, p_holm=0) for row in kept]
    adjusted = holm(np.array([row.p for row in kept]), [row.test for row in kept])
    assert [row.p_holm for row in report.comparison.rows] == adjusted.tolist()
    sharp, blunt = report.standings
    assert all(cell.best == (cell.measure != "accuracy") for cell in sharp.cells)  # nobody tests accuracies
    assert not any(cell.best for cell in blunt.cells)


def test_make_report__cases_are_what_the_store_finds(store, report):
    finding = report.findings[1]
    cases = finding.measured.cases
    assert [case.kind for case in cases] == ["best"] * 4 + ["worst"] * 4
    best, worst = ([case.score for case in cases if case.kind == kind] for kind in ("best", "worst"))
    assert best == sorted(best, reverse=True)
    assert worst == sorted(worst)
    assert max(worst) <= min(best)
    with store.open("blunt") as collection:
        for case in cases:
            (query,) = collection.get([case.query.id], vectors=True)
            where = (parse("split=train"), parse(f"patient_id!={query.payload['patient_id']}"))
            hits = collection.query(query.vector, HITS, where, way="exact")
            assert [(hit.id, hit.rank) for hit in hits] == [(tile.id, tile.rank) for tile in case.hits]
            assert [tile.cosine for tile in case.hits] == pytest.approx([hit.score for hit in hits], abs=1e-5)
            label = query.payload["primary_label"]
            assert case.query.label == label
            assert [tile.right for tile in case.hits] == [hit.payload["primary_label"] == label for hit in hits]


def test_make_report__a_picture_that_is_missing_is_counted_with_its_reason(report):
    tiles = [tile for item in report.measured for case in item.cases for tile in (case.query, *case.hits)]
    gone = [tile for tile in tiles if int(re.search(r"\d{3}", tile.filepath)[0]) % MISSING == 0]
    assert 0 < len(gone) == report.missing
    assert report.pictures == len(tiles) - len(gone)
    assert {tile.reason for tile in gone} == {"No such file or directory"}
    assert all(tile.picture.startswith("data:image/jpeg;base64,") == (tile not in gone) for tile in tiles)


def test_page__everything_from_data_is_escaped_and_nothing_is_loaded(written):
    report, out, files = written
    page = Html((out / "report.html").read_text(encoding="utf-8"))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "i", "link", "iframe", "object"}
    assert TITLE in page.text
    for label in CLASSES:
        assert label in page.text
    assert any(attributes.get("title") == report.measured[0].cases[0].query.filepath for _, attributes in page.elements)
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            if (value := attributes.get(name)) is None or value.startswith(("#", "data:image/")):
                continue
            assert (tag, name) == ("a", "href")
            assert (out / value) in files
        assert not any(name.startswith("on") for name in attributes)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = {value[1:] for _, item in page.elements if (value := item.get("href") or "").startswith("#")}
    assert inside <= set(ids)
    assert all(item.get("alt") for tag, item in page.elements if tag == "img")
    assert all(item.get("scope") for tag, item in page.elements if tag == "th")
    assert page.elements[0] == ("html", {"lang": "en"})


def test_page__says_what_it_is_a_result_of(written):
    report, out, _ = written
    text = Html((out / "report.html").read_text(encoding="utf-8")).text
    for finding in report.findings:
        assert finding.card.fingerprint in text
    for words in (
        "2026-01-02 03:04 UTC",
        "split=test",
        "split=train",
        "the query itself and images of its patient",
        "200 draws, seed 0",
        "Contains images of patients",
        f"{report.missing} that could not be read",
        "qdrant-edge",
        "18 images of split=val",
    ):
        assert words in text


def test_write_report__same_input_same_bytes(store, terms, written, tmp_path):
    _, out, files = written
    again = write_report(make_report(store, ["sharp", "blunt"], terms, MOMENT), tmp_path)
    assert [path.relative_to(tmp_path) for path in again] == [path.relative_to(out) for path in files]
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_write_report__files(written):
    _, out, files = written
    names = {path.relative_to(out).as_posix() for path in files}
    kinds = {"retrieval", "curve", "vote", "confusion", "cases", "map"}
    charts = {"curves", "by_modality", "by_class"}
    charts |= {f"{kind}_{name}" for kind in ("confusion", "map") for name in ("sharp", "blunt")}
    tables = {"comparison"} | {f"{kind}_{name}" for kind in kinds for name in ("sharp", "blunt")}
    assert names == {"report.html", *(f"csv/{name}.csv" for name in tables), *(f"png/{name}.png" for name in charts)}
    with (out / "csv" / "map_sharp.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == IMAGES
    assert {row["modality"] for row in rows} == {"CT", "MR", "XR"}
    assert {(row["collection"], row["map"], row["seed"]) for row in rows} == {("sharp", "pca", "0")}
    for path in (out / "png").iterdir():
        with Image.open(path) as picture:
            assert picture.width > 300


def test_make_report__what_cannot_be_computed_is_said(store, terms, tmp_path):
    everything = {"queries": conditions(["all"]), "gallery": conditions(["all"])}
    chosen = replace(terms, protocol=replace(PROTOCOL, **everything, label="labels"), projection="none", pictures=0)
    report = make_report(store, ["bare", "several"], chosen)
    text = Html(write_report(report, tmp_path)[0].read_text(encoding="utf-8")).text
    assert [item.collection for item in report.unmeasured] == ["bare"]
    for words in (
        "bare could not be measured: of 30 images of the queries in bare none has labels",
        "A comparison takes two collections or more; 1 could be measured here.",
        "Images have several values of labels",
        f"k = {FIXED_K}, fixed: no validation image (split=val) has labels",
        "No map: none was asked for.",
        "None were asked for.",
        "No figure is marked as best",
    ):
        assert words in text
    nothing = make_report(store, ["bare"], chosen)
    assert nothing.curves is None
    assert "No collection could be measured" in write_report(nothing, tmp_path)[0].read_text(encoding="utf-8")


def test_make_report__no_draws_no_interval_no_best(store, terms, tmp_path):
    chosen = replace(terms, protocol=replace(PROTOCOL, draws=0), projection="none", pictures=0)
    report = make_report(store, ["sharp", "blunt"], chosen)
    text = Html(write_report(report, tmp_path)[0].read_text(encoding="utf-8")).text
    assert "none were asked for (0 draws)" in text
    assert "no interval" in text
    assert not any(cell.best for row in report.standings for cell in row.cells)


def test_map_of__tsne_is_repeatable_and_sample_is_the_same_everywhere(store, monkeypatch):
    monkeypatch.setattr("cbmir.evaluate.analyses.report.embedding_map.MAP_IMAGES", 20)
    with store.open("sharp") as collection:
        one, same = (map_of(collection, (), "tsne", 3) for _ in range(2))
        other = map_of(collection, (), "pca", 4)
    with store.open("blunt") as collection:
        elsewhere = map_of(collection, (), "pca", 3)
    assert (one.points == same.points).all()
    assert len(one.ids) == 20
    assert one.images == IMAGES
    assert list(one.ids) == sorted(one.ids)
    assert one.ids == elsewhere.ids
    assert one.ids != other.ids
    with store.open("sharp") as collection, pytest.raises(ProtocolError, match="3 images or more; 0 of sharp"):
        map_of(collection, (parse("split=train"), parse("split=val")), "pca", 0)


def test_terms__refuse(root):
    with pytest.raises(ProtocolError, match="precision or precision_capped, not mrr"):
        ReportTerms(protocol=RetrievalProtocol(measures=("mrr",)))
    with pytest.raises(ProtocolError, match="no map 'globe'"):
        ReportTerms(projection="globe")
    with pytest.raises(ProtocolError, match="-1 queries"):
        ReportTerms(pictures=-1)


def test_make_report__refuses(store, terms, tmp_path):
    with pytest.raises(CollectionError, match="'nobody'"):
        make_report(store, ["nobody"], terms)
    with open_store(tmp_path / "empty") as empty, pytest.raises(CollectionError, match="holds no collection"):
        make_report(empty, [], terms)
    (tmp_path / "file").touch()
    with pytest.raises(CbmirError, match="can't make the folder"):
        write_report(make_report(store, ["sharp"], replace(terms, pictures=0)), tmp_path / "file")


def test_command__json_and_table(store, root, cbmir, tmp_path):
    words = ["evaluate", "report", "--store", store.location, "--out", tmp_path, "--root", root, "--draws", 100]
    words += ["--map", "none", "--pictures", 2, "-k", 3, "--allow-missing"]
    done = cbmir(*words, "sharp", "blunt", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [row["collection"] for row in answer["encoders"]] == ["sharp", "blunt"]
    assert answer["queries"] == 36
    assert answer["pictures"] + answer["pictures_missing"] == 2 * 4 * (1 + HITS)
    assert answer["files"][0] == str(tmp_path / "report.html")
    assert all(Path(path).stat().st_size for path in answer["files"])
    cells = {(cell["measure"], cell["k"], cell["average"]) for cell in answer["encoders"][0]["cells"]}
    assert cells >= {("precision", 3, "micro"), ("precision", 3, "macro"), ("map", 3, "micro"), ("map", 3, "macro")}
    table = cbmir(*words, "sharp")
    assert table.returncode == 0, table.stderr
    assert table.stdout.startswith("sharp: sharp, 8 dimensions, fingerprint ")
    *_, pictures, files = table.stdout.splitlines()
    assert pictures.endswith(" could not be read")
    assert str(tmp_path / "report.html") in files


def test_command__missing_pictures_are_told_and_a_folder_without_them_is_before_the_work(store, root, cbmir, tmp_path):
    words = ["evaluate", "report", "--store", store.location, "--out", tmp_path / "out", "--draws", 0, "--map", "none"]
    some = cbmir(*words, "--root", root, "--pictures", 20, "sharp")
    assert some.returncode == 3
    assert "pictures missing in the page" in some.stderr
    assert (tmp_path / "out/report.html").exists()
    (tmp_path / "empty").mkdir()
    for place, remedy in (((), "doesn't know where"), (("--root", tmp_path / "empty"), "none of 20 images")):
        done = cbmir(*words, "--out", tmp_path / "no", *place, "sharp")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert remedy in done.stderr
        assert "--root" in done.stderr
    assert not (tmp_path / "no").exists()


def test_page__a_hit_without_labels_is_neither_right_nor_wrong(tmp_path):
    records = [a_record(number, labels=() if number % 3 == 1 else (CLASSES[number % 3],)) for number in range(IMAGES)]
    with open_store(tmp_path / "store") as store:
        blurred(store, "some", 2.0, records)
        chosen = ReportTerms(protocol=PROTOCOL, root=tmp_path, pictures=9, allow_missing=True, projection="none")
        report = make_report(store, ["some"], chosen, MOMENT)
    (measured,) = report.measured
    hits = [hit for case in measured.cases for hit in case.hits]
    assert {hit.labelled for hit in hits} == {True, False}
    assert all(hit.labelled == (hit.label != "no label") for hit in hits)
    page = render(report, ())
    assert page.count('"tile unlabelled"') == sum(not hit.labelled for hit in hits)
    assert page.count('"tile wrong"') == sum(hit.labelled and not hit.right for hit in hits)


def test_command__one_line_errors(store, cbmir, tmp_path):
    words = ["evaluate", "report", "--store", store.location, "--out", tmp_path / "out", "--draws", 0]
    done = cbmir(*words, "nobody")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    done = cbmir(*words, "--map", "none", "--pictures", 0, "bare")
    assert done.returncode == 3
    assert done.stderr.startswith("bare could not be measured: of 6 images of the queries in bare none has ")
    assert "-labels" not in done.stderr
    assert cbmir(*words, "--root", tmp_path / "nowhere", "sharp").returncode == 2


@pytest.mark.skipif(find_spec("umap") is not None, reason="umap-learn is installed here")
def test_command__umap_names_its_package(store, cbmir, tmp_path):
    done = cbmir("evaluate", "report", "--store", store.location, "--out", tmp_path, "--map", "umap", "sharp")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "umap-learn" in done.stderr


@pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium is installed here")
def test_page__in_a_browser(written, tmp_path):
    report, out, _ = written
    with browser.browser(tmp_path) as page:
        page.open(out / "report.html")
        assert page.complaints == []
        assert page.requests == [(out / "report.html").resolve().as_uri()]
        charts = len(list(report.drawings()))
        assert page.value("document.images.length") == report.pictures + charts
        assert page.value("document.querySelectorAll('.chart img').length") == charts
        assert page.value("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.value("document.querySelectorAll('.missing').length") == report.missing
        assert page.value("[...document.querySelectorAll('.chart img')].every(image => image.width > 100)")
        assert page.value("document.documentElement.scrollWidth") <= 1280
        assert page.value("document.title") == TITLE
