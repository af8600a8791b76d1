"""Experiments from a file: what is read, what is done, what is kept, and what a result says of itself."""

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet
import pytest
from builders import copied, put

import cbmir as cbmir_package
from cbmir.errors import ProtocolError
from cbmir.evaluate import experiment as provenance
from cbmir.evaluate.analysis import Chosen
from cbmir.evaluate.cli import evaluate
from cbmir.evaluate.experiment import state_of
from cbmir.evaluate.experiment_plan import read_plan, read_reference
from cbmir.evaluate.registry import ANALYSES
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

DIM = 6


def blurred(store: EdgeStore, name: str, noise: float) -> None:
    """Sixty images of thirty patients in three classes and splits, blurred."""
    rng = np.random.default_rng(0)
    codes = np.arange(60) // 2 % 3
    records = tuple(
        ImageRecord(
            filepath=f"{number:02}.png",
            dataset="syn",
            split=("train", "train", "val", "test")[number // 2 % 4],
            modality="CT",
            labels=(f"CT/chest/finding_{codes[number]}",),
            patient_id=f"p{number // 2}",
        )
        for number in range(60)
    )
    put(store, name, records, np.eye(DIM)[codes] + noise * rng.standard_normal((60, DIM))).close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two collections."""
    store = EdgeStore(tmp_path_factory.mktemp("both") / "store")
    blurred(store, "sharp", 0.1)
    blurred(store, "blunt", 2.0)
    return store.path


@pytest.fixture
def folder(both: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the store."""
    copied(both, tmp_path / "store")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text)
    return path


WHOLE = """
store = "store"
out = "results"
collections = ["sharp", "blunt"]

[all]
draws = 50

[retrieval]
measure = ["precision", "map"]
k = [1, 3]
by = []
export = "knn.csv"
relations = "relations.yaml"

[[classify]]
name = "vote"
k = 3

[[classify]]
name = "weighted"
vote = "softmax"
max_k = 5

[probe]
protocol = "paper"
epochs = 2
shots = [2]

[compare]
where = ["modality=CT"]

[recall]
count = 5
ef = 64
"""


def test_run__does_everything_once(folder, cbmir):
    (folder / "relations.yaml").write_text("same: 2\n")
    file = written(folder, WHOLE)
    done = cbmir("evaluate", "run", file, "--json")
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    steps = ["retrieval", "vote", "weighted", "probe", "recall"]
    expected = [(name, step) for name in ("sharp", "blunt") for step in steps] + [(None, "compare")]
    assert [(item["collection"], item["step"]) for item in outcomes] == expected
    assert {item["state"] for item in outcomes} == {"done"}
    results = folder / "results"
    for name, step in expected:
        base = results / name if name else results
        assert (base / f"{step}.csv").read_text().count("\n") > 1
        result = json.loads((base / f"{step}.json").read_text())
        states = result["provenance"]["collections"]
        assert [state["collection"] for state in states] == ([name] if name else ["sharp", "blunt"])
        assert all(len(state["content"]) == 64 and state["points"] == 60 for state in states)
        assert result["provenance"]["versions"]["torch"]
    assert (results / "sharp" / "knn.csv").read_text() != (results / "blunt" / "knn.csv").read_text()

    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.*")}
    again = cbmir("evaluate", "run", file, "--json")
    assert {item["state"] for item in json.loads(again.stdout)} == {"kept"}
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.*")} == before


def test_run__a_result_is_that_of_the_command(folder, cbmir):
    file = written(
        folder, 'store = "store"\nout = "r"\ncollections = ["blunt"]\n[retrieval]\nk = [1, 5]\ndraws = 100\n'
    )
    assert cbmir("evaluate", "run", file).returncode == 0
    options = ("--store", folder / "store", "--collection", "blunt", "-k", 1, "-k", 5, "--draws", 100, "--json")
    alone = cbmir("evaluate", "retrieval", *options)
    assert json.loads((folder / "r/blunt/retrieval.json").read_text())["result"] == json.loads(alone.stdout)


EVERYWHERE = {
    "retrieval": "k = [1, 3]\nrelevance = 'jaccard'\nlabel = 'labels'\nexclude = 'dataset'\nsearch = 'exact'",
    "classify": "max_k = 5\nmodality = 'CT'\nmeasure = ['f1', 'accuracy']",
    "probe": "protocol = 'paper'\nepochs = 2\nshots = 3",
    "compare": "k = 2\nwhere = 'modality=CT'",
    "recall": "count = 5\nef = 64\nfilter = 'split=test'",
    "audit": "k = 3\nthreshold = 0.9\nconfounder = 'view'",
    "sweep": "size = ['50%', 9]\ngalleries = 2",
    "report": "k = 1\npictures = 0\nmap = 'none'\ninclude_same_patient = true",
}
"""Of every analysis the keys of a file."""

