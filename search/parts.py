"""Queries of what a caller has at hand: images, names of stored images, texts, vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cbmir.errors import QueryError
from cbmir.search.query import ImageQuery, Query, Single, StoredQuery, TextQuery, VectorQuery, WeightedQuery

if TYPE_CHECKING:
    from cbmir.media import HoldsPixels


def single(item: "HoldsPixels | Single") -> Single:
    """A query of an image, the name of a stored one, or a vector; a text that names no file names a stored image."""
    from cbmir.media import Asset

    if isinstance(item, Single):
        return item
    if isinstance(item, str) and not is_file(item):
        return StoredQuery(item)
    if isinstance(item, np.ndarray) and item.ndim == 1:
        return VectorQuery(item)
    return ImageQuery(Asset.of(item))


def composed(
    query: "HoldsPixels | Sequence[HoldsPixels] | Query | None",
    text: str | None = None,
    unlike: "Sequence[HoldsPixels | Single]" = (),
    region: tuple[int, int, int, int] | None = None,
) -> Any:
    """What `Searcher.ask` takes, of the parts of a query.

    Raises:
        QueryError: there is nothing to look for, or several images are combined with other parts.
        ImageError: the region has no pixels.
    """
    from cbmir.media import Region

    several = isinstance(query, Sequence) and not isinstance(query, str | bytes)
    if query is None and text is None:
        raise QueryError("there is nothing to look for; give an image, a stored image, a vector, or text=")
    if (several or isinstance(query, WeightedQuery)) and (text is not None or len(unlike) or region):
        raise QueryError(
            "text, unlike and region go with one image; make several images one query by "
            "cbmir.search.WeightedQuery(((ImageQuery(path), 1.0), ...))"
        )
    if query is not None and text is None and not len(unlike) and region is None:
        return query
    parts: list[tuple[Single, float]] = []
    if query is not None:
        part = single(query)  # type: ignore[arg-type]  # several images and weighted queries were refused
        if region is not None:
            if not isinstance(part, ImageQuery):
                raise QueryError("a region is that of an image; the query is none")
            part = ImageQuery(part.image, Region(*region))
        parts.append((part, 1.0))
    if text is not None:
        parts.append((TextQuery(text), 1.0))
    parts += [(single(item), -1.0) for item in unlike]
    return parts[0][0] if len(parts) == 1 else WeightedQuery(tuple(parts))


def is_file(text: str) -> bool:
    """Whether a text is the path of a file that is there."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, or no text
        return False
