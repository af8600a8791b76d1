"""DICOM to 8 bits: against pydicom's own tables and windows, against dcmtk, and against values worked out by hand."""

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import header, images, made, oracle, shipped
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cbmir.errors import ImageError, SourceError
from cbmir.media import Asset, file_kinds
from cbmir.media.dicom_header import is_dicom
from cbmir.media.dicom_settings import DicomSettings
from examples.samples.dicom import upright
from examples.samples.packages import fetch

UNDECODED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "pixel data that can't be decoded",
    "MR_truncated.dcm": "ends within its pixel data",
}
"""Of the shipped files, those that are damaged."""
BY_DCMTK = {
    "JPEG-lossy.dcm": "dcmdjpeg",
    "JPGExtended.dcm": "dcmdjpeg",
    "SC_rgb_jpeg_gdcm.dcm": "dcmdjpeg",
    "JPEGLSNearLossless_08.dcm": "dcmdjpls",
    "JPEGLSNearLossless_16.dcm": "dcmdjpls",
    "MR_small_jpeg_ls_lossless.dcm": "dcmdjpls",
    "SC_rgb_jls_lossy_line.dcm": "dcmdjpls",
    "SC_rgb_jls_lossy_sample.dcm": "dcmdjpls",
}
"""Files that pydicom can't decode by itself; dcmtk makes uncompressed files of them for the oracle."""
BY_NOBODY = {"GDCMJ2K_TextGBR.dcm"}
"""Neither pydicom by itself nor dcmtk decodes it."""


def shown(path: Path, window: str = "dicom", frame: int = 1, **more) -> np.ndarray:
    return np.asarray(Asset(path, frame=frame, settings=DicomSettings(window, **more)).image)


def grey(path: Path, window: str = "dicom", frame: int = 1, **more) -> list[list[int]]:
    return shown(path, window, frame, **more)[..., 0].tolist()


def farthest(path: Path, frame: int, plain: Path | None = None) -> float:
    """The largest difference to the oracle, in grey levels.

    Args:
        plain: The same file without compression, for the oracle.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted, dataset = oracle(plain or path, frame), header(path, frame)
    if dataset.get("Modality") in ("CT", "MR", "PT"):
        wanted = upright(wanted, dataset)  # type: ignore[arg-type]
    wanted = wanted if wanted.ndim == 3 else np.repeat(wanted[..., np.newaxis], 3, axis=2)
    found = shown(path, "dicom", frame)
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max())


def test_images__all_that_pydicom_ships_are_compared():
    """Files that pydicom can't open are passed over; they must stay few."""
    assert len({path for path, _ in images()}) >= 45


@pytest.mark.parametrize(("path", "frame"), list(images()), ids=lambda value: getattr(value, "name", value))
def test_decode__as_pydicom_computes_it(path, frame, tmp_path):
    if path.name in UNDECODED:
        with pytest.raises(ImageError, match=UNDECODED[path.name]):
            shown(path, frame=frame)
    elif path.name in BY_NOBODY:
        assert shown(path, frame=frame).std() > 5
    elif path.name in BY_DCMTK:
        program = shutil.which(BY_DCMTK[path.name])
        if program is None:
            pytest.skip("needs dcmtk")
        plain = tmp_path / "plain.dcm"
        subprocess.run([program, str(path), str(plain)], check=True, capture_output=True, timeout=120)
        assert farthest(path, frame, plain) <= 1
    else:
        assert farthest(path, frame) <= 1


@pytest.mark.samples
def test_decode__as_pydicom_computes_it_on_larger_files(tmp_path_factory):
    root = fetch("pydicom-data", "1.0.0", tmp_path_factory.mktemp("packages"))
    compared = 0
    for path in sorted((root / "data_store/data").glob("*.dcm")):
        frames = int(pydicom.dcmread(path, stop_before_pixels=True, force=True).get("NumberOfFrames") or 1)
        if path.name in ("OT-PAL-8-face.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm"):  # not read by pydicom
            continue
        if path.name in (
            "JPEG-LL.dcm",
            "JPGLosslessP14SV1_1s_1f_8b.dcm",
            "bad_sequence.dcm",
            "emri_small_jpeg_ls_lossless.dcm",
        ):
            assert shown(path).std() > 5
            continue
        for frame in dict.fromkeys((1, frames)):
            assert farthest(path, frame) <= 1, (path.name, frame)
            compared += 1
    assert compared > 70


