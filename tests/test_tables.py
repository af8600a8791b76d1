"""How a stranger's table is read: columns, labels and values, and what is said of it."""

import json
import re
import unicodedata
from pathlib import Path

import pytest
from pictures import write_picture

from cbmir.aliases import ALIASES
from cbmir.errors import ImageError, SourceError
from cbmir.ingest import SourceOptions, open_source
from cbmir.ingest.sources import SourceImage
from cbmir.ingest.tables.columns import FIELDS
from cbmir.ingest.tables.options import TableOptions
from cbmir.ingest.tables.values import years_of
from cbmir.media import Asset
from cbmir.modalities import MODALITIES
from cbmir.schema import PAYLOAD_FIELDS

GUIDE = Path(__file__).resolve().parent.parent / "docs/guide.md"


def opened(tmp_path, text, name="t.csv", constants=None, **options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return open_source(tmp_path / name, SourceOptions(constants=constants or {}, table=TableOptions(**options)))


def records(tmp_path, text, **options):
    items = list(opened(tmp_path, text, **options))
    assert all(isinstance(item, SourceImage) for item in items), items
    return [item.record for item in items]


def became(source):
    return {column.name: column.became for column in source.reading().columns}


@pytest.mark.parametrize(("field", "name"), [(alias.field, name) for alias in ALIASES for name in alias.names])
def test_columns__every_alias_in_every_spelling(tmp_path, field, name):
    for spelling in (name, name.title(), name.replace(" ", "_").upper(), name.title().replace(" ", ""), f" {name} "):
        header = spelling if field == "filepath" else f"filepath,{spelling}"
        roles = became(opened(tmp_path, f"{header}\na.png,\n" if field != "filepath" else f"{header}\na.png\n"))
        assert roles[spelling.strip()] == field


def test_columns__names_that_count_only_where_there_is_no_better_one(tmp_path):
    assert became(opened(tmp_path, "image_id,x\na.png,1\n"))["image_id"] == "filepath"
    roles = became(opened(tmp_path, "image_id,path\n7,a.png\n"))
    assert roles == {"image_id": "extra", "path": "filepath"}


def test_columns__guide_lists_the_aliases_and_the_modalities():
    guide = GUIDE.read_text(encoding="utf-8")
    for alias in ALIASES:
        row = f"| `{alias.field}` | {', '.join(alias.names)} | {', '.join(alias.otherwise)} |"
        assert row in guide, row
    for code, spellings in MODALITIES.items():
        row = f"| `{code}` | {', '.join(spellings)} |"
        assert row in guide, row


def test_columns__a_field_of_the_schema_each():
    assert len(set(FIELDS)) == len(FIELDS) == 14
    spellings = [spelling for alias in ALIASES for spelling in (*alias.names, *alias.otherwise)]
    assert len(set(spellings)) == len(spellings)


def test_columns__two_for_one_field_are_refused_with_both_names(tmp_path):
    with pytest.raises(
        SourceError, match=r"PatientID and subject_id would both be patient_id.*--column 'PatientID=pat"
    ):
        opened(tmp_path, "filepath,PatientID,subject_id\na.png,1,2\n")
    (record,) = records(tmp_path, "filepath,PatientID,subject_id\na.png,1,2\n", columns={"subject_id": "patient_id"})
    assert (record.patient_id, record.extra) == ("2", {"PatientID": "1"})


def test_columns__every_field_of_a_stored_image_is_read_or_left_to_the_file(tmp_path):
    """As in a table of what another collection holds: none of it becomes a label or goes to extra."""
    header = ",".join(item.name for item in PAYLOAD_FIELDS)
    source = opened(tmp_path, f"{header}\na.png{',' * (len(PAYLOAD_FIELDS) - 1)}\n")
    computed = {"pathology", "primary_label", "sha256", "decoder", "kind", "width", "height", "depth", "extra"}
    assert became(source) == {item.name: "ignored" if item.name in computed else item.name for item in PAYLOAD_FIELDS}


def test_columns__user_says_what_they_are(tmp_path):
    text = "where,who,Age,site\na.png,7,50,x\n"
    said = {"where": "filepath", "WHO": "patient", "site": "ignored", "age": "extra"}
    (record,) = records(tmp_path, text, columns=said)
    assert (record.filepath, record.patient_id, record.age_years, record.extra) == ("a.png", "7", None, {"Age": "50"})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"nowhere": "filepath"}, "has no column nowhere; its columns are filepath, who"),
        ({"who": "person"}, "no field person; there are filepath, dataset"),
        ({"who": "filepath", "filepath": "filepath"}, "who and filepath would both be filepath"),
        ({"filepath": "extra"}, "--column NAME=filepath"),
    ],
)
def test_columns__what_the_user_says_wrong_is_named(tmp_path, said, message):
    with pytest.raises(SourceError, match=message):
        opened(tmp_path, "filepath,who\na.png,7\n", columns=said)


