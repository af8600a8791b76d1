"""A thousand damaged and odd inputs through the real command: each is stored or counted with its reason."""

import csv
import gzip
import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import command, environment, pixels, write_picture, write_table
from PIL import Image

from cbmir.encoders import get
from cbmir.errors import SourceError
from cbmir.ingest import SourceOptions, ingest_images, open_source
from cbmir.ingest.report import Failure, write_failures
from cbmir.ingest.sources import SourceImage
from cbmir.paths import normal_path
from cbmir.store import open_store

MEMORY_KB = 1_500_000
TIMEOUT_S = 600
SEED = 20240607

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a POSIX file system")]


def picture(seed: int, mode: str = "L") -> Image.Image:
    return Image.fromarray(pixels(seed, 24, 20)).convert(mode)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    return encoded(picture(seed), "PNG")


def several(form: str) -> Callable[[int], bytes]:
    def make(seed: int) -> bytes:
        first, *rest = (picture(seed + number, "RGB" if form == "WEBP" else "L") for number in range(3))
        return encoded(first, form, save_all=True, append_images=rest)

    return make


def claims(width: int, height: int) -> Callable[[int], bytes]:
    """A small PNG whose header, with a fitting CRC, claims another size."""

    def make(seed: int) -> bytes:
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        return png(seed)[:12] + header + struct.pack(">I", zlib.crc32(header)) + png(seed)[33:]

    return make


