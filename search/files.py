"""Which files the user means as queries."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cbmir.errors import ImageError

if TYPE_CHECKING:
    from cbmir.media import Asset


def image_files(paths: Iterable[Path]) -> tuple[list[Path], Mapping[str, int]]:
    """Files as they are given, folders replaced by the images and volumes below them, sorted.

    Returns:
        The files, and how many of the others below folders were passed over, by suffix, as DICOM or as hidden.
    """
    from cbmir.media import is_readable, passed_over_as, without_hidden
    from cbmir.media.remedies import DICOM

    found: list[Path] = []
    others: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            below = [
                Path(folder, name)
                for folder, folders, files in os.walk(path)
                for name in without_hidden(folders, files, others)
            ]
            kinds = {item: None if is_readable(item.name) else passed_over_as(item) for item in below}
            images = sorted(item for item, kind in kinds.items() if kind in (None, DICOM))
            others.update(kind for kind in kinds.values() if kind not in (None, DICOM))
            found += images
        else:
            found.append(path)
    return found, {key: count for key, count in sorted(others.items()) if count}


def check_queries(files: Sequence[Path]) -> None:
    """Refuse query files of which none can be used, before an encoder is loaded for them.

    Raises:
        ImageError: not one of them can be opened; of a volume only the first bytes are read.
    """
    reason = ""
    for file in files:
        asset = query_asset(file)
        try:
            if asset.kind == "image":
                asset.content()
            return
        except ImageError as error:
            reason = reason or f"{file} can't be used: {error}"
    raise ImageError(f"none of {len(files):,} queries can be used; {reason}" if len(files) > 1 else reason)


def query_asset(path: Path) -> "Asset":
    """The asset of a query file; ``series.dcm#3`` is the third image in a file, unless a file has that name."""
    from cbmir.media import Asset, split_key

    file, frame = split_key(str(path))
    return Asset(path) if frame is None or path.exists() else Asset(file, frame=frame)
