"""Volume files under any name and in every format: the same voxels, or a reason with a remedy."""

import gzip
import itertools
import shutil

import nibabel
import nrrd
import numpy as np
import pytest
from pictures import read_volume
from test_volumes import CROP, SHAPE, SQUASH, body, write_volume

from cbmir.errors import ImageError
from cbmir.ingest.loading import Wanted, load_image
from cbmir.media import DECODER, Asset, prepare, preprocess_volume

SPACING = (1.2, 1.1, 2.5)


def same(path, values=None, spacing=SPACING):
    volume = read_volume(path)
    assert np.array_equal(volume.values, body(0) if values is None else values)
    assert volume.spacing_mm == pytest.approx(spacing)
    assert volume.values.dtype == np.float32


# NIfTI


def test_read_volume__compressed_or_not_whatever_the_name(tmp_path):
    write_volume(tmp_path / "a.nii", body(0))
    write_volume(tmp_path / "b.nii.gz", body(0))
    shutil.copy(tmp_path / "b.nii.gz", tmp_path / "compressed.nii")
    shutil.copy(tmp_path / "a.nii", tmp_path / "plain.nii.gz")
    for name in ("a.nii", "b.nii.gz", "compressed.nii", "plain.nii.gz"):
        same(tmp_path / name)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("byte_order", "<>")
def test_read_volume__without_an_orientation_is_refused(tmp_path, kind, byte_order):
    image = kind(body(0), None, header=kind.header_class(endianness=byte_order))
    image.header["pixdim"][1:4] = SPACING
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (0, 0)
    nibabel.save(image, tmp_path / "v.nii.gz")
    with pytest.raises(ImageError, match=r"says no orientation \(qform_code and sform_code are 0\).*dcm2niix"):
        read_volume(tmp_path / "v.nii.gz")


def test_read_volume__one_form_is_enough(tmp_path):
    for name in ("qform", "sform"):
        image = nibabel.Nifti1Image(body(0), None)
        getattr(image, f"set_{name}")(np.diag([*SPACING, 1]), 1)
        nibabel.save(image, tmp_path / f"{name}.nii")
        same(tmp_path / f"{name}.nii")


def test_load_image__a_stored_volume_without_an_orientation_is_looked_at_again(tmp_path):
    nibabel.save(nibabel.Nifti1Image(body(0), None), tmp_path / "none.nii")
    write_volume(tmp_path / "good.nii", body(0))
    good = prepare(tmp_path / "good.nii", SQUASH)
    assert load_image(Wanted(Asset(tmp_path / "good.nii"), good.sha256, known_decoder=1), SQUASH).pixels is None
    assert "says no orientation" in str(load_image(Wanted(Asset(tmp_path / "none.nii"), None), SQUASH).reason)
    known = Asset(tmp_path / "none.nii").sha256
    assert "says no orientation" in str(
        load_image(Wanted(Asset(tmp_path / "none.nii"), known, known_decoder=1), SQUASH).reason
    )
    assert load_image(Wanted(Asset(tmp_path / "none.nii"), known, known_decoder=DECODER), SQUASH).reason is None


def test_read_volume__half_of_a_pair_says_what_to_do(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(body(0), np.eye(4)), tmp_path / "v.hdr")
    shutil.copy(tmp_path / "v.hdr", tmp_path / "v.nii")
    with pytest.raises(ImageError, match=r"is one half of an Analyze or NIfTI pair: save both as one \.nii\.gz"):
        read_volume(tmp_path / "v.nii")


# MGH


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_read_volume__mgh_in_all_orientations(tmp_path, suffix, dtype):
    image = nibabel.Nifti1Image(body(0).astype(dtype), np.diag([*SPACING, 1]))
    for axes in itertools.permutations(range(3)):
        turned = image.as_reoriented(np.array(list(zip(axes, (1, -1, -1), strict=True))))
        made = nibabel.MGHImage(np.asarray(turned.dataobj).astype(dtype), turned.affine)
        nibabel.save(made, tmp_path / f"v{suffix}")
        same(tmp_path / f"v{suffix}")


def test_read_volume__mgh_without_an_orientation_or_with_frames_is_refused(tmp_path):
    nibabel.save(nibabel.MGHImage(body(0), np.eye(4)), tmp_path / "v.mgh")
    data = bytearray((tmp_path / "v.mgh").read_bytes())
    data[28:30] = bytes(2)  # goodRASFlag
    (tmp_path / "v.mgh").write_bytes(data)
    with pytest.raises(ImageError, match=r"says no orientation \(goodRASFlag is 0\)"):
        read_volume(tmp_path / "v.mgh")
    nibabel.save(nibabel.MGHImage(np.stack([body(0)] * 2, axis=-1), np.eye(4)), tmp_path / "w.mgz")
    with pytest.raises(ImageError, match="holds 2 volumes; save each as a file of its own"):
        read_volume(tmp_path / "w.mgz")


def test_read_volume__a_damaged_mgz_is_refused(tmp_path):
    nibabel.save(nibabel.MGHImage(body(0), np.eye(4)), tmp_path / "v.mgz")
    data = bytearray((tmp_path / "v.mgz").read_bytes())
    data[-8] ^= 1
    (tmp_path / "v.mgz").write_bytes(data)
    with pytest.raises(ImageError, match="can't be read: CRC check failed"):
        read_volume(tmp_path / "v.mgz")


