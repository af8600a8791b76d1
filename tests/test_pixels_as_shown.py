"""Pixels as a viewer shows them: each kind of file against the array it was made of, or the reason it is refused."""

import io
import itertools
import struct
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cbmir.errors import ImageError
from cbmir.media import changed_since, decode, decode_noted, prepare
from cbmir.media.raster import DECODER
from cbmir.media.tiff import black_is_zero

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (40, 56), dtype=np.uint8)
GREY[0, :2] = (0, 255)
RGB = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
WIDE = (GREY.astype(np.uint16) * 13 + 400).astype(np.uint16)
SMOOTH = np.asarray(Image.linear_gradient("L").resize((56, 40)).convert("RGB"))


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def tiff(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data))


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def scaled(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float64)
    return grey(np.round((wide - wide.min()) / (wide.max() - wide.min()) * 255).astype(np.uint8))


# EXIF orientation


def as_stored(shown: np.ndarray, orientation: int) -> np.ndarray:
    """The array to store so that it is shown right, by the table of EXIF 2.3.

    The 0th row of the file is at the visual top, bottom (3, 4), left or right (6, 7), the 0th column at the visual
    left, right (2, 3), top or bottom (7, 8); from 5 on rows and columns are exchanged.
    """
    turned = shown.swapaxes(0, 1) if orientation >= 5 else shown
    rows, columns = orientation in (3, 4, 6, 7), orientation in (2, 3, 7, 8)
    return np.ascontiguousarray(turned[:: -1 if rows else 1, :: -1 if columns else 1])


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
    ],
)
def test_decode__orientation(form, options, orientation):
    stored = Image.fromarray(as_stored(RGB, orientation))
    data = saved(stored, form, exif=exif(orientation), **options)
    decoded = decode_noted(data)
    assert np.array_equal(np.asarray(decoded.content), RGB)
    assert decoded.notes == (("exif_orientation",) if orientation > 1 else ())
    assert changed_since(data, 1) == (orientation > 1 and form != "TIFF")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode__orientation_of_a_jpeg(orientation):
    data = saved(Image.fromarray(as_stored(SMOOTH, orientation)), "JPEG", quality=98, exif=exif(orientation))
    assert np.abs(pixels(data).astype(int) - SMOOTH).mean() < 1
    assert changed_since(data, 1) == (orientation > 1)


def test_decode__orientation_of_wide_grey():
    data = saved(Image.fromarray(as_stored(WIDE, 6)), "PNG", exif=exif(6))
    assert np.array_equal(pixels(data), scaled(WIDE))


def test_decode__orientation_behind_the_pixels_of_a_png():
    data = saved(Image.fromarray(as_stored(RGB, 8)), "PNG", exif=exif(8))
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert np.array_equal(pixels(moved), RGB)
    assert changed_since(moved, 1)


@pytest.mark.parametrize("tag", [0, 9, 65_535])
def test_decode__an_orientation_that_is_none_changes_nothing(tag):
    data = saved(Image.fromarray(RGB), "PNG", exif=exif(tag))
    assert decode_noted(data).notes == ()
    assert np.array_equal(pixels(data), RGB)
    assert not changed_since(data, 1)


def test_decode__a_damaged_exif_changes_nothing():
    data = saved(Image.fromarray(SMOOTH), "JPEG", quality=98, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert np.abs(pixels(data).astype(int) - SMOOTH).mean() < 1
    assert not changed_since(data, 1)


def test_prepare__size_and_pixels_are_those_of_the_upright_image(tmp_path):
    from cbmir.media import Preprocessing

    how = Preprocessing((40, 56), "squash", 40, "nearest", (0.5,) * 3, (0.5,) * 3)
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(as_stored(RGB, 6)), "PNG", exif=exif(6)))
    prepared = prepare(tmp_path / "a.png", how)
    assert (prepared.width, prepared.height, prepared.depth) == (56, 40, None)
    assert np.array_equal(prepared.pixels, RGB)
    assert np.array_equal(prepare((tmp_path / "a.png").read_bytes(), how).pixels, RGB)


# TIFF: white is zero