def test_columns__without_a_path_the_remedy_is_named(tmp_path):
    with pytest.raises(
        SourceError, match=r"no column filepath; its columns are where, who\. Say .*--column NAME=filepath"
    ):
        opened(tmp_path, "where,who\na.png,7\n")
    with pytest.raises(SourceError, match="first line looks like a row: write a header"):
        opened(tmp_path, "MURA-v1.1/train/XR_ELBOW/patient00011/study1_negative/image1.png\nb/image1.png\n")


def test_columns__a_near_miss_is_a_warning_with_the_remedy(tmp_path):
    warnings = "\n".join(opened(tmp_path, "filepath,patinet_id\na.png,7\n").reading().warnings)
    assert "--column 'patinet_id=patient_id'" in warnings
    assert "no image has a patient_id" in warnings
    calm = opened(tmp_path, "filepath,patient_id,patinet_id,licence,source_file,slice\na.png,7,8,MIT,x,1\n")
    assert not any("close to" in warning for warning in calm.reading().warnings)


def test_columns__one_that_speaks_of_patients_is_asked_about(tmp_path):
    warnings = opened(tmp_path, "filepath,anonymised patient code\na.png,7\n").reading().warnings
    assert any("--column 'anonymised patient code=patient_id'" in warning for warning in warnings)


def test_labels__known_findings_are_taken_by_themselves(tmp_path):
    text = "Path,Edema,No Finding,Pleural Effusion,smoker\na.png,1.0,,-1.0,1\nb.png,0,1,0,0\n"
    source = opened(tmp_path, text)
    first, second = (item.record for item in source)
    assert (first.labels, first.extra) == (("edema",), {"smoker": "1", "uncertain": ["Pleural Effusion"]})
    assert (second.labels, second.extra) == (("no_finding",), {"smoker": "0"})
    reading = source.reading()
    assert reading.label_columns == ("Edema", "No Finding", "Pleural Effusion")
    assert any("smoker" in warning and "--label-columns 'smoker'" in warning for warning in reading.warnings)
    assert any("--set modality=XR" in warning for warning in reading.warnings)
    assert "a -1 (uncertain) in 1 cell:" in reading.label_rule


@pytest.mark.parametrize(
    ("uncertain", "labels", "extra"),
    [("omit", (), {"uncertain": ["Edema"]}), ("positive", ("edema",), {}), ("negative", (), {})],
)
def test_labels__uncertain_ones(tmp_path, uncertain, labels, extra):
    (record,) = records(tmp_path, "Path,Edema\na.png,-1\n", uncertain=uncertain)
    assert (record.labels, record.extra) == (labels, extra)


def test_labels__columns_the_user_names(tmp_path):
    text = "filepath,f_mass,f_cyst,smoker,sex\na.png,yes,no,1,M\nb.png,0,1,0,F\n"
    first, second = records(tmp_path, text, label_columns=("f_*", "smoker"))
    assert (first.labels, second.labels) == (("f_mass", "smoker"), ("f_cyst",))
    with pytest.raises(SourceError, match=r"no column g_\* in .*; its columns are filepath, f_mass"):
        opened(tmp_path, text, label_columns=("g_*",))
    with pytest.raises(SourceError, match="sex is sex already"):
        opened(tmp_path, text, label_columns=("sex",))
    with pytest.raises(SourceError, match="size holds '12', not 0, 1, -1"):
        opened(tmp_path, "filepath,size\na.png,12\n", label_columns=("size",))


