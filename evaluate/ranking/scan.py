"""Exact nearest neighbours: matrix products on a CPU or a GPU, and a top-k whose order is defined.

Products are taken in float32, where it pays after a first pass in half precision (`cbmir.evaluate.ranking.half`). Of
each query, every image is kept that can't be told from the nearest that way. Where two of these lie closer than that,
their products are taken again in float64 and rounded to 2**-30, so that copies of an image tie, and fall by position,
whatever order a BLAS sums in.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cbmir.device import has_bf16, keep_memory
from cbmir.evaluate.ranking.half import LONG, HalfPass, Scores
from cbmir.evaluate.ranking.keys import MISSING, Keys, Places, close, cosines_of, keys_of, places_of
from cbmir.schema import Vectors
from cbmir.search.ranker import Mask, Pairs

if TYPE_CHECKING:
    import torch

CHUNK_IMAGES = 131_072
"""Gallery vectors scored at once; with 512 dimensions that is 268 MB."""

_SCORES = 1 << 25  # of a block of queries by a chunk of the gallery: 134 MB
_CROWD = 4  # times the depth: a query with more candidates has many copies of an image among them
_MULTIPLIED = 1 << 17  # numbers a side and step in float64: they stay in the cache
_DENSE = 256  # one image in so many a candidate: multiplying all of them again costs more than half precision saves


@dataclass(frozen=True, slots=True)
class ExclusionMask:
    """What the queries of a block may not find in a chunk.

    Attributes:
        pairs: Rows within the block, and columns within the chunk; None where the terms before bar the same.
        mask: (block, chunk) further ones, None for none.
        columns: The columns of the chunk that are searched, rising; None for all. They don't count in the terms that
            follow.
    """

    pairs: Pairs | None
    mask: Mask | None = None
    columns: Places | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """Candidates of the queries of a block in a chunk.

    Attributes:
        rows: (m,) rising rows within the block.
        columns: (m,) columns within the chunk.
        near: (m,) products, as near as they were taken.
    """

    rows: Places
    columns: Places
    near: NDArray[np.float32]


class Scan:
    """The nearest images of n queries among all that were shown so far, on one or several terms.

    Attributes:
        keys: (terms, n, depth) falling, see `keys_of`; `MISSING` where there is no image yet.
    """

    def __init__(
        self, queries: Vectors, depth: int, terms: int = 1, device: str = "cpu", half: bool | None = None
    ) -> None:
        """Start.

        Args:
            queries: (n, dim) of unit length.
            depth: Images to find a query.
            terms: Sets of masks, see `show`.
            device: Of the products.
            half: Whether to make a first pass in half precision; None where a CPU has bfloat16 in hardware (CUDA may
                add up in bfloat16 too, so that less is known of the error) and vectors are long enough to gain by it.
                The answer is the same.
        """
        import torch

        if device == "cpu":
            keep_memory()
        self._queries = torch.from_numpy(queries).to(device)
        self._depth = depth
        self._started = False
        self._unsure = 2.0**-23 * queries.shape[1]
        """Twice the largest error of a float32 product of two unit vectors."""
        if half is None:
            half = device == "cpu" and queries.shape[1] >= LONG and has_bf16(device)
        self._half = HalfPass(self._unsure) if half else None
        self.keys = np.full((terms, len(queries), depth), MISSING)

    def add(
        self, places: Places, vectors: Vectors, masks: Sequence[Callable[[slice], ExclusionMask]], *, last: bool = False
    ) -> None:
        """Score a chunk of the gallery against all queries.

        Args:
            places: (m,) rising places in the gallery, none shown before.
            vectors: (m, dim) of unit length, m at least 1.
            masks: For each of the terms, what a block of queries may not find; also on all terms that follow.
            last: Whether no chunk follows. Of an only chunk, float32 products are taken again just where they are
                close; else all candidates' are, as they may turn out close to those of another chunk.
        """
        import torch

        alone = last and not self._started
        self._started = True
        gallery = torch.from_numpy(vectors).to(self._queries.device)
        width = _width(len(vectors), self._depth)
        rows = max(64, _SCORES // width)
        queries = len(self._queries)
        blocks = [slice(start, min(start + rows, queries)) for start in range(0, queries, rows)]
        with torch.inference_mode():
            if self._half is not None:
                blocks = self._shown_in_half(self._half, blocks, places, gallery, masks)
            buffer = self._buffer(blocks, width, torch.float32)
            for block in blocks:
                table = buffer[: block.stop - block.start]
                torch.mm(self._queries[block], gallery.T, out=table[:, : len(gallery)])
                found = self._found(Scores(table, 0.0, lambda least: least - self._unsure), len(gallery), block, masks)
                self._merge(found, block, gallery, places, alone)

    def _shown_in_half(
        self,
        half: HalfPass,
        blocks: list[slice],
        places: Places,
        gallery: "torch.Tensor",
        masks: Sequence[Callable[[slice], ExclusionMask]],
    ) -> list[slice]:
        """Score a chunk after a first pass in half precision; give back the blocks that are left where it is dropped.

        It is dropped, for all chunks that follow too, at the first block with too many candidates.
        """
        import torch

        width = _width(len(gallery), self._depth)
        scores = half.on(gallery)
        buffer = self._buffer(blocks, width, torch.bfloat16)
        for number, block in enumerate(blocks):
            queries = self._queries[block]
            found = self._found(scores(queries, buffer[: len(queries)]), len(gallery), block, masks)
            if max(len(item.rows) for item in found) > len(queries) * max(_CROWD * self._depth, width // _DENSE):
                self._half = None
                return blocks[number:]
            self._merge(found, block, gallery, places, False)
        return []

    def _buffer(self, blocks: list[slice], width: int, dtype: "torch.dtype") -> "torch.Tensor":
        import torch

        rows = blocks[0].stop - blocks[0].start if blocks else 0
        return torch.full((rows, width), -torch.inf, dtype=dtype, device=self._queries.device)

    def _found(
        self, scores: Scores, count: int, block: slice, masks: Sequence[Callable[[slice], ExclusionMask]]
    ) -> list[_Found]:
        """The candidates on each of the terms."""
        found = []
        for keys, bar in zip(self.keys, masks, strict=True):
            barred = bar(block)
            _fill(scores.table[:, :count], barred)
            table, columns = scores.table, barred.columns
            if columns is not None:
                table = _part(table, columns, self._depth)
            width = count if columns is None else len(columns)
            grouped = table.view(len(table), _group_size(width, self._depth), -1)
            least = _tensor(cosines_of(keys[block][:, -1]).astype(np.float32), table) - scores.moved
            one = _candidates(grouped, self._depth, least, scores.limit)
            found.append(one if columns is None else _Found(one.rows, columns[one.columns], one.near))
        return found

    def _merge(
        self, found: Sequence[_Found], block: slice, gallery: "torch.Tensor", places: Places, alone: bool
    ) -> None:
        for keys, item in zip(self.keys, found, strict=True):
            keys[block] = self._merged(keys[block], self._queries[block], item, gallery, places, alone)

    def _merged(
        self, before: Keys, queries: "torch.Tensor", found: _Found, gallery: "torch.Tensor", places: Places, alone: bool
    ) -> Keys:
        rows, columns = found.rows, found.columns
        keys = keys_of(found.near, places[columns])
        taken = (np.bincount(rows, minlength=len(before)) > _CROWD * self._depth)[rows] if alone else slice(None)
        keys[taken] = keys_of(_exact(queries, gallery, rows[taken], columns[taken]), places[columns[taken]])
        table = _table(before, rows, keys)
        if alone:
            rows, ranks = close(table, self._unsure)
            unsettled = places_of(table[rows, ranks])
            exact = _exact(queries, gallery, rows, np.searchsorted(places, unsettled))
            table[rows, ranks] = keys_of(exact, unsettled)
            table = np.sort(table, axis=1)[:, ::-1]
        return table[:, : self._depth]


def _tensor(array: NDArray[np.generic], like: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.from_numpy(array).to(like.device)


def _fill(scores: "torch.Tensor", bar: ExclusionMask) -> None:
    import torch

    if bar.pairs is not None:
        scores[tuple(_tensor(item, scores) for item in bar.pairs)] = -torch.inf
    if bar.mask is not None:
        scores.masked_fill_(_tensor(bar.mask, scores), -torch.inf)


def _part(scores: "torch.Tensor", columns: Places, depth: int) -> "torch.Tensor":
    """Some of the columns, with -inf up to a width that groups fill."""
    import torch

    part = torch.full((len(scores), _width(len(columns), depth)), -torch.inf, dtype=scores.dtype, device=scores.device)
    part[:, : len(columns)] = scores[:, _tensor(columns, scores)]
    return part


def _width(columns: int, depth: int) -> int:
    """The next number of columns that groups fill."""
    size = _group_size(columns, depth)
    return -(-columns // size) * size


def _group_size(width: int, depth: int) -> int:
    """Columns that share a maximum, so that about as many maxima are compared as scores of groups that qualify."""
    return 1 << max(0, round(math.log2(max(1, width) / depth) / 2))


def _candidates(
    scores: "torch.Tensor",
    depth: int,
    least: "torch.Tensor",
    limit_of: "Callable[[torch.Tensor], torch.Tensor]",
) -> _Found:
    """All scores that may be among the highest of their row, row by row.

    Scores are read once, for the maxima of groups of columns; the others only in groups whose maximum qualifies.

    Args:
        scores: (n, size, groups), of which columns that share the last place are a group; -inf never qualifies.
        depth: How many highest are sought.
        least: (n,) what the depth-th highest is known to reach, NaN where nothing is known.
        limit_of: See `Scores.limit`.
    """
    import torch

    groups = scores.shape[2]
    if not groups:
        return _Found(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    maxima = scores.amax(1)
    if groups > depth and bool(least.isnan().any()):
        least = least.fmax(maxima.topk(depth, dim=1, sorted=False).values.amin(1).float())
    limit = limit_of(least).nan_to_num(nan=-torch.inf).clamp(min=torch.finfo(torch.float32).min)
    rows, group = (maxima >= limit[:, None]).nonzero(as_tuple=True)
    found = scores[rows, :, group]
    hits, within = (found >= limit[rows, None]).nonzero(as_tuple=True)
    columns = group[hits] + within * groups
    return _Found(rows[hits].cpu().numpy(), columns.cpu().numpy(), found[hits, within].float().cpu().numpy())


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
        exact[part] = np.einsum("ij,ij->i", one[rows[part]], other[columns[part]], dtype=np.float64)
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
