"""What is said of a table before anything is stored: rows that fail, columns that may be fields, similar ids."""

import json

import pytest
from pictures import write_picture

from cbmir.errors import SourceError
from cbmir.ingest import SourceOptions, open_source
from cbmir.ingest.remembering import _kept
from cbmir.ingest.sources import counting
from cbmir.ingest.tables.options import TableOptions
from cbmir.ingest.tables.tally import alike, ordered_reasons, similar_ids


def opened(tmp_path, text, name="t.csv", **options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return open_source(tmp_path / name, SourceOptions(table=TableOptions(**options)))


def reading_of(tmp_path, header, *rows, **options):
    """How a table is read whose first column is the path of an image of its own for each row, which is there."""
    for number in range(len(rows)):
        write_picture(tmp_path / f"{number}.png", number)
    lines = [f"{number}.png,{row}" for number, row in enumerate(rows)]
    return opened(tmp_path, "\n".join([f"file,{header}", *lines, ""]), **options).reading()


def warned(reading, *parts):
    return [text for text in (*reading.warnings, *reading.id_warnings) if all(part in text for part in parts)]


# rows


def test_reading__rows_that_fail_have_their_reasons(tmp_path):
    reading = opened(tmp_path, "file,split\na.png,train\n,train\n,test\nb.png,fold3\n").reading()
    assert (reading.tally.images, reading.tally.failed) == (1, 3)
    assert reading.tally.reasons == (
        "2: has no filepath (first: t.csv row 2)",
        "1: split 'fold3' of b.png is none of train, val, test (first: t.csv row 4)",
    )
    assert "  can't be read, 2: has no filepath (first: t.csv row 2)" in reading.lines()
    assert warned(reading, "no split: fold3", "--values split:fold3=test")


def test_ordered_reasons__the_most_frequent_first_and_the_rest_in_one():
    found = {"a": (1, "row 1"), "b": (5, "row 2"), "c": (2, "row 3"), "d": (1, "row 4"), "e": (1, "row 5")}
    assert ordered_reasons(found) == (
        *("5: b (first: row 2)", "2: c (first: row 3)", "1: a (first: row 1)"),
        "2 more for other reasons",
    )


def test_reading__rows_that_repeat_an_image_count_once(tmp_path):
    text = "file,patient,labels\na.png,1,mass\n./a.png,2,edema\nb.png,3,edema\na.png,4,nodule\n"
    reading = opened(tmp_path, text).reading()
    tally = reading.tally
    assert (tally.images, tally.failed, tally.repeated, tally.patients, tally.labels) == (2, 2, 2, 2, 2)
    assert warned(reading, "repeat the image of an earlier row: 2.", "separated by |")


def test_reading__says_how_many_files_are_missing(tmp_path):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / "there" / name, 1)
    text = "file\na.png\nb.png\nc.png\n"
    none = opened(tmp_path, text).reading()
    assert (none.tally.looked_for, none.tally.missing) == (3, 3)
    assert warned(none, "of 3 files looked for, none can be found", str(tmp_path / "a.png"), "--root FOLDER")
    some = open_source(tmp_path / "t.csv", SourceOptions(root=tmp_path / "there")).reading()
    assert (some.tally.looked_for, some.tally.missing) == (3, 1)
    assert warned(some, "of 3 files looked for, 2 can be found", str(tmp_path / "there/c.png"))
    elsewhere = open_source(tmp_path / "t.csv", SourceOptions(uris=True)).reading()  # vectors need no files
    assert (elsewhere.tally.looked_for, elsewhere.tally.missing) == (0, 0)


def test_reading__looks_for_some_files_of_a_large_table(tmp_path, monkeypatch):
    monkeypatch.setattr("cbmir.ingest.sources.table.LOOKED_FOR", 10)
    reading = opened(tmp_path, "file\n" + "".join(f"{number}.png\n" for number in range(100))).reading()
    assert (reading.tally.images, reading.tally.looked_for, reading.tally.missing) == (100, 10, 10)
    assert counting.LOOKED_FOR == 1000