TIMES = ("p50_ms", "p95_ms", "queries_per_s", "exact_p50_ms", "count_ms")


def without_times(value: Any) -> Any:
    """A result without what the clock decides."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in (*TIMES, "files")}
    return [without_times(item) for item in value] if isinstance(value, list | tuple) else value


def typed(table: dict[str, Any]) -> list[str]:
    """The keys of a file as options of a command."""
    words = []
    for key, value in table.items():
        flag = f"-{key}" if len(key) == 1 else f"--{key.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            words += [flag] if item is True else [flag, str(item)]
    return words


@pytest.mark.parametrize("name", ANALYSES)
def test_run__the_command_the_file_and_python_give_the_same(folder, cbmir, name):
    """All three make the same configuration, and write it whole into JSON and CSV."""
    text = EVERYWHERE[name]
    text += "\ndraws = 20" if name != "recall" else ""
    table = tomllib.loads(text)
    file = written(folder, f'store = "store"\nout = "r"\ncollections = ["sharp", "blunt"]\n[{name}]\n{text}\n')
    done = cbmir("evaluate", "run", file)
    assert done.returncode == 0, done.stderr
    analysis = ANALYSES[name]
    alone = analysis.takes == "one"
    where = folder / "r" / "sharp" if alone else folder / "r"
    by_file = json.loads((where / f"{name}.json").read_text())["result"]

    chosen = ["--collection", "sharp"] if alone else ["sharp", "blunt"]
    out = folder / ("page" if analysis.folder else "alone.csv")
    by_command = cbmir("evaluate", name, *chosen, "--store", folder / "store", *typed(table), "--out", out, "--json")
    assert by_command.returncode == 0, by_command.stderr

    store = cbmir_package.connect(folder / "store")
    configuration = analysis.configuration(**table)
    asked = store["sharp"].core if alone else Chosen(store.core, ("sharp", "blunt"))
    by_python = analysis.run(asked, configuration).as_json()

    expected = without_times(by_file)
    assert without_times(json.loads(by_command.stdout)) == expected
    assert without_times(json.loads(json.dumps(by_python))) == expected
    assert expected["configuration"] == configuration.as_json()
    assert set(expected["configuration"]) >= {spec.field for spec in configuration.options() if not spec.file} - {
        "include_same_patient"
    }
    assert expected["versions"]["cbmir"]
    for path in [out] if alone or name == "compare" else sorted(out.glob("csv/[!cm]*.csv")):
        with path.open(newline="", encoding="utf-8") as lines:
            row = next(csv.DictReader(lines))
        columns = {key.removeprefix("configuration."): row[key] for key in row if key.startswith("configuration.")}
        assert set(columns) == set(expected["configuration"])
        for key, value in expected["configuration"].items():
            plain = " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
            assert columns[key] == plain
        assert f"cbmir {expected['versions']['cbmir']}" in row["versions"]


def test_run__a_result_whose_csv_is_gone_or_whose_code_changed_is_made_again(folder, cbmir, monkeypatch):
    file = written(folder, 'store = "store"\nout = "r"\ncollections = ["sharp"]\n[recall]\ncount = 5\nef = 64\n')

    def state() -> str:
        done = cbmir("evaluate", "run", file, "--json")
        return str(json.loads(done.stdout)[0]["state"])

    assert state() == "done"
    assert state() == "kept"
    (folder / "r/sharp/recall.csv").unlink()
    assert state() == "done"
    assert (folder / "r/sharp/recall.csv").exists()
    assert state() == "kept"
    monkeypatch.setattr(provenance, "code_digest", lambda: "of other files")
    assert state() == "done"


def test_code_digest__is_of_all_packages(tmp_path, monkeypatch):
    """A changed line in evaluate, which a link or a package mapping brings in, changes the digest."""
    for name in ("a.py", "evaluate/b.py"):
        (tmp_path / "cbmir" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cbmir" / name).write_text("x = 1\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.py").write_text("y = 1\n")
    (tmp_path / "cbmir/search").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(cbmir_package, "__file__", str(tmp_path / "cbmir/__init__.py"))
    digests = set()
    for path in (None, "cbmir/a.py", "cbmir/evaluate/b.py", "elsewhere/c.py"):
        if path:
            (tmp_path / path).write_text("z = 2\n")
        digests.add(provenance.code_digest.__wrapped__())
    assert len(digests) == 4


def test_run__what_changed_is_done_again(folder, cbmir, monkeypatch):
    head = 'store = "store"\nout = "r"\n'
    text = head + '[retrieval]\nk = 1\nrelations = "relations.yaml"\nmeasure = "ndcg"\n[compare]\n'
    (folder / "relations.yaml").write_text("same: 2\n")

    def states(text: str) -> dict[tuple[str | None, str], str]:
        done = cbmir("evaluate", "run", written(folder, text), "--json")
        return {(item["collection"], item["step"]): item["state"] for item in json.loads(done.stdout)}

    assert set(states(text).values()) == {"done"}
    assert set(states(text).values()) == {"kept"}
    assert set(states("collections = ['sharp', 'blunt']\n" + text).values()) == {"kept", "done"}  # another order
    with monkeypatch.context() as patch:
        patch.chdir(folder)  # paths are another way to the same files
        done = cbmir("evaluate", "run", "experiment.toml", "--collection", "sharp", "--collection", "blunt", "--json")
        kept = {item["step"]: item["state"] for item in json.loads(done.stdout) if item["collection"]}
        assert kept == {"retrieval": "kept"}
    changed = states(text.replace("k = 1", "k = 2"))
    assert changed[None, "compare"] == "done"  # the order is back
    assert (changed["sharp", "retrieval"], changed["blunt", "retrieval"]) == ("done", "done")
    (folder / "relations.yaml").write_text("same: 3\n")
    assert states(text.replace("k = 1", "k = 2"))["sharp", "retrieval"] == "done"
    with EdgeStore(folder / "store").open("sharp") as collection:
        point = next(collection.scroll())[0]
        collection.set_payloads({point.id: {"patient_id": "another"}})
    again = states(text.replace("k = 1", "k = 2"))
    assert (again["sharp", "retrieval"], again["blunt", "retrieval"]) == ("done", "kept")
    assert again[None, "compare"] == "done"


def test_state_of__vectors_count_where_they_were_made_elsewhere(folder):
    with EdgeStore(folder / "store").open("sharp") as collection:
        before = state_of(collection)
        assert state_of(collection) == before
        (point,) = collection.get([next(collection.scroll())[0].id], vectors=True)
        moved = ImageRecord(
            filepath=point.payload["filepath"],
            dataset="syn",
            split=point.payload["split"],
            modality="CT",
            labels=tuple(point.payload["labels"]),
            patient_id=point.payload["patient_id"],
        )
        vector = normalise(point.vector[np.newaxis] + 1)
        collection.upsert(EmbeddedBatch((moved,), vector, collection.card.fingerprint))
        assert collection.get([point.id])[0].payload == point.payload
        assert state_of(collection).content != before.content
        assert state_of(collection).points == before.points


def test_run__a_step_that_fails_does_not_stop_the_others(folder, cbmir):
    text = (
        'store = "store"\nout = "r"\ncollections = ["sharp"]\n[retrieval]\nqueries = "modality=MR"\n[classify]\nk = 1\n'
    )
    done = cbmir("evaluate", "run", written(folder, text))
    assert done.returncode == 3
    first, second = done.stderr.splitlines()
    assert first.startswith(
        "sharp: retrieval failed: no image for the queries (modality=MR): no modality 'MR' in sharp"
    )
    assert second.startswith("sharp: classify done in ")
    assert not (folder / "r/sharp/retrieval.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[retrieval]\nk = 0\n", r"\[retrieval\] k is 0: .* 1"),
        ("[retrieval]\nk = true\n", r"\[retrieval\] k is True: .* integer"),
        ("[retrieval]\nmeasure = 'accuracy'\n", r"\[retrieval\] no measure 'accuracy'; there are precision_capped"),
        ("[retrieval]\nlabel = ['labels']\n", r"\[retrieval\] label is \['labels'\]: .* string"),
        ("[retrieval]\nlabel = {x = 1}\n", r"\[retrieval\] label is a table, not a value"),
        ("[retrieval]\ncutoff = 3\n", r"\[retrieval\] has no option 'cutoff'; there are label, .* queries"),
        ("[retrieval]\nout = 'x'\n", r"\[retrieval\] has no option 'out'"),
        ("[retrieval]\nstore = 'x'\n", r"\[retrieval\] has no option 'store'"),
        ("[retrieval]\ninclude_same_patient = 1\n", "include-same-patient is 1: .* boolean"),
        ("[retrieval]\nrelations = 'nowhere.yaml'\n", r"relations is .*nowhere.yaml.*: path does not point to a file"),
        ("retrieval = 3\n", "retrieval is 3, not a table of options"),
        ("[search]\n", "has 'search'; there are store, out, collections, all, retrieval"),
        ("store = 3\n[retrieval]\n", "store is 3, not a text"),
        ("collections = 'a'\n[retrieval]\n", "collections is 'a', not a list"),
        ("[all]\nseed = 1\n", "asks for nothing; there are retrieval, classify"),
        ("[all]\nshots = 1\n[retrieval]\n", r"no analysis of the file has an option 'shots', which \[all\] sets"),
        ("[[retrieval]]\n[[retrieval]]\n", r"\[retrieval\] needs a name of its own, .* it has 'retrieval'"),
        ("[retrieval]\nname = '../x'\n", r"\[retrieval\] needs a name of its own, .* it has '../x'"),
        ("[retrieval\n", "can't read the experiment"),
    ],
)
def test_read_plan__says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ProtocolError, match=message):
        read_plan(written(tmp_path, text))


def test_read_plan__paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "relations.yaml").write_text("same: 2\n")
    plan = read_plan(written(tmp_path, WHOLE))
    assert plan.store == str(tmp_path / "store")
    assert plan.out == tmp_path / "results"
    retrieval = plan.steps[0]
    assert retrieval.configuration.relations == tmp_path / "relations.yaml"
    assert retrieval.written(tmp_path / "there") == {"export": tmp_path / "there" / "knn.csv"}
    assert read_plan(written(tmp_path, WHOLE.replace('"store"', '"http://h:1"'))).store == "http://h:1"


def test_run__needs_a_store_and_a_folder(tmp_path, cbmir):
    for text, option in (("", "store"), ('store = "s"\n', "out")):
        done = cbmir("evaluate", "run", written(tmp_path, text + "[retrieval]\n"))
        assert done.returncode == 2
        assert f"give --{option}" in done.stderr


def config(folder: Path, **changes: object) -> Path:
    """A config.json as the paper's script writes it."""
    path = folder / "config.json"
    made = {
        "comment": "sharp with CheXpert, MIMIC, NIH14, and RadImageNet",
        "experiments_dir": "experiments/chexpert_mimic_nih14_radimagenet/sharp",
        "embeddings_dir": "embeddings/sharp",
        "datasets_dir": "datasets",
        "h5_paths": ["embeddings/sharp/nih14.h5", "embeddings/sharp/mimic.h5"],
        "csv_paths": ["datasets/nih14.csv", "datasets/mimic.csv"],
        "index_path": "experiments/x/sharp/faiss.index",
        "knn_csv": "experiments/x/sharp/knn.csv",
        "k": 7,
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.01,
        "patience": 1,
        "num_workers": 10,
        "device": "cuda",
        "label_columns": ["XR/chest/Pneumonia"],
    }
    path.write_text(json.dumps(made | changes))
    return path


