"""``cbmir evaluate classify`` and ``probe`` on small collections: the figures against scikit-learn, and the words."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.classes import CLASS_MEASURES
from cbmir.evaluate.analyses.classification.knn import KnnTerms, VoteRules, evaluate_classification
from cbmir.evaluate.analyses.classification.linear import ProbeSettings
from cbmir.evaluate.analyses.classification.probe import ProbeTerms, evaluate_probe
from cbmir.evaluate.analyses.classification.report import MEASURES
from cbmir.evaluate.analyses.classification.splits import Coding, read_splits
from cbmir.evaluate.analyses.classification.votes import NONE
from cbmir.evaluate.protocol import RetrievalProtocol, conditions, searches
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store import open_store
from cbmir.store.sources import remember

pytestmark = pytest.mark.slow

CARD = external_card("clusters", 8)
NAMES = tuple(f"{modality}/chest/{finding}" for modality in ("CT", "XR") for finding in ("a", "b", "c"))
SIZES = {"train": 120, "val": 60, "test": 60}
FIGURES = RetrievalProtocol(draws=0)
SHORT = ProbeTerms(settings=ProbeSettings(epochs=10))
EMPTY = ((), ("b",), ("a", "b"))


def _clusters(seed=0):
    """Labelled records of overlapping clusters, each with a patient of its own, and their vectors."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(NAMES), CARD.dim))
    splits = [split for split, count in SIZES.items() for _ in range(count)]
    classes = rng.integers(len(NAMES), size=len(splits))
    records = tuple(
        ImageRecord(
            filepath=f"{number}.png",
            dataset="syn",
            split=split,
            modality=NAMES[code][:2],
            labels=(NAMES[code],),
            patient_id=f"p{number}",
        )
        for number, (split, code) in enumerate(zip(splits, classes, strict=True))
    )
    vectors = centres[classes] + 1.1 * rng.standard_normal((len(splits), CARD.dim))
    return records, normalise(vectors.astype(np.float32))


def _fill(store, name, records, vectors):
    collection = store.create(name, CARD)
    collection.upsert(EmbeddedBatch(tuple(records), vectors, CARD.fingerprint))
    return collection


@pytest.fixture(scope="module")
def location(tmp_path_factory):
    """A directory with the collections clusters; noval, the same without validation images; and several."""
    records, vectors = _clusters()
    path = tmp_path_factory.mktemp("classify") / "store"
    kept = [number for number, record in enumerate(records) if record.split != "val"]
    pairs = [replace(r, labels=(*r.labels, NAMES[0])) if i % 3 == 0 else r for i, r in enumerate(records)]
    pairs = [replace(record, labels=tuple(dict.fromkeys(record.labels))) for record in pairs]
    with open_store(path) as store:
        _fill(store, "clusters", records, vectors).close()
        _fill(store, "noval", [records[number] for number in kept], vectors[kept]).close()
        _fill(store, "several", pairs, vectors).close()
    return path


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """The collection clusters, open; the commands have another, as a directory has one user at a time."""
    path = tmp_path_factory.mktemp("clusters") / "store"
    with open_store(path) as store, _fill(store, "clusters", *_clusters()) as collection:
        yield collection


@pytest.fixture
def fill(tmp_path):
    """A function that opens a new collection of some records and vectors."""
    with open_store(tmp_path / "store") as store:
        opened = []

        def put(records, vectors):
            opened.append(_fill(store, "probe", records, vectors))
            return opened[-1]

        yield put
        for collection in opened:
            collection.close()


def _side(split):
    records, vectors = _clusters()
    rows = [number for number, record in enumerate(records) if record.split == split]
    return vectors[rows].astype(np.float64), np.array([NAMES.index(records[row].labels[0]) for row in rows])


