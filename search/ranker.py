"""What a ranker is: it answers a batch of queries with positions in a gallery, and knows nothing of pictures.

The exact scan is one, the engine's search is one; fusion of several rankings and re-ranking can be others. A class that
is decorated with `ranker` can be chosen by its name in every evaluation. Hits with payload are made for people only, by
`cbmir.search.searcher`.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import CbmirError, ProtocolError
from cbmir.filters import Where
from cbmir.schema import Vectors
from cbmir.store import Collection

NONE = -1
"""Position of what the gallery doesn't hold, and of a hit that is missing."""

Positions = NDArray[np.int64]
Mask = NDArray[np.bool_]
Pairs = tuple[Positions, Positions]
"""Rows of queries, and as many gallery positions."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The nearest gallery images of n queries, by falling score, equal ones by rising position.

    Attributes:
        positions: (n, depth) positions in the gallery, each once a row, `NONE` where the query may find no more images.
        scores: (n, depth) scores, NaN where an image is missing.
    """

    positions: Positions
    scores: NDArray[np.float32]

    @property
    def depth(self) -> int:
        """Rank positions a query."""
        return int(self.positions.shape[1])

    def cut(self, depth: int) -> Self:
        """The first rank positions; a depth that is not below the present one changes nothing."""
        return type(self)(self.positions[:, :depth], self.scores[:, :depth])

    def take(self, rows: Positions | slice) -> Self:
        """Some of the queries."""
        return type(self)(self.positions[rows], self.scores[rows])


class Gallery(Protocol):
    """The stored images that queries are ranked against, each at one position, by rising id."""

    @property
    def ids(self) -> NDArray[np.bytes_]:
        """(images,) the 16 bytes of each UUID, rising."""

    @property
    def where(self) -> Where:
        """The filter that these images satisfy, and no others of the collection."""

    def __len__(self) -> int: ...

    def chunks(self, images: int) -> Iterator[tuple[Positions, Vectors]]:
        """All vectors, by rising position.

        Args:
            images: How many at once.

        Yields:
            (m,) positions and (m, dim) vectors of unit length, m at most `images`.

        Raises:
            ProtocolError: the collection lost images meanwhile.
        """

    def positions(self, ids: Sequence[str]) -> Positions:
        """(n,) positions of UUIDs, `NONE` for those that the gallery doesn't hold."""


class Exclusion(Protocol):
    """What each query of a batch may not find, in the two forms that rankers need: by position, and as a filter.

    A ranker that sees positions obeys `pairs`, `mask` and `kept`, or simply `allowed`. One that asks an engine obeys
    `where`, which says the same; only `kept` no filter describes.
    """

    @property
    def kept(self) -> Mask | None:
        """(images,) the part of the gallery that is searched; None for all of it."""

    def pairs(self, block: slice) -> Pairs:
        """Rows within a block of queries, rising, and positions that these may not find, each pair once."""

    def mask(self, block: slice, positions: Positions) -> Mask | None:
        """(queries, positions) further images that a block of queries may not find; None for none."""

    def excludes_as(self, other: "Exclusion") -> bool:
        """Whether the same images are excluded for the same queries, whatever part of the gallery each keeps."""

    def where(self, row: int) -> Where:
        """Conditions to be added to the filter of the gallery for one query; none where it may find everything."""


class Ranker(Protocol):
    """Ranks the images of one open collection.

    Attributes:
        ranks_parts: Whether it obeys `Exclusion.kept`. A sweep over sizes of the gallery needs that.
    """

    ranks_parts: ClassVar[bool]

    def __init__(self, collection: Collection, device: str) -> None:
        """Get ready.

        Args:
            collection: Where the images are.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, for rankers that compute themselves.
        """

    def rank(self, queries: Vectors, gallery: Gallery, exclusions: Sequence[Exclusion], depth: int) -> list[Ranking]:
        """Rank the gallery for each query.

        Args:
            queries: (n, dim) vectors of unit length.
            gallery: What is searched.
            exclusions: What the queries may not find. They are nested: each excludes all that the one before does, and
                the part of the gallery that an exclusion keeps doesn't count in that.
            depth: Rank positions to fill.

        Returns:
            One ranking an exclusion, each of n queries and this depth.

        Raises:
            ProtocolError: the collection changed meanwhile, or a part of the gallery can't be ranked.
        """


R = TypeVar("R", bound=type[Ranker])

_RANKERS: dict[str, type[Ranker]] = {}
_FOLDERS = ["cbmir.search.rankers"]


def ranker(name: str) -> Callable[[R], R]:
    """Make a class known as a ranker under a name; a class may have several names.

    Raises:
        CbmirError: another class has this name.
    """

    def known(cls: R) -> R:
        if _RANKERS.setdefault(name, cls) is not cls:
            first = _RANKERS[name]
            raise CbmirError(f"two rankers have the name {name!r}: {first.__qualname__} and {cls.__qualname__}")
        return cls

    return known


def look_in(folder: str) -> None:
    """Look for rankers in the modules of one more package, each of which is imported when names are first needed."""
    if folder not in _FOLDERS:
        _FOLDERS.append(folder)


def rankers() -> dict[str, type[Ranker]]:
    """All rankers by name, sorted."""
    for folder in _FOLDERS:
        package = importlib.import_module(folder)
        for item in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{folder}.{item.name}")
    return dict(sorted(_RANKERS.items()))


def ranker_named(name: str) -> type[Ranker]:
    """The class of a ranker.

    Raises:
        ProtocolError: there is no such ranker; the message names those there are.
    """
    known = rankers()
    if name not in known:
        raise ProtocolError(f"no search {name!r}; there are {', '.join(known)}")
    return known[name]


def allowed(exclusion: Exclusion, queries: int | slice, images: int) -> Mask:
    """(queries, images) which gallery images each query may find, for rankers that hold a table of all scores.

    Args:
        exclusion: What they may not find.
        queries: How many there are, or a block of them.
        images: In the gallery.
    """
    block = slice(0, queries) if isinstance(queries, int) else queries
    table = np.ones((block.stop - block.start, images), np.bool_)
    if exclusion.kept is not None:
        table &= exclusion.kept
    further = exclusion.mask(block, np.arange(images))
    if further is not None:
        table &= ~further
    table[exclusion.pairs(block)] = False
    return table


def best(scores: NDArray[np.floating], depth: int) -> Ranking:
    """The highest scores of a table, equal ones by rising position.

    Args:
        scores: (queries, images) -inf for images that a query may not find.
        depth: Rank positions to fill.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    found = np.take_along_axis(scores, order, axis=1)
    missing = np.isneginf(found)
    short = ((0, 0), (0, depth - order.shape[1]))
    return Ranking(
        np.pad(np.where(missing, NONE, order), short, constant_values=NONE),
        np.pad(np.where(missing, np.nan, found), short, constant_values=np.nan).astype(np.float32),
    )