def test_run__the_papers_config(folder, cbmir):
    done = cbmir("evaluate", "run", config(folder), "--store", folder / "store", "--out", folder / "r")
    assert done.returncode == 0, done.stderr
    results = {
        step: json.loads((folder / f"r/sharp/{step}.json").read_text())["result"]
        for step in ("retrieval", "classify", "probe")
    }
    retrieval, classify, probe = results.values()
    assert retrieval["protocol"]["queries"] == {
        "filter": "split=test",
        "images": 14,
        "unlabelled": 0,
        "datasets": {"syn": 14},
        "further_labels": 0,
    }
    assert retrieval["protocol"]["exclusion"]["same_patient"] == "included"
    assert retrieval["protocol"]["k"] == [1, 2, 3, 4, 5, 6, 7]
    assert (classify["protocol"]["rules"], classify["protocol"]["max_k"]) == ("paper", 7)
    settings = probe["protocol"]["settings"]
    assert (settings["epochs"], settings["batch"], settings["learning_rate"], settings["patience"]) == (2, 8, 0.01, 1)
    header, *rows = (folder / "r/sharp/knn.csv").read_text().splitlines()
    assert header.replace('"', "") == "query,1,2,3,4,5,6,7"
    assert len(rows) == 28  # val only chooses k, but its neighbours are there
    assert classify["protocol"]["ties"] == "the order of label_columns"
    assert {row["n"] for row in retrieval["rows"] if row["group"] == "all"} == {14}