DEPTHS = [np.uint8, np.uint16, np.int8, np.int16, np.int32, np.float32]
KNOWN = [*itertools.product(DEPTHS, "<>"), (np.uint32, "<")]


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize(("dtype", "order"), KNOWN)
def test_decode__tiff_of_every_depth_order_and_sense(dtype, photometric, order):
    values = GREY.astype(dtype) if dtype == np.uint8 else (GREY.astype(np.int64) * (1 if dtype == np.int8 else 9) // 3)
    values = (values - 30 if np.dtype(dtype).kind in "if" else values).astype(dtype)
    values += dtype(2**31 - 200) if dtype == np.uint32 else dtype(0)  # across the sign bit
    shown = grey(values) if dtype == np.uint8 else scaled(values)
    shown = 255 - shown if (photometric, dtype) == ("miniswhite", np.uint8) else shown
    if photometric == "miniswhite" and dtype != np.uint8:
        shown = scaled(values.max().astype(np.float64) - values.astype(np.float64))
    data = tiff(values, photometric=photometric, byteorder=order)
    assert np.array_equal(pixels(data), shown)
    assert decode_noted(data).notes == (("white_is_zero",) if photometric == "miniswhite" else ())


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (np.float64, "64-bit floating point"),
        (np.float16, "16-bit floating point"),
        (np.uint64, "64-bit integers"),
        (np.int64, "64-bit signed integers"),
    ],
)
def test_decode__tiff_of_pixels_not_known_here(dtype, words):
    with pytest.raises(ImageError, match=f"is a TIFF of {words}, which cbmir can't read: save it as 32-bit floating"):
        decode(tiff(GREY.astype(dtype)))


def test_decode__tiff_that_pillow_does_not_know():
    for values, options in ((GREY, {"bigtiff": True}), (GREY.astype(np.uint32), {})):
        with pytest.raises(ImageError, match="a TIFF of a kind not known here: save it with 8 or 16 bits a channel"):
            decode(tiff(values, byteorder=">", **options))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("inverted", [False, True])
def test_decode__compressed_wide_tiff(compression, inverted):
    data = saved(Image.fromarray(WIDE), "TIFF", compression=compression, tiffinfo={262: 0 if inverted else 1})
    assert np.array_equal(pixels(data), scaled(WIDE.max() - WIDE if inverted else WIDE))
    assert changed_since(data, 1) == inverted


@pytest.mark.parametrize("compression", [None, "group4", "group3", "packbits", "tiff_lzw"])
@pytest.mark.parametrize("inverted", [False, True])
def test_decode__tiff_of_one_bit(compression, inverted):
    bits = GREY > 127
    data = saved(Image.fromarray(bits), "TIFF", compression=compression, tiffinfo={262: 0 if inverted else 1})
    assert np.array_equal(pixels(data), grey(np.where(bits, 255, 0).astype(np.uint8)))  # Pillow inverts what it writes
    assert not changed_since(data, 1)


@pytest.mark.parametrize("order", "<>")
def test_decode__tiff_of_one_bit_by_another_writer(order):
    bits = GREY > 127
    for photometric, white in (("minisblack", bits), ("miniswhite", ~bits)):
        data = tiff(bits, photometric=photometric, byteorder=order)
        assert np.array_equal(pixels(data), grey(np.where(white, 255, 0).astype(np.uint8)))


@pytest.mark.parametrize(("order", "bigtiff"), [("<", False), (">", False), ("<", True)])
def test_decode__tiled_tiff(order, bigtiff):
    options = {"tile": (16, 32), "byteorder": order, "bigtiff": bigtiff, "compression": "zlib"}
    assert np.array_equal(pixels(tiff(RGB, photometric="rgb", **options)), RGB)
    assert np.array_equal(pixels(tiff(GREY, photometric="minisblack", **options)), grey(GREY))
    white = tiff(WIDE, photometric="miniswhite", predictor=True, **options)
    assert np.array_equal(pixels(white), scaled(WIDE.max() - WIDE))


def test_decode__planes_of_a_tiff():
    planes = np.moveaxis(RGB, 2, 0)
    assert np.array_equal(pixels(tiff(planes, photometric="rgb", planarconfig="separate")), RGB)


def test_decode__grey_and_alpha_of_a_tiff_in_which_white_is_zero():
    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    data = tiff(np.dstack([GREY, alpha]), photometric="miniswhite", extrasamples=["unassalpha"], planarconfig="contig")
    assert np.array_equal(pixels(data), grey(np.where(alpha > 0, 255 - GREY, 0).astype(np.uint8)))


