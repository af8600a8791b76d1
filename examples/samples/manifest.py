"""What was built, so that a second run can tell that nothing is left to do."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel
import numpy
import PIL
import pydicom

from examples.samples.source import Source
from examples.samples.table import Row, read_table, sha256

FORMAT = 1
"""Raise this number when the pictures or the table change for the same catalogue."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Facts of a finished build.

    Attributes:
        recipe: SHA-256 over the format and the catalogue.
        table_sha256: Of `table.csv`.
        image_bytes: Sum of the sizes of all pictures.
        pixels_sha256: Over all pictures in the order of the table, after decoding: unlike the bytes of a PNG it does
            not depend on the version of zlib.
        packages: name -> version of what was read.
        libraries: name -> version of what did the reading.
        skipped: Reason -> how many slices or sources were not taken.
    """

    recipe: str
    table_sha256: str
    image_bytes: int
    pixels_sha256: str
    packages: Mapping[str, str]
    libraries: Mapping[str, str]
    skipped: Mapping[str, int]


def recipe_of(sources: Sequence[Source]) -> str:
    """Fingerprint of what a build would read and how.

    Args:
        sources: All sources of the build, extras that are present included.
    """
    facts = [FORMAT, *(asdict(source) for source in sources)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decode and encode."""
    modules = {"nibabel": nibabel, "numpy": numpy, "pillow": PIL, "pydicom": pydicom}
    return {name: str(module.__version__) for name, module in modules.items()}


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest as indented JSON."""
    path.write_text(json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def reusable(folder: Path, recipe: str) -> tuple[Manifest, list[Row]] | None:
    """The finished build in a folder, if it is whole and of this recipe.

    Whole means: the table has the bytes the manifest tells, and every picture in it exists, with the right sizes in
    sum.

    Returns:
        Manifest and rows, or None where something must be built.
    """
    manifest = _read(folder / "manifest.json")
    table = folder / "table.csv"
    if manifest is None or manifest.recipe != recipe or not table.is_file() or sha256(table) != manifest.table_sha256:
        return None
    rows = read_table(table)
    files = [folder / row.filepath for row in rows]
    if not all(file.is_file() for file in files) or sum(file.stat().st_size for file in files) != manifest.image_bytes:
        return None
    return manifest, rows


def _read(path: Path) -> Manifest | None:
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