def test_run__the_papers_config_without_its_collection(folder, cbmir):
    file = config(folder, experiments_dir="experiments/all/MedCLIP")
    done = cbmir("evaluate", "run", file, "--store", folder / "store", "--out", folder / "r")
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        "make it with: cbmir ingest embeddings embeddings/sharp/nih14.h5 embeddings/sharp/mimic.h5 --table "
        f"datasets/nih14.csv --table datasets/mimic.csv --encoder MedCLIP --store {folder / 'store'}"
    )
    named = cbmir("evaluate", "run", file, "--store", folder / "store", "--out", folder / "r", "--collection", "sharp")
    assert named.returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't read"),
        ("[]", "no config.json of the paper's programs: it has no experiments_dir"),
        ("3", "can't read"),
    ],
)
def test_read_reference__says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ProtocolError, match=message):
        read_reference(path)
    with pytest.raises(ProtocolError, match="k is 'many', not a number"):
        read_reference(config(tmp_path, k="many"))


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses__can_be_asked_for_in_a_file(name):
    command = evaluate.commands[name]
    options = {name for item in command.params if isinstance(item, click.Option) for name in item.opts}
    assert {"--store", "--out", "--json"} <= options
    arguments = [item for item in command.params if isinstance(item, click.Argument)]
    assert ("--collection" in options) != bool(arguments)
    assert all(item.nargs == -1 for item in arguments)