def bomb(_: int) -> bytes:
    """Over a hundred million black pixels in a few kilobytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 11_000, 10_000, 1, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1376 * 10_000))
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + b"\x00\x00\x00\x00IEND\xaeB`\x82"


def cut(make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    return lambda seed: (data := make(seed))[: len(data) // 2]


def wrong_header_crc(seed: int) -> bytes:
    data = bytearray(png(seed))
    data[29] ^= 0xFF
    return bytes(data)


def overwritten(seed: int) -> bytes:
    data = bytearray(png(seed))
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xff" * 40
    return bytes(data)


def zipped(_: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", png(1))
    return buffer.getvalue()


def sixteen_bit(seed: int, kind: str = "<u2") -> Image.Image:
    return Image.frombytes(
        "I;16B" if kind == ">u2" else "I;16", (20, 24), (pixels(seed, 24, 20) * 250).astype(kind).tobytes()
    )


def floating(seed: int, bad: float | None = None) -> bytes:
    values = pixels(seed, 24, 20).astype(np.float32)
    if bad is not None:
        values[3, 4] = bad
    return encoded(Image.fromarray(values), "TIFF")


def transparent(seed: int) -> bytes:
    return encoded(picture(seed).convert("P"), "PNG", transparency=3)


@dataclass(frozen=True)
class Kind:
    """A kind of input: how one is made, and the reason it fails for; None where it is good."""

    make: Callable[[int], bytes]
    reason: str | None = None
    suffix: str = ".png"
    count: int = 18


UNKNOWN = "is not in a picture format known here"
DAMAGED = "can't be decoded"
FRAMES = "holds 3 frames"
KINDS = {
    "png": Kind(png, count=40),
    "jpeg": Kind(lambda seed: encoded(picture(seed), "JPEG"), suffix=".jpg"),
    "upper_suffix": Kind(lambda seed: encoded(picture(seed), "JPEG"), suffix=".JPEG"),
    "jpeg_named_png": Kind(lambda seed: encoded(picture(seed), "JPEG")),
    "bmp": Kind(lambda seed: encoded(picture(seed), "BMP"), suffix=".bmp"),
    "webp": Kind(lambda seed: encoded(picture(seed, "RGB"), "WEBP"), suffix=".webp"),
    "gif": Kind(lambda seed: encoded(picture(seed), "GIF"), suffix=".gif"),
    "pgm": Kind(lambda seed: encoded(picture(seed), "PPM"), suffix=".pgm"),
    "jpeg2000": Kind(lambda seed: encoded(picture(seed), "JPEG2000"), suffix=".jp2"),
    "tiff_lzw": Kind(lambda seed: encoded(picture(seed), "TIFF", compression="tiff_lzw"), suffix=".tif"),
    "one_bit": Kind(lambda seed: encoded(picture(seed, "1"), "PNG")),
    "palette": Kind(lambda seed: encoded(picture(seed, "P"), "PNG")),
    "palette_transparent": Kind(transparent),
    "grey_alpha": Kind(lambda seed: encoded(picture(seed, "LA"), "PNG")),
    "rgb_alpha": Kind(lambda seed: encoded(picture(seed, "RGBA"), "PNG")),
    "cmyk": Kind(lambda seed: encoded(picture(seed, "CMYK"), "JPEG"), suffix=".jpg"),
    "sixteen_bit": Kind(lambda seed: encoded(sixteen_bit(seed), "PNG")),
    "sixteen_bit_big_endian": Kind(lambda seed: encoded(sixteen_bit(seed, ">u2"), "TIFF"), suffix=".tiff"),
    "float": Kind(floating, suffix=".tif"),
    "column": Kind(lambda seed: encoded(Image.fromarray(pixels(seed, 40, 1)), "PNG"), count=10),
    "tail_after_end": Kind(lambda seed: png(seed) + b"\x00" * 5000),
    "empty": Kind(lambda _: b"", "^is empty$", count=30),
    "text": Kind(lambda seed: b"this is no picture\n" * (seed % 9 + 1), UNKNOWN, count=30),
    "html": Kind(lambda _: b"<!DOCTYPE html><title>404</title>", UNKNOWN),
    "zip": Kind(zipped, UNKNOWN),
    "pdf": Kind(lambda _: b"%PDF-1.7\n%%EOF\n", UNKNOWN),
    "postscript": Kind(lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", UNKNOWN),
    "random": Kind(lambda seed: np.random.default_rng(seed).bytes(400), UNKNOWN, count=30),
    "signature": Kind(lambda _: b"\x89PNG\r\n\x1a\n", f"{UNKNOWN}|{DAMAGED}"),
    "cut_png": Kind(cut(png), DAMAGED, count=50),
    "cut_jpeg": Kind(cut(lambda seed: encoded(picture(seed), "JPEG")), DAMAGED, ".jpg", 50),
    "cut_bmp": Kind(cut(lambda seed: encoded(picture(seed), "BMP")), f"{DAMAGED}|{UNKNOWN}", ".bmp"),
    "cut_tiff": Kind(cut(lambda seed: encoded(picture(seed), "TIFF")), f"{DAMAGED}|{UNKNOWN}", ".tif"),
    "header_crc": Kind(wrong_header_crc, f"{UNKNOWN}|{DAMAGED}", count=30),
    "overwritten": Kind(overwritten, DAMAGED, count=30),
    "gif_frames": Kind(several("GIF"), suffix=".gif"),
    "tiff_frames": Kind(several("TIFF"), FRAMES, ".tiff"),
    "apng": Kind(several("PNG")),
    "webp_frames": Kind(several("WEBP"), suffix=".webp"),
    "claims_60000": Kind(claims(60_000, 60_000), "^is too large"),
    "claims_no_width": Kind(claims(0, 9), f"{UNKNOWN}|{DAMAGED}", count=10),
    "bomb": Kind(bomb, "^is too large: 11000 x 10000 pixels", count=5),
    "float_nan": Kind(lambda seed: floating(seed, np.nan), "not finite", ".tif"),
    "float_inf": Kind(lambda seed: floating(seed, np.inf), "not finite", ".tif"),
    "even": Kind(lambda seed: encoded(Image.new("L", (20, 24), seed % 256), "PNG"), "no vector"),
    "even_sixteen_bit": Kind(lambda seed: encoded(Image.new("I;16", (9, 9), seed), "PNG"), "no vector", count=5),
}

NAMES = {
    "spaces in a name": "  two  spaces .png",
    "unicode": "Röntgen-肺-🫁.png",
    "line break": "first\nsecond\r.png",
    "quotes": "a\"b'c,d;e.png",
    "long": "x" * 240 + ".png",
    "leading dash": "--help.png",
    "percent": "%s{0}\\n$HOME`id`.png",
    "bidi": "\u202egnp.exe.png",
}


@dataclass(frozen=True)
class Expected:
    """What a run must come to, by file path: what is stored, and what fails with which reason."""

    stored: set[str]
    failed: dict[str, str]


def write_inputs(folder: Path) -> Expected:
    """1,000 files of all kinds; the same for the same seed."""
    stored: set[str] = set()
    failed: dict[str, str] = {}

    def expect(path: Path | str, reason: str | None) -> None:
        name = path if isinstance(path, str) else normal_path(path.relative_to(folder).as_posix())
        failed.update({name: reason} if reason else {})
        stored.update(() if reason else {name})

    for place, (name, kind) in enumerate(KINDS.items()):
        (folder / name).mkdir(parents=True)
        for number in range(kind.count):
            path = folder / name / f"{number:03}{kind.suffix}"
            path.write_bytes(kind.make(SEED + 1000 * place + number))
            expect(path, kind.reason)
    for place, (kind_name, name) in enumerate(NAMES.items()):
        expect(write_picture(folder / kind_name / name, place), None)
    write_special(folder, expect)
    missing = 1000 - len(stored) - len(failed)
    assert missing >= 0, f"{-missing} inputs too many"
    for number in range(missing):
        expect(write_picture(folder / "more" / f"{number:03}.png", SEED - number), None)
    return Expected(stored, failed)


def write_special(folder: Path, expect: Callable[[Path | str, str | None], None]) -> None:
    """What is no plain file, or may not be read."""
    special = folder / "special"
    special.mkdir()
    fine = write_picture(folder / "linked" / "fine.png", 77)
    expect(fine, None)
    for number in range(10):
        os.mkfifo(special / f"pipe{number}.png")
        expect(special / f"pipe{number}.png", "is not a regular file")
        (special / f"dangling{number}.png").symlink_to("nowhere.png")
        expect(special / f"dangling{number}.png", "No such file")
        (special / f"loop{number}.png").symlink_to(f"loop{number}.png")
        expect(special / f"loop{number}.png", "Too many levels")
        (special / f"link{number}.png").symlink_to(fine)
        expect(special / f"link{number}.png", None)
    (special / "zeros.png").symlink_to("/dev/zero")
    expect(special / "zeros.png", "is not a regular file")
    (special / "folder_link.png").symlink_to(fine.parent)  # passed over, and counted as such
    expect(write_picture(special / "folder.png" / "1.png", 5), None)
    forbidden = write_picture(special / "forbidden.png", 6)
    forbidden.chmod(0)
    expect(forbidden, None if os.geteuid() == 0 else "Permission denied")
    raw = os.fsdecode(b"caf\xe9.png")
    write_picture(special / raw, 8)
    expect("special/caf\\xe9.png", None)


def write_hostile_table(table: Path, folder: Path, expected: Expected) -> Expected:
    """A table of the files below `folder` and of rows that are wrong themselves."""
    stored = expected.stored - {"special/caf\\xe9.png"}
    failed = dict(expected.failed)
    ages = ("", "old", "nan", "-3", "414", "061Y")  # an age that can't be read costs no image
    rows = [[name, "train", ages[place % 6]] for place, name in enumerate(sorted([*stored, *failed]))]
    names = {
        "special/folder.png": "is not a regular file",
        "special/folder_link.png": "is not a regular file",
        "missing/1.png": "No such file",
        "png/000.png/below.png": "Not a directory",
        "n" * 400 + ".png": "File name too long",
        "d/" * 3000 + "x.png": "File name too long",
        "null\x00byte.png": "null byte",
        "": "has no filepath",
        "jpeg/split.jpg": "is none of train, val, test",
        "jpeg/line\nbreak.jpg": "is none of train, val, test",
    }
    for name, reason in names.items():
        split = "holdout" if "none of" in reason else "train"
        rows.append([name, split, ""])
    failed.update(names)
    for name in sorted(stored)[:30]:
        rows.append([name, "train", ""])
        failed[f"{name} again"] = "came before in this source"
    order = np.random.default_rng(SEED).permutation(len(rows) - 30)
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filepath", "split", "age_years"])
        writer.writerows([rows[place] for place in order] + rows[-30:])
    with table.open("ab") as stream:
        stream.write(b"special/caf\xe9.png,train,\r\nshort\r\nlong,train,5,6,7\r\n" + b"x" * 1_000_000 + b",train,\r\n")
    failed.update(
        {
            "(latin)": "UTF-8",
            "short": "where the header has 3",
            "long": "where the header has 3",
            "(wide)": "field larger than field limit",
        }
    )
    return Expected(stored, failed)


MEASURED = (
    "import resource, subprocess, sys\n"
    "code = subprocess.call(sys.argv[1:])\n"
    "print('peak_kb', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n"
    "sys.exit(code)\n"
)


def ingest(source: Path, folder: Path, *arguments: object) -> dict[str, object]:
    """Run the command; checks what holds of every run over hostile inputs."""
    arguments = ("ingest", "images", source, "--encoder", "pixels", "--store", folder / "store", "--json", *arguments)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command(*arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=folder,
        env=environment(),
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 3, done.stderr
    assert int(re.findall(r"peak_kb (\d+)", done.stderr)[0]) < MEMORY_KB
    report = json.loads(done.stdout)
    assert report["read"] == report["stored"] + report["skipped"] + report["failed"]
    assert all(item["reason"] and "\n" not in item["reason"] for item in report["failures"])
    with (folder / "failures-pixels.csv").open(newline="", encoding="utf-8") as stream:
        written = list(csv.DictReader(stream))
    assert written == report["failures"]
    return report


def check_stored(folder: Path, expected: Expected) -> None:
    with open_store(folder / "store") as store, store.open("pixels") as collection:
        points = [point for page in collection.scroll(vectors=True) for point in page]
        assert {point.payload["filepath"] for point in points} == expected.stored
        for point in points[:: len(points) // 20]:
            assert collection.query(point.vector, 1)[0].score == pytest.approx(1.0, abs=1e-5)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    expected = write_inputs(folder / "data")
    yield folder, expected
    (folder / "data/special/forbidden.png").chmod(0o600)


def test_ingest_images__thousand_hostile_files_of_a_folder(inputs):
    folder, expected = inputs
    deep = too_deep(folder / "data")
    report = ingest(folder / "data", folder)
    assert report["read"] == 1001
    assert report["stored"] == len(expected.stored)
    assert report["ignored"] == {"links to folders": 1}
    reasons = {item["filepath"]: item["reason"] for item in report["failures"]}
    assert "can't be listed" in reasons.pop(deep)
    assert reasons.keys() == expected.failed.keys()
    for name, reason in expected.failed.items():
        assert re.search(reason, reasons[name]), (name, reasons[name])
    check_stored(folder, expected)


def too_deep(folder: Path) -> str:
    """Make a folder whose path is longer than the system takes; what can't be listed there must be counted."""
    part = "f" * 250
    below, here = Path(), os.open(folder, os.O_RDONLY)
    while len(str(folder / below)) < os.pathconf(folder, "PC_PATH_MAX"):
        os.mkdir(part, dir_fd=here)
        before, here = here, os.open(part, os.O_RDONLY, dir_fd=here)
        os.close(before)
        below /= part
    os.close(here)
    return below.as_posix()