def _oracle(k, split, temperature=None):
    """Truth and shares of votes by scikit-learn."""

    def weigh(distances):
        return np.ones_like(distances) if temperature is None else np.exp((1 - distances) / temperature)

    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weigh).fit(*_side("train"))
    vectors, truth = _side(split)
    return truth, model.predict_proba(vectors)


def _values(rows, group="all"):
    return {(row.measure, row.average): row.value for row in rows if row.group == group}


@pytest.mark.parametrize("search", sorted({*searches()} - {"ranks"}))  # of several encoders
def test_evaluate_classification__softmax_equals_scikit_learn(clusters, search):
    rules = VoteRules(vote="softmax", k=9)
    report = evaluate_classification(clusters, replace(FIGURES, searches=(search,)), KnnTerms(rules=rules))
    truth, votes = _oracle(9, "test", rules.temperature)
    said = votes.argmax(axis=1)
    values = _values(report.rows)
    assert values["accuracy", "micro"] == pytest.approx(accuracy_score(truth, said), abs=1e-12)
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        for average in ("micro", "macro"):
            assert values[name, average] == pytest.approx(score(truth, said, average=average, zero_division=0))
    for average in ("micro", "macro"):
        expected = roc_auc_score(np.eye(len(NAMES))[truth], votes, average=average)
        assert values["roc_auc", average] == pytest.approx(expected, abs=1e-6)  # votes by float32 cosines
    np.testing.assert_array_equal(report.confusion.toarray(), confusion_matrix(truth, said))
    assert {row.search for row in report.rows} == {search}


def test_evaluate_classification__k_is_the_best_on_validation_images(clusters):
    report = evaluate_classification(clusters, FIGURES, KnnTerms(max_k=25, rules=VoteRules(vote="softmax")))
    accuracies = []
    for k in range(1, 26):
        truth, votes = _oracle(k, "val", 0.07)
        accuracies.append(accuracy_score(truth, votes.argmax(axis=1)))
    method = report.method
    assert method.val_scores == pytest.approx(accuracies)
    assert method.chosen_k == 1 + int(np.argmax(accuracies)) > 1
    assert (method.how, method.max_k, method.val.in_test) == ("val", 25, 0)
    given = evaluate_classification(
        clusters, FIGURES, KnnTerms(rules=VoteRules(vote="softmax", k=report.method.chosen_k))
    )
    assert _values(given.rows) == _values(report.rows)
    assert (given.method.how, given.method.val) == ("given", None)


def test_evaluate_classification__validation_images_among_the_tested_are_counted(clusters):
    report = evaluate_classification(clusters, FIGURES, KnnTerms(max_k=5, val=conditions(["split=test|val"])))
    assert (report.method.val.side.images, report.method.val.in_test) == (120, 60)
    assert "60 of them test images: too high" in report.table()


def test_evaluate_classification__paper_reaches_no_further_than_the_true_class(clusters):
    report = evaluate_classification(clusters, FIGURES, KnnTerms(max_k=100, rules=VoteRules(paper=True)))
    default = evaluate_classification(clusters, FIGURES, KnnTerms(max_k=100))
    assert (report.method.rules, default.method.rules) == ("paper", "default")
    scores = report.method.val_scores
    assert report.method.chosen_k == max(1, int(np.argmax(scores[:99])))
    # with all 100 neighbours the leak shows: the others vote past the images of rare classes
    assert scores[99] > default.method.val_scores[99]


