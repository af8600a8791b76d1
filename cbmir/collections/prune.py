"""Points whose files are gone: found, and removed if asked to."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from cbmir.dicomcard import settings_of
from cbmir.errors import ImageError, StoreError
from cbmir.filters import Where, resolve
from cbmir.paths import is_uri
from cbmir.root import Root
from cbmir.schema import split_keyed
from cbmir.store.collection import Collection
from cbmir.units import counted

if TYPE_CHECKING:
    from cbmir.media.dicom_settings import DicomSettings

BATCH = 1000
_NAMED = 5  # folders in a message
ALLOWED = 10.0
"""Percent of the images that may be gone: where more are missing, a disk or a folder may be."""


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was looked at.

    Attributes:
        collection: Its name.
        looked_at: Images that satisfy the filter.
        remote: Those of them with a URI instead of a path, and DICOM that this machine doesn't know: nothing is known
            of their files.
        gone: Ids and file paths of those whose files are gone.
        removed: Points that were removed.
    """

    collection: str
    looked_at: int
    remote: int
    gone: tuple[tuple[str, str], ...]
    removed: int

    def __str__(self) -> str:
        """A line for people."""
        done = (
            f"removed {self.removed:,}"
            if self.removed or not self.gone
            else "removed nothing: give --yes to remove them"
        )
        remote = f", URIs and DICOM of elsewhere left alone: {self.remote:,}" if self.remote else ""
        return f"{self.collection}: images without a file: {len(self.gone):,} of {self.looked_at:,}{remote}; {done}"


def prune(
    collection: Collection,
    root: Path,
    where: Where = (),
    *,
    remove: bool = False,
    allow_missing: float | None = None,
) -> PruneReport:
    """Look for the file of every image.

    Args:
        collection: Where the images are.
        root: Folder that the stored file paths are relative to.
        where: Which images to look at.
        remove: Remove the points of files that are gone.
        allow_missing: Remove them if up to so many percent of the files are gone, 0 to 100. None for `ALLOWED`, and
            only while no whole top folder is gone.

    Raises:
        FilterError: the filter names a value that doesn't exist.
        StoreError: not one file is there, which says that the folder is another; or more are gone than allowed.
            Nothing is removed then.
    """
    where = resolve(where, collection)
    gone: list[tuple[str, str]] = []
    here: Counter[str] = Counter()
    looked_at = remote = 0
    files, dicom = Root(root), settings_of(collection)
    with tqdm(total=collection.count(where), desc="files", unit="image", leave=False, disable=None) as bar:
        for points in collection.scroll(where, fields=["filepath"]):
            looked_at += len(points)
            for point in points:
                path = str(point.payload.get("filepath", ""))
                if is_uri(path) or _is_elsewhere(path, dicom):
                    remote += 1
                elif not _is_file(files, path, dicom):
                    gone.append((point.id, path))
                else:
                    here[_top(path)] += 1
            bar.update(len(points))
    if gone and not here and not (remove and allow_missing == 100):
        raise StoreError(
            f"of {counted(len(gone), 'file')} none is below {root}, such as {gone[0][1]}: is it another folder?"
        )
    if remove and gone:
        _check(gone, here, root, allow_missing)
        for start in range(0, len(gone), BATCH):
            collection.delete([id for id, _ in gone[start : start + BATCH]])
        collection.flush()
    return PruneReport(collection.name, looked_at, remote, tuple(gone), len(gone) if remove else 0)


def _is_elsewhere(path: str, dicom: "DicomSettings | None") -> bool:
    """Whether it is a frame of DICOM whose file nobody on this machine knows."""
    if not split_keyed(path):
        return False
    from cbmir.media.dicom_places import asset_of

    try:
        asset_of(path, dicom)
    except ImageError:
        return True
    return False


def _is_file(root: Root, filepath: str, dicom: "DicomSettings | None") -> bool:
    from cbmir.media import file_of  # Pillow: most commands about collections need none

    try:
        return file_of(root, filepath, dicom).is_file()
    except ImageError:  # it leads out of the folder
        return False


def _check(gone: list[tuple[str, str]], here: Mapping[str, int], root: Path, allowed: float | None) -> None:
    """Refuse to remove more than was allowed.

    Raises:
        StoreError: more is gone; the message says what, by top folder.
    """
    share = 100 * len(gone) / (len(gone) + sum(here.values()))
    missing = Counter(_top(path) for _, path in gone)
    whole = sorted(folder for folder in missing if folder and not here.get(folder))
    if share <= (ALLOWED if allowed is None else allowed) and (allowed is not None or not whole):
        return
    parts = [f"{count:,} in {folder or 'no folder'}" for folder, count in missing.most_common(_NAMED)]
    parts += ["..."] if len(missing) > _NAMED else []
    lost = f", with all of {', '.join(whole[:_NAMED])}{', ...' if len(whole) > _NAMED else ''}" if whole else ""
    raise StoreError(
        f"{share:.1f}% of the files are not below {root}{lost}: is a disk or a folder missing? Nothing was removed. "
        f"What would go: {', '.join(parts)}; without --yes each is listed. To remove them: "
        f"--allow-missing {math.ceil(share)}"
    )


def _top(path: str) -> str:
    """The first folder of a path; empty where it has none."""
    return path.partition("/")[0] if "/" in path else ""
