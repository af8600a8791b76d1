"""Volumes: read in any orientation, prepared as the authors of the networks do, stored and found like images."""

import csv
import gzip
import itertools
import json
import os
import struct
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from pictures import read_volume
from PIL import Image, ImageOps
from test_encoders_astra import SMALL, small_weights

from cbmir.encoders import EncoderSettings, get
from cbmir.encoders.cards.astra import SPECS
from cbmir.errors import ImageError
from cbmir.ingest import ingest_images, open_source
from cbmir.ingest.loading import Wanted, load_image
from cbmir.media import (
    Asset,
    Preprocessing,
    Volume,
    VolumePreprocessing,
    expected_kind,
    preprocess_volume,
    slice_thumbnail,
)
from cbmir.schema import point_id
from cbmir.search.files import image_files
from cbmir.search.layout import GAP_PX, LINE_PX, TILE_PX
from cbmir.search.query import Options
from cbmir.search.searcher import Searcher
from cbmir.store import open_store

nibabel = pytest.importorskip("nibabel")

pytestmark = pytest.mark.slow

SHAPE = (31, 26, 17)
SQUASH = VolumePreprocessing(input_voxels=(24, 19, 17), window_hu=(-1000, 200), fit="squash", foreground_hu=-1000)
CROP = VolumePreprocessing(input_voxels=(24, 19, 17), window_hu=(-1000, 1000), fit="crop", spacing_mm=(1.5, 1.5, 3))
FLOAT16 = 2.0**-12  # half the distance of neighbours just below 1


def body(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(x, y, z) HU: a smooth random body in air, which is what lies outside the scanner's circle."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    waves = sum(
        weight * np.cos(sum(k * axis for k, axis in zip(direction, grid, strict=True)) + phase)
        for weight, direction, phase in zip(
            random.uniform(100, 400, 6), random.uniform(-7, 7, (6, 3)), random.uniform(0, 6, 6), strict=True
        )
    )
    inside = sum((axis / 0.9) ** 2 for axis in grid[:2]) < 1
    return np.where(inside, np.maximum(waves + random.normal(0, 20, shape), -999), -1024).astype(np.int16)


def write_volume(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.2, 1.1, 2.5, 1]) if affine is None else affine), path)
    return path


# reading