WRITTEN = ("export", "export-long", "confusion", "curve", "pairs")


@pytest.mark.parametrize("name", ["classify", "probe"])
def test_run__no_file_of_the_published_protocol_looks_like_one_of_the_default(folder, cbmir, name):
    """Rows, classes and matrix: each file says which protocol it is of."""
    place = ("--store", folder / "store", "--collection", "sharp", "--draws", 20, "--json")
    said = []
    for protocol in ("default", "paper"):
        out, confusion = folder / f"{name}-{protocol}.csv", folder / f"{name}-{protocol}-confusion.csv"
        done = cbmir("evaluate", name, *place, "--protocol", protocol, "--out", out, "--confusion", confusion)
        assert done.returncode == 0, done.stderr
        with out.open() as file:
            rows = list(csv.DictReader(file))
        assert {row["average"] for row in rows} == {"micro", "macro", "label"}
        beside = json.loads(confusion.with_name(f"{confusion.name}.json").read_text())["configuration"]["rules"]
        said.append([{row["configuration.rules"] for row in rows}, {beside}])
        assert json.loads(done.stdout)["configuration"]["rules"] == protocol
    assert said == [[{"default"}] * 2, [{"paper"}] * 2]


def test_run__files_without_room_for_it_have_what_they_answer_beside_them(folder, cbmir):
    """A Parquet file carries its configuration, a matrix or a table of a fixed layout has it in a file beside it."""
    place = ("--store", folder / "store", "--collection", "sharp")
    commands = {
        ("retrieval", "--export", "a.parquet", "--export-long", "b.csv"): ("a.parquet", "b.csv"),
        ("classify", "-k", 1, "--confusion", "c.csv"): ("c.csv",),
        ("probe", "--protocol", "paper", "--epochs", 1, "--curve", "d.csv"): ("d.csv",),
        ("audit", "--pairs", "e.parquet"): ("e.parquet",),
        ("probe", "--confusion", "f.csv"): ("f.csv",),
    }
    covered = {(words[0], word) for words in commands for word in words if str(word)[2:] in WRITTEN}
    assert covered == {
        (name, spec.flag)
        for name, item in ANALYSES.items()
        for spec in item.configuration.options()
        if spec.file == "written"
    }
    for words, files in commands.items():
        given = [folder / word if str(word).endswith((".csv", ".parquet")) else word for word in words]
        done = cbmir("evaluate", *given, *place, "--draws", 0, "--json")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        expected = {key: result[key] for key in ("analysis", "configuration", "versions")}
        for name in files:
            if name.endswith(".parquet"):
                found = pyarrow.parquet.read_schema(folder / name).metadata[b"cbmir"]
            else:
                found = (folder / f"{name}.json").read_bytes()
            assert json.loads(found) == expected