# NRRD

TO_RAS = {"right-anterior-superior": (1, 1, 1), "left-anterior-superior": (-1, 1, 1), "LPS": (-1, -1, 1)}


def write_nrrd(path, values, space="left-posterior-superior", directions=None, **header):
    """Write voxels with the direction of each axis, one row an axis, in the coordinates of `space`."""
    if directions is not None:
        header |= {"space": space, "space directions": np.asarray(directions, float)}
    nrrd.write(str(path), values, header)
    return path


@pytest.mark.parametrize("space", TO_RAS)
def test_read_volume__nrrd_in_all_orientations(tmp_path, space):
    for axes, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        values = body(0).transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
        directions = np.zeros((3, 3))
        for row, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
            directions[row, axis] = sign * SPACING[axis] * TO_RAS[space][axis]
        same(write_nrrd(tmp_path / "v.nrrd", values, space, directions))


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("dtype", ["i2", "u1", "i4", "f4", "f8", ">i2"])
def test_read_volume__nrrd_of_every_encoding_and_type(tmp_path, encoding, dtype):
    values = np.clip(body(0), 0, 255).astype(dtype)
    path = write_nrrd(tmp_path / "v.nrrd", values, "RAS", np.diag(SPACING), encoding=encoding)
    same(path, values.astype(np.float32))


def test_read_volume__nrrd_in_other_units(tmp_path):
    directions = np.diag(SPACING) / 10
    path = write_nrrd(tmp_path / "v.nrrd", body(0), "RAS", directions, **{"space units": ["cm", "cm", "cm"]})
    same(path)
    path = write_nrrd(tmp_path / "v.nrrd", body(0), "RAS", directions, **{"space units": ["inch", "cm", "cm"]})
    with pytest.raises(ImageError, match="has space units inch, cm, cm; known are three of mm, cm, m, um"):
        read_volume(path)


def test_read_volume__nrrd_that_cant_be_used_says_why(tmp_path):
    path = tmp_path / "v.nrrd"
    cases = {
        r"says no orientation \(its space is not given\).*left-posterior-superior": ({}, body(0)),
        r"says no orientation \(its space is scanner-xyz\)": (
            {"space": "scanner-xyz", "directions": np.eye(3)},
            body(0),
        ),
        r"is no volume: it has 31 x 26 x 1 voxels": ({"directions": np.eye(3)}, body(0)[:, :, :1]),
        r"has 4 axes \(3 x 31 x 26 x 17\).*save each as a file of its own": ({}, np.stack([body(0)] * 3)),
        r"says no spacing or orientation": ({"directions": np.zeros((3, 3))}, body(0)),
        r"has voxels that are not finite": ({"directions": np.eye(3)}, np.full(SHAPE, np.nan, np.float32)),
    }
    for reason, (options, values) in cases.items():
        write_nrrd(path, values, **options)
        with pytest.raises(ImageError, match=reason):
            read_volume(path)
    write_nrrd(path, body(0), directions=np.eye(3))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageError, match="can't be read: ") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_read_volume__nrrd_with_voxels_elsewhere_is_refused(tmp_path):
    nrrd.write(str(tmp_path / "v.nhdr"), body(0), {"space": "RAS", "space directions": np.eye(3)})
    shutil.copy(tmp_path / "v.nhdr", tmp_path / "v.nrrd")
    with pytest.raises(ImageError, match=r"has its voxels in another file: save both as one \.nrrd"):
        read_volume(tmp_path / "v.nrrd")


def test_read_volume__nrrd_of_too_many_voxels_is_refused_by_its_header(tmp_path):
    head = "NRRD0004\ntype: short\ndimension: 3\nspace: RAS\nsizes: 20000 20000 20000\n"
    rest = "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: raw\n\n"
    (tmp_path / "v.nrrd").write_text(head + rest)
    with pytest.raises(ImageError, match="is too large: 20000 x 20000 x 20000 voxels, 1,000,000,000 at most"):
        read_volume(tmp_path / "v.nrrd")


# all of them


def test_prepare__one_volume_in_every_format_is_one_input(tmp_path):
    nifti = write_volume(tmp_path / "v.nii.gz", body(0))
    nibabel.save(nibabel.MGHImage(body(0), np.diag([*SPACING, 1])), tmp_path / "v.mgz")
    write_nrrd(tmp_path / "v.nrrd", body(0), "RAS", np.diag(SPACING))
    wanted = preprocess_volume(read_volume(nifti), CROP)
    for path in (nifti, tmp_path / "v.mgz", tmp_path / "v.nrrd"):
        for source in (path, str(path), path.read_bytes()):
            prepared = prepare(source, CROP)
            assert np.abs(prepared.pixels.astype(float) - wanted).max() <= 2.0**-10  # MGH keeps its spacing as float32
            assert (prepared.width, prepared.height, prepared.depth) == SHAPE
    assert prepare(gzip.decompress(nifti.read_bytes()), CROP).sha256 != prepare(nifti, CROP).sha256