def test_read_volume__the_same_in_all_48_orientations(tmp_path):
    image = nibabel.Nifti1Image(body(0), np.diag([1.2, 1.1, 2.5, 1]))
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = image.as_reoriented(np.array(list(zip(axes, flips, strict=True))))
            nibabel.save(turned, tmp_path / "turned.nii")
            volume = read_volume(tmp_path / "turned.nii")
            assert np.array_equal(volume.values, body(0)), (axes, flips)
            assert volume.spacing_mm == pytest.approx((1.2, 1.1, 2.5))
            assert volume.values.dtype == np.float32


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("unknown", 1), ("meter", 1000), ("micron", 0.001)])
def test_read_volume__spacing_is_in_mm(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(body(0), np.diag([1.2, 1.1, 2.5, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "v.nii.gz")
    assert read_volume(tmp_path / "v.nii.gz").spacing_mm == pytest.approx((1.2 * factor, 1.1 * factor, 2.5 * factor))


def test_read_volume__oblique_spacing_is_along_the_rows(tmp_path):
    turn = np.eye(4)
    turn[:2, :2] = [[0.96, -0.28], [0.28, 0.96]]
    write_volume(tmp_path / "v.nii", body(0), turn @ np.diag([1.2, 1.1, 2.5, 1]))
    assert read_volume(tmp_path / "v.nii").spacing_mm == pytest.approx((1.2, 1.1, 2.5))


def test_read_volume__stored_values_are_scaled(tmp_path):
    image = nibabel.Nifti1Image(body(0), np.eye(4))
    image.header.set_slope_inter(0.5, -100)
    nibabel.save(image, tmp_path / "v.nii")
    assert np.array_equal(read_volume(tmp_path / "v.nii").values, body(0) * 0.5 - 100)


@pytest.mark.parametrize("name", ["v.nii", "V.NII.GZ"])
def test_read_volume__nifti_2_and_a_fourth_axis_of_one(tmp_path, name):
    nibabel.save(nibabel.Nifti2Image(body(0)[..., None], np.eye(4)), tmp_path / name.lower())
    path = (tmp_path / name.lower()).rename(tmp_path / name)
    assert np.array_equal(read_volume(path).values, body(0))


def _claims(path: Path, shape: tuple[int, int, int]) -> Path:
    """A header of a large volume with nothing behind it."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), 1)
    path.write_bytes(header.binaryblock + bytes(4))
    return path


def _bad(folder: Path, kind: str) -> Path:
    path = folder / ("v.nii" if kind in ("plain_cut", "huge", "no_shape") else "v.nii.gz")
    values: dict[str, np.ndarray] = {
        "2d": body(0)[:, :, 0],
        "slice": body(0)[:, :, :1],
        "4d": np.stack([body(0)] * 3, axis=-1),
        "nan": np.where(body(0) > 0, np.nan, 0).astype(np.float32),
        "complex": body(0).astype(np.complex64),
    }
    if kind in values:
        return write_volume(path, values[kind])
    if kind == "colour":
        return write_volume(path, np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])))
    if kind == "huge":
        return _claims(path, (20_000, 20_000, 20_000))
    if kind == "missing":
        return path
    if kind == "directory":
        path.mkdir()
        return path
    if kind == "pipe":
        os.mkfifo(path)
        return path
    data = bytearray(write_volume(path, body(0)).read_bytes())
    if kind == "no_shape":
        data[40:56] = struct.pack("<8h", 3, -5, 0, 9, 1, 1, 1, 1)
    if kind == "checksum":
        data[-8] ^= 1
    if kind == "flat":
        data = bytearray(gzip.decompress(data))
        data[280:328] = bytes(48)  # srow_x, srow_y, srow_z
        data = bytearray(gzip.compress(data))
    contents = {"empty": b"", "no_gzip": bytes(600)}
    cut = len(data) // 2 if kind in ("cut", "plain_cut") else len(data)
    path.write_bytes(contents.get(kind, bytes(data[:cut])))
    return path


BAD = {
    "2d": "is no volume: it has 31 x 26 voxels",
    "slice": "is no volume: it has 31 x 26 x 1 voxels",
    "4d": "holds 3 volumes; save each as a file of its own, for example with fslsplit or nibabel.four_to_three",
    "nan": "has voxels that are not finite",
    "complex": "has colours or complex numbers instead of values",
    "colour": "has colours or complex numbers instead of values",
    "huge": "is too large: 20000 x 20000 x 20000 voxels, 1,000,000,000 at most",
    "missing": "No such file or directory",
    "directory": "is not a regular file",
    "pipe": "is not a regular file",
    "empty": "is empty",
    "no_gzip": "is no NIfTI volume, nor one of MGH or NRRD",
    "cut": "can't be read: Compressed file ended",
    "plain_cut": "has a header of",
    "no_shape": "is no volume|can't be read",
    "checksum": "can't be read: CRC check failed",
    "flat": "says no spacing or orientation",
}


@pytest.mark.parametrize("kind", BAD)
def test_read_volume__what_cant_be_used_says_why(tmp_path, kind):
    path = _bad(tmp_path, kind)
    with pytest.raises(ImageError, match=BAD[kind]) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    assert load_image(Wanted(Asset(path), None), SQUASH).reason == str(caught.value)


def test_expected_kind__by_its_name():
    assert [expected_kind(name) for name in ("a.nii", "b/A.NII.GZ", "c.mgz")] == ["volume"] * 3
    assert {expected_kind(name) for name in ("a.gz", "nii", "a.nii.png", "a.csv.gz", "anii")} == {"image"}


# preprocessing


def _area_by_torch(values: np.ndarray, how: VolumePreprocessing) -> np.ndarray:
    """Astra's way: the box of what is above -1,000 HU, torch's area interpolation, the window."""
    torch = pytest.importorskip("torch")
    box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(values > -1000))
    scaled = torch.nn.functional.interpolate(torch.from_numpy(values[box])[None, None], how.input_voxels, mode="area")
    return np.clip((scaled[0, 0].numpy() + 1000) / 1200, 0, 1)


@pytest.mark.parametrize("shape", [SHAPE, (24, 19, 17), (60, 21, 9), (5, 6, 7), (48, 100, 36)])
def test_preprocess_volume__squash_is_torchs_area_interpolation(shape):
    values = body(1, shape).astype(np.float32)
    ours = preprocess_volume(Volume(values, (1.2, 1.1, 2.5)), SQUASH)
    assert (ours.shape, ours.dtype) == ((24, 19, 17), np.float16)
    assert np.abs(ours - _area_by_torch(values, SQUASH)).max() <= FLOAT16 * 1.01


def test_preprocess_volume__foreground_is_strictly_above():
    values = np.full((10, 10, 10), -1000, np.float32)
    values[2:5, 3:9, 1:4] = 150
    values[3, 3, 3] = -500
    how = VolumePreprocessing(input_voxels=(3, 6, 3), window_hu=(-1000, 200), fit="squash", foreground_hu=-1000)
    expected = np.full((3, 6, 3), 1150 / 1200)
    expected[1, 0, 2] = 500 / 1200
    assert np.abs(preprocess_volume(Volume(values, (1, 1, 1)), how) - expected).max() <= FLOAT16


def _spaced_by_torch(values: np.ndarray, spacing: tuple[float, ...], how: VolumePreprocessing) -> np.ndarray:
    """Merlin's way: torch's grid_sample in all three axes at once, the window, zeros around, the middle."""
    torch = pytest.importorskip("torch")
    steps = [new / old for new, old in zip(how.spacing_mm, spacing, strict=True)]
    counts = [int(np.round((size - 1) / step + 1)) for size, step in zip(values.shape, steps, strict=True)]
    places = [
        torch.arange(count, dtype=torch.float64) * step * 2 / (size - 1) - 1
        for count, step, size in zip(counts, steps, values.shape, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], dim=-1)[None]
    volume = torch.from_numpy(values.astype(np.float64))[None, None]
    sampled = torch.nn.functional.grid_sample(volume, grid, padding_mode="border", align_corners=True)[0, 0].numpy()
    result = np.clip((sampled + 1000) / 2000, 0, 1)
    for axis, target in enumerate(how.input_voxels):
        missing = max(target - result.shape[axis], 0)
        margins = [(0, 0)] * 3
        margins[axis] = (missing // 2, missing - missing // 2)
        result = np.pad(result, margins)
        start = result.shape[axis] // 2 - target // 2
        result = result.take(range(start, start + target), axis=axis)
    return result


@pytest.mark.parametrize("spacing", [(1.2, 1.1, 2.5), (0.7, 0.7, 1.0), (3.0, 2.9, 5.0), (1.5, 1.5, 3.0)])
@pytest.mark.parametrize("shape", [SHAPE, (60, 21, 9), (24, 19, 17), (61, 80, 47)])
def test_preprocess_volume__crop_is_linear_spacing_and_the_middle(shape, spacing):
    values = body(2, shape).astype(np.float32)
    ours = preprocess_volume(Volume(values, spacing), CROP)
    assert np.abs(ours - _spaced_by_torch(values, spacing, CROP)).max() <= FLOAT16 * 1.01


def _by_monai(path: Path, name: str) -> np.ndarray:
    """The transforms that the authors publish."""
    transforms = pytest.importorskip("monai.transforms", reason="pip install monai to compare")
    key, size = {"keys": ["image"]}, (24, 19, 17)
    start = [
        transforms.LoadImaged(**key),
        transforms.EnsureChannelFirstd(**key),
        transforms.Orientationd(**key, axcodes="RAS"),
    ]
    window = {"a_min": -1000, "b_min": 0.0, "b_max": 1.0, "clip": True}
    rest = {
        "astra": [
            transforms.CropForegroundd(**key, source_key="image", select_fn=lambda values: values > -1000),
            transforms.Resized(**key, spatial_size=size),
            transforms.ScaleIntensityRanged(**key, a_max=200, **window),
        ],
        "merlin": [
            transforms.Spacingd(**key, pixdim=(1.5, 1.5, 3), mode="bilinear"),
            transforms.ScaleIntensityRanged(**key, a_max=1000, **window),
            transforms.SpatialPadd(**key, spatial_size=size),
            transforms.CenterSpatialCropd(**key, roi_size=size),
        ],
    }
    return transforms.Compose(start + rest[name])({"image": str(path)})["image"][0].numpy()


@pytest.mark.parametrize("name", ["astra", "merlin"])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "ASL"])
def test_preprocess_volume__as_monai(tmp_path, name, axes):
    image = nibabel.Nifti1Image(body(3), np.diag([1.2, 1.1, 2.5, 1]))
    wanted = nibabel.orientations.axcodes2ornt(axes)
    now = nibabel.io_orientation(image.affine)
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform(now, wanted)), tmp_path / "v.nii.gz")
    ours = preprocess_volume(read_volume(tmp_path / "v.nii.gz"), SQUASH if name == "astra" else CROP)
    assert np.abs(ours - _by_monai(tmp_path / "v.nii.gz", name)).max() <= FLOAT16 * 1.1


@pytest.mark.parametrize(("how", "value"), [(SQUASH, -1000), (SQUASH, -3000), (CROP, 2000), (SQUASH, 300)])
def test_preprocess_volume__nothing_within_the_window(how, value):
    with pytest.raises(ImageError, match="is even within the window -1000 to"):
        preprocess_volume(Volume(np.full(SHAPE, value, np.float32), (1, 1, 1)), how)


def test_as_json__every_field_is_in_the_fingerprint():
    assert set(SQUASH.as_json()) == {field.name for field in fields(VolumePreprocessing)} | {"kind", "axes"}
    json.dumps(SQUASH.as_json())
    assert (Preprocessing.kind, SQUASH.kind) == ("image", "volume")


# ingest and search


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """A small network of volumes among the encoders."""
    pytest.importorskip("torch")
    monkeypatch.setattr("cbmir.encoders.astra.SPECS", (*SPECS, SMALL))
    return get("astra-small", settings(tmp_path))


def settings(folder: Path) -> EncoderSettings:
    file = folder / "weights.pt"
    return EncoderSettings(weights=file if file.exists() else small_weights(file), device="cpu")


def _series(folder: Path, count: int) -> Path:
    """`count` volumes, a picture and a broken volume, with a table."""
    rows = []
    for number in range(count):
        name = f"ct/{number}.nii.gz" if number % 2 else f"ct/{number}.nii"
        write_volume(folder / name, body(number, (30 + number, 28, 12)))
        rows.append([name, f"p{number // 2}", "CT/chest/mass" if number % 3 else "CT/chest/normal"])
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(30, 20)).save(folder / "ct/picture.png")
    (folder / "ct/broken.nii.gz").write_bytes(b"nothing")
    rows += [["ct/picture.png", "p9", "XR/chest"], ["ct/broken.nii.gz", "p9", "CT/chest"]]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filepath", "patient_id", "labels"], *rows])
    return folder / "table.csv"


def test_ingest_images__volumes(tmp_path, encoder):
    table = _series(tmp_path / "data", 5)
    store = tmp_path / "store"
    with open_store(store) as opened, opened.open_or_create("ct", encoder.card) as collection:
        first = ingest_images(open_source(table), encoder, collection, 2)
        again = ingest_images(open_source(table), encoder, collection, 2)
        (point,) = collection.get([point_id("table", "ct/3.nii.gz")], vectors=True)
        assert collection.facet("kind") == {"volume": 5}
    assert (first.read, first.stored, first.skipped) == (7, 5, 0)
    reasons = {item.filepath: item.reason for item in first.failures}
    assert reasons.keys() == {"ct/picture.png", "ct/broken.nii.gz"}
    assert reasons["ct/picture.png"].startswith("is an image; astra-small takes volumes. ")
    assert "collection of an encoder that takes them (biomedclip, " in reasons["ct/picture.png"]
    assert reasons["ct/broken.nii.gz"] == "is no NIfTI volume, nor one of MGH or NRRD"
    assert (again.stored, again.skipped, again.updated) == (0, 5, 0)
    payload = point.payload
    assert (payload["kind"], payload["width"], payload["height"], payload["depth"]) == ("volume", 33, 28, 12)
    assert payload["sha256"] == Asset(tmp_path / "data/ct/3.nii.gz").sha256
    volume = read_volume(tmp_path / "data/ct/3.nii.gz")
    alone = encoder.embed(preprocess_volume(volume, encoder.preprocessing)[None])[0]
    assert np.allclose(point.vector, alone, atol=1e-6)


def test_ingest_images__an_image_encoder_takes_no_volumes(tmp_path):
    table = _series(tmp_path / "data", 2)
    pixels = get("pixels")
    with open_store(tmp_path / "store") as opened, opened.open_or_create("pixels", pixels.card) as collection:
        report = ingest_images(open_source(table), pixels, collection, 1)
        assert collection.facet("kind") == {"image": 1}
    (reason,) = {item.reason for item in report.failures}
    assert reason.startswith("is a volume; pixels takes images. ")
    assert "use a collection of an encoder that takes them (astra-ct, " in reason
    assert (report.stored, report.failed) == (1, 3)


def test_open_source__a_folder_lists_volumes_among_the_images(tmp_path):
    _series(tmp_path / "chest", 3)
    (tmp_path / "chest/ct/notes.gz").write_bytes(b"x")
    source = open_source(tmp_path / "chest")
    kinds = {item.record.filepath: item.record.kind for item in source}
    assert kinds.pop("ct/picture.png") == "image"
    assert kinds == dict.fromkeys(["ct/0.nii", "ct/1.nii.gz", "ct/2.nii", "ct/broken.nii.gz"], "volume")
    assert source.ignored == {".csv": 1, ".gz": 1}
    assert [path.name for path in image_files([tmp_path / "chest"])[0]] == sorted(Path(name).name for name in [
        *kinds, "picture.png"
    ])  # fmt: skip


def test_search__by_a_volume(tmp_path, encoder, cbmir):
    table, store = _series(tmp_path / "data", 4), tmp_path / "store"
    weights = ["--weights", tmp_path / "weights.pt", "--device", "cpu"]
    done = cbmir("ingest", "images", table, "--encoder", "astra-small", "--store", store, *weights, "--json",
                 "--failures", tmp_path / "failures.csv", "--workers", 1)  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["stored"]) == (3, 4), done.stderr
    query = tmp_path / "data/ct/2.nii"
    found = cbmir("search", "image", query, "--store", store, "--collection", "astra-small", *weights, "--json",
                  "--include-same-patient")  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "ct/2.nii" in found.stdout
    drawn = cbmir("search", "image", query, "--store", store, "--collection", "astra-small", *weights, "-k", 1,
                  "--include-same-patient", "--sheet", tmp_path / "sheet.png")  # fmt: skip
    assert "1 of 1 query drawn" in drawn.stderr
    assert "could not be drawn" not in drawn.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        drawn = np.asarray(sheet.convert("RGB"))[LINE_PX + 2 * GAP_PX :][:TILE_PX]
    tile = ImageOps.contain(slice_thumbnail(read_volume(query), encoder.card.window_hu), (TILE_PX, TILE_PX))
    shown = np.zeros((TILE_PX, TILE_PX), np.uint8)
    top, left = (TILE_PX - tile.height) // 2, (TILE_PX - tile.width) // 2
    shown[top : top + tile.height, left : left + tile.width] = np.asarray(tile)
    assert shown.std() > 20
    for start in (GAP_PX, 2 * GAP_PX + TILE_PX):  # the query, and itself as the first hit
        assert np.array_equal(drawn[:, start : start + TILE_PX, 0], shown)
    with Searcher(store, "astra-small", settings(tmp_path)) as searcher:
        hits = searcher.image(query, Options(exclude_same_patient=False))
        assert (hits[0].payload["filepath"], hits[0].score) == ("ct/2.nii", pytest.approx(1, abs=1e-5))
        assert len(hits) == 4
        assert hits[1].score < 0.999
        noisy = write_volume(tmp_path / "noisy.nii.gz", body(2, (32, 28, 12)) + np.int16(7))
        assert searcher.image(noisy)[0].payload["filepath"] == "ct/2.nii"
        with pytest.raises(
            ImageError, match=r"is an image; astra-small takes volumes\..* an encoder that takes them \(biomedclip, "
        ):
            searcher.image(tmp_path / "data/ct/picture.png")


def test_search__an_image_encoder_takes_no_volume(tmp_path):
    table = _series(tmp_path / "data", 1)
    pixels = get("pixels")
    with open_store(tmp_path / "store") as opened, opened.open_or_create("pixels", pixels.card) as collection:
        ingest_images(open_source(table), pixels, collection, 1)
    taken = pytest.raises(
        ImageError, match=r"is a volume; pixels takes images\..* an encoder that takes them \(astra-ct, "
    )
    with Searcher(tmp_path / "store", "pixels") as searcher, taken:
        searcher.image(tmp_path / "data/ct/0.nii")