@pytest.mark.skipif(shutil.which("dcm2pnm") is None, reason="needs dcmtk")
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("CT_small.dcm", ("+Ww", "40", "400")),
        ("MR_small.dcm", ("+Wi", "1")),
        ("MR_small_RLE.dcm", ("+Wi", "1")),
        ("examples_rgb_color.dcm", ()),
        ("examples_overlay.dcm", ("+Wi", "1", "--no-overlays")),
        ("SC_rgb_rle.dcm", ()),
        ("examples_palette.dcm", ()),
    ],
)
def test_decode__as_dcmtk_shows_it(name, option, tmp_path):
    (path,) = [item for item in shipped() if item.name == name]
    subprocess.run(
        ["dcm2pnm", "+on", *option, str(path), str(tmp_path / "a.png")], check=True, capture_output=True, timeout=120
    )
    with Image.open(tmp_path / "a.png") as picture:
        theirs = np.asarray(picture.convert("RGB"), int)
    # dcmtk takes the width as it is, not one less, for +Ww
    window = "-160,240" if "+Ww" in option else "dicom"
    assert np.abs(shown(path, window).astype(int) - theirs).max() <= 1


def ramp(tmp_path: Path, values: list[int], name: str = "a.dcm", **attributes) -> Path:
    return made(tmp_path / name, np.array([values], np.int16), **attributes)


def test_window__linear_by_hand(tmp_path):
    """PS3.3 C.11.2.1.2.1: black up to c - .5 - (w-1)/2 = 1, white from 5, between ((x - 2.5) / 4 + .5) * 255."""
    path = ramp(tmp_path, [0, 1, 2, 3, 4, 5, 6], WindowCenter=3.5, WindowWidth=5)
    assert grey(path) == [[0, 0, 64, 128, 191, 255, 255]]


def test_window__linear_exact_by_hand(tmp_path):
    """Black up to c - w/2 = 1, white from 6."""
    path = ramp(tmp_path, [0, 1, 2, 3, 6, 7], WindowCenter=3.5, WindowWidth=5, VOILUTFunction="LINEAR_EXACT")
    assert grey(path) == [[0, 0, 51, 102, 255, 255]]


def test_window__sigmoid_by_hand(tmp_path):
    """255 / (1 + exp(-4 (x - c) / w)): at c the half, at c + w 255 / (1 + e^-4)."""
    path = ramp(tmp_path, [-1000, 0, 10, 1000], WindowCenter=0, WindowWidth=10, VOILUTFunction="SIGMOID")
    assert grey(path) == [[0, 128, 250, 255]]


def test_window__width_of_one_is_a_step(tmp_path):
    path = ramp(tmp_path, [4, 5, 6], WindowCenter=5.5, WindowWidth=1)
    assert grey(path) == [[0, 0, 255]]


def test_window__the_first_of_several(tmp_path):
    path = ramp(tmp_path, [0, 50, 100], WindowCenter=[50.5, 1000], WindowWidth=[101, 4000])
    assert grey(path) == [[0, 128, 255]]


def test_window__rescale_comes_first(tmp_path):
    path = ramp(tmp_path, [0, 1024, 1064, 4095], RescaleSlope=1, RescaleIntercept=-1024)
    assert grey(path, "0,80") == [[0, 0, 128, 255]]


def test_window__broken_numbers_are_as_none(tmp_path):
    plain = ramp(tmp_path, [0, 10, 20], Modality="DX")
    with pydicom.config.disable_value_validation():
        broken = ramp(tmp_path, [0, 10, 20], "b.dcm", Modality="DX", WindowWidth=0, WindowCenter=5)
    assert grey(broken) == grey(plain) == [[0, 128, 255]]


def test_monochrome1__is_inverted_last(tmp_path):
    path = ramp(
        tmp_path, [0, 1, 2, 3, 4, 5, 6], WindowCenter=3.5, WindowWidth=5, PhotometricInterpretation="MONOCHROME1"
    )
    assert grey(path) == [[255, 255, 191, 127, 64, 0, 0]]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding__is_black_and_doesnt_count(photometric, tmp_path):
    values = [-2000, -2000, -1999, 0, 100]
    path = ramp(
        tmp_path,
        values,
        Modality="MR",
        PhotometricInterpretation=photometric,
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1999,
    )
    dark, bright = (0, 255) if photometric == "MONOCHROME2" else (255, 0)
    assert grey(path) == [[0, 0, 0, dark, bright]]


