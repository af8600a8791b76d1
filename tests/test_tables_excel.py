"""Excel workbooks as tables."""

from datetime import datetime

import openpyxl
import pytest

from cbmir.errors import SourceError
from cbmir.ingest import open_source


def workbook(path, **sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_excel__formulas_that_were_never_calculated_are_a_warning(tmp_path):
    rows = [["filepath", "patient_id", "labels"], ["a.png", "p1", "XR/chest/edema"], ["b.png", '="p"&"2"', "=1+1"]]
    source = open_source(workbook(tmp_path / "t.xlsx", images=[*rows, ["c.png", '="p"&"3"', "x"]]))
    text = "read as empty: open the workbook in Excel or LibreOffice, save it, and ingest it again"
    assert source.reading().warnings[:2] == (
        f"column patient_id: 2 cells with a formula that was never calculated, {text}",
        f"column labels: 1 cell with a formula that was never calculated, {text}",
    )
    plain = open_source(workbook(tmp_path / "plain.xlsx", images=rows[:2]))
    assert not any("never calculated" in warning for warning in plain.reading().warnings)


def test_excel__first_sheet_with_rows_is_the_table(tmp_path):
    rows = [
        ["File Name", "Patient ID", "Age", "Study Date", "Edema", "Site"],
        ["a.png", 101, 58, datetime(2020, 1, 31), True, "x"],
        [None] * 6,
        ["b.png", 101.0, "058Y", "2020-02-01", 0, "NA"],
        ["c.png", "'007", None, None, None, "#N/A"],
    ]
    path = workbook(tmp_path / "t.xlsx", empty=[["only a title"]], images=rows, notes=[["a"], ["b"]])
    source = open_source(path)
    first, second, third = (item.record for item in source)
    assert (first.patient_id, second.patient_id, third.patient_id) == ("101", "101", "007")
    assert (first.age_years, second.age_years, third.age_years) == (58.0, 58.0, None)
    assert (first.study_date, second.study_date) == ("2020-01-31T00:00:00", "2020-02-01T00:00:00")
    assert (first.labels, second.labels, first.extra, second.extra) == (("edema",), (), {"Site": "x"}, {})
    reading = source.reading()
    assert reading.form == "sheet images of a workbook"
    assert "further sheets are not read: notes" in reading.notes


def test_excel__what_is_no_workbook_is_one_line(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04 no workbook")
    with pytest.raises(SourceError, match=r"can't read the table .*t\.xlsx"):
        open_source(tmp_path / "t.xlsx")
    with pytest.raises(SourceError, match="no sheet of it holds rows"):
        open_source(workbook(tmp_path / "e.xlsx", one=[["filepath"]]))


def test_excel__a_report_of_several_lines_is_one_cell(tmp_path):
    (item,) = open_source(workbook(tmp_path / "t.xlsx", one=[["path", "report"], ["a.png", 'a "b"\nc, d']]))
    assert item.record.extra == {"report": 'a "b"\nc, d'}