def test_evaluate_classification__own_patient_has_no_vote_and_both_figures_are_given(fill):
    records, vectors = _clusters()
    wrong = dict(zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True))
    tested = [number for number, record in enumerate(records) if record.split == "test"]
    copies = [
        replace(records[i], filepath=f"copy{i}.png", split="train", labels=(wrong[records[i].labels[0]],))
        for i in tested
    ]
    collection = fill((*records, *copies), np.concatenate([vectors, vectors[tested]]))
    terms = KnnTerms(rules=VoteRules(k=1))
    report = evaluate_classification(collection, FIGURES, terms)
    gallery, classes = _side("train")
    asked, truth = _side("test")
    cosines = asked @ np.concatenate([gallery, asked]).T
    cosines[np.arange(len(asked)), len(gallery) + np.arange(len(asked))] = -1
    said = np.concatenate([classes, (truth + 1) % len(NAMES)])[cosines.argmax(axis=1)]
    assert _values(report.rows)["accuracy", "micro"] == accuracy_score(truth, said) > 0
    assert _values(report.together)["accuracy", "micro"] == 0
    assert report.setting.exclusion.images_excluded == len(tested)
    free = evaluate_classification(collection, replace(FIGURES, exclude=()), terms)
    assert _values(free.rows) == _values(report.together)
    assert free.together == ()


def test_evaluate_classification__classes_without_queries_or_gallery_are_named(fill):
    records, vectors = _clusters()
    kept = [
        number
        for number, record in enumerate(records)
        if (record.split, record.labels[0]) not in {("test", NAMES[0]), ("train", NAMES[1])}
    ]
    report = evaluate_classification(fill([records[i] for i in kept], vectors[kept]), FIGURES, KnnTerms(max_k=9))
    assert (report.left_out.absent, report.left_out.unseen) == ((NAMES[0],), (NAMES[1],))
    assert report.setting.classes_without_gallery == (NAMES[1],)
    assert min(row.coverage for row in report.rows) < 1


@pytest.mark.parametrize(
    ("values", "classes", "several", "firsts"),
    [((), 0, False, [NONE]), (EMPTY[:2], 1, False, [NONE, 0]), (EMPTY, 2, True, [NONE, 1, 0])],
)
def test_coding__has_several_classes_where_an_image_does(values, classes, several, firsts):
    coding = Coding.of(values or ((),))
    assert (len(coding.classes), coding.several, coding.firsts.tolist()) == (classes, several, firsts)


def test_read_splits__rows_of_both_splits_keep_their_patients_and_classes(clusters):
    splits = read_splits(clusters, FIGURES, conditions(["split=val"]))
    records, vectors = _clusters()
    by_id = {bytes.fromhex(record.id.replace("-", "")): number for number, record in enumerate(records)}
    assert splits.val is not None
    for name, trial in (("test", splits.test), ("val", splits.val)):
        patients = list(trial.vocabularies["patient_id"])
        assert len(trial.queries) == SIZES[name]
        for row, packed in enumerate(trial.queries.ids.tolist()):
            number = by_id[packed.ljust(16, b"\0")]
            assert records[number].split == name
            assert patients[trial.queries.codes["patient_id"][row]][:1] == (records[number].patient_id,)
            assert trial.class_names[trial.classes[row]] == records[number].labels[0]
            np.testing.assert_array_equal(trial.query_vectors[row], vectors[number])


def test_evaluate_probe__learns_as_well_as_logistic_regression(clusters):
    settings = ProbeSettings(learning_rate=0.5, epochs=15)  # 120 images are one step an epoch
    report = evaluate_probe(clusters, FIGURES, ProbeTerms(settings=settings, shots=(10, 5), draws=2))
    oracle = LogisticRegression(C=100, max_iter=1000).fit(*_side("train")).score(*_side("test"))
    values = _values(report.report.rows)
    assert values["accuracy", "micro"] > oracle - 0.1
    assert {(row.k, row.search) for row in report.report.rows} == {(0, "probe")}
    assert [few.shots for few in report.few] == [5, 10]
    assert report.report.method.queries_seen == 0


def test_evaluate_probe__streamed_gallery_gives_the_same_figures(clusters, monkeypatch):
    held = evaluate_probe(clusters, FIGURES, SHORT)
    monkeypatch.setattr("cbmir.evaluate.ranking.reading.HELD_BYTES", 0)
    streamed = evaluate_probe(clusters, FIGURES, SHORT)
    assert _values(streamed.report.rows) == _values(held.report.rows)
    assert streamed.training.curve == held.training.curve


