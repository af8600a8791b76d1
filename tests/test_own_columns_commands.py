"""Own columns, spellings of modalities and what a collection remembers of its tables, by the commands."""

import csv
import io
import json

import pandas as pd
import pytest
from pictures import write_picture
from standin import Standin

from cbmir.collections.exports import Export, export
from cbmir.collections.transfer import transfer
from cbmir.store import open_store
from cbmir.store.sources import remembered, sources_of

pytestmark = pytest.mark.slow

IMAGES = 24


def write_rows(folder, name="scans.csv", **columns):
    """A table of small pictures, with further columns."""
    for row in range(IMAGES):
        write_picture(folder / f"{row:02}.png", row)
    table = pd.DataFrame(
        {
            "filepath": [f"{row:02}.png" for row in range(IMAGES)],
            "split": ["test" if row % 4 == 0 else "train" for row in range(IMAGES)],
            "patient_id": [f"p{row // 2}" for row in range(IMAGES)],
            "modality": ["MRT" if row % 2 else "CT" for row in range(IMAGES)],
            "XR/chest/Mass": [row % 3 % 2 for row in range(IMAGES)],
            "CT/lung/Nodule": [int(row % 3 == 0) for row in range(IMAGES)],
            "scanner": [("Siemens", "GE", "")[row % 3] for row in range(IMAGES)],
            "kvp": [80 + 20 * (row % 4) for row in range(IMAGES)],
            "secret name": [f"Smith {row}" for row in range(IMAGES)],
            **columns,
        }
    )
    table.to_csv(folder / name, index=False)
    return folder / name


OPTIONS = ("--column", "secret name=ignored", "--values", "modality:MRT=MR")


@pytest.fixture(scope="module", params=["directory", "server"])
def place(request, tmp_path_factory):
    """A folder with a table, and a store in which its images are."""
    folder = tmp_path_factory.mktemp("commands")
    if request.param == "directory":
        yield folder, str(folder / "store")
        return
    with Standin(folder / "server", strict=False) as standin:
        yield folder, standin.url


@pytest.fixture
def filled(place, cbmir):
    folder, store = place
    table = folder / "scans.csv"
    if not table.exists():
        write_rows(folder)
        done = cbmir("ingest", "images", table, "--encoder", "pixels", "--store", store, *OPTIONS, "--index", "scanner")
        assert done.returncode == 0, done.stderr
    return folder, store


