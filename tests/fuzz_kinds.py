"""The kinds of files that come from others: good ones to start from, what reads them, and the command for them."""

import gzip
import hashlib
import io
import json
import random
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_mutations import chunks, mutated, unchunked, with_checksums
from pictures import pixels, write_picture
from PIL import Image
from test_decoder_version import HOW

from cbmir.collections.backups import restore, snapshot
from cbmir.collections.exports import Export, export
from cbmir.collections.manifests import BackupManifest as Backup
from cbmir.evaluate.experiment_plan import read_plan, read_reference
from cbmir.evaluate.ranking.relevance import Relations
from cbmir.fingerprint import external_card
from cbmir.ingest import open_source
from cbmir.media import Asset, VolumePreprocessing, prepare
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store.edge import EdgeStore
from cbmir.vectorfile import write_embeddings

VOLUME = VolumePreprocessing(input_voxels=(8, 8, 8), window_hu=(-1000, 1000), fit="squash")
CARD = external_card("eight", 8)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        suffix: Of its name.
        seeds: Makes good files; the folder is there for what else they need.
        read: The entry function for a file of this kind, as it is called by commands.
        words: The command for it: arguments, in which FILE and STORE are replaced.
        change: Makes a variant.
        in_folder: Whether the command takes a folder of many, with good neighbours.
    """

    suffix: str
    seeds: Callable[[Path], Sequence[bytes]]
    read: Callable[[Path], object]
    words: tuple[str, ...]
    change: Callable[[bytes, random.Random, Sequence[bytes]], bytes] = mutated
    in_folder: bool = False


# --- images -----------------------------------------------------------------------------------------------------------


def _image(form: str, *options: dict[str, object]) -> Callable[[Path], Sequence[bytes]]:
    def seeds(_: Path) -> Iterator[bytes]:
        modes = ("L", "RGB", "I;16") if form in ("PNG", "TIFF") else ("L", "RGB")
        for seed, mode in enumerate(modes):
            for how in options:
                data = io.BytesIO()
                image = Image.fromarray(pixels(seed, 24, 20))
                image = (
                    Image.fromarray(np.asarray(image).astype(np.uint16) * 9) if mode == "I;16" else image.convert(mode)
                )
                image.save(data, form, **how)
                yield data.getvalue()

    return lambda folder: list(seeds(folder))


def _read_image(path: Path) -> None:
    asset = Asset(path)
    prepare(asset, HOW)
    asset.thumbnail()
    asset.changed_since(1)


def _png(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Of a chunk, unpacked if it holds the pixels, with fitting checksums; of the file as it is, sometimes."""
    if rng.random() < 0.3:
        return with_checksums(mutated(data, rng, others))
    parts = chunks(data)
    number = rng.randrange(len(parts))
    name, content = parts[number]
    changed = zlib.compress(mutated(zlib.decompress(content), rng)) if name == b"IDAT" else mutated(content, rng)
    parts[number] = (name, changed)
    if rng.random() < 0.3:
        extra = rng.choice((b"eXIf", b"iTXt", b"tRNS", b"acTL", b"gAMA", b"PLTE", b"iCCP", b"zTXt"))
        parts.insert(rng.randrange(len(parts)), (extra, rng.randbytes(rng.choice((0, 1, 6, 26, 500)))))
    return unchunked(parts)


def _volumes(_: Path) -> Sequence[bytes]:
    made = []
    for dtype in (np.int16, np.float32):
        image = nibabel.Nifti1Image(np.arange(6 * 7 * 8, dtype=dtype).reshape(6, 7, 8), np.diag([1, 2, 3, 1]))
        made += [image.to_bytes(), nibabel.Nifti2Image(image.dataobj, image.affine).to_bytes()]
    return made


def _read_volume(path: Path) -> None:
    asset = Asset(path)
    prepare(asset, VOLUME)
    asset.thumbnail()
    asset.changed_since(1)