def test_evaluate_probe__counts_queries_whose_patient_was_learnt_from(fill):
    records, vectors = _clusters()
    records = [replace(r, patient_id="p0") if r.split == "test" and i % 2 else r for i, r in enumerate(records)]
    report = evaluate_probe(fill(records, vectors), FIGURES, SHORT).report
    assert report.method.queries_seen == SIZES["test"] // 2
    assert report.setting.exclusion.same_patient == "included"


def test_classify__json_has_rows_confusion_and_what_was_left_out(cbmir, location, tmp_path):
    files = {name: tmp_path / f"{name}.csv" for name in ("out", "confusion")}
    common = ("evaluate", "classify", "--store", location, "--collection", "clusters", "--max-k", 9, "--draws", 50)
    done = cbmir(*common, "--json", *(item for name, path in files.items() for item in (f"--{name}", path)))
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert list(data) == [
        *("protocol", "encoder", "rows", "labels", "confusion", "left_out"),
        *("analysis", "configuration", "versions"),
    ]
    assert {row["measure"] for row in data["rows"]} == set(MEASURES)
    assert {row["group"] for row in data["rows"]} == {"all", "modality=CT", "modality=XR"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in data["rows"])
    protocol = data["protocol"]
    assert (protocol["vote"], protocol["temperature"], protocol["how"]) == ("mean", None, "val")
    assert [protocol["chosen_k"]] == protocol["k"] == [data["rows"][0]["k"]]
    assert protocol["val"]["side"]["filter"] == "split=val"
    counts = data["confusion"]["counts"]
    assert sum(count for _, _, count in counts) == SIZES["test"]
    header, *lines = csv.reader(files["confusion"].open(newline=""))
    names = data["confusion"]["classes"]
    assert header == ["true", *names, "no answer", "queries", *(f"rate {name}" for name in names)]
    assert {(i, j): int(n) for i, line in enumerate(lines) for j, n in enumerate(line[1:7]) if int(n)} == {
        (i, j): n for i, j, n in counts
    }
    for line in lines:
        queries = int(line[8])
        assert sum(map(int, line[1:8])) == queries
        assert [float(rate) for rate in line[9:]] == pytest.approx([int(n) / queries for n in line[1:7]])
    assert [item["label"] for item in data["labels"]] == names
    assert len(files["out"].read_text().splitlines()) == 1 + len(data["rows"]) + len(names) * len(CLASS_MEASURES)


def test_classify__by_class_gives_each_class_against_the_others(cbmir, location):
    """A group of one true class has no false alarms, so that precision there would be the recall under another name."""
    common = ("evaluate", "classify", "--store", location, "--collection", "clusters", "-k", 3, "--draws", 20)
    data = json.loads(cbmir(*common, "--by", "class", "--json").stdout)
    assert {row["group"] for row in data["rows"]} == {"all"}
    by_label = {item["label"]: item for item in data["labels"]}
    counts = np.zeros((len(by_label),) * 2)
    for i, j, n in data["confusion"]["counts"]:
        counts[i, j] = n
    for code, item in enumerate(by_label.values()):
        assert item["ppv"]["value"] == pytest.approx(counts[code, code] / counts[:, code].sum())
        assert item["sensitivity"]["value"] == pytest.approx(counts[code, code] / counts[code].sum())
    table = cbmir(*common, "--by", "class", "--by", "pathology").stdout
    assert "groups by class, pathology: each class has a line of its own" in table
    assert "each value of primary_label by itself" in table
    assert "confusion: queries of each class" in table


