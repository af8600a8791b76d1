"""From odd files to pixels, or to a short reason; and the same pixels as the libraries the encoders come from."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cbmir.errors import ImageError
from cbmir.media import MAX_PIXELS, Asset, Preprocessing, decode, preprocess, sha256, suffixes
from cbmir.media.raster import KIND

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (33, 47), dtype=np.uint8)
RGB = RNG.integers(0, 256, (33, 47, 3), dtype=np.uint8)


def _bytes(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def _pixels(data: bytes) -> np.ndarray:
    picture = decode(data)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def _same_grey(data: bytes, grey: np.ndarray) -> None:
    assert np.array_equal(_pixels(data), np.repeat(grey[..., None], 3, axis=2))


# read


def read(path):
    with Asset(path).open() as file:
        return file.read()


def test_asset__bytes_and_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read(tmp_path / "a") == b"abc"
    assert (
        Asset(tmp_path / "a").sha256
        == sha256(b"abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_asset__what_is_no_file_with_bytes(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for path, reason in {
        tmp_path / "missing": "No such file or directory",
        tmp_path / "empty": "is empty",
        tmp_path: "is not a regular file",
        tmp_path / "file" / "below": "Not a directory",
        tmp_path / "loop": "Too many levels of symbolic links",
        tmp_path / "dangling": "No such file or directory",
        tmp_path / ("x" * 300): "File name too long",
        Path("null\0byte"): "embedded null byte",
        Path("/dev/null"): "is not a regular file",
    }.items():
        with pytest.raises(ImageError) as caught:
            read(path)
        assert str(caught.value) == reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_asset__a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="is not a regular file"):
        read(tmp_path / "pipe")


# decode: every kind of pixel


def test_decode__grey_and_colour():
    _same_grey(_bytes(Image.fromarray(GREY)), GREY)
    assert np.array_equal(_pixels(_bytes(Image.fromarray(RGB))), RGB)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM", "GIF", "WEBP", "JPEG2000"])
def test_decode__every_lossless_format(form):
    options = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}.get(form, {})
    _same_grey(_bytes(Image.fromarray(GREY), form, **options), GREY)


def test_decode__sixteen_bits_are_scaled_to_their_range():
    values = RNG.integers(1000, 3000, (20, 30), dtype=np.uint16)
    values[0, :2] = (900, 3100)
    expected = np.round((values.astype(float) - 900) / 2200 * 255).astype(np.uint8)
    _same_grey(_bytes(Image.fromarray(values)), expected)
    _same_grey(_bytes(Image.fromarray(values), "TIFF"), expected)
    _same_grey(_bytes(Image.fromarray(values.astype(np.int32)), "TIFF"), expected)
    _same_grey(_bytes(Image.fromarray(values.astype(np.float32)), "TIFF"), expected)


def test_decode__one_even_sixteen_bit_grey_is_black():
    _same_grey(_bytes(Image.fromarray(np.full((5, 5), 4000, np.uint16))), np.zeros((5, 5), np.uint8))


def test_decode__pixels_that_are_not_finite():
    with pytest.raises(ImageError, match="has pixels that are not finite"):
        decode(_bytes(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"))


def test_decode__one_bit():
    bits = GREY > 127
    _same_grey(_bytes(Image.fromarray(bits)), np.where(bits, 255, 0).astype(np.uint8))


def test_decode__palette():
    picture = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(_pixels(_bytes(picture)), np.asarray(picture.convert("RGB")))


def test_decode__transparent_is_laid_on_black():
    alpha = np.zeros((33, 47), np.uint8)
    alpha[:, 20:] = 255
    shown = np.where(alpha[..., None] > 0, RGB, 0)
    assert np.array_equal(_pixels(_bytes(Image.fromarray(np.dstack([RGB, alpha])))), shown)
    grey = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha)))
    _same_grey(_bytes(grey), np.where(alpha > 0, GREY, 0))


def test_decode__half_transparent_is_half_as_bright():
    picture = Image.new("RGBA", (4, 4), (200, 100, 50, 128))
    assert np.abs(_pixels(_bytes(picture)).astype(int) - [100, 50, 25]).max() <= 1


def test_decode__transparent_colour_of_a_palette():
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode="P")
    picture.putpalette([10, 20, 30, 200, 210, 220])
    expected = np.array([[[0, 0, 0], [200, 210, 220]], [[200, 210, 220], [0, 0, 0]]], np.uint8)
    assert np.array_equal(_pixels(_bytes(picture, transparency=0)), expected)


def test_decode__transparent_colour_of_rgb_and_grey():
    picture = Image.fromarray(np.array([[[9, 9, 9], [50, 60, 70]]], np.uint8))
    assert np.array_equal(_pixels(_bytes(picture, transparency=(9, 9, 9))), [[[0, 0, 0], [50, 60, 70]]])
    grey = Image.fromarray(np.array([[9, 50]], np.uint8))
    assert np.array_equal(_pixels(_bytes(grey, transparency=9))[0, :, 0], [0, 50])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L", "RGB"])
def test_decode__jpeg_of_every_mode(mode):
    smooth = Image.linear_gradient("L").resize((47, 33)).convert("RGB")
    found = _pixels(_bytes(smooth.convert(mode), "JPEG", quality=95))
    assert np.abs(found.astype(int) - np.asarray(smooth).astype(int)).mean() < 4


def test_decode__pictures_of_one_pixel_or_line():
    for shape in ((1, 1), (1, 500), (500, 1)):
        assert _pixels(_bytes(Image.fromarray(np.full(shape, 7, np.uint8)))).shape == (*shape, 3)


# decode: what is refused


def test_decode__several_pages():
    frames = [Image.fromarray(np.full((9, 9), value, np.uint8)) for value in (0, 100, 200)]
    with pytest.raises(ImageError, match="holds 3 frames; save each as an image of its own"):
        decode(_bytes(frames[0], "TIFF", save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"just a text, named picture.png",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"II*\0",
        b"P5\n",
    ],
)
def test_decode__no_picture(data):
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_decode__postscript_is_not_run():
    """Pillow would hand it to Ghostscript."""
    with pytest.raises(ImageError, match="is not in a picture format known here"):
        decode(_bytes(Image.fromarray(RGB), "EPS"))


def _png_of_size(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100_000)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1)])
def test_decode__a_bomb_is_refused_before_it_is_decoded(size):
    with pytest.raises(ImageError, match=r"is too large: "):
        decode(_png_of_size(*size))


@pytest.mark.skipif(sys.platform != "linux", reason="memory can't be limited on this system")
def test_decode__a_bomb_takes_no_memory():
    code = """