def test_stored_bits__above_and_below_are_no_part_of_the_value(tmp_path):
    """12 signed bits from bit 2 on; the bits around them are set at random."""
    wanted = np.array([[-2048, -1, 0, 5, 2047]])
    noise = np.array([[3, 0x8001, 0x4002, 0xC003, 0]])
    pixels = (((wanted & 0xFFF) << 2) | noise).astype(np.uint16)
    path = made(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=13, PixelRepresentation=1)
    plain = made(tmp_path / "b.dcm", wanted.astype(np.int16))
    assert grey(path, "-2048,2047") == grey(plain, "-2048,2047")
    assert grey(path, "-2048,2047")[0][0] == 0
    assert grey(path, "-2048,2047")[0][-1] == 255


def test_modality_lut__and_voi_lut(tmp_path):
    lut, voi = Dataset(), Dataset()
    lut.LUTDescriptor, lut.LUTData, lut.ModalityLUTType = [3, 1, 16], [10, 20, 30], "US"
    voi.LUTDescriptor, voi.LUTData = [31, 0, 8], [0] * 20 + [100] * 10 + [255]
    for item in (lut, voi):
        item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    path = made(
        tmp_path / "a.dcm",
        np.array([[0, 1, 2, 3, 9]], np.uint16),
        Modality="DX",
        ModalityLUTSequence=Sequence([lut]),
        VOILUTSequence=Sequence([voi]),
    )
    assert grey(path) == [[0, 0, 100, 255, 255]]
    assert grey(path, "auto") == grey(path)


def test_frames__each_has_its_own_rescale_and_window(tmp_path):
    def group(slope: int, width: int) -> Dataset:
        found, values, window = Dataset(), Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = slope, 0
        window.WindowCenter, window.WindowWidth = width / 2 + 0.5, width + 1
        found.PixelValueTransformationSequence = Sequence([values])
        found.FrameVOILUTSequence = Sequence([window])
        return found

    path = made(
        tmp_path / "a.dcm",
        np.array([[[0, 10]], [[0, 10]]], np.int16),
        Modality="DX",
        PerFrameFunctionalGroupsSequence=Sequence([group(1, 10), group(2, 40)]),
    )
    assert (grey(path, frame=1), grey(path, frame=2)) == ([[0, 255]], [[0, 128]])
    with pytest.raises(ImageError, match=r"holds 2 frames; name one, as in a\.dcm#1"):
        Asset(path).content()
    with pytest.raises(ImageError, match="holds 2 frames, none with number 3"):
        shown(path, frame=3)


def test_auto__window_by_modality_and_region(tmp_path):
    values = [-1350, -160, 0, 150, 1300]

    def of(**attributes) -> list[int]:
        return grey(ramp(tmp_path, values, **attributes), "auto")[0]

    assert (
        of(Modality="CT", BodyPartExamined="CHEST")
        == grey(ramp(tmp_path, values), "lung")[0]
        == [0, 202, 230, 255, 255]
    )
    assert of(Modality="CT", BodyPartExamined="HEAD") == grey(ramp(tmp_path, values), "brain")[0] == [0, 0, 0, 255, 255]
    assert of(Modality="CT", SeriesDescription="LWS sag") == grey(ramp(tmp_path, values), "bone")[0]
    assert of(Modality="CT", WindowCenter=0, WindowWidth=10) == grey(ramp(tmp_path, values), "soft")[0]
    assert of(Modality="DX", WindowCenter=0.5, WindowWidth=301) == [0, 0, 128, 255, 255]
    assert of(Modality="MR", WindowCenter=0.5, WindowWidth=2) == [0, 115, 130, 144, 255]  # by its values
    assert of(Modality="MR", WindowCenter=0.5, WindowWidth=2) == grey(ramp(tmp_path, values, Modality="MR"), "lung")[0]