def test_ingest_images__thousand_hostile_rows_of_a_table(inputs, tmp_path):
    folder, files = inputs
    table = tmp_path / "table.csv"
    expected = write_hostile_table(table, folder / "data", files)
    report = ingest(table, tmp_path, "--root", folder / "data")
    assert report["read"] == len(expected.stored) + len(expected.failed)
    assert report["stored"] == len(expected.stored)
    found = Counter(item["filepath"] for item in report["failures"])
    assert sum(found.values()) == len(expected.failed)
    reasons = Counter(item["reason"] for item in report["failures"])
    assert sum(count for reason, count in reasons.items() if "came before" in reason) == 30
    for name, wanted in expected.failed.items():
        reported = [item["reason"] for item in report["failures"] if item["filepath"] == name]
        if name.endswith(" again") or name.startswith("("):
            reported = [reason for reason in reasons if re.search(wanted, reason)]
        assert any(re.search(wanted, reason) for reason in reported), (name, reported)
    check_stored(tmp_path, expected)


def items(path, text, **options):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(open_source(path, SourceOptions(**options)))


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbffilepath,note\na.png,x\n",
        b'\xef\xbb\xbf"filepath","note"\r\n"a.png","x"\r\n',
        b"filepath,note\ra.png,x\r",
        b"\n\nfilepath,note\n\n\na.png,x\n\n",
        b" filepath , note\na.png,x\n",
        b"filepath,note\na.png,x,,\n",
        b"filepath,note\na.png,x",
    ],
    ids=["bom", "bom_quotes_crlf", "cr", "empty_lines", "spaces_in_header", "trailing_commas", "no_last_line_break"],
)
def test_table__every_spelling_of_csv(tmp_path, text):
    (item,) = items(tmp_path / "t.csv", text)
    assert isinstance(item, SourceImage)
    assert (item.record.filepath, item.record.extra) == ("a.png", {"note": "x"})