import resource, sys
from cbmir.errors import ImageError
from cbmir.media import decode
data = sys.stdin.buffer.read()
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
try:
    decode(data)
except ImageError as error:
    print(error)
"""
    bomb = _png_of_size(30_000, 30_000)  # 2.7 GB of pixels
    done = subprocess.run([sys.executable, "-c", code], input=bomb, capture_output=True, check=True)
    assert done.stdout.startswith(b"is too large: ")


PICTURES = {
    "png": _bytes(Image.fromarray(RGB)),
    "png16": _bytes(Image.fromarray(GREY.astype(np.uint16) * 250)),
    "jpeg": _bytes(Image.fromarray(RGB), "JPEG"),
    "progressive": _bytes(Image.fromarray(RGB), "JPEG", progressive=True),
    "tiff": _bytes(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"),
    "webp": _bytes(Image.fromarray(RGB), "WEBP"),
    "gif": _bytes(Image.fromarray(GREY), "GIF"),
    "bmp": _bytes(Image.fromarray(RGB), "BMP"),
    "jp2": _bytes(Image.fromarray(RGB), "JPEG2000"),
}


@pytest.mark.parametrize("name", sorted(PICTURES.keys() - {"jp2"}))  # JPEG 2000 decodes a part, with less detail
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_decode__a_cut_off_file_is_refused(name, share):
    data = PICTURES[name]
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * share)])
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_decode__a_png_with_one_flipped_bit_is_refused(share):
    data = bytearray(_bytes(Image.fromarray(RGB), compress_level=0))  # stored as it is: zlib itself sees no damage
    data[int(len(data) * share)] ^= 1
    with pytest.raises(ImageError, match="can't be decoded"):
        decode(bytes(data))


@given(
    name=st.sampled_from(list(PICTURES)), spots=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8)
)
def test_decode__damaged_bytes_give_a_picture_or_a_reason(name, spots):
    data = bytearray(PICTURES[name])
    for place, value in spots:
        data[int(place * (len(data) - 1))] = value
    assert _is_picture_or_reason(bytes(data))


@given(st.binary(max_size=300))
def test_decode__any_bytes_give_a_picture_or_a_reason(data):
    assert _is_picture_or_reason(data)


def _is_picture_or_reason(data: bytes) -> bool:
    try:
        return decode(data).mode == "RGB"
    except ImageError as error:
        return len(str(error)) < 300 and "\n" not in str(error)


def test_suffixes__lower_case_with_a_dot():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes())


# preprocess: pixel for pixel what timm and torchvision do

SIZES = [(224, 224), (301, 227), (227, 301), (640, 480), (479, 641), (100, 80), (79, 103), (37, 500), (500, 37), (1, 1)]
"""Width and height; some smaller than what is cut out."""


def _how(
    resize: str, interpolation: str, input_px: int = 224, resize_px: int = 256, channels: int = 3
) -> Preprocessing:
    mean = std = (0.5,) * channels
    return Preprocessing((input_px, input_px), resize, resize_px, interpolation, mean, std, channels)


def _picture(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def _theirs(transform: object, picture: Image.Image) -> np.ndarray:
    return (np.asarray(transform(picture)).transpose(1, 2, 0) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("crop_mode", "crop_pct"), [("center", 0.875), ("center", 0.9), ("center", 1.0), ("squash", 1.0), ("center", 1.15)]
)
def test_preprocess__equals_timm(interpolation, crop_mode, crop_pct):
    from timm.data import create_transform

    theirs = create_transform(
        (3, 224, 224), interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct, mean=(0,) * 3, std=(1,) * 3
    )
    resize = "squash" if crop_mode == "squash" else "shortest"
    how = _how(resize, interpolation, resize_px=int(224 / crop_pct))
    for size in SIZES:
        picture = _picture(size)
        assert np.array_equal(preprocess(picture, how), _theirs(theirs, picture)), size


@pytest.mark.parametrize("spare_px", [-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7])
def test_preprocess__centre_crop_equals_torchvision(spare_px):
    from torchvision.transforms import functional

    picture = _picture((64 + spare_px, 64 + spare_px))
    made = preprocess(picture, _how("shortest", "bilinear", input_px=64, resize_px=64 + spare_px))
    assert np.array_equal(made, np.asarray(functional.center_crop(picture, [64, 64])))


def test_preprocess__oblong_input():
    how = Preprocessing((120, 200), "squash", 120, "bilinear", (0.5,) * 3, (0.5,) * 3)
    picture = _picture((301, 227))
    assert np.array_equal(preprocess(picture, how), np.asarray(picture.resize((200, 120), Image.Resampling.BILINEAR)))


def test_preprocess__one_channel():
    picture = _picture((50, 40))
    made = preprocess(picture, _how("squash", "bilinear", input_px=32, channels=1))
    assert made.shape == (32, 32, 1)
    assert np.array_equal(made[..., 0], np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BILINEAR)))


def test_preprocess__nothing_to_do_changes_nothing():
    picture = _picture((224, 224))
    assert np.array_equal(preprocess(picture, _how("squash", "bicubic")), np.asarray(picture))


def test_preprocess__a_picture_too_thin_to_scale_is_refused():
    how = Preprocessing((224, 224), "shortest", 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ImageError, match="too thin"):
        preprocess(Image.new("RGB", (1, 30_000)), how)


def test_asset__a_file_too_large_is_refused_unread(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(KIND.most_bytes + 1)
    with pytest.raises(ImageError, match="too large"):
        read(tmp_path / "huge.png")