@pytest.mark.parametrize(
    ("columns", "ties", "said"),
    [
        ((), "alphabetical order, as the order of its label columns isn't known", "CT/a/first"),
        (("CT/a/Second", "CT/a/First"), "the order of label_columns", "CT/a/second"),
        (("Second",), "the order of label_columns", "CT/a/second"),
    ],
)
def test_evaluate_classification__paper_ties_go_by_the_order_of_columns(fill, columns, ties, said):
    """Two neighbours of two classes: equal votes."""
    names = ("CT/a/first", "CT/a/second")
    train = [(name, (1.0, number / 100)) for number, name in enumerate(names * 2)]
    asked = [(names[0], (1.0, 0.0))]
    rows = [("train", *row) for row in train] + [(split, *row) for split in ("test", "val") for row in asked]
    records = [
        ImageRecord(filepath=f"{number}.png", dataset="syn", split=split, labels=(label,))
        for number, (split, label, _) in enumerate(rows)
    ]
    vectors = np.pad(np.array([vector for *_, vector in rows], np.float32), ((0, 0), (0, 6)))
    collection = fill(records, normalise(vectors))
    terms = KnnTerms(rules=VoteRules(paper=True, k=2, columns=columns))
    report = evaluate_classification(collection, RetrievalProtocol(searches=("exact",), exclude=()), terms)
    counts = report.confusion.toarray()
    assert report.classes[int(np.argmax(counts.sum(axis=0)))] == said
    assert report.method.ties == ties
    assert f"equal votes go by {ties}" in report.table()


def test_evaluate_classification__paper_takes_the_column_order_of_the_tables(fill):
    records, vectors = _clusters()
    with fill(records, vectors) as collection:
        order = [name.replace("/chest/", "/Chest/") for name in reversed(NAMES)]
        remember(collection, {"syn/t.csv": {"read_at": "2026", "label_columns": order}}, {})
        terms = KnnTerms(rules=VoteRules(paper=True), max_k=5)
        report = evaluate_classification(collection, FIGURES, terms)
    assert report.classes == tuple(reversed(NAMES))
    assert report.method.ties == "the order of the label columns of its table"


def test_classify__table_and_one_measure(cbmir, location):
    common = ("evaluate", "classify", "--store", location, "--collection", "clusters", "-k", 3, "--draws", 20)
    done = cbmir(*common, "--measure", "f1", "--vote", "softmax", "--temperature", 0.1)
    assert done.returncode == 0
    for text in ("softmax at temperature 0.1 of 3 neighbours", CARD.fingerprint, "95% intervals", "6 values of"):
        assert text in done.stdout
    assert "accuracy" not in done.stdout


def test_classify__several_values_are_questions_of_their_own(cbmir, location, tmp_path):
    common = ("evaluate", "classify", "--store", location, "--collection", "several", "--label", "labels")
    done = cbmir(*common, "--max-k", 5, "--draws", 0, "--json")
    data = json.loads(done.stdout)
    assert (data["protocol"]["several"], data["confusion"]["counts"]) == (True, None)
    assert all(0 < row["value"] < 1 for row in data["rows"] if row["group"] == "all")
    assert "accuracy" not in {row["measure"] for row in data["rows"]}
    (exact,) = [row for row in data["rows"] if row["measure"] == "exact_match_accuracy" and row["group"] == "all"]
    macro = {row["measure"]: row["value"] for row in data["rows"] if (row["average"], row["group"]) == ("macro", "all")}
    for measure, value in macro.items():  # the mean over the labels that queries have
        one = {"precision": "ppv", "recall": "sensitivity"}.get(measure, measure)
        values = [item[one]["value"] for item in data["labels"] if item["queries"]]
        if measure == "precision":
            values = [item or 0 for item in values]  # 0 where it was never predicted
        assert value == pytest.approx(np.mean(values))
    table = cbmir(*common, "--max-k", 5, "--draws", 0, "--out", tmp_path / "rows.csv").stdout
    assert f"{exact['value']:.4f}" in table
    assert "each value of labels by itself" in table
    lines = list(csv.DictReader((tmp_path / "rows.csv").open(newline="")))
    one_class = {"accuracy", "balanced_accuracy", "kappa", "mcc"}
    assert {row["measure"] for row in lines} == {"exact_match_accuracy", *MEASURES, *CLASS_MEASURES} - one_class
    of_labels = {row["group"] for row in lines if row["average"] == "label"}
    assert of_labels == {f"label={item['label']}" for item in data["labels"]}


