"""Makes ``golden/earlier-paths.tar.xz``: what a cbmir that named images as they were written left behind.

Run by that version, from its own checkout: ``python tests/earlier_paths.py``. The archive holds

- ``scans/``: seven pictures, ``table.csv`` that names them in seven spellings, ``vectors.csv`` and ``vectors.h5`` (the
  published layout) of images without files;
- ``store/``: the collections ``pixels`` and ``vectors`` made of these;
- ``exports/``: both, as ``cbmir collections export`` wrote them.

The table's absolute path starts at ``/proc/self/cwd``, a link to the folder that the archive is unpacked in, wherever
that is.
"""

import csv
import io
import tarfile
import tempfile
import unicodedata
from pathlib import Path

import h5py
import numpy as np
from pictures import cbmir, write_picture

from cbmir.schema import normalise

ARCHIVE = Path(__file__).resolve().parent / "golden/earlier-paths.tar.xz"
DIM = 8
_ONE_SIGN, _TWO_SIGNS = (unicodedata.normalize(form, "Röntgen.png") for form in ("NFC", "NFD"))

IMAGES = {
    "./images/1.png": "images/1.png",
    "images/../images/2.png": "images/2.png",
    "images//3.png": "images/3.png",
    "images\\4.png": "images/4.png",
    f"images/{_ONE_SIGN}": f"images/{_TWO_SIGNS}",
    "/proc/self/cwd/scans/images/6.png": "images/6.png",
    "images/7.png": "images/7.png",
}
"""Paths as the table has them, and the files on disk."""

VECTORS = (
    *("./a/1.png", "a/x/../2.png", "a//3.png", "a\\4.png", f"a/{_TWO_SIGNS}", "/archive/a/6.png"),
    *("file:///archive/a/7%20b.png", "C:\\archive\\a\\8.png", "a/9.png", "s3://bucket/a/10.png"),
)
"""Paths of images without files, as table and HDF5 keys have them."""


def make(folder: Path) -> None:
    """All that the archive holds, below a folder."""
    scans = folder / "scans"
    for seed, name in enumerate(IMAGES.values()):
        write_picture(scans / name, seed)
    _write_table(scans / "table.csv", list(IMAGES))
    _write_table(scans / "vectors.csv", list(VECTORS))
    vectors = normalise(np.random.default_rng(0).standard_normal((len(VECTORS), DIM)).astype(np.float32))
    with h5py.File(scans / "vectors.h5", "w") as file:
        for name, vector in zip(VECTORS, vectors, strict=True):
            file[name] = vector
    into = ("--store", "store")
    _run(folder, "ingest", "images", "scans/table.csv", "--encoder", "pixels", *into)
    table = ("--table", "scans/vectors.csv")
    _run(folder, "ingest", "embeddings", "scans/vectors.h5", *table, "--encoder", "vectors", *into)
    for name in ("pixels", "vectors"):
        _run(folder, "collections", "export", name, *into, "--out", f"exports/{name}")


def unpack(folder: Path) -> Path:
    """The archive below a folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _write_table(path: Path, names: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("filepath", "dataset", "labels"))
        writer.writerows((name, "d", f"XR/chest/finding_{number}") for number, name in enumerate(names))


def _run(folder: Path, *arguments: str) -> None:
    done = cbmir(*arguments, cwd=folder)
    if done.returncode:
        raise SystemExit(done.stderr)


def _pack(folder: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", preset=9) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=_anonymous)
    return stream.getvalue()


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        ARCHIVE.parent.mkdir(exist_ok=True)
        ARCHIVE.write_bytes(_pack(Path(name)))
