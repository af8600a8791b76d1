"""Damaged DICOM: whatever is done to a file, it is stored or counted with one line, in bounded time and memory."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from dicoms import made, shipped

from cbmir.encoders import get
from cbmir.ingest import open_source
from cbmir.ingest.loading import Wanted, load_image
from cbmir.limits import Limits
from cbmir.media import Asset
from cbmir.media.dicom_settings import DicomSettings

pytestmark = pytest.mark.slow

SEEDS = ("CT_small.dcm", "MR_small_RLE.dcm", "examples_palette.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPGExtended.dcm",
         "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm",
         "nested_priv_SQ.dcm", "badVR.dcm", "rtdose.dcm")  # fmt: skip
GOOD = 5


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 30))):
        changed[chance.randrange(128, len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(1, len(data))]


def doubled(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(128, len(data))
    return data[:start] + data[start : start + chance.choice((2, 64, 4096))] * chance.choice((2, 50)) + data[start:]


def long_value(data: bytes, chance: random.Random) -> bytes:
    """Somewhere a length of nearly 4 GB, or one that isn't known."""
    at = chance.randrange(132, min(len(data), 2000))
    return data[:at] + struct.pack("<I", chance.choice((0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF))) + data[at + 4 :]


def nested(data: bytes, chance: random.Random) -> bytes:
    """Sequences in sequences, thousands deep."""
    opened = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    at = data.find(b"\x08\0\x60\0CS")
    return data[: max(at, 200)] + opened * chance.choice((3, 500, 20_000)) + data[max(at, 200) :]


def lying(data: bytes, chance: random.Random) -> bytes:
    """Another number of rows, columns, frames or bits."""
    tag = chance.choice(
        (b"\x28\0\x10\0US", b"\x28\0\x11\0US", b"\x28\0\0\x01US", b"\x28\0\x01\x01US", b"\x28\0\x02\0US")
    )
    at = data.find(tag)
    if at < 0:
        return flipped(data, chance)
    return data[: at + 8] + struct.pack("<H", chance.choice((0, 1, 7, 0x7FFF, 0xFFFF))) + data[at + 10 :]


WAYS = (flipped, cut, doubled, long_value, nested, lying)


def run(folder: Path, count: int, monkeypatch) -> None:
    monkeypatch.setenv("CBMIR_IMAGE_SECONDS", "20")
    monkeypatch.setenv("CBMIR_IMAGE_MEMORY", "1G")
    chance = random.Random(20)
    seeds = [path.read_bytes() for path in shipped() if path.name in SEEDS]
    for number in range(count):
        data = WAYS[number % len(WAYS)](chance.choice(seeds), chance)
        (folder / f"{number:05d}").write_bytes(data)
    for number in range(GOOD):
        made(folder / f"good{number}", np.full((8, 8), 7, np.int16), SOPInstanceUID=f"1.2.77.{number}")
    items = list(open_source(folder))
    how, limits, fine = get("pixels").preprocessing, Limits.read("image"), set()
    for item in items:
        reason = getattr(item, "reason", None)
        if reason is None:
            loaded = load_image(Wanted(item.asset, None), how, limits)
            reason = loaded.reason
            fine |= {item.asset.path.name} if reason is None else set()
        if reason is not None:
            assert reason
            assert "\n" not in reason
            assert str(folder) not in reason
    assert {f"good{number}" for number in range(GOOD)} <= fine


def test_fuzz__a_few_hundred(tmp_path, monkeypatch):
    run(tmp_path, 300, monkeypatch)


@pytest.mark.soak
def test_fuzz__two_thousand(tmp_path, monkeypatch):
    run(tmp_path, 2000, monkeypatch)


def test_decode__a_bomb_is_refused_by_its_header(tmp_path):
    path = made(tmp_path / "a.dcm", np.zeros((8, 8), np.int16))
    data = path.read_bytes()
    for tag in (b"\x28\0\x10\0US\2\0", b"\x28\0\x11\0US\2\0"):
        data = data.replace(tag + b"\x08\0", tag + b"\xff\xff")
    path.write_bytes(data)
    loaded = load_image(Wanted(Asset(path, frame=1, settings=DicomSettings()), None), get("pixels").preprocessing)
    assert "is too large: 65535 x 65535 pixels" in str(loaded.reason)
