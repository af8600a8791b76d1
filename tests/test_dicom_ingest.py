"""DICOM into a collection and back: what is found, what is passed over, what is known of it, and how it is asked."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicoms import made, shipped
from pictures import cbmir, pixels
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence

import cbmir as package
from cbmir.collections.prune import prune
from cbmir.encoders import get
from cbmir.errors import CollectionError, ImageError, KeyFileError, SourceError
from cbmir.ingest import SourceOptions, ingest_images, open_source
from cbmir.ingest.reindex.reindex import StoredSource
from cbmir.ingest.sources.dicom import COPIES
from cbmir.ingest.sources.dicom_options import DicomOptions, read_aliases
from cbmir.ingest.thumbnails.existing import set_thumbnails
from cbmir.ingest.thumbnails.place import open_place
from cbmir.media.dicom_places import Places
from cbmir.media.dicom_regions import read_rules, region_of
from cbmir.schema import point_id
from cbmir.search import Options, Searcher
from cbmir.search.cautions import NO_PATIENT
from cbmir.search.sheet import SheetTerms, draw_sheet
from cbmir.search.shelf import Shelf
from cbmir.store import open_store

SR, KO, ECG, SEG = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("88.11", "88.59", "9.1.1", "66.4"))
SCREEN, DX_RAW = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.1.1.1"


def image(seed: int) -> np.ndarray:
    """Blobs that the window of soft tissue shows."""
    return pixels(seed).astype(np.int16) - 100


def options(**dicom) -> SourceOptions:
    return SourceOptions(dicom=DicomOptions(**dicom))


def records(path: Path, **dicom) -> list:
    return [item.record for item in open_source(path, options(**dicom))]


def only(path: Path, **dicom):
    (record,) = records(path, **dicom)
    return record


@pytest.fixture
def data(tmp_path):
    """Two studies of one patient, one of another, of two slices each."""
    for number in range(6):
        made(
            tmp_path / f"data/deep{number % 2}/IM{number:04d}",
            image(number),
            SOPInstanceUID=f"1.2.3.{number}",
            PatientID="A" if number < 4 else "B",
            StudyInstanceUID=f"1.2.4.{number // 2}",
            BodyPartExamined="ABDOMEN",
        )
    return tmp_path / "data"


@pytest.fixture
def filled(data, tmp_path):
    """The collection, open."""
    with open_store(tmp_path / "store") as store:
        encoder = get("pixels")
        with store.open_or_create("pixels", encoder.card) as collection:
            report = ingest_images(open_source(data), encoder, collection, 1)
            assert (report.stored, report.failures) == (6, [])
            yield collection


def payloads(collection) -> list[dict]:
    return [dict(point.payload) for page in collection.scroll() for point in page]


def test_source__one_image_is_one_record_from_wherever_it_comes(tmp_path):
    path = made(tmp_path / "in/a.dcm", image(1))
    bare = path.read_bytes()[132:]
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/IM1").write_bytes(bare)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/x.jpg").write_bytes(path.read_bytes())
    (tmp_path / "pictures/y.dcm").write_bytes(b"no DICOM")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "Name^Patient/IM1")
        archive.writestr("__MACOSX/._IM1", path.read_bytes())
        archive.writestr("viewer.exe", b"MZ")
    disc = FileSet()
    needed = {"SeriesNumber": 1, "InstanceNumber": 1, "StudyID": "1", "StudyTime": "1200", "PatientName": "N"}
    facts = {"StudyDescription": "D", "AccessionNumber": "1", "SOPInstanceUID": "1.2.3", **needed}
    disc.add(made(tmp_path / "b.dcm", image(1), **facts))
    disc.write(tmp_path / "disc")
    expected = only(path)
    for place in (tmp_path / "in", tmp_path / "bare", tmp_path / "a.zip"):
        assert only(place) == expected
    assert only(tmp_path / "pictures", take="dicom") == expected
    assert only(tmp_path / "disc/DICOMDIR") == only(tmp_path / "b.dcm") == only(tmp_path / "disc")
    assert expected.id == replace(expected, dataset="another").id == point_id("any", expected.filepath)
    assert expected.filepath.startswith("dicom:")


def test_ingest__of_a_zip_file_decodes_its_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.write(made(tmp_path / f"{number}.dcm", image(number)), f"{number}")
    with open_store(tmp_path / "s") as store, store.open_or_create("pixels", get("pixels").card) as collection:
        report = ingest_images(open_source(tmp_path / "a.zip"), get("pixels"), collection, 1)
        assert (report.stored, report.failed) == (3, 0)
        assert Shelf(collection).draw(payloads(collection)[0]).size == (40, 48)


def test_source__what_holds_no_image_is_counted_by_reason(tmp_path):
    made(tmp_path / "image.dcm", image(0))
    for name, uid in {"sr": SR, "ko": KO, "ecg": ECG, "seg": SEG, "sc": SCREEN}.items():
        made(tmp_path / name, image(1), SOPClassUID=uid)
    made(tmp_path / "scout", image(2), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    made(tmp_path / "copy", image(3), SOPInstanceUID="1.2.3")
    made(tmp_path / "copy2", image(4), SOPInstanceUID="1.2.3")
    made(tmp_path / "report", None, PixelData=None, Rows=None)
    source = open_source(tmp_path)
    assert source.total == 2
    assert source.ignored == {
        f"DICOM: {COPIES}": 1,
        "DICOM: key object selections (KO)": 1,
        "DICOM: localizers (scout images)": 1,
        "DICOM: objects without an image": 1,
        "DICOM: screen captures (Secondary Capture)": 1,
        "DICOM: segmentations (SEG) and registrations": 1,
        "DICOM: structured reports (SR)": 1,
        "DICOM: waveforms (such as ECG)": 1,
    }
    assert len(records(tmp_path, include=frozenset(("localizer", "screen-capture")))) == 4


def test_source__the_twin_for_processing_is_left_out(tmp_path):
    common = {"Modality": "DX", "ViewPosition": "PA"}
    made(tmp_path / "raw", image(0), PresentationIntentType="FOR PROCESSING", **common)
    made(tmp_path / "shown", image(1), PresentationIntentType="FOR PRESENTATION", **common)
    made(tmp_path / "alone", image(2), PresentationIntentType="FOR PROCESSING", StudyInstanceUID="1.9", **common)
    assert len(records(tmp_path)) == 2
    assert len(records(tmp_path, include=frozenset(("for-processing",)))) == 3
    assert len(records(tmp_path / "raw")) == 1


def test_source__derived_slices_are_marked_or_left_out(tmp_path):
    made(tmp_path / "a", image(0), Modality="MR", ImageType=["DERIVED", "PRIMARY", "ADC"])
    made(tmp_path / "b", image(1), Modality="DX", ImageType=["DERIVED", "PRIMARY"])
    assert sorted(str(item.extra.get("derived")) for item in records(tmp_path)) == ["None", "adc"]
    assert [item.modality for item in records(tmp_path, derived=False)] == ["XR"]


def test_source__frames(tmp_path):
    path = made(tmp_path / "a", np.stack([image(n) for n in range(7)]), Modality="US")
    assert [item.filepath.rpartition("#")[2] for item in records(path)] == list("1234567")
    assert [item.filepath.rpartition("#")[2] for item in records(path, frames="3")] == list("147")
    assert [item.filepath.rpartition("#")[2] for item in records(path, frames="key")] == ["4"]
    named = made(tmp_path / "b", np.stack([image(n) for n in range(7)]), Modality="US", RepresentativeFrameNumber=6)
    assert [item.filepath.rpartition("#")[2] for item in records(named, frames="key")] == ["6"]
    with pytest.raises(SourceError, match="no frames 'some'"):
        options(frames="some")


def test_source__facts_by_the_allow_list(tmp_path):
    record = only(
        made(
            tmp_path / "a",
            image(0),
            Modality="CR",
            ViewPosition="LL",
            ImageLaterality="L",
            BodyPartExamined="CHEST",
            SeriesDescription="Thorax seitlich Herr Meier",
            Manufacturer="SIEMENS Healthineers",
            ManufacturerModelName="YSIO Max",
            PixelSpacing=[0.14, 0.15],
            PatientAge="018M",
            PatientComments="nothing of this",
        )
    )
    payload = record.payload()
    assert {name: payload[name] for name in ("modality", "anatomic_region", "view", "sex", "age_years")} == {
        "modality": "XR",
        "anatomic_region": "chest",
        "view": "LATERAL",
        "sex": "F",
        "age_years": 1.5,
    }
    assert payload["extra"] == {
        "laterality": "left",
        "manufacturer": "Siemens",
        "model": "YSIO Max",
        "spacing_mm": [0.14, 0.15],
    }
    assert "Meier" not in json.dumps(payload)


def test_source__slices_know_plane_and_position(tmp_path):
    record = only(
        made(
            tmp_path / "a",
            image(0),
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[-100, -120, 55.5],
            SliceThickness=3,
        )
    )
    assert record.extra == {"plane": "axial", "slice_position_mm": 55.5, "slice_thickness_mm": 3.0}


@pytest.mark.parametrize(
    ("facts", "region"),
    [
        ({"BodyPartExamined": "CHEST"}, "chest"),
        ({"BodyPartExamined": "LSPINE"}, "lumbar_spine"),
        ({"BodyPartExamined": "THX-ABD"}, "chest"),
        ({"SeriesDescription": "Schädel nativ axial"}, "head"),
        ({"SeriesDescription": "t2_tse_Kniegelenk re"}, None),
        ({"SeriesDescription": "Knie re. sag"}, "knee"),
        ({"SeriesDescription": "Genou gauche profil"}, "knee"),
        ({"SeriesDescription": "Rachis lombaire"}, "lumbar_spine"),
        ({"StudyDescription": "CT Thorax/Abdomen/Becken"}, "chest_abdomen_pelvis"),
        ({"SeriesDescription": "CHESTNUT"}, None),
        ({"BodyPartExamined": "BRAIN", "SeriesDescription": "Abdomen"}, "brain"),
        ({}, None),
    ],
)
def test_region_of__words_of_three_languages(facts, region):
    dataset = Dataset()
    for name, value in facts.items():
        setattr(dataset, name, value)
    assert region_of(dataset).region == region
    assert region_of(dataset).disagrees == (len(facts) == 2)


def test_region_of__codes_and_words_of_the_user(tmp_path):
    dataset, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D3000", "SRT", "anything"
    dataset.AnatomicRegionSequence = Sequence([code])
    assert region_of(dataset).region == "chest"
    (tmp_path / "words.csv").write_text("words,region\nkniegelenk*|kg,Knee\n")
    dataset.SeriesDescription = "T2 KNIEGELENK"
    assert region_of(dataset, read_rules(tmp_path / "words.csv")).by_source == {"code": "chest", "description": "knee"}
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="needs the columns words and region"):
        read_rules(tmp_path / "wrong.csv")


def test_source__who_is_a_patient(tmp_path):
    def file(number: int, **facts) -> None:
        made(tmp_path / f"{number}", image(number), **{"StudyInstanceUID": f"1.5.{number}", **facts})

    file(0, PatientID="A")
    file(1, PatientID=" A ")
    file(2, PatientID="A", IssuerOfPatientID="elsewhere")
    file(3, PatientID="ANONYMOUS")
    file(4, PatientID="")
    file(5, PatientID="C", PatientBirthDate="19400101")
    file(6, PatientID="C", PatientBirthDate="19400102")
    file(7, PatientID="D", StudyInstanceUID="1.5.99")
    file(8, PatientID="E", StudyInstanceUID="1.5.99")
    source = open_source(tmp_path)
    ids = [item.record.patient_id for item in source]
    assert ids[0] == ids[1] is not None
    assert ids[2] not in (None, ids[0])
    assert ids[3:7] == [None] * 4
    assert ids[7] == ids[8] is not None
    warnings = "\n".join(source.reading().warnings)
    assert "names nobody (ANONYMOUS): 1" in warnings
    assert "without a patient id: 1" in warnings
    assert "several birth dates or sexes are no patient" in warnings
    assert "several patient ids, which count as one patient: 1" in warnings
    assert "1940" not in warnings
    (tmp_path / "aliases.csv").write_text("old,new\nD,A\nE,A\n")
    merged = [item.patient_id for item in records(tmp_path, aliases=read_aliases(tmp_path / "aliases.csv"))]
    assert merged[0] == merged[7] == merged[8]
    (tmp_path / "aliases.csv").write_text("old,new\nD,E\nE,F\nF,D\n")
    with pytest.raises(SourceError, match="circle"):
        read_aliases(tmp_path / "aliases.csv")


@pytest.mark.parametrize(
    ("column", "values", "by"),
    [
        ("StudyInstanceUID", ("1.2.4.0", "1.2.4.2"), "study"),
        ("patient_id", ("A", "B"), "patient"),
        ("SOPInstanceUID", ("1.2.3.0", "1.2.3.5"), "instance"),
        ("accession number", ("77", "78"), "accession"),
    ],
)
def test_source__labels_are_joined_on_an_identifier(data, tmp_path, column, values, by):
    for number in range(6):
        made(data / f"deep{number % 2}/IM{number:04d}", image(number), SOPInstanceUID=f"1.2.3.{number}",
             PatientID="A" if number < 4 else "B", StudyInstanceUID=f"1.2.4.{number // 2}",
             BodyPartExamined="ABDOMEN", AccessionNumber=str(77 + number // 3))  # fmt: skip
    table = tmp_path / "labels.csv"
    table.write_text(
        f"{column},labels,split,name\n{values[0]},Cyst,train,Secret\n{values[1]},CT/liver/mass,test,x\n9.9,y,val,z\n"
    )
    source = open_source(data, options(labels=table))
    found = [item.record for item in source]
    counts = {"study": (2, 2), "patient": (4, 2), "instance": (1, 1), "accession": (3, 3)}[by]
    assert sum(item.labels == ("CT/abdomen/cyst",) for item in found) == counts[0]
    assert sum(item.labels == ("CT/liver/mass",) and item.split == "test" for item in found) == counts[1]
    assert f"joined by {by}; entries without an image: 1," in "\n".join(source.reading().lines())
    assert "Secret" not in str([item.payload() for item in found])
    with pytest.raises(SourceError, match="no column that identifies images"):
        open_source(data, options(labels=table, labels_by="series"))


def test_ingest__again_skips_and_a_changed_window_embeds_again(filled, data):
    again = ingest_images(open_source(data), get("pixels"), filled, 1)
    assert (again.stored, again.skipped, again.updated) == (0, 6, 0)
    made(data / "deep0/IM0000", image(9), SOPInstanceUID="1.2.3.0", PatientID="A", StudyInstanceUID="1.2.4.0",
         BodyPartExamined="ABDOMEN")  # fmt: skip
    assert ingest_images(open_source(data), get("pixels"), filled, 1).stored == 1


def test_ingest__another_window_is_refused(filled, data):
    with pytest.raises(CollectionError, match="--window auto, not lung"):
        ingest_images(open_source(data, options(window="lung")), get("pixels"), filled, 1)


def test_search__a_dicom_query_is_read_as_the_gallery(filled, data):
    for path in (data / "deep0/IM0002", (data / "deep0/IM0002").read_bytes()):
        with Searcher(filled) as searcher:
            (answer,) = searcher.ask(path, Options(k=6, exclude_same_patient=False))
        assert answer.hits[0].score == pytest.approx(1, abs=1e-5)
        assert answer.stored is not None
        assert answer.stored.id == answer.hits[0].id
    with Searcher(filled) as searcher:
        with pytest.raises(CollectionError, match="the query would have the window bone"):
            searcher.dicom.use_window("bone")
        assert searcher.dicom.use_window("auto") is None
        assert "not comparable" in str(searcher.dicom.use_window("bone", force=True))
        (answer,) = searcher.ask(data / "deep0/IM0002", Options(k=1, exclude_same_patient=False))
        assert answer.hits[0].score < 0.9999


def test_search__patient_and_study_of_a_query_that_isnt_stored(filled, tmp_path):
    new = made(tmp_path / "new.dcm", image(77), PatientID="A", StudyInstanceUID="1.2.99")
    study = made(tmp_path / "study.dcm", image(78), PatientID="", StudyInstanceUID="1.2.4.2")
    nobody = made(tmp_path / "nobody.dcm", image(79), PatientID="", StudyInstanceUID="1.7")
    how = Options(k=6, exclude_same_patient=True)
    with Searcher(filled) as searcher:
        counts = {path: searcher.ask(path, how)[0] for path in (new, study, nobody)}
    assert [len(answer.hits) for answer in counts.values()] == [2, 4, 6]
    assert not any(answer.cautions for answer in counts.values())


def test_search__without_the_key_nothing_is_left_out_in_silence(filled, data, monkeypatch, tmp_path):
    monkeypatch.setenv("CBMIR_DICOM_KEY", str(tmp_path / "none"))
    with Searcher(filled) as searcher:
        (answer,) = searcher.ask(data / "deep0/IM0002", Options(k=1))
        assert answer.hits[0].score == pytest.approx(1, abs=1e-5)
        assert NO_PATIENT in answer.cautions
        assert answer.suspected == {answer.hits[0].id}
        with pytest.raises(KeyFileError, match="there is no key file"):
            searcher.ask(data / "deep0/IM0002", Options(k=1, exclude_self=True))
    with pytest.raises(ImageError, match="the key of its collection isn't at hand"):
        Shelf(filled).draw(payloads(filled)[0])


def test_pixels__are_found_by_the_key(filled, data, tmp_path):
    with Searcher(filled) as searcher:
        answers = searcher.ask([data / "deep0/IM0000", data / "deep1/IM0001"], Options(k=2))
    drawn = draw_sheet(answers, Shelf(filled), SheetTerms(path=tmp_path / "a.png"))
    assert (drawn.rows, drawn.missing) == (2, {})
    report = set_thumbnails(filled, tmp_path, open_place(tmp_path / "t", "https://images.example.org"), workers=1)
    assert (report.set, report.failures) == (6, [])
    assert len(list(StoredSource(filled, tmp_path))) == 6
    assert prune(filled, tmp_path).gone == ()
    (data / "deep0/IM0000").unlink()
    assert len(prune(filled, tmp_path).gone) == 1


def test_prune__knows_nothing_of_dicom_of_another_machine(filled, monkeypatch, tmp_path):
    monkeypatch.setenv("CBMIR_DICOM_PLACES", str(tmp_path / "elsewhere"))
    report = prune(filled, tmp_path, remove=True)
    assert (report.looked_at, report.remote, report.removed) == (6, 6, 0)


def test_places__are_for_their_user_alone(data):
    source = open_source(data)
    places = Places(source.settings.key)
    assert places.path.stat().st_mode & 0o777 == 0o600
    assert source.settings.key.secret.hex() not in repr(source.settings)


@pytest.mark.slow
def test_command__folder_in_and_query_out(data, tmp_path):
    run = ("--store", "store")
    done = cbmir("ingest", "images", data, "--encoder", "pixels", *run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "made the key of DICOM identifiers" in done.stderr
    assert "Keep a copy" in done.stderr
    assert (tmp_path / "audit-pixels.jsonl").exists()
    question = ("search", "image", data / "deep0/IM0002", "-k", 1, "--json", "--include-same-patient")
    found = cbmir(*question, *run, cwd=tmp_path)
    name = json.loads(found.stdout)[0]["hits"][0]["payload"]["filepath"]
    where = cbmir("ingest", "where", name, cwd=tmp_path)
    assert where.stdout.strip() == str(data / "deep0/IM0002")
    refused = cbmir("search", "image", data / "deep0/IM0002", "--window", "lung", *run, cwd=tmp_path)
    assert refused.returncode == 1
    forced = cbmir("search", "image", data / "deep0/IM0002", "--window", "lung", "--force", *run, cwd=tmp_path)
    assert forced.returncode == 0
    assert "DICOM queries have the window lung; the collection holds the window auto" in forced.stderr
    dry = cbmir("ingest", "images", data, "--dry-run", "--dicom-key", tmp_path / "other.key", cwd=tmp_path)
    assert "DICOM" in dry.stderr
    assert not (tmp_path / "other.key").exists()
    copied = cbmir(
        "ingest", "reindex", "pixels", "--encoder", "pixels", "--as", "two", "--root", data, *run, cwd=tmp_path
    )
    assert "stored 6" in copied.stderr
    again = cbmir(*question, "--collection", "two", *run, cwd=tmp_path)
    assert json.loads(again.stdout)[0]["hits"][0]["payload"]["filepath"] == name


def test_api__a_folder_and_a_query(data, tmp_path):
    with package.connect(tmp_path / "s") as store:
        report = store.ingest(data, "pixels", window="soft", progress=False)
        assert report.stored == 6
        hits = store["pixels"].search(data / "deep0/IM0002", k=3, exclude_same_patient=True)
        assert len(hits) == 2
        assert hits.sheet(tmp_path / "a.png").exists()


def test_source__shipped_files_are_taken_or_counted(tmp_path):
    source = open_source(shipped()[0].parent)
    taken = {item.record.filepath.partition("#")[0] for item in source if hasattr(item, "record")}
    failed = [item for item in source if not hasattr(item, "record")]
    counted = sum(count for why, count in source.ignored.items() if why.startswith("DICOM: "))
    beside = sum(count for why, count in source.ignored.items() if why.startswith("DICOM: ") is False)
    assert len(taken) + counted + len(failed) + beside >= len(shipped())
    assert len(taken) > 20
    assert {item.reason for item in failed} <= {"is no DICOM file: it has no header"}


def test_source__a_member_that_unpacks_to_too_much_is_one_line(tmp_path, monkeypatch):
    """By what the archive says of it, and by what comes out of it."""
    monkeypatch.setenv("CBMIR_IMAGE_BYTES", "1M")
    bomb = made(tmp_path / "bomb.dcm", np.zeros((1000, 1000), np.int16)).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bomb)
        archive.write(made(tmp_path / "good.dcm", image(1)), "good")
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(data.replace(len(bomb).to_bytes(4, "little"), (5000).to_bytes(4, "little")))
    for name in ("a.zip", "b.zip"):
        items = list(open_source(tmp_path / name))
        reasons = [item.reason for item in items if hasattr(item, "reason")]
        assert len(items) == 2
        assert len(reasons) == 1
        assert "too large" in reasons[0] or "damaged" in reasons[0]
        assert str(tmp_path) not in reasons[0]


def test_source__an_archive_that_is_none(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(SourceError):
        open_source(tmp_path / "a.zip")


def test_source__a_header_that_promises_too_many_frames(tmp_path):
    path = made(tmp_path / "a.dcm", np.stack([image(0), image(1)]), Modality="US", NumberOfFrames=2_000_000_000)
    (failure,) = open_source(path)
    assert failure.reason == "says that it holds 2,000,000,000 frames, 100,000 at most"
    assert failure.filepath.startswith("file:")


def test_search__collections_asked_as_one_were_read_alike(data, tmp_path):
    with package.connect(tmp_path / "s") as store:
        store.ingest(data, "pixels", collection="a", progress=False)
        store.ingest(data, "pixels", collection="b", window="lung", progress=False)
        with pytest.raises(CollectionError, match="holds DICOM read with --window lung, not auto"):
            store["a+b"].search(data / "deep0/IM0002", k=1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('old,new\nP1,P2\n"P3,P4\nP5,P6\n', "after line 2"),  # a quotation mark that is never closed
        ("old,new\nP1,P2\nP1,P3\n", "row 2: its old patient id was merged into another one"),
        ("old,new\nP1,\n", "row 1: an old or a new patient id is missing"),
        ("from,to\nP1,P2\n", "needs the columns old and new"),
        ("old,new\nP1,P2\nP2,P1\n", "in a circle"),
    ],
)
def test_read_aliases__never_merges_in_silence(tmp_path, text, reason):
    (tmp_path / "aliases.csv").write_text(text)
    with pytest.raises(SourceError, match=reason) as caught:
        read_aliases(tmp_path / "aliases.csv")
    assert "P3" not in str(caught.value)
