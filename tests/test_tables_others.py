"""Tables of other hands: headers, separators, ages, sexes and modalities as people write them."""

import unicodedata
from datetime import date, datetime

import openpyxl
import pytest

from cbmir.ingest import SourceOptions, open_source
from cbmir.ingest.sources import SourceImage
from cbmir.ingest.tables.options import TableOptions


def roles_and_records(tmp_path, text, name="t.csv", **options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    source = open_source(tmp_path / name, SourceOptions(table=TableOptions(**options)))
    return source.reading(), [item.record for item in source if isinstance(item, SourceImage)]


def test_rows__a_header_that_comes_again_in_another_spelling_is_no_row(tmp_path):
    reading, records = roles_and_records(tmp_path, "path,patient_id\na.png,1\nPath,Patient ID\nb.png,2\n")
    assert [record.filepath for record in records] == ["a.png", "b.png"]
    assert any("the header comes again in 1 line" in line for line in reading.lines())


def test_delimited__bars_between_cells(tmp_path):
    reading, (record,) = roles_and_records(tmp_path, "path|patient_id|note\na.png|1|x, y\n")
    assert (record.patient_id, record.extra) == ("1", {"note": "x, y"})
    assert "separated by |" in reading.form


@pytest.mark.parametrize(
    ("name", "field"), [("lables", "labels"), ("patinet_id", "patient_id"), ("modailty", "modality")]
)
def test_columns__swapped_letters_are_near_misses(tmp_path, name, field):
    reading, _ = roles_and_records(tmp_path, f"path,{name}\na.png,x\n")
    assert any(f"column {name} " in text and f"--column '{name}={field}'" in text for text in reading.warnings)


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *(("058Y", 58.0), ("18M", 1.5), ("58,5", 58.5), (">89", 90.0), (">= 90", 90.0), ("≥90", 90.0), ("90+", 90.0)),
        *(("6 months", 0.5), ("18 mo", 1.5), ("3 weeks", 0.06), ("10 days", 0.03), ("7 years old", 7.0)),
    ],
)
def test_values__ages_with_their_units(tmp_path, text, years):
    _, (record,) = roles_and_records(tmp_path, f'path,age\na.png,"{text}"\n')
    assert record.age_years == years


@pytest.mark.parametrize(
    ("text", "sex"),
    [("männlich", "M"), ("Weiblich", "F"), ("Frau", "F"), ("HOMME", "M"), ("mujer", "F"), ("divers", "O")],
)
def test_values__sexes_in_words_of_other_languages(tmp_path, text, sex):
    _, (record,) = roles_and_records(tmp_path, f"path,sex\na.png,{text}\n")
    assert record.sex == sex


def test_values__an_m_beside_an_h_is_a_warning(tmp_path):
    reading, _ = roles_and_records(tmp_path, "path,sex\na.png,H\nb.png,M\n")
    assert any("--values sex:H=M,M=F" in text for text in reading.warnings)
    reading, records = roles_and_records(tmp_path, "path,sex\na.png,H\nb.png,M\n", values={"sex": {"h": "M", "m": "F"}})
    assert [record.sex for record in records] == ["M", "F"]
    assert not any("hombre" in text for text in reading.warnings)


def test_values__a_modality_that_nobody_knows_is_a_warning(tmp_path):
    reading, _ = roles_and_records(tmp_path, "path,modality\na.png,MRT\nb.png,MRI\n")
    assert any("no known modality: MRT." in text and "modality:MRT=MR" in text for text in reading.warnings)
    reading, records = roles_and_records(
        tmp_path, "path,modality\na.png,M R T\nb.png,MRI\n", values={"modality": {"mrt": "MR"}}
    )
    assert [record.modality for record in records] == ["MR", "MR"]


def test_extra__texts_without_what_spreadsheets_add_and_in_nfc(tmp_path):
    name, value = (unicodedata.normalize("NFD", text) for text in ("Größe", "groß wie Ä"))
    _, (record,) = roles_and_records(tmp_path, f"path,{name},code,nothing\na.png, {value} ,'0012,n/a\n")
    assert record.extra == {"Größe": "groß wie Ä", "code": "0012"}


def test_excel__dates_in_own_columns_are_iso(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["path", "study date", "when", "day", "done"])
    book.active.append(["a.png", datetime(2020, 1, 31, 10, 5), datetime(2020, 1, 31, 10, 5), date(2020, 2, 1), True])
    book.save(tmp_path / "t.xlsx")
    (item,) = open_source(tmp_path / "t.xlsx")
    assert item.record.study_date == "2020-01-31T10:05:00"
    assert item.record.extra == {"when": "2020-01-31T10:05:00", "day": "2020-02-01", "done": "true"}
