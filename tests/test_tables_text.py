"""Tables as spreadsheets and programs write them: encodings, separators, and damaged quotes."""

import csv
import gzip
import io
import random

import pytest

from cbmir.errors import SourceError
from cbmir.ingest import open_source
from cbmir.ingest.report import Failure
from cbmir.ingest.sources import SourceImage

HEADER = ["filepath", "patient_id", "note"]
TEXTS = ("plain", "two, parts", 'six " inch', 'a "word" here', "", "left; right", "x" * 50)
SEED = 11


def read(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return open_source(path)


def written(rows, separator=",", ends="\n", quoting=csv.QUOTE_MINIMAL):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=ends, quoting=quoting).writerows(rows)
    return text.getvalue()


def damaged(rng):
    """A table of a line a row, of which one to three quotes are added or removed, and how many rows it has."""
    count = rng.randint(1, 30)
    ending = rng.choice((".png", ".dcm", ".raw", ""))
    order = rng.sample(range(3), 3)
    rows = [[f"img/{number}{ending}", f"p{number // 3}", rng.choice(TEXTS)] for number in range(count)]
    shuffled = [[row[place] for place in order] for row in [HEADER, *rows]]
    separator, ends = rng.choice((",", ";", "\t")), rng.choice(("\n", "\r\n", "\r"))
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    head, body = (written(part, separator, ends, quoting) for part in (shuffled[:1], shuffled[1:]))
    for _ in range(rng.randint(1, 3)):
        quotes = [place for place, sign in enumerate(body) if sign == '"']
        if quotes and rng.random() < 0.5:
            place = rng.choice(quotes)
            body = body[:place] + body[place + 1 :]
        else:
            starts = [0, *(place + 1 for place, sign in enumerate(body[:-1]) if sign in separator + ends)]
            place = rng.choice(starts) if rng.random() < 0.7 else rng.randrange(len(body))
            place -= body[place - 1 : place + 1] == "\r\n"  # between them it would be a line of its own
            body = body[:place] + '"' * rng.choice((1, 1, 3)) + body[place:]
    return head + body, count


def test_table__two_thousand_with_damaged_quotes_lose_no_row_in_silence(tmp_path):
    rng = random.Random(SEED)
    refused = whole = 0
    for number in range(2000):
        text, count = damaged(rng)
        try:
            items = list(read(tmp_path / "t.csv", text))
        except SourceError as error:
            refused += "the quote that is opened in line" in str(error)
        else:
            whole += 1
            assert len(items) == count, (number, text)
    assert refused + whole == 2000
    assert min(refused, whole) > 300


def test_table__quotes_that_are_right_are_not_refused(tmp_path):
    """Reports of several lines, full of commas and quotes, in any column."""
    rng = random.Random(SEED)
    for _ in range(200):
        reports = [
            "\n".join(rng.choice(("FINDINGS: clear, calm, well.", 'so "called", sign', "", "end.")) for _ in range(4))
            for _ in range(5)
        ]
        order = rng.sample(range(3), 3)
        rows = [[f"img/{number}.png", f"p{number}", report] for number, report in enumerate(reports)]
        text = written([[row[place] for place in order] for row in [HEADER, *rows]], quoting=csv.QUOTE_ALL)
        items = list(read(tmp_path / "t.csv", text))
        assert [item.record.extra.get("note", "").strip() for item in items] == [report.strip() for report in reports]


@pytest.mark.parametrize(
    "text", ['a.png,"6 in\nb.png,x\nc.png,6"\n', 'a.png,"6 in\nb.png,6"\n', 'a,"6 in\nb,x\nc,6"\n']
)
def test_table__a_quote_that_swallows_rows_is_refused_with_its_line(tmp_path, text):
    with pytest.raises(
        SourceError, match=r"t\.csv: the quote that is opened in line 3 .* close it, remove it, or double"
    ):
        read(tmp_path / "t.csv", f"filepath,note\nz.png,y\n{text}")


ROWS = [["filepath", "patient_id", "note"], ["a.png", "p1", "Größe, klein"], ["b.png", "p2", "x;y"]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("encoding", "mark", "told"),
    [
        ("utf-8", b"", "UTF-8"),
        ("utf-8", b"\xef\xbb\xbf", "UTF-8"),
        ("utf-16", b"", "UTF-16"),
        ("utf-16-le", b"", "UTF-16-LE"),
        ("utf-16-be", b"", "UTF-16-BE"),
        ("latin-1", b"", "Windows-1252, as it is not UTF-8"),
    ],
)
def test_table__every_encoding_and_separator(tmp_path, encoding, mark, told, separator):
    for ends in ("\n", "\r\n", "\r"):
        source = read(tmp_path / "t.csv", mark + written(ROWS, separator, ends).encode(encoding))
        assert [(item.record.patient_id, item.record.extra["note"]) for item in source] == [
            *(("p1", "Größe, klein"), ("p2", "x;y")),
        ]
        separated = "tabs" if separator == "\t" else separator
        assert source.reading().form == f"{told}, separated by {separated}"


def test_table__gzipped_text_of_every_kind(tmp_path):
    data = gzip.compress(written(ROWS, "\t").encode("utf-16"))
    assert [item.record.patient_id for item in read(tmp_path / "t.tsv.gz", data)] == ["p1", "p2"]


def test_table__one_line_that_is_no_utf8_fails_alone_where_others_are(tmp_path):
    good, bad = read(tmp_path / "t.csv", "filepath,note\na.png,é\n".encode() + b"b.png,\xe9\n")
    assert isinstance(good, SourceImage)
    assert isinstance(bad, Failure)
    assert bad.reason == "is not UTF-8 text"


def test_table__excel_marks_are_no_values(tmp_path):
    text = 'sep=;\nfilepath;patient_id;age;note\na.png;\'007;"58,5";\'s-Hertogenbosch\nb.png;="007";;\'=1+1\n'
    first, second = (item.record for item in read(tmp_path / "t.csv", text))
    assert (first.patient_id, first.age_years, second.patient_id) == ("007", 58.5, "007")
    assert first.extra == {"note": "'s-Hertogenbosch"}


def test_table__a_header_that_comes_again_and_trailing_separators(tmp_path):
    source = read(tmp_path / "t.csv", "filepath,note,,\na.png,x,,\nfilepath,note,,\nb.png,y,,\n")
    assert [item.record.filepath for item in source] == ["a.png", "b.png"]
    assert "the header comes again in 1 line: left out" in source.reading().notes


def test_table__rows_that_are_too_short_or_long_are_counted(tmp_path):
    source = read(tmp_path / "t.csv", "filepath,note\na.png\nb.png,x,y\nc.png,x\n")
    assert [isinstance(item, Failure) for item in source] == [True, True, False]
    tally = source.reading().tally
    assert (tally.images, tally.failed, source.total) == (1, 2, 3)