def test_labels__modality_and_region_complete_a_pathology(tmp_path):
    text = "filepath,modality,region,pathology,Edema\na.png,X-ray,Chest,Mass,1\nb.png,,chest,mass,0\n"
    first, second = records(tmp_path, text)
    assert first.labels == ("XR/chest/mass", "XR/chest/edema")
    assert first.payload()["pathology"] == ["mass", "edema"]
    assert second.labels == ("mass",)
    constants = {"modality": "CR", "anatomic_region": "chest"}
    (third,) = records(tmp_path, "filepath,Nodule/Mass\na.png,1\n", constants=constants)
    assert third.labels == ("XR/chest/nodule_mass",)


@pytest.mark.parametrize(
    ("cells", "options", "labels", "told"),
    [
        (["a|b", "c"], {}, [("a", "b"), ("c",)], "split at |"),
        (["a;b", "c"], {}, [("a", "b"), ("c",)], "split at ;"),
        (["a|b;c", "c"], {}, [("a", "b", "c"), ("c",)], "split at | and ;"),
        (["a, b", "a", "b"], {}, [("a", "b"), ("a",), ("b",)], "split at ,"),
        (["a, left", "a"], {}, [("a,_left",), ("a",)], "one a cell"),
        (["a, left", "a"], {"label_separator": ","}, [("a", "left"), ("a",)], "split at ,"),
        (["a|b", "c"], {"label_separator": ";"}, [("a|b",), ("c",)], "split at ;"),
        ([r"a\|b", "c"], {}, [("a|b",), ("c",)], "one a cell"),
        ([r"a\|b|d", "c"], {}, [("a|b", "d"), ("c",)], "split at |"),
        (["['a', 'b']", "['c']"], {}, [("a", "b"), ("c",)], "as lists"),
        (["0", "1"], {"values": {"labels": {"0": "normal", "1": "ill"}}}, [("normal",), ("ill",)], "one a cell"),
    ],
)
def test_labels__separators_are_found_by_content_and_told(tmp_path, cells, options, labels, told):
    rows = "".join(f'{number}.png,"{cell}"\n' for number, cell in enumerate(cells))
    source = opened(tmp_path, f"filepath,label\n{rows}", **options)
    assert [item.record.labels for item in source] == labels
    assert told in source.reading().label_rule
    held = any("--label-separator ," in warning for warning in source.reading().warnings)
    assert held == (told == "one a cell" and "," in cells[0])


def test_labels__a_slash_column_of_texts_is_no_label(tmp_path):
    source = opened(tmp_path, "filepath,site/room,XR/chest/mass\na.png,B12,1\n")
    (item,) = source
    assert (item.record.labels, item.record.extra) == (("XR/chest/mass",), {"site/room": "B12"})
    assert any("site/room has a slash but is no label" in warning for warning in source.reading().warnings)


def test_labels__none_at_all_is_a_warning(tmp_path):
    write_picture(tmp_path / "a.png", 1)
    reading = opened(tmp_path, "filepath,labels,patient\na.png,NA,1\n").reading()
    assert reading.warnings == ("no image has a label: evaluations by label are not possible",)


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *(("58", 58.0), ("058Y", 58.0), ("38Y", 38.0), ("18M", 1.5), ("013M", 1.08), ("006W", 0.11), ("010D", 0.03)),
        *(("58,5", 58.5), ("58.5", 58.5), ("58 years", 58.0), ("58 yrs old", 58.0), (">89", 90.0), ("90+", 90.0)),
        *(("0", 0.0), ("120", 120.0)),
    ],
)
def test_years_of__what_tables_write(text, years):
    assert years_of(text) == years


@pytest.mark.parametrize("text", ["414", "-3", "old", "inf", "1e1", "58M Y", "<5", ""])
def test_years_of__what_is_no_age(text):
    with pytest.raises(ValueError, match="is no age from 0 to 120 years"):
        years_of(text)


def test_values__a_value_that_can_not_be_read_costs_the_value_not_the_image(tmp_path):
    text = "filepath,age,sex,patient\na.png,414,male,1\nb.png,>89,W,1\nc.png,058Y,x,1\nd.png,NA,U,1\n"
    source = opened(tmp_path, text)
    assert [(item.record.age_years, item.record.sex) for item in source] == [
        *((None, "M"), (90.0, "F"), (58.0, None), (None, None)),
    ]
    reading = source.reading()
    assert list(map(str, reading.lost)) == ["age_years of 1: 414", "sex of 1: x"]
    assert list(map(str, reading.normalised)) == [
        "age_years of 2: >89 -> 90, 058Y -> 58",
        "sex of 3: male -> M, W -> F, U -> nothing",
    ]


