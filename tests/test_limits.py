"""Limits of one image or volume: what a small file could make of itself is refused, and its neighbours are kept."""

import bz2
import gzip
import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib

import nibabel
import numpy as np
import pytest
from pictures import read_volume, write_picture
from PIL import Image
from test_decoder_version import HOW

from cbmir.encoders import get
from cbmir.errors import CbmirError, ImageError, SourceError
from cbmir.ingest import ingest_images, open_source
from cbmir.ingest.loader import Loader
from cbmir.ingest.loading import Wanted, load_image
from cbmir.limits import Limits, bytes_of, seconds_of
from cbmir.media import Asset, decode_noted, prepare
from cbmir.media.tiff import MAX_DIRECTORIES, check_directories
from cbmir.store import open_store

pytestmark = pytest.mark.slow

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds the memory of a process")


def limits(seconds=600.0, size=8_000_000_000, memory=16_000_000_000, of="image"):
    return Limits(of, seconds, size, memory)


def nifti(shape=(4, 4, 4), dtype=np.int16, **fields):
    image = nibabel.Nifti1Image(np.arange(np.prod((4, 4, 4)), dtype=dtype).reshape((4, 4, 4)), np.diag([2, 2, 2, 1]))
    image.header["qform_code"] = image.header["sform_code"] = 1
    data = bytearray(image.to_bytes())
    struct.pack_into("<8h", data, 40, 3, *shape, 1, 1, 1, 1)
    for place, form, value in fields.values():
        struct.pack_into(form, data, place, value)
    return bytes(data)


def zeros(count):
    """So many zeros as gzip, without having them in memory."""
    machine = zlib.compressobj(9, zlib.DEFLATED, 31)
    part = bytes(1 << 20)
    packed = b"".join(machine.compress(part) for _ in range(count >> 20))
    return packed + machine.flush()


def tiff(chain, shared=False):
    """Directories of one tag, each pointing to the next one, the last one to the second."""
    data = bytearray(b"II*\0\x08\0\0\0")
    for number in range(chain):
        after = 8 + (number + 1) * 18 if number + 1 < chain else 0
        entry = struct.pack("<HHII", 270, 2, 40 if shared else 1, 0)
        data += struct.pack("<H", 1) + entry + struct.pack("<I", after)
    return bytes(data)


def test_bytes_of__sizes_as_people_write_them():
    assert [bytes_of(text) for text in ("5", "5B", "2k", "1.5 MB", "16G", "1T")] == [
        *(5, 5, 2000, 1_500_000, 16_000_000_000, 10**12)
    ]
    for text in ("", "0", "-1", "1X", "1e9", "nan", "9999999T", "१"):
        with pytest.raises(CbmirError, match="is no limit of size: give bytes, such as 500M"):
            bytes_of(text)


def test_seconds_of__numbers_above_zero():
    assert seconds_of(" 0.5") == 0.5
    for text in ("", "0", "-3", "nan", "inf", "ten"):
        with pytest.raises(CbmirError, match="is no limit of time: give seconds"):
            seconds_of(text)


def test_read__the_environment_of_one_kind(monkeypatch):
    monkeypatch.setenv("CBMIR_IMAGE_SECONDS", "7")
    monkeypatch.setenv("CBMIR_IMAGE_BYTES", "3M")
    monkeypatch.setenv("CBMIR_IMAGE_MEMORY", "1G")
    assert Limits.read("image") == Limits("image", 7, 3_000_000, 10**9)
    table = Limits.read("table")
    assert (table.seconds, table.bytes) == (3600, 8_000_000_000)
    assert 0 < table.memory_bytes <= 16_000_000_000
    monkeypatch.setenv("CBMIR_TABLE_BYTES", "many")
    with pytest.raises(CbmirError, match="'many' is no limit of size"):
        Limits.read("table")


@pytest.mark.parametrize(("of", "error"), [("image", ImageError), ("table", SourceError)])
def test_held__time_names_its_option(of, error):
    def forever():
        while True:
            try:
                for _ in range(10**9):
                    pass
            except Exception:  # as decoders do
                continue

    before = signal.getsignal(signal.SIGPROF)
    expected = pytest.raises(error, match=rf"^it takes over 0\.1 s of computing, the limit \(--{of}-seconds\)$")
    with expected, limits(0.1, of=of).held("it "):
        forever()
    assert signal.getsignal(signal.SIGPROF) is before
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


def test_held__waiting_does_not_count():
    with limits(0.05).held():
        time.sleep(0.2)


@LINUX
@pytest.mark.parametrize(("of", "error"), [("image", ImageError), ("table", SourceError)])
def test_held__memory_names_its_option(of, error):
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    expected = pytest.raises(error, match=rf"too large for the memory .* limit of 50,000,000 bytes \(--{of}-memory\)")
    with expected, limits(memory=50_000_000, of=of).held():
        bytearray(200_000_000)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with limits(memory=50_000_000).held():
        assert len(bytearray(10_000_000)) == 10_000_000