def _packed(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    changed = mutated(data, rng, others)
    way = rng.randrange(4)
    return changed if way == 0 else mutated(gzip.compress(data), rng) if way == 1 else gzip.compress(changed, 1)


# --- tables -----------------------------------------------------------------------------------------------------------

HEADER = ("filepath", "dataset", "labels", "patient_id", "age", "sex", "study_date", "XR/chest/edema", "note")
ROWS = [
    (
        f"a/{number}.png",
        "made",
        "XR/chest/pneumonia|XR/chest/edema",
        f"p{number // 2}",
        "63",
        "F",
        "2020-02-03",
        "1",
        "a, b",
    )
    for number in range(12)
]


def _text(separator: str) -> Callable[[Path], Sequence[bytes]]:
    def seeds(_: Path) -> Sequence[bytes]:
        lines = [separator.join(f'"{cell}"' if separator in cell else cell for cell in row) for row in (HEADER, *ROWS)]
        text = "\r\n".join(lines) + "\r\n"
        return [text.encode(), text.encode("utf-16"), f"sep={separator}\n{text}".encode("cp1252")]

    return seeds


def _workbook(_: Path) -> Sequence[bytes]:
    book = openpyxl.Workbook()
    for row in (HEADER, *ROWS):
        book.active.append(list(row))
    data = io.BytesIO()
    book.save(data)
    return [data.getvalue()]


def _zip(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Of a part within the archive, mostly; of the archive as it is, sometimes."""
    if rng.random() < 0.3:
        return mutated(data, rng, others)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    name = rng.choice(sorted(parts) + [name for name in sorted(parts) if "sheet" in name] * 3)
    parts[name] = mutated(parts[name], rng, list(parts.values()))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for part, content in parts.items():
            file.writestr(part, content)
    return made.getvalue()


def _parquet(folder: Path) -> Sequence[bytes]:
    columns = {name: [row[place] for row in ROWS] for place, name in enumerate(HEADER)}
    lists = {**columns, "labels": [["XR/chest/a", "XR/chest/b"]] * len(ROWS), "age": [1.5] * len(ROWS)}
    made = []
    for table, how in ((columns, {"compression": "none"}), (lists, {"compression": "zstd"})):
        pq.write_table(pa.table(table), folder / "seed.parquet", **how)
        made.append((folder / "seed.parquet").read_bytes())
    return made


def _read_table(path: Path) -> None:
    source = open_source(path)
    source.reading().lines()
    list(source)


# --- vectors ----------------------------------------------------------------------------------------------------------


def _columnar(folder: Path) -> Sequence[bytes]:
    with _store(folder) as store, store.open("eight") as collection:
        write_embeddings(collection, folder / "seed.h5")
    return [(folder / "seed.h5").read_bytes()]


def _published(folder: Path) -> Sequence[bytes]:
    with h5py.File(folder / "seed.h5", "w") as file:
        for number in range(12):
            file[f"a/{number}.png"] = np.arange(8, dtype=np.float32)
        file["a/soft.png"] = h5py.SoftLink("/a/1.png")
        file.create_dataset("a/packed.png", data=np.ones(8), chunks=(4,), compression="gzip", fletcher32=True)
    return [(folder / "seed.h5").read_bytes()]


def _read_vectors(path: Path) -> None:
    from cbmir.ingest.embeddings import EmbeddingsFiles

    with EmbeddingsFiles([path]) as files:
        (file,) = files.files
        for number in range(12):
            file.find(ImageRecord(filepath=f"a/{number}.png", dataset="made"), (f"./a/{number}.png",))
        file.find(ImageRecord(filepath="a/packed.png", dataset="made"))


# --- descriptions -----------------------------------------------------------------------------------------------------

EXPERIMENT = """
store = "store"
out = "results"
collections = ["eight"]
[all]
queries = ["split=test|val"]
[retrieval]
measure = ["precision", "map"]
k = [1, 5, 10]
[[classify]]
name = "vote"
max_k = 5
[recall]
queries = ["split=test"]
"""
RELATIONS = """
same: 3
relations:
- [XR/chest/pneumonia, XR/chest/edema, 2]
- ["XR/chest/pneumonia", CT/lung/nodule, 0.5]
"""
REFERENCE = {
    "experiments_dir": "x/eight",
    "h5_paths": ["a.h5"],
    "csv_paths": ["a.csv"],
    "k": 10,
    "epochs": 3,
    "lr": 0.1,
}


def _reading(text: str, words: tuple[str, ...], suffix: str, read: Callable[[Path], object]) -> Kind:
    return Kind(suffix, lambda _: [text.encode()], read, words)


def _store(folder: Path) -> EdgeStore:
    """A store with a collection of twelve images, made when it is first asked for."""
    store = EdgeStore(folder / "store")
    if "eight" not in store.names():
        records = tuple(
            ImageRecord(filepath=f"{number}.png", dataset="made", split="test", labels=("XR/chest/pneumonia",))
            for number in range(12)
        )
        vectors = normalise(np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32))
        with store.create("eight", CARD) as collection:
            collection.upsert(EmbeddedBatch(records, vectors, CARD.fingerprint))
    return store


def _manifests(folder: Path) -> Sequence[bytes]:
    if not (folder / "backup").exists():
        with _store(folder) as store:
            snapshot(store, "eight", folder / "backup")
            with store.open("eight") as collection:
                export(collection, folder / "export")
    return [
        (folder / "backup/backup.json").read_bytes(),
        (folder / "export/collection.json").read_bytes(),
        json.dumps(REFERENCE).encode(),
    ]


def _read_manifest(path: Path) -> None:
    from cbmir.errors import CbmirError

    folder, data = path.parent, path.read_bytes()
    if b"cbmir-export" in data:
        (folder / "export/collection.json").write_bytes(data)
        with Export(folder / "export") as made:
            list(made.scroll())
        return
    (folder / "backup.json").write_bytes(data)
    try:
        Backup.read(folder)
    except CbmirError:
        read_reference(path)


def _archive(folder: Path) -> Sequence[bytes]:
    """One of a few small files; the engine's own have some hundred MB."""
    _manifests(folder)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar, tarfile.open(folder / "backup/collection.tar.gz") as real:
        for member in real:
            content = real.extractfile(member)
            assert content is not None
            data = content.read(3000)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return [made.getvalue()]


def _read_archive(path: Path) -> None:
    """Restore it, its checksum corrected, as somebody would who made it."""
    folder = path.parent / "made"
    folder.mkdir(exist_ok=True)
    data = path.read_bytes()
    (folder / "collection.tar.gz").write_bytes(data)
    manifest = json.loads((path.parent / "backup/backup.json").read_text())
    manifest["files"] = {"collection.tar.gz": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    (folder / "backup.json").write_text(json.dumps(manifest))
    with EdgeStore(path.parent / "restored") as store:
        restore(folder, store)
        store.drop("eight")


_INGEST = ("ingest", "images", "FILE", "--encoder", "pixels", "--store", "STORE")
_TABLE = (*_INGEST, "--dry-run")
_RETRIEVAL = (
    *("evaluate", "retrieval", "--store", "STORE", "--queries", "all", "--gallery", "all", "--measure", "ndcg"),
    *("--relations", "FILE"),
)
_VECTORS = ("ingest", "embeddings", "FILE", "--table", "TABLE", "--encoder", "eight", "--store", "NEW")

KINDS = {
    "png": Kind(".png", _image("PNG", {}, {"compress_level": 0}), _read_image, _INGEST, _png, True),
    "jpeg": Kind(".jpg", _image("JPEG", {}, {"progressive": True}), _read_image, _INGEST, in_folder=True),
    "tiff": Kind(
        ".tif", _image("TIFF", {}, {"compression": "tiff_lzw"}, {"big_tiff": True}), _read_image, _INGEST,
        in_folder=True,
    ),
    "jpeg2000": Kind(".jp2", _image("JPEG2000", {}, {"irreversible": True}), _read_image, _INGEST, in_folder=True),
    "nifti": Kind(".nii.gz", _volumes, _read_volume, _INGEST, _packed, True),
    "csv": Kind(".csv", _text(","), _read_table, _TABLE),
    "tsv": Kind(".tsv", _text("\t"), _read_table, _TABLE),
    "xlsx": Kind(".xlsx", _workbook, _read_table, _TABLE, _zip),
    "parquet": Kind(".parquet", _parquet, _read_table, _TABLE),
    "hdf5-columnar": Kind(".h5", _columnar, _read_vectors, _VECTORS),
    "hdf5-published": Kind(".h5", _published, _read_vectors, _VECTORS),
    "toml": _reading(EXPERIMENT, ("evaluate", "run", "FILE", "--store", "STORE", "--out", "OUT"), ".toml",
                     read_plan),
    "yaml": _reading(RELATIONS, _RETRIEVAL, ".yaml", Relations.read),
    "manifest": Kind(".json", _manifests, _read_manifest, ("collections", "import", "EXPORT", "--store", "NEW")),
    "archive": Kind(".tar", _archive, _read_archive, ("collections", "restore", "BACKUP", "--store", "NEW"), _packed),
}  # fmt: skip


def good_neighbours(folder: Path, kind: Kind) -> int:
    """Put good files of a kind into a folder; returns how many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind.suffix == ".nii.gz":
            for number, data in enumerate(_volumes(folder)):
                (folder / f"good{number}.nii").write_bytes(data)
            return 4
    for number in range(3):
        write_picture(folder / f"good{number}.png", 100 + number)
    return 3