def test_probe__several_values_have_no_accuracy_without_a_name(cbmir, location, tmp_path):
    common = ("evaluate", "probe", "--store", location, "--collection", "several", "--label", "labels", "--draws", 0)
    done = cbmir(
        *common,
        "--protocol",
        "paper",
        "--epochs",
        2,
        "--shots",
        2,
        "--draws-shots",
        1,
        "--json",
        "--curve",
        tmp_path / "c.csv",
    )
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert '"accuracy"' not in json.dumps({key: item for key, item in data.items() if key != "configuration"})
    assert '"val_accuracy"' not in done.stdout
    data = json.loads(done.stdout)
    assert 0 <= data["protocol"]["val_exact_match_accuracy"] <= 1
    assert data["few_shot"][0]["rows"][0]["measure"] == "exact_match_accuracy"
    assert "val_exact_match_accuracy" in (tmp_path / "c.csv").read_text().splitlines()[0]


def test_probe__writes_curve_and_few_shots(cbmir, location, tmp_path):
    common = ("evaluate", "probe", "--store", location, "--collection", "clusters", "--draws", 0, "--json")
    options = (
        "--protocol",
        "paper",
        "--epochs",
        6,
        "--shots",
        4,
        "--draws-shots",
        2,
        "--curve",
        tmp_path / "curve.csv",
    )
    fresh = json.loads(cbmir(*common, *options).stdout)
    assert len(fresh["curve"]) == 6 == len((tmp_path / "curve.csv").read_text().splitlines()) - 1
    (few,) = fresh["few_shot"]
    assert (few["shots"], few["images"], few["short"]) == (4, [24, 24], [])
    assert {row["measure"] for row in few["rows"]} == set(MEASURES)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("classify", "noval"),
            1,
            "error: k is chosen on validation images: no image for the validation (split=val): ",
        ),
        (("classify", "noval"), 1, "give -k"),
        (
            ("probe", "noval"),
            1,
            "error: a probe is stopped on validation images: no image for the validation (split=val)",
        ),
        (("classify", "clusters", "--val", "modality=MR"), 1, "no modality 'MR' in clusters"),
        (("classify", "clusters", "--protocol", "paper", "--vote", "softmax"), 1, "the paper's protocol has the mean"),
        (("classify", "clusters", "--relevance", "jaccard"), 1, "error: relevance jaccard means nothing to a classif"),
        (("classify", "several", "--label", "labels", "--protocol", "paper"), 1, "images of one class only"),
        (("classify", "several", "--label", "labels", "-k", "3", "--confusion", "x"), 1, "have no confusion matrix"),
        (("classify", "clusters", "--temperature", "0"), 2, "0.0 is not in the range x>0"),
        (("classify", "clusters", "-k", "0"), 2, "0 is not in the range"),
        (("probe", "clusters", "--include-same-patient"), 2, "No such option"),
    ],
)
def test_commands__errors_are_one_line(cbmir, location, arguments, code, message):
    command, name, *options = arguments
    done = cbmir("evaluate", command, "--store", location, "--collection", name, "--draws", 0, *options)
    assert done.returncode == code
    assert message in done.stderr.strip().splitlines()[-1]
    assert code == 2 or len(done.stderr.strip().splitlines()) == 1


def test_evaluate_classification__label_that_no_validation_image_has(fill):
    records, vectors = _clusters()
    records = [replace(record, labels=()) if record.split == "val" else record for record in records]
    with pytest.raises(ProtocolError, match="has primary_label"):
        evaluate_classification(fill(records, vectors), FIGURES)