def test_prepare__pixels_beyond_the_limit_are_not_decoded():
    data = io.BytesIO()
    Image.new("L", (1000, 1000)).save(data, "PNG")
    with pytest.raises(ImageError, match=r"unpacks to 3,000,000 bytes or more, 2,999,999 at most \(--image-bytes\)"):
        prepare(Asset(data.getvalue(), limits(size=2_999_999)), HOW)
    assert prepare(Asset(data.getvalue(), limits(size=3_000_000)), HOW).width == 1000


@pytest.mark.parametrize(
    ("make", "reason"),
    {
        "more_than_the_file": (lambda: nifti((32_000, 32_000, 2))[:5000], "is too large: 32000 x 32000 x 2 voxels"),
        "uncompressed": (lambda: nifti((900, 900, 900)), "a header of 900 x 900 x 900 voxels, 1,458,000,000 bytes"),
        "gzip": (lambda: gzip.compress(nifti((900, 900, 900))), "the file can hold no more than"),
        "far_voxels": (
            lambda: gzip.compress(nifti(to=(108, "<f", 1e12))),
            "too large: it unpacks to 999,999,995,904 bytes or more",
        ),
        "one_long_axis": (lambda: zeros(1 << 20), "is no NIfTI volume"),
    }.values(),
    ids=["axes", "uncompressed", "gzip", "far_voxels", "zeros"],
)
def test_read_volume__what_a_header_promises_is_compared_with_the_file(make, reason):
    with pytest.raises(ImageError) as caught:
        read_volume(make())
    assert reason in str(caught.value)


def test_read_volume__an_axis_longer_than_real_ones():
    head = nibabel.Nifti2Header()
    head.set_data_shape((40_000, 2, 2))
    head.set_data_dtype(np.uint8)
    image = nibabel.Nifti2Image(np.zeros((40_000, 2, 2), np.uint8), np.eye(4), head)
    image.header["qform_code"] = 1
    with pytest.raises(ImageError, match="is too long: 40000 x 2 x 2 voxels, 32,767 at most along an axis"):
        read_volume(gzip.compress(image.to_bytes()))


def test_read_volume__gzip_is_unpacked_up_to_the_limit_only():
    packed = gzip.compress(nifti(to=(108, "<f", 2e7)) + bytes(20_000_000))
    assert len(packed) < 40_000
    assert read_volume(packed).values.shape == (4, 4, 4)
    with pytest.raises(ImageError, match=r"it unpacks to 20,000,000 bytes or more, 10,000,000 at most"):
        read_volume(packed, limits(size=10_000_000))


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_read_volume__voxels_packed_within_nrrd(encoding):
    pack = gzip.compress if encoding == "gzip" else bz2.compress
    head = (
        "NRRD0005\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nspace: left-posterior-superior\n"
        f"space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: {encoding}\n"
    )
    assert read_volume((head + "\n").encode() + pack(bytes(64))).values.shape == (4, 4, 4)
    for count in (65, 600, 50_000_000):
        with pytest.raises(ImageError, match=r"is damaged: .* more than"):
            read_volume((head + "\n").encode() + pack(bytes(count)))
    for skip in ("line skip: 1000000000000", "byte skip: 1000000000000"):
        with pytest.raises(ImageError, match="is damaged: its header skips 1,000,000,000,000 lines or bytes"):
            read_volume((head + skip + "\n\n").encode() + pack(bytes(64)))
    with pytest.raises(ImageError, match=r"a header of 4 x 4 x 4 voxels|--image-bytes"):
        read_volume((head + "\n").encode() + pack(bytes(64)), limits(size=63))


def test_check_directories__a_chain_without_end():
    check_directories(tiff(MAX_DIRECTORIES))
    with pytest.raises(ImageError, match="holds over 1,000 frames; save each as an image of its own"):
        check_directories(tiff(MAX_DIRECTORIES + 1))
    with pytest.raises(ImageError, match="holds over 1,000 frames"):
        decode_noted(tiff(500_000))


def test_check_directories__tags_that_share_their_bytes():
    size = 60_000
    entries = b"".join(struct.pack("<HHII", 40_000 + tag, 7, size, 8) for tag in range(5000))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries + bytes(4)
    with pytest.raises(ImageError, match="is damaged: its tags tell of more bytes than the file has"):
        decode_noted(data)


def test_check_directories__real_files_pass():
    for form in (
        {},
        {"compression": "tiff_deflate"},
        {"save_all": True, "append_images": [Image.new("L", (8, 8))] * 3},
    ):
        data = io.BytesIO()
        Image.new("RGB", (64, 48)).save(data, "TIFF", **form)
        check_directories(data.getvalue())