def test_table__quoted_commas_quotes_and_line_breaks(tmp_path):
    (item,) = items(tmp_path / "t.csv", 'filepath,note\n"a,""b""\n.png","1\n2"\n')
    assert (item.record.filepath, item.record.extra) == ('a,"b"\n.png', {"note": "1\n2"})


def test_table__column_without_a_name_keeps_its_place(tmp_path):
    (item,) = items(tmp_path / "t.csv", ",filepath\n17,a.png\n")
    assert item.record.extra == {"column 1": "17"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"b.png", "has 1 cell where the header has 2"),
        (b"b.png,x,y", "has 3 cells where the header has 2"),
        (b'b.png,"x"y', "can't be read: .* in line 3"),
        (b"b.png,caf\xe9", "is not UTF-8 text"),
        (b"b.png," + b"y" * 1_000_000, "can't be read: field larger"),
    ],
)
def test_table__a_broken_line_costs_only_itself(tmp_path, line, reason):
    first, broken, last = items(tmp_path / "t.csv", "filepath,note\na.png,é\n".encode() + line + b"\nc.png,z\n")
    assert isinstance(first, SourceImage)
    assert isinstance(broken, Failure)
    assert isinstance(last, SourceImage)
    assert re.search(reason, broken.reason)
    assert broken.place == "t.csv row 2"


