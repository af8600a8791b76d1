"""Points whose files are gone: found, and removed if asked to."""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cbmir.errors import ImageError, StoreError
from cbmir.filters import Where, resolve
from cbmir.paths import is_uri
from cbmir.root import Root
from cbmir.store.base import Collection

BATCH = 1000


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was looked at.

    Attributes:
        collection: Its name.
        looked_at: Images that satisfy the filter.
        remote: Those of them with a URI instead of a path: nothing is known of their files.
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
        remote = f", {self.remote:,} are URIs and were left alone" if self.remote else ""
        return f"{self.collection}: {len(self.gone):,} of {self.looked_at:,} images have no file{remote}; {done}"


def prune(collection: Collection, root: Path, where: Where = (), *, remove: bool = False) -> PruneReport:
    """Look for the file of every image.

    Args:
        collection: Where the images are.
        root: Folder that the stored file paths are relative to.
        where: Which images to look at.
        remove: Remove the points of files that are gone.

    Raises:
        FilterError: the filter names a value that doesn't exist.
        StoreError: not one file is there, which says that the folder is another; nothing is removed then.
    """
    where = resolve(where, collection)
    gone: list[tuple[str, str]] = []
    looked_at = remote = 0
    files = Root(root)
    with tqdm(total=collection.count(where), desc="files", unit="image", leave=False, disable=None) as bar:
        for points in collection.scroll(where, fields=["filepath"]):
            looked_at += len(points)
            for point in points:
                path = str(point.payload.get("filepath", ""))
                if is_uri(path):
                    remote += 1
                elif not _is_file(files, path):
                    gone.append((point.id, path))
            bar.update(len(points))
    if gone and len(gone) == looked_at - remote:
        raise StoreError(
            f"not one of the {len(gone):,} files is below {root}, such as {gone[0][1]}: is it another folder?"
        )
    if remove:
        for start in range(0, len(gone), BATCH):
            collection.delete([id for id, _ in gone[start : start + BATCH]])
        collection.flush()
    return PruneReport(collection.name, looked_at, remote, tuple(gone), len(gone) if remove else 0)


def _is_file(root: Root, filepath: str) -> bool:
    try:
        return root.file(filepath).is_file()
    except ImageError:  # it leads out of the folder
        return False