def test_load_image__the_limits_that_are_given(tmp_path):
    write_picture(tmp_path / "a.png", 1)
    assert load_image(Wanted(Asset(tmp_path / "a.png"), None), HOW).reason is None
    small = load_image(Wanted(Asset(tmp_path / "a.png"), None), HOW, limits(size=100))
    assert str(small.reason).endswith("100 at most (--image-bytes)")


def slow_jpeg(scans):
    """A progressive JPEG that sends the same few coefficients over and over."""
    data = io.BytesIO()
    Image.new("L", (9000, 9000), 77).save(data, "JPEG", progressive=True)
    jpeg = data.getvalue()
    starts = [place for place in range(len(jpeg)) if jpeg[place : place + 2] == b"\xff\xda"]
    last = jpeg[starts[-1] : -2]
    return jpeg[:-2] + last * scans + b"\xff\xd9"


def test_loader__a_file_that_never_ends_is_counted_and_its_neighbours_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("CBMIR_IMAGE_SECONDS", "1")
    (tmp_path / "slow.jpg").write_bytes(slow_jpeg(3000))
    for seed in range(3):
        write_picture(tmp_path / f"{seed}.png", seed)
    names = ["0.png", "slow.jpg", "1.png", "2.png"]
    with Loader(HOW, 1) as loader:
        (loaded,) = loader.load([[(name, Wanted(Asset(tmp_path / name), None)) for name in names]])
    assert [item.reason for _, item in loaded] == [
        *(None, "takes over 1 s of computing, the limit (--image-seconds)", None, None)
    ]


STUCK = """
import sys
from cbmir.limits import Limits
limits = Limits("image", 0.2, 10**9, 10**9)
with limits.held(kills=True):
    sum(range(10**13))  # one call, which no signal interrupts
"""


@pytest.mark.skipif(os.name != "posix", reason="needs limits of the system")
def test_held__the_system_ends_what_does_not_return(tmp_path):
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == -signal.SIGXCPU
    assert list(tmp_path.iterdir()) == []  # no core file


@LINUX
def test_ingest__bombs_are_counted_and_their_neighbours_stored(tmp_path, monkeypatch):
    """A deep JPEG 2000 within the limit of pixels takes memory that the limit doesn't give."""
    monkeypatch.setenv("CBMIR_IMAGE_MEMORY", "60M")
    for seed in range(3):
        write_picture(tmp_path / f"images/{seed}.png", seed)
    Image.new("RGB", (9000, 9000)).save(tmp_path / "images/large.png")
    (tmp_path / "images/pages.tif").write_bytes(tiff(100_000))
    with open_store(tmp_path / "store") as store:
        encoder = get("pixels")
        with store.open_or_create("pixels", encoder.card) as collection:
            report = ingest_images(open_source(tmp_path / "images"), encoder, collection, 1)
    assert (report.read, report.stored, report.failed) == (5, 3, 2)
    reasons = {item.filepath: item.reason for item in report.failures}
    assert "limit of 60,000,000 bytes (--image-memory)" in reasons["large.png"]
    assert "holds over 1,000 frames" in reasons["pages.tif"]


def test_commands__take_the_limits_of_an_image(tmp_path, cbmir):
    images, store = tmp_path / "images", tmp_path / "store"
    for seed in range(2):
        write_picture(images / f"{seed}.png", seed)
    Image.open(images / "0.png").resize((600, 600)).rotate(90).save(images / "large.png")
    where = ("--store", store, "--failures", tmp_path / "failed.csv")
    small = ("--image-bytes", "1M")
    done = cbmir("ingest", "images", images, "--encoder", "pixels", *where, *small)
    assert done.returncode == 3
    assert (
        "unpacks to 1,080,000 bytes or more, 1,000,000 at most (--image-bytes)" in (tmp_path / "failed.csv").read_text()
    )
    assert "CBMIR_IMAGE_BYTES" not in os.environ
    assert cbmir("ingest", "images", images, "--encoder", "pixels", *where).returncode == 0
    query = cbmir("search", "image", images / "large.png", "--store", store, *small)
    assert (query.returncode, query.stdout) == (1, "")
    assert query.stderr.strip().endswith("1,000,000 at most (--image-bytes)")
    both = cbmir("search", "image", images, "--store", store, *small)
    assert both.returncode == 3
    sheet = ("--sheet", tmp_path / "sheet.png", "--allow-missing")
    drawn = cbmir("search", "like", "large.png", "--store", store, *sheet, CBMIR_IMAGE_BYTES="1M")
    assert "1 image could not be drawn" in drawn.stderr
    place = ("--thumbnails", tmp_path / "small", "--thumbnail-url", "http://127.0.0.1/t", "--root", images)
    assert cbmir("ingest", "thumbnails", "pixels", *where, *place, *small).returncode == 3
    assert len(list((tmp_path / "small").rglob("*.jpg"))) == 2
    wrong = cbmir("search", "image", images / "0.png", "--store", store, "--image-seconds", "soon")
    assert wrong.returncode == 2
    assert "'soon' is no limit of time: give seconds, such as 600" in wrong.stderr