def test_values__sex_in_numbers_only_with_a_coding(tmp_path):
    text = "filepath,sex\na.png,0\nb.png,1.0\nc.png,1\n"
    source = opened(tmp_path, text)
    assert [item.record.sex for item in source] == [None] * 3
    assert any("--values sex:0=F,1=M" in warning for warning in source.reading().warnings)
    coded = {"sex": {"0": "F", "1": "M", "1.0": "M"}}
    assert [record.sex for record in records(tmp_path, text, values=coded)] == ["F", "M", "M"]


@pytest.mark.parametrize("text", [spelling for spellings in MODALITIES.values() for spelling in spellings])
def test_values__modalities_in_any_spelling(tmp_path, text):
    code = next(code for code, spellings in MODALITIES.items() if text in spellings)
    for spelling in (text, text.upper(), text.replace(" ", "_"), text.replace("-", " ")):
        (record,) = records(tmp_path, f"filepath,modality\na.png,{spelling}\n")
        assert record.modality == code
    (own,) = records(tmp_path, "filepath,modality\na.png,Angio\n", values={"modality": {"angio": "XA"}})
    assert own.modality == "XA"


def test_values__dates_that_are_not_iso_are_refused_or_read_by_their_format(tmp_path):
    text = "filepath,study_date\na.png,03/04/2020\nb.png,2020-04-05\n"
    with pytest.raises(SourceError, match=r"study_date holds '03/04/2020'.*--date-format %d/%m/%Y"):
        opened(tmp_path, text)
    first, second = records(tmp_path, text, date_format="%d/%m/%Y")
    assert (first.study_date, second.study_date) == ("2020-04-03T00:00:00", "2020-04-05T00:00:00")


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NaN", "null", "None", "-", "N/A", " "])
def test_values__missing_in_every_column(tmp_path, missing):
    names = [name for name in FIELDS if name != "filepath"]
    text = (
        f"filepath,{','.join(names)},XR/chest/mass,site\na.png,{','.join([missing] * len(names))},{missing},{missing}\n"
    )
    (record,) = records(tmp_path, text)
    assert record.payload() == {"filepath": "a.png", "dataset": "t", "kind": "image", "labels": []}


def test_values__ids_that_became_floats_are_the_same(tmp_path):
    source = opened(tmp_path, "filepath,patient,study\na.png,101,7.0\nb.png,101.0,7\nc.png,,8\nd.png,10.5,8\n")
    assert [item.record.patient_id for item in source] == ["101", "101", None, "10.5"]
    tally = source.reading().tally
    assert (tally.patients, tally.studies, tally.without_patient, tally.without_study) == (2, 2, 1, 0)
    assert str(source.reading().normalised[0]) == "patient_id of 1: 101.0 -> 101"


def test_values__ids_that_a_spreadsheet_shortened_are_a_warning(tmp_path):
    warnings = opened(tmp_path, "filepath,patient\na.png,1.23E+12\n").reading().id_warnings
    assert any("1.23E+12" in warning and "export the column as text" in warning for warning in warnings)


def test_values__labels_and_paths_in_either_unicode_form(tmp_path):
    one, two = (unicodedata.normalize(form, "Ödem") for form in ("NFC", "NFD"))
    first, second = records(tmp_path, f"filepath,labels\na.png,XR/chest/{one}\nb.png,XR/chest/{two}\n")
    assert first.labels == second.labels
    write_picture(tmp_path / f"img/{two}.png", 1)
    (item,) = opened(tmp_path, f"filepath\nimg/{one}.png\n")
    (folder,) = open_source(tmp_path / "img", SourceOptions(dataset="t", folder_labels=False))
    assert item.asset.path.is_file()
    assert item.record.filepath == f"img/{one}.png"
    assert folder.record.filepath == f"{one}.png"
    (again,) = opened(tmp_path, f"filepath\nimg/{two}.png\n")
    assert again.record.id == item.record.id