def test_open_source__a_table_without_rows_is_refused(tmp_path):
    with pytest.raises(SourceError, match="has a header and no row"):
        opened(tmp_path, "file,patient\n")


def test_table__keeps_the_records_of_a_small_table(tmp_path, monkeypatch):
    source = opened(tmp_path, "file,patient\na.png,1\n,2\n")
    before = list(source)
    reading = source.reading()
    assert list(source) == list(source) == before
    monkeypatch.setattr("cbmir.ingest.sources.table._KEPT", 1)
    again = opened(tmp_path, "file,patient\na.png,1\n,2\n")
    assert (again.reading(), list(again)) == (reading, before)


# columns


@pytest.mark.parametrize(
    ("name", "values", "field"),
    [
        ("Set", ("Training", "Testing"), "split"),
        ("phase", ("train", "dev"), "split"),
        ("Geschlecht", ("m", "w"), "sex"),
        ("Verfahren", ("MRI", "CT scan"), "modality"),
        ("Alter", ("058Y", "018M"), "age_years"),
    ],
)
def test_hints__a_column_that_holds_what_a_field_holds(tmp_path, name, values, field):
    reading = reading_of(tmp_path, name, *values)
    assert warned(reading, f"column {name} ", f"--column '{name}={field}'")
    assert not warned(reading_of(tmp_path, name, *values, columns={name: "extra"}), f"column {name} ")
    assert not warned(reading_of(tmp_path, name, *values, "something else"), f"column {name} ")


def test_hints__a_filled_field_asks_for_no_other_column(tmp_path):
    assert not warned(reading_of(tmp_path, "split,phase", "train,train", "test,test"), "column phase")


@pytest.mark.parametrize("name", ["Patienten-Nr", "PatientCode", "patient_gen"])
def test_hints__patients_are_taken_for_nothing_else(tmp_path, name):
    reading = reading_of(tmp_path, name, "1", "0")
    assert [text for text in reading.warnings if name in text and "patient_id" in text]
    assert not warned(reading, f"'{name}=sex'")
    assert not warned(reading, f"--label-columns '{name}'")


@pytest.mark.parametrize(
    ("values", "shown"), [(("0.87", "1"), "0.87"), (("x", ""), "x"), (("2", "1"), "2"), (("+", "-1"), "+")]
)
def test_hints__a_finding_that_holds_other_values_is_named(tmp_path, values, shown):
    reading = reading_of(tmp_path, "Cardiomegaly,Edema", *(f"{value},1" for value in values))
    assert reading.label_columns == ("Edema",)
    assert warned(reading, f"Cardiomegaly ({shown})", "--column 'Cardiomegaly=extra'")
    calm = reading_of(tmp_path, "Cardiomegaly", *values, columns={"Cardiomegaly": "extra"})
    assert not warned(calm, "Cardiomegaly (")


def test_labels__positive_and_negative_are_flags(tmp_path):
    reading = reading_of(tmp_path, "Cardiomegaly,Edema", "positive,absent", "negative,present")
    assert reading.label_columns == ("Cardiomegaly", "Edema")
    assert (reading.tally.labels, reading.tally.without_label) == (2, 0)


@pytest.mark.parametrize(("value", "shown"), [("MRT", "MRT=MR"), ("Tomosynthese", "Tomosynthese=CODE")])
def test_hints__a_modality_is_proposed_only_where_it_is_near(tmp_path, value, shown):
    assert warned(reading_of(tmp_path, "modality", value), f"--values 'modality:{shown}'")


# patients


@pytest.mark.parametrize(("one", "two"), [("P1", "p1"), ("007", "7"), ("0007", "007")])
def test_similar_ids__differ_in_case_or_zeros(tmp_path, one, two):
    reading = reading_of(tmp_path, "patient", one, two, "9")
    assert reading.tally.patients == 3
    assert warned(reading, f"patients {one} and {two} differ only in case or in zeros")


def test_similar_ids__says_how_many_more():
    assert similar_ids(["a", "b", "10", "100"]) == ""
    assert ", and 1 more differ" in similar_ids(["a", "A", "01", "1"])