def test_decode__smaller_copies_of_a_tiff_are_left_out():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(RGB, photometric="rgb")
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
        writer.write(RGB[::4, ::4], photometric="rgb", subfiletype=1)
    assert np.array_equal(pixels(file.getvalue()), RGB)
    assert decode_noted(file.getvalue()).notes == ()


def test_black_is_zero__what_pillow_inverts_is_left_alone():
    assert black_is_zero(tiff(GREY, photometric="miniswhite")) is None
    assert black_is_zero(tiff(WIDE, photometric="minisblack")) is None
    assert black_is_zero(b"") is None
    assert black_is_zero(b"II*\0") is None
    assert black_is_zero(tiff(WIDE, photometric="miniswhite")[:60]) is None


# several frames


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_decode__the_first_frame_of_an_animation(form):
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(first, form, save_all=True, append_images=[second], **options)
    decoded = decode_noted(data)
    assert np.array_equal(np.asarray(decoded.content), grey(GREY))
    assert decoded.notes == ("first_frame",)


def test_decode__the_first_picture_of_an_mpo_upright():
    stored = Image.fromarray(as_stored(SMOOTH, 6))
    data = saved(stored, "MPO", save_all=True, append_images=[stored.rotate(180)], quality=98, exif=exif(6))
    decoded = decode_noted(data)
    assert np.abs(np.asarray(decoded.content).astype(int) - SMOOTH).mean() < 1
    assert decoded.notes == ("exif_orientation", "first_frame")


# colour and alpha


def test_decode__cmyk_is_ink_on_white():
    inks = RNG.integers(0, 256, (40, 56, 4), dtype=np.uint8)
    light = (255 - inks[..., :3].astype(np.float64)) * (255 - inks[..., 3:].astype(np.float64)) / 255
    found = pixels(saved(Image.fromarray(inks, "CMYK"), "TIFF"))
    assert np.abs(found - light).max() <= 1


def test_decode__a_palette_with_its_own_alpha():
    places = RNG.integers(0, 4, (40, 56), dtype=np.uint8)
    colours = np.array([[250, 20, 30], [10, 200, 90], [80, 90, 240], [255, 255, 255]], np.uint8)
    alpha = np.array([255, 0, 128, 255], np.uint8)
    picture = Image.fromarray(places, "P")
    picture.putpalette(colours.tobytes())
    found = pixels(saved(picture, "PNG", transparency=alpha.tobytes()))
    wanted = colours[places].astype(np.float64) * alpha[places][..., None] / 255
    assert np.abs(found - wanted).max() <= 1


def test_decode__sixteen_bit_colour_keeps_its_upper_half():
    wide = RNG.integers(0, 65_536, (40, 56, 3), dtype=np.uint16)
    for order in "<>":
        found = pixels(tiff(wide, photometric="rgb", byteorder=order))
        assert np.abs(found - wide / 257).max() <= 1


