"""Exact nearest neighbours: matrix products on a CPU or a GPU, and a top-k whose order is defined.

Products are taken in float32. Of each query, every image is kept that float32 can't tell from being among the nearest;
where two of these lie closer than float32 can tell, their products are taken again in float64 and rounded to 2**-30, so
that copies of an image tie, and fall by place, whatever order a BLAS sums in.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cbmir.schema import Vectors

if TYPE_CHECKING:
    import torch

CHUNK_IMAGES = 131_072
"""Gallery vectors scored at once; with 512 dimensions that is 268 MB."""

_SCORES = 1 << 25  # of a block of queries by a chunk of the gallery: 134 MB
_CROWD = 4  # times the depth: a query with more candidates has many copies of an image among them
_MULTIPLIED = 1 << 18  # numbers a side and step in float64: they stay in the cache
_BITS = 30
_LOW = (1 << 32) - 1
MISSING = np.iinfo(np.int64).min
"""Key of no image."""

Keys = NDArray[np.int64]
Places = NDArray[np.int64]
Pairs = tuple[Places, Places]


@dataclass(frozen=True, slots=True)
class Bar:
    """What the queries of a block may not find in a chunk.

    Attributes:
        pairs: Rows within the block, and columns within the chunk.
        mask: (block, chunk) further ones, None for none.
    """

    pairs: Pairs
    mask: NDArray[np.bool_] | None = None


class Scan:
    """The nearest images of n queries among all that were shown so far, on one or several terms.

    Attributes:
        keys: (terms, n, depth) falling, see `keys_of`; `MISSING` where there is no image yet.
    """

    def __init__(self, queries: Vectors, depth: int, terms: int = 1, device: str = "cpu") -> None:
        import torch

        self._queries = torch.from_numpy(queries).to(device)
        self._depth = depth
        self._started = False
        self._unsure = 2.0**-23 * queries.shape[1]
        """Twice the largest error of a float32 product of two unit vectors."""
        self.keys = np.full((terms, len(queries), depth), MISSING)

    def show(
        self, places: Places, vectors: Vectors, bars: Sequence[Callable[[slice], Bar]], *, last: bool = False
    ) -> None:
        """Score a chunk of the gallery against all queries.

        Args:
            places: (m,) rising places in the gallery, none shown before.
            vectors: (m, dim) of unit length, m at least 1.
            bars: For each of the terms, what a block of queries may not find; also on all terms that follow.
            last: Whether no chunk follows. Of an only chunk, products are taken again just where they are close; else
                all candidates' are, as they may turn out close to those of another chunk.
        """
        import torch

        alone = last and not self._started
        self._started = True
        gallery = torch.from_numpy(vectors).to(self._queries.device)
        size = _group_size(len(vectors), self._depth)
        width = -(-len(vectors) // size) * size
        rows = max(64, _SCORES // width)
        buffer = torch.empty((min(rows, len(self._queries)), width), device=gallery.device)
        buffer[:, len(vectors) :] = -torch.inf
        with torch.inference_mode():
            for start in range(0, len(self._queries), rows):
                block = slice(start, min(start + rows, len(self._queries)))
                scores = buffer[: block.stop - start]
                torch.mm(self._queries[block], gallery.T, out=scores[:, : len(vectors)])
                for keys, bar in zip(self.keys, bars, strict=True):
                    _fill(scores[:, : len(vectors)], bar(block))
                    grouped = scores.view(len(scores), size, -1)
                    keys[block] = self._merged(keys[block], self._queries[block], grouped, gallery, places, alone)

    def _merged(
        self,
        before: Keys,
        queries: "torch.Tensor",
        scores: "torch.Tensor",
        gallery: "torch.Tensor",
        places: Places,
        alone: bool,
    ) -> Keys:
        import torch

        least = torch.from_numpy(cosines_of(before[:, -1]).astype(np.float32)).to(scores.device)
        rows, columns, near = _candidates(scores, self._depth, least, self._unsure)
        keys = keys_of(near, places[columns])
        taken = (np.bincount(rows, minlength=len(before)) > _CROWD * self._depth)[rows] if alone else slice(None)
        keys[taken] = keys_of(_exact(queries, gallery, rows[taken], columns[taken]), places[columns[taken]])
        table = _table(before, rows, keys)
        if alone:
            rows, ranks = _close(table, self._unsure)
            close = places_of(table[rows, ranks])
            exact = _exact(queries, gallery, rows, np.searchsorted(places, close))
            table[rows, ranks] = keys_of(exact, close)
            table = np.sort(table, axis=1)[:, ::-1]
        return table[:, : self._depth]


def keys_of(cosines: NDArray[np.floating], places: Places) -> Keys:
    """One integer an image that sorts by cosine, then by falling place, so that the largest keys are the answer.

    The upper half is the cosine in units of 2**-30, the lower half counts places downwards.
    """
    keys: Keys = np.rint(cosines * np.float64(1 << _BITS)).astype(np.int64)
    keys <<= 32
    keys += _LOW - places
    return keys


def cosines_of(keys: Keys) -> NDArray[np.float64]:
    """The cosines in keys, NaN for `MISSING`."""
    cosines: NDArray[np.float64] = np.where(keys == MISSING, np.nan, (keys >> 32) / float(1 << _BITS))
    return cosines


def places_of(keys: Keys) -> Places:
    """The places in keys, -1 for `MISSING`."""
    places: Places = np.where(keys == MISSING, -1, _LOW - (keys & _LOW))
    return places


def _fill(scores: "torch.Tensor", bar: Bar) -> None:
    import torch

    scores[tuple(torch.from_numpy(item).to(scores.device) for item in bar.pairs)] = -torch.inf
    if bar.mask is not None:
        scores.masked_fill_(torch.from_numpy(bar.mask).to(scores.device), -torch.inf)


def _group_size(width: int, depth: int) -> int:
    """Columns that share a maximum, so that about as many maxima are compared as scores of groups that qualify."""
    return 1 << max(0, round(math.log2(width / depth) / 2))


def _candidates(
    scores: "torch.Tensor", depth: int, least: "torch.Tensor", unsure: float
) -> tuple[Places, Places, NDArray[np.float32]]:
    """Rows, columns and values of all scores that may be among the highest of their row, row by row.

    Scores are read once, for the maxima of groups of columns; the others only in groups whose maximum qualifies.

    Args:
        scores: (n, size, groups), of which columns that share the last place are a group; -inf never qualifies.
        depth: How many highest are sought.
        least: (n,) what the depth-th highest is known to reach, NaN where nothing is known.
        unsure: What a score may lie below that and still qualify.
    """
    import torch

    groups = scores.shape[2]
    maxima = scores.amax(1)
    if groups > depth and bool(least.isnan().any()):
        least = least.fmax(maxima.topk(depth, dim=1, sorted=False).values.amin(1))
    limit = (least.nan_to_num(nan=-torch.inf) - unsure).clamp(min=torch.finfo(torch.float32).min)
    rows, group = (maxima >= limit[:, None]).nonzero(as_tuple=True)
    found = scores[rows, :, group]
    hits, within = (found >= limit[rows, None]).nonzero(as_tuple=True)
    columns = group[hits] + within * groups
    return rows[hits].cpu().numpy(), columns.cpu().numpy(), found[hits, within].cpu().numpy()


def _close(table: Keys, unsure: float) -> tuple[Places, Places]:
    """Rows and places in the sorted table of keys that lie so near to another that their order isn't sure."""
    cosines = cosines_of(table)
    gap = cosines[:, :-1] - cosines[:, 1:] <= unsure
    close = np.zeros(table.shape, np.bool_)
    close[:, 1:] |= gap
    close[:, :-1] |= gap
    return np.nonzero(close)  # type: ignore[return-value]