def test_table__a_quote_that_is_never_closed_is_refused_with_its_line(tmp_path):
    with pytest.raises(SourceError, match=r"t\.csv: the quote that is opened in line 3 takes 2 lines"):
        items(tmp_path / "t.csv", 'filepath,note\na.png,x\nb.png,"y\nc.png,z\n')


def test_table__a_quote_that_is_never_closed_in_the_last_line_costs_that_row(tmp_path):
    first, broken = items(tmp_path / "t.csv", 'filepath,note\na.png,x\nb.png,"y\n')
    assert isinstance(first, SourceImage)
    assert "unexpected end of data, in line 3" in broken.reason


@pytest.mark.parametrize("column", ["filepath", "labels", "XR/chest/mass", "note"])
def test_table__a_column_twice_is_an_error(tmp_path, column):
    with pytest.raises(SourceError, match=f"more than one column {column}"):
        items(tmp_path / "t.csv", f"filepath,{column},{column}\na.png,0,1\n")
    columns = [pa.array(["a.png"]), pa.array(["0"]), pa.array(["1"])]
    names = ["filepath", column, column] if column != "filepath" else ["filepath", "filepath", "note"]
    pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=f"more than one column {column}"):
        open_source(tmp_path / "t.parquet")


def test_table__cut_off_gzip_breaks_off_with_one_line(tmp_path):
    rows = "".join(f"{number}.png\n" for number in range(50_000))
    whole = gzip.compress(f"filepath\n{rows}".encode())
    with pytest.raises(SourceError, match="breaks off"):
        items(tmp_path / "t.csv.gz", whole[: len(whole) // 2])


def test_table__values_the_engine_can_not_hold(tmp_path):
    write_picture(tmp_path / "a.png", 1)
    write_picture(tmp_path / "b.png", 2)
    columns = {
        "filepath": ["a.png", "b.png"],
        "age_years": pa.array([61.0, np.inf], pa.float64()),
        "study_date": pa.array([np.datetime64("2020-01-02T03:04:05", "us"), None]),
        "nested": [[{"deep": [1.5, np.nan], "when": "x"}], None],
        "infinite": [np.inf, 1.0],
        "large": pa.array([2**64 - 1, 0], pa.uint64()),
        "bytes": [b"caf\xe9", b""],
        "count": [3, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    encoder = get("pixels")
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        report = ingest_images(open_source(tmp_path / "t.parquet"), encoder, collection, 1)
        points = [point for page in collection.scroll() for point in page]
        again = ingest_images(open_source(tmp_path / "t.parquet"), encoder, collection, 1)
    assert (report.stored, report.failures) == (2, [])
    assert (again.skipped, again.updated) == (2, 0)
    point, infinite = sorted(points, key=lambda point: point.payload["filepath"])
    assert (point.payload["age_years"], infinite.payload.get("age_years")) == (61.0, None)
    assert point.payload["study_date"] == "2020-01-02T03:04:05"
    assert point.payload["extra"] == {
        "nested": [{"deep": [1.5, None], "when": "x"}],
        "infinite": "inf",
        "large": "18446744073709551615",
        "bytes": "caf\\xe9",
        "count": 3,
    }


def test_table__a_date_that_is_none_is_left_out_and_said(tmp_path):
    (tmp_path / "t.csv").write_text("filepath,study_date\na.png,20200102\nb.png,yesterday\n")
    source = open_source(tmp_path / "t.csv")
    assert [item.record.study_date for item in source] == ["2020-01-02T00:00:00", None]
    assert [str(change) for change in source.reading().lost] == ["study_date of 1: yesterday"]


def test_ingest_images__a_label_that_is_gone_from_the_table_is_gone_from_the_store(tmp_path):
    table = write_table(tmp_path, 4)
    encoder = get("pixels")
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        ingest_images(open_source(table), encoder, collection, 1)
        before = {point.id: point for page in collection.scroll(vectors=True) for point in page}
        table.write_text(table.read_text().replace("CT/lung/nodule", "").replace(",p0", ","))
        report = ingest_images(open_source(table), encoder, collection, 1)
        after = {point.id: point for page in collection.scroll(vectors=True) for point in page}
        again = ingest_images(open_source(table), encoder, collection, 1)
    assert (report.stored, report.skipped, report.updated) == (0, 4, 3)
    assert (again.skipped, again.updated) == (4, 0)
    payload = next(point.payload for point in after.values() if point.payload["filepath"] == "images/00001.png")
    assert payload["labels"] == []
    assert {"pathology", "primary_label", "patient_id"}.isdisjoint(payload)
    assert len(payload["sha256"]) == 64
    assert all(np.array_equal(before[id].vector, after[id].vector) for id in before)


def test_folder__bytes_that_are_no_text_become_escapes(tmp_path):
    folder = tmp_path / os.fsdecode(b"scans\xff") / os.fsdecode(b"r\xf6ntgen")
    write_picture(folder / "1.png", 1)
    (folder / os.fsdecode(b"1.\xfe")).touch()
    source = open_source(folder.parent)
    (item,) = source
    assert (item.record.dataset, item.record.labels) == ("scans\\xff", ("r\\xf6ntgen",))
    assert source.ignored == {".\\xfe": 1}
    encoder = get("pixels")
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        report = ingest_images(source, encoder, collection, 1)
    json.dumps(report.as_json()).encode("utf-8")
    assert report.stored == 1


def test_source_options__text_that_is_no_unicode_is_refused():
    with pytest.raises(SourceError, match="is not UTF-8 text"):
        SourceOptions(dataset=os.fsdecode(b"\xff"))


@pytest.mark.parametrize("name", ["n" * 400, "loop", "file/below"])
def test_open_source__a_path_that_can_not_be_one(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="source"):
        open_source(tmp_path / name)


def test_write_failures__makes_its_folder_and_names_what_can_not_be_written(tmp_path):
    failures = [Failure("a\nb.png", "here", "two\nlines")]
    write_failures(failures, tmp_path / "new/folder/f.csv")
    with (tmp_path / "new/folder/f.csv").open(newline="") as stream:
        assert list(csv.reader(stream))[1] == ["a\nb.png", "here", "two lines"]
    with pytest.raises(SourceError, match="can't write the failures"):
        write_failures(failures, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the file that is always full")
def test_ingest_images__report_comes_out_where_the_failures_can_not_be_written(tmp_path, cbmir):
    write_picture(tmp_path / "data/1.png", 1)
    (tmp_path / "data/2.png").touch()
    done = cbmir(
        *("ingest", "images", tmp_path / "data", "--encoder", "pixels", "--store", tmp_path / "store"),
        *("--json", "--failures", "/dev/full"),
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] == 1
    assert done.stderr.splitlines()[-1] == "error: can't write the failures to /dev/full: No space left on device"