def search(cbmir, filled, *options):
    folder, store = filled
    return cbmir("search", "image", folder / "00.png", "--store", store, "-k", "50", "--include-same-patient", *options)


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        (("scanner=GE",), lambda row: row % 3 == 1),
        (("extra.scanner=Siemens", "kvp>100"), lambda row: row % 3 == 0 and row % 4 > 1),
        (("scanner!=GE|Siemens",), lambda row: row % 3 == 2),
        (("scanner~s*",), lambda row: row % 3 == 0),
        (("modality=MRT",), lambda row: row % 2),
        (("modality=MRI",), lambda row: row % 2),
    ],
)
def test_search__where_own_columns(cbmir, filled, conditions, wanted):
    options = [word for text in conditions for word in ("--where", text)]
    done = search(cbmir, filled, *options, "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    rows = {int(hit["payload"]["filepath"][:2]) for hit in answer["hits"]}
    assert rows == {row for row in range(IMAGES) if wanted(row)}
    assert all("kvp" in hit["payload"]["extra"] for hit in answer["hits"])


def test_search__an_unknown_column_names_the_nearest(cbmir, filled):
    done = search(cbmir, filled, "--where", "scaner=GE")
    assert done.returncode == 1
    assert "'scaner'" in done.stderr
    assert "did you mean scanner" in done.stderr
    done = search(cbmir, filled, "--show", "scaner")
    assert done.returncode == 1
    assert "did you mean scanner" in done.stderr


def test_search__show_own_columns(cbmir, filled):
    done = search(cbmir, filled, "--show", "scanner", "--show", "split", "--show", "extra.kvp")
    line = next(line for line in done.stdout.splitlines() if line.endswith(" 07.png"))
    assert line.split()[-4:-1] == ["GE", "train", "140"]
    done = search(cbmir, filled, "--show", "scanner", "--format", "csv-long")
    rows = {row["filepath"]: row["scanner"] for row in csv.DictReader(io.StringIO(done.stdout))}
    assert rows == {f"{row:02}.png": ("Siemens", "GE", "")[row % 3] for row in range(IMAGES)}
    assert search(cbmir, filled, "--show", "scanner", "--format", "csv").returncode == 2


def test_evaluate__by_an_own_column(cbmir, filled):
    _, store = filled
    words = ("evaluate", "retrieval", "--store", store, "--draws", "0", "--label", "pathology", "--search", "exact")
    done = cbmir(*words, "--by", "scanner", "--by", "extra.kvp", "--json")
    assert done.returncode == 0, done.stderr
    groups = {row["group"] for row in json.loads(done.stdout)["rows"]}
    assert groups == {"all", "scanner=GE", "scanner=Siemens", "extra.kvp=80"}
    done = cbmir(*words, "--by", "scaner")
    assert done.returncode == 1
    assert "--by scaner" in done.stderr
    assert "did you mean scanner" in done.stderr
    assert "can't be grouped by age_years" in cbmir(*words, "--by", "age_years").stderr
    done = cbmir(*words, "--queries", "scanner=GE", "--gallery", "scanner!=GE", "--json")
    assert json.loads(done.stdout)["protocol"]["queries"]["images"] == 8


def test_collections__index_and_its_errors(cbmir, filled):
    _, store = filled
    done = cbmir("collections", "index", "pixels", "scanner", "extra.kvp", "--store", store)
    assert done.returncode == 0, done.stderr
    assert "scanner: an index of 2 texts" in done.stderr
    with open_store(store) as opened, opened.open("pixels") as collection:
        assert collection.own_index("extra.scanner") == collection.own_index("extra.kvp") == "keyword"
    assert "did you mean scanner" in cbmir("collections", "index", "pixels", "scaner", "--store", store).stderr
    assert "is a payload field" in cbmir("collections", "index", "pixels", "sex", "--store", store).stderr


def test_ingest__index_names_an_own_column(cbmir, filled):
    folder, store = filled
    words = ("ingest", "images", folder / "scans.csv", "--encoder", "pixels", "--store", store, "--index")
    done = cbmir(*words, "scaner")
    assert done.returncode == 1
    assert "no own column scaner; there are scanner" in done.stderr
    assert "payload field" in cbmir(*words, "split").stderr


def test_card__remembers_how_each_table_was_read(cbmir, filled):
    folder, store = filled
    write_rows(folder, "second.csv", kvp=1)
    words = ("ingest", "images", folder / "second.csv", "--encoder", "pixels", "--store", store, *OPTIONS)
    assert cbmir(*words).returncode == 0
    with open_store(store) as opened, opened.open("pixels") as collection:
        sources = sources_of(collection.metadata())
        assert collection.spellings() == {"mrt": "MR"}
    assert set(sources) == {"scans/scans.csv", "second/second.csv"}
    first = sources["scans/scans.csv"]
    assert first["label_columns"] in (["XR/chest/Mass", "CT/lung/Nodule"], ("XR/chest/Mass", "CT/lung/Nodule"))
    roles = {column["name"]: (column["became"], list(column["first"])) for column in first["columns"]}
    assert roles["scanner"] == ("extra", ["Siemens", "GE"])
    assert roles["secret name"] == ("ignored", [])
    assert roles["patient_id"] == ("patient_id", [])
    assert "Smith" not in json.dumps(sources)
    assert first["tally"]["images"] == IMAGES
    shown = cbmir("collections", "show", "pixels", "--store", store)
    assert "read from scans/scans.csv: 24 images" in shown.stdout
    assert "mrt is MR" in shown.stdout
    shown = json.loads(cbmir("collections", "show", "pixels", "--store", store, "--json").stdout)
    assert set(shown["sources"]) == set(sources)


def test_card__copies_remember_it_too(cbmir, filled, tmp_path):
    _, store = filled
    with open_store(store) as opened, opened.open("pixels") as collection, open_store(tmp_path / "copy") as other:
        known = remembered(collection.metadata())
        assert known
        with other.create("pixels", collection.card) as copy:
            transfer(collection, copy)
            assert remembered(copy.metadata()) == known
        export(collection, tmp_path / "export")
        with Export(tmp_path / "export") as exported, other.create("again", collection.card) as again:
            transfer(exported, again)
            assert remembered(again.metadata()) == known


def test_values__spellings_of_modalities_in_labels_and_folders(cbmir, tmp_path):
    write_picture(tmp_path / "data/MRT/brain/glioma/1.png", 1)
    write_picture(tmp_path / "data/CT/brain/glioma/2.png", 2)
    store = tmp_path / "store"
    words = ("ingest", "images", tmp_path / "data", "--encoder", "pixels", "--store", store)
    assert cbmir(*words, "--values", "modality:MRT=MRI").returncode == 0
    for text in ("modality=mrt", "modality=MR", "labels=MRT/brain/glioma", "modality!=CT"):
        done = cbmir(
            "search", "image", tmp_path / "data/CT/brain/glioma/2.png", "--store", store, "--where", text, "--json"
        )
        (answer,) = json.loads(done.stdout)
        assert [hit["payload"]["labels"] for hit in answer["hits"]] == [["MR/brain/glioma"]], text


def test_modalities__shows_the_table(cbmir):
    done = cbmir("ingest", "modalities")
    assert "MR    MR, MRI, NMR" in done.stdout
    assert "ultrasound" in json.loads(cbmir("ingest", "modalities", "--json").stdout)["US"]