@pytest.mark.parametrize("nobody", ["unknown", "Anonymous", "ANON", "?"])
def test_patients__who_is_unknown_is_no_patient(tmp_path, nobody):
    reading = reading_of(tmp_path, "patient", nobody, nobody, "7")
    assert (reading.tally.patients, reading.tally.without_patient) == (1, 2)
    assert any(str(change) == f"patient_id of 2: {nobody} -> nothing" for change in reading.normalised)


def test_patients__one_for_all_images_is_a_warning(tmp_path):
    assert warned(reading_of(tmp_path, "patient", "1", "1"), "all 2 images have the same patient_id")
    assert not warned(reading_of(tmp_path, "patient", "1", "2"), "the same patient_id")
    assert not warned(reading_of(tmp_path, "patient", "1"), "the same patient_id")


def test_patients__in_several_splits_are_counted(tmp_path):
    rows = ("1,train", "1,test", "2,train", "2,train", "3,test", "3,val")
    reading = reading_of(tmp_path, "patient,split", *rows)
    assert (reading.tally.shared_patients, dict(reading.tally.splits)) == (2, {"train": 3, "val": 1, "test": 2})
    assert warned(reading, "images in more than one split: 2.")
    assert "  splits: train 3, val 1, test 2, 0 images without" in reading.lines()


def test_kept__ids_are_not_in_the_metadata(tmp_path):
    reading = reading_of(tmp_path, "patient", "Smith1", "smith1", "1.23457E+15")
    assert len(reading.id_warnings) == 2
    kept = json.dumps(_kept(reading))
    assert "mith1" not in kept
    assert "E+15" not in kept


# labels


def test_alike__spaces_and_signs():
    assert alike(["XR/chest/a_b", "XR/chest/a-b", "XR/chest/ab", "XR/chest/c"]) == (
        ("XR/chest/a_b", "XR/chest/a-b", "XR/chest/ab"),
    )


def test_labels__in_two_spellings_are_a_warning(tmp_path):
    reading = reading_of(tmp_path, "label", "pleural effusion", "Pleural-Effusion", "mass")
    assert warned(reading, "pleural_effusion and pleural-effusion are different labels")


def test_labels__that_begin_with_no_modality_are_a_warning(tmp_path):
    reading = reading_of(tmp_path, "label", "chest/pneumonia", "XR/chest/mass")
    assert warned(reading, "no known modality: CHEST/pneumonia.")
    own = reading_of(tmp_path, "label", "OPG/teeth/caries", values={"modality": {"opg": "OPG"}})
    assert not warned(own, "no known modality")


def test_folder__labels_that_begin_with_no_modality_are_a_warning(tmp_path):
    for name in ("images/normal", "images/pneumonia"):
        write_picture(tmp_path / "set/train" / name / "1.png", 1)
    reading = open_source(tmp_path / "set").reading()
    assert warned(reading, "no known modality: IMAGES/normal, IMAGES/pneumonia")
    assert not warned(open_source(tmp_path / "set/train/images").reading(), "no known modality")


# the block


def test_lines__a_long_value_is_cut_visibly(tmp_path):
    reading = reading_of(tmp_path, "note", "x" * 41, "y" * 40)
    assert any(f"{'x' * 37}..., {'y' * 40}" in line for line in reading.lines())


def test_command__dry_run_ends_with_3_where_rows_fail(tmp_path, cbmir):
    write_picture(tmp_path / "a.png", 1)
    (tmp_path / "t.csv").write_text("file,patient\na.png,1\n,2\n")
    done = cbmir("ingest", "images", tmp_path / "t.csv", "--dry-run")
    assert done.returncode == 3
    assert "1 image and 1 that can't be read" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--encoder", "efficientnet", "--store", "s"), "did you mean efficientnet-lite0 or"),
        (("--encoder", "pixels", "--store", "localhost:6333"), "http://localhost:6333"),
    ],
)
def test_command__what_is_mistyped_is_said_before_the_table_is_read(tmp_path, cbmir, options, message):
    (tmp_path / "t.csv").write_text("file,patient\na.png,1\n")
    done = cbmir("ingest", "images", tmp_path / "t.csv", *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert "how t.csv is read" not in done.stderr