def test_auto__pet_is_uptake_where_it_can_be_computed(tmp_path):
    """70 kg, 370 MBq given one half-life before: 1 SUV is 185e6 / 70,000 Bq/ml = 2,643."""
    isotope = Dataset()
    isotope.RadionuclideTotalDose, isotope.RadionuclideHalfLife = 370e6, 6588
    isotope.RadiopharmaceuticalStartTime = "100000"
    facts = {
        "Modality": "PT",
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["ATTN", "DECY"],
        "PatientWeight": 70,
        "SeriesDate": "20200115",
        "SeriesTime": "114948",
        "RadiopharmaceuticalInformationSequence": Sequence([isotope]),
        "RescaleSlope": 2642.857,
        "RescaleIntercept": 0,
    }
    (found,) = grey(ramp(tmp_path, [0, 5, 10, 20], **facts), "auto")
    assert found == pytest.approx([0, 127.5, 255, 255], abs=1)
    assert grey(ramp(tmp_path, [0, 5, 10, 20], **{**facts, "PatientWeight": None}), "auto") == [[0, 64, 128, 255]]


def test_axial__radiological_convention(tmp_path):
    """The picture of a slice is the same however its rows and columns run."""
    slices = np.arange(12, dtype=np.int16).reshape(3, 4)
    usual = shown(made(tmp_path / "a.dcm", slices, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    ways = {
        (-1, 0, 0, 0, 1, 0): slices[:, ::-1],
        (1, 0, 0, 0, -1, 0): slices[::-1],
        (0, 1, 0, 1, 0, 0): slices.T,
        (0, -1, 0, 1, 0, 0): slices.T[:, ::-1],
        (0, -1, 0, -1, 0, 0): slices.T[::-1, ::-1],
    }
    for number, (cosines, pixels) in enumerate(ways.items()):
        path = made(tmp_path / f"{number}.dcm", np.ascontiguousarray(pixels), ImageOrientationPatient=list(cosines))
        asset = Asset(path, settings=DicomSettings("dicom"))
        assert np.array_equal(np.asarray(asset.image), usual)
        assert asset.notes == ("turned_axial",)
    stored = made(tmp_path / "x.dcm", slices[::-1].copy(), Modality="DX", ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
    assert not np.array_equal(shown(stored), usual)


def test_boxes__are_black_and_dont_count_for_the_window(tmp_path):
    values = [0, 10, 20, 4000]
    boxed = grey(ramp(tmp_path, values, Modality="MR"), "auto", boxes=((3, 0, 4, 1),))
    assert boxed == [[0, 128, 255, 0]]


def test_settings__a_window_that_is_none():
    for window in ("lungs", "5", "10,5", "a,b", ""):
        with pytest.raises(SourceError, match="no window"):
            DicomSettings(window)
    assert DicomSettings(" -160.0 , 240").window == "-160,240"


def test_is_dicom__with_and_without_preamble():
    unknown = [path.name for path in shipped() if not is_dicom(path.read_bytes()[:540])]
    assert unknown == ["no_meta.dcm"]  # it begins with a space
    with Image.new("L", (9, 9)) as picture:
        for suffix in ("png", "jpeg", "tiff", "bmp", "gif", "webp"):
            from io import BytesIO

            file = BytesIO()
            picture.save(file, suffix)
            assert not is_dicom(file.getvalue())
    for head in (
        b"",
        b"\x08",
        b"\x08\0\x05\0ZZ\x0a\0abcdefgh",
        b"\x08\0\x99\0CS\x0a\0abcdefgh",
        b'{\n  "a": 1, "b": 2}',
    ):
        assert not is_dicom(head)
    assert [kind.name for kind in file_kinds() if kind.frames] == ["DICOM"]


def test_deflated__is_inflated_within_the_limit(monkeypatch):
    (path,) = [item for item in shipped() if item.name == "image_dfl.dcm"]
    assert shown(path).shape == (512, 512, 3)
    monkeypatch.setenv("CBMIR_IMAGE_BYTES", "100000")
    with pytest.raises(ImageError, match="is too large: it unpacks to"):
        shown(path)


def test_decode__says_nothing_of_the_header(tmp_path, capfd):
    """A broken value in a header is passed over, and no library writes it to stderr."""
    path = made(tmp_path / "a.dcm")
    data = path.read_bytes().replace(b"19500101", b"SECRET!!").replace(b"1.2.3.4.5", b"SECRET.UI")
    path.write_bytes(data)
    assert shown(path).shape == (8, 8, 3)
    assert capfd.readouterr() == ("", "")