def test_values__paths_of_windows(tmp_path):
    write_picture(tmp_path / "img/deep/ö.png", 1)
    write_picture(tmp_path / "as\\named.png", 2)
    listed = ("img/deep/ö.png", "img\\deep\\ö.png", "as\\named.png", "img\\none.png", "C:\\img\\deep\\ö.png")
    slash, back, literal, missing, absolute = opened(tmp_path, "filepath\n" + "".join(f"{name}\n" for name in listed))
    assert back.asset.path.is_file()
    assert (back.record.filepath, back.record.id) == (slash.record.filepath, slash.record.id)
    assert (literal.record.filepath, literal.asset.path.is_file()) == ("as/named.png", True)
    assert (missing.record.filepath, missing.asset.path) == ("img/none.png", tmp_path / "img/none.png")
    assert "is a path of Windows" in absolute.reason
    assert r"--path-prefix 'C:\=FOLDER'" in absolute.reason
    with pytest.raises(ImageError, match=r"No such file.*: the path has backslashes.*; write it with /"):
        Asset(tmp_path / "img\\none.png").open()
    with pytest.raises(ImageError, match=r"^No such file or directory$"):
        Asset(tmp_path / "img/none.png").open()


def test_reading__lines_say_all_of_it(tmp_path):
    text = "Image Index,Patient ID,Finding Labels,Patient Age\na.png,1,Mass|Edema,058Y\nb.png,,No Finding,414\n"
    lines = "\n".join(opened(tmp_path, text, name="nih.csv").reading().lines())
    assert "how nih.csv is read: 2 images; UTF-8, separated by ," in lines
    assert re.search(r"Patient ID +patient_id +1 empty  1$", lines, re.MULTILINE)
    assert "labels: 3 different, 0 images without; Finding Labels split at |" in lines
    assert "patients: 1, 1 image without; studies: 0, 2 images without" in lines
    assert "normalised: age_years of 1: 058Y -> 58" in lines
    assert "warning: can't be read and is left out: age_years of 1: 414" in lines


def test_reading__of_a_folder(tmp_path):
    write_picture(tmp_path / "d/train/XR/chest/mass/1.png", 1)
    reading = open_source(tmp_path / "d").reading()
    assert (reading.tally.images, reading.tally.labels, reading.tally.patients) == (1, 1, 0)
    assert any("no image has a patient_id" in warning for warning in reading.warnings)


def test_command__dry_run_needs_no_encoder_and_stores_nothing(tmp_path, cbmir):
    write_picture(tmp_path / "a.png", 1)
    (tmp_path / "t.csv").write_text("file,who,Edema\na.png,7,1\n")
    done = cbmir("ingest", "images", tmp_path / "t.csv", "--dry-run", "--json", "--column", "who=patient_id")
    assert (done.returncode, done.stderr) == (0, "")
    (reading,) = json.loads(done.stdout)["reading"]
    assert [(column["name"], column["became"]) for column in reading["columns"]] == [
        *(("file", "filepath"), ("who", "patient_id"), ("Edema", "label")),
    ]
    assert (reading["label_columns"], reading["tally"]["patients"]) == (["Edema"], 1)
    told = cbmir("ingest", "images", tmp_path / "t.csv", "--dry-run", "--store", tmp_path / "s")
    assert (told.returncode, told.stdout) == (0, "")
    assert "how t.csv is read: 1 image;" in told.stderr
    assert not (tmp_path / "s").exists()
    missing = cbmir("ingest", "images", tmp_path / "t.csv", "--store", tmp_path / "s")
    assert missing.returncode == 2
    assert "--encoder" in missing.stderr


def test_command__report_holds_the_reading(tmp_path, cbmir):
    write_picture(tmp_path / "a.png", 1)
    (tmp_path / "t.csv").write_text("file,sex\na.png,0\n")
    arguments = ("--encoder", "pixels", "--store", tmp_path / "s", "--values", "sex:0=F,1=M", "--json")
    done = cbmir("ingest", "images", tmp_path / "t.csv", *arguments)
    (reading,) = json.loads(done.stdout)["reading"]
    assert reading["normalised"] == [{"field": "sex", "images": 1, "examples": {"0": "F"}}]
    assert done.stderr.index("how t.csv is read") < done.stderr.index("pixels on cpu")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--column", "filename"),
        ("--column", "=x"),
        ("--values", "sex"),
        ("--values", "sex:0"),
        ("--values", "size:0=F"),
    ],
)
def test_command__an_option_of_another_form_is_wrong_usage(tmp_path, cbmir, option, text):
    (tmp_path / "t.csv").write_text("file\na.png\n")
    done = cbmir("ingest", "images", tmp_path / "t.csv", "--dry-run", option, text)
    assert done.returncode == 2
    assert option in done.stderr
    assert text in done.stderr