def png(depth: int, colour: int, rows: list[bytes], size: tuple[int, int], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written out, since Pillow writes no alpha or clear value of 16 bits."""
    import zlib

    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def test_decode__a_clear_value_of_wide_grey_is_black():
    values = np.array([[100, 300], [200, 100]], np.uint16)
    data = png(16, 0, [row.astype(">u2").tobytes() for row in values], (2, 2), (b"tRNS", struct.pack(">H", 300)))
    assert np.array_equal(pixels(data), grey(np.array([[0, 0], [128, 0]], np.uint8)))
    assert changed_since(data, 1)


def test_decode__a_clear_colour_of_sixteen_bits_is_refused():
    values = np.full((1, 2, 3), 40_000, np.uint16)
    data = png(16, 2, [values.astype(">u2").tobytes()], (2, 1), (b"tRNS", struct.pack(">HHH", 40_000, 1, 2)))
    with pytest.raises(ImageError, match="save it with 8 bits a channel"):
        decode(data)


def test_decode__wide_grey_with_alpha_is_laid_on_black():
    values = np.array([[[65_535, 65_535], [65_535, 0], [32_896, 65_535]]], np.uint16)
    found = pixels(png(16, 4, [values.astype(">u2").tobytes()], (3, 1)))
    assert np.abs(found[0, :, 0].astype(int) - [255, 0, 128]).max() <= 1


# other formats


def test_decode__jpeg_2000_of_wide_grey_and_of_colour():
    assert np.array_equal(pixels(saved(Image.fromarray(WIDE), "JPEG2000", irreversible=False)), scaled(WIDE))
    for bare in (False, True):
        assert np.array_equal(pixels(saved(Image.fromarray(RGB), "JPEG2000", irreversible=False, no_jp2=bare)), RGB)


def test_decode__bmp_of_every_depth():
    assert np.array_equal(pixels(saved(Image.fromarray(RGB), "BMP")), RGB)
    assert np.array_equal(pixels(saved(Image.fromarray(GREY), "BMP")), grey(GREY))
    bits = GREY > 127
    assert np.array_equal(pixels(saved(Image.fromarray(bits), "BMP")), grey(np.where(bits, 255, 0).astype(np.uint8)))


def bmp_16(values: np.ndarray) -> bytes:
    """Rows of 5-bit blue, green and red from the bottom up, as BMP has them without a mask."""
    height, width = values.shape
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 0, values.nbytes, 0, 0, 0, 0)
    body = values[::-1].astype("<u2").tobytes()
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + head + body


def test_decode__bmp_of_five_bits_a_channel():
    red, green, blue = (RNG.integers(0, 32, (6, 8), dtype=np.uint16) for _ in range(3))
    wanted = np.dstack([red, green, blue]) * 255 / 31
    assert np.abs(pixels(bmp_16(red << 10 | green << 5 | blue)) - wanted).max() <= 1


def test_decode__webp_with_alpha():
    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    data = saved(Image.fromarray(np.dstack([RGB, alpha])), "WEBP", lossless=True, exact=True)
    assert np.array_equal(pixels(data), np.where(alpha[..., None] > 0, RGB, 0))


@pytest.mark.parametrize("maximum", [1, 15, 255, 4095, 65_535])
def test_decode__pgm_of_any_maximum(maximum):
    values = (GREY.astype(np.int64) * maximum // 255).astype(np.uint16)
    body = values.astype(">u2" if maximum > 255 else "u1").tobytes()
    shown = np.round(values / maximum * 255)
    found = pixels(b"P5 56 40 %d\n" % maximum + body)
    assert np.abs(found[..., 0] - shown).max() <= 1


# the version


def test_changed_since__plain_files_and_the_present_version_are_as_they_were():
    plain = [
        saved(Image.fromarray(GREY), "PNG"),
        saved(Image.fromarray(WIDE), "PNG"),
        saved(Image.fromarray(RGB), "JPEG"),
        tiff(GREY, photometric="miniswhite"),
        tiff(WIDE),
        saved(ImageOps.flip(Image.fromarray(RGB)), "BMP"),
    ]
    assert not any(changed_since(data, 1) for data in plain)
    assert not changed_since(saved(Image.fromarray(RGB), "PNG", exif=exif(6)), DECODER)


DAMAGEABLE = {
    "turned": saved(Image.fromarray(RGB), "PNG", exif=exif(6)),
    "turned_jpeg": saved(Image.fromarray(RGB), "JPEG", exif=exif(6)),
    "white": tiff(WIDE, photometric="miniswhite"),
    "white_big_endian": tiff(WIDE, photometric="miniswhite", byteorder=">"),
    "white_bigtiff": tiff(WIDE, photometric="miniswhite", bigtiff=True),
    "mpo": saved(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(RGB)]),
}


@given(
    name=st.sampled_from(list(DAMAGEABLE)),
    spots=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
    end=st.integers(0, 600),
)
def test_decode__damaged_tags_give_an_image_or_a_reason(name, spots, end):
    data = bytearray(DAMAGEABLE[name])
    for place, value in spots:
        data[min(place, len(data) - 1)] = value
    for damaged in (bytes(data), bytes(data[:-end] if end else data)):
        for work in (decode, lambda file: changed_since(file, 1)):
            reason = _reason(work, damaged)
            assert len(reason) < 300
            assert "\n" not in reason


def _reason(work: Callable[[bytes], object], data: bytes) -> str:
    """Why it can't be done; empty where it can."""
    try:
        work(data)
    except ImageError as error:
        return str(error)
    return ""