def _exact(queries: "torch.Tensor", gallery: "torch.Tensor", rows: Places, columns: Places) -> NDArray[np.float64]:
    """(m,) products of pairs of vectors in float64, each summed in the same order."""
    exact = np.empty(len(rows))
    if queries.is_cuda:
        import torch

        left, right = (torch.from_numpy(item).to(queries.device) for item in (rows, columns))
        for start in range(0, len(rows), _MULTIPLIED):
            part = slice(start, start + _MULTIPLIED)
            exact[part] = (queries[left[part]].double() * gallery[right[part]]).sum(1).cpu().numpy()
        return exact
    one, other = queries.numpy(), gallery.numpy()
    step = max(1, _MULTIPLIED // one.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        exact[part] = np.einsum("ij,ij->i", one[rows[part]].astype(np.float64), other[columns[part]].astype(np.float64))
    return exact


def _table(before: Keys, rows: Places, keys: Keys) -> Keys:
    """(n, width) falling keys of each row, those before and the new ones, as many of these as may be among the best.

    Args:
        before: (n, depth).
        rows: (m,) rising row of each new key.
        keys: (m,) new keys, exact where a row has more than `_CROWD` times the depth of them.
    """
    depth = before.shape[1]
    counts = np.bincount(rows, minlength=len(before))
    ends = np.cumsum(counts)
    for row in np.flatnonzero(counts > _CROWD * depth):
        part = keys[ends[row] - counts[row] : ends[row]]
        part[:] = np.sort(part)[::-1]
    ranks = np.arange(len(rows)) - np.repeat(ends - counts, counts)
    kept = ranks < _CROWD * depth
    table = np.full((len(before), depth + int(ranks[kept].max(initial=-1)) + 1), MISSING)
    table[:, :depth] = before
    table[rows[kept], depth + ranks[kept]] = keys[kept]
    table.sort(axis=1)
    return table[:, ::-1]
