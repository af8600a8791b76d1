"""Exact nearest neighbours: matrix products on a CPU or a GPU, and a top-k whose order is defined.

Products are taken in float32, or in bfloat16 where a CPU has it in hardware. Of each query, every image is kept that
can't be told from the nearest that way; where two of these lie closer than that, their products are taken again in
float64 and rounded to 2**-30, so that copies of an image tie, and fall by place, whatever order a BLAS sums in.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cbmir.device import has_bf16, keep_memory
from cbmir.evaluate.ranking.keys import MISSING, Keys, Places, close, cosines_of, keys_of, places_of
from cbmir.schema import Vectors

if TYPE_CHECKING:
    import torch

CHUNK_IMAGES = 131_072
"""Gallery vectors scored at once; with 512 dimensions that is 268 MB."""

_SCORES = 1 << 25  # of a block of queries by a chunk of the gallery: 134 MB
_CROWD = 4  # times the depth: a query with more candidates has many copies of an image among them
_MULTIPLIED = 1 << 17  # numbers a side and step in float64: they stay in the cache
_LONG = 256  # dimensions from which bfloat16 saves more than the candidates that it leaves cost
_ROUNDED = 4096  # vectors rounded at once: they stay in the cache
_DENSE = 256  # one image in so many a candidate: multiplying all of them again costs more than bfloat16 saves
_ROUNDING = 1.01 * 2.0**-8  # of a product that is given back in bfloat16

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
            terms: Sets of bars, see `show`.
            device: Of the products.
            half: Take them in bfloat16 first; None where a CPU has it in hardware (CUDA may add up in bfloat16 too, so
                that less is known of the error) and vectors are long enough to gain by it. The answer is the same.
        """
        import torch

        if device == "cpu":
            keep_memory()
        self._queries = torch.from_numpy(queries).to(device)
        self._depth = depth
        self._started = False
        self._unsure = 2.0**-23 * queries.shape[1]
        """Twice the largest error of a float32 product of two unit vectors."""
        self._centre: torch.Tensor | None = None
        self._half = half
        if half is None:
            self._half = device == "cpu" and queries.shape[1] >= _LONG and has_bf16(device)
        self.keys = np.full((terms, len(queries), depth), MISSING)

    def show(
        self, places: Places, vectors: Vectors, bars: Sequence[Callable[[slice], Bar]], *, last: bool = False
    ) -> None:
        """Score a chunk of the gallery against all queries.

        Args:
            places: (m,) rising places in the gallery, none shown before.
            vectors: (m, dim) of unit length, m at least 1.
            bars: For each of the terms, what a block of queries may not find; also on all terms that follow.
            last: Whether no chunk follows. Of an only chunk, float32 products are taken again just where they are
                close; else all candidates' are, as they may turn out close to those of another chunk.
        """
        import torch

        alone = last and not self._started
        self._started = True
        gallery = torch.from_numpy(vectors).to(self._queries.device)
        size = _group_size(len(vectors), self._depth)
        width = -(-len(vectors) // size) * size
        rows = max(64, _SCORES // width)
        with torch.inference_mode():
            queries = len(self._queries)
            blocks = [slice(start, min(start + rows, queries)) for start in range(0, queries, rows)]
            if self._half:
                blocks = self._shown_in_half(blocks, places, gallery, bars, width)
            buffer = self._buffer(blocks, width, torch.float32)
            for block in blocks:
                scores = self._products(self._queries[block], gallery, buffer)
                unsure = torch.tensor(self._unsure, device=scores.device)
                found = self._found(scores, len(vectors), block, bars, unsure)
                for keys, item in zip(self.keys, found, strict=True):
                    keys[block] = self._merged(keys[block], self._queries[block], item, gallery, places, alone)

    def _shown_in_half(
        self,
        blocks: list[slice],
        places: Places,
        gallery: "torch.Tensor",
        bars: Sequence[Callable[[slice], Bar]],
        width: int,
    ) -> list[slice]:
        """Score a chunk by products in bfloat16; the blocks from the first on that has too many candidates are left.

        The mean of the first chunk is taken from all of the gallery before: that moves all products of a query alike,
        and there is less to round. How far a product may be off is what rounding took from one vector times the length
        of the other, for both, and what it takes from the product itself. Vectors that all lie close together have too
        many products within that: from there on float32 is taken.

        Returns:
            The blocks that are left.
        """
        import torch

        if self._centre is None:
            self._centre = gallery.mean(dim=0)
        rounded, lost, lengths = _rounded(gallery, self._centre)
        lost, longest = lost.amax(), lengths.amax()
        buffer = self._buffer(blocks, width, torch.bfloat16)
        for number, block in enumerate(blocks):
            queries = self._queries[block]
            halves, own, _ = _rounded(queries)
            scores = self._products(halves, rounded, buffer)
            unsure = (
                2 * (1 + _ROUNDING) * (own * longest + lost) + 2 * self._unsure
            )  # queries have length 1 within that
            found = self._found(scores, len(gallery), block, bars, unsure, queries @ self._centre)
            if max(len(item.rows) for item in found) > len(queries) * max(_CROWD * self._depth, width // _DENSE):
                self._half = False
                return blocks[number:]
            for keys, item in zip(self.keys, found, strict=True):
                keys[block] = self._merged(keys[block], queries, item, gallery, places, False)
        return []

    def _buffer(self, blocks: list[slice], width: int, dtype: "torch.dtype") -> "torch.Tensor":
        import torch

        rows = min(blocks[0].stop, len(self._queries)) if blocks else 0
        return torch.full((rows, width), -torch.inf, dtype=dtype, device=self._queries.device)

    @staticmethod
    def _products(queries: "torch.Tensor", gallery: "torch.Tensor", buffer: "torch.Tensor") -> "torch.Tensor":
        """(n, width) products in the first columns of a part of the buffer, whatever else it held before."""
        import torch

        scores = buffer[: len(queries)]
        torch.mm(queries, gallery.T, out=scores[:, : len(gallery)])
        return scores

    def _found(
        self,
        scores: "torch.Tensor",
        count: int,
        block: slice,
        bars: Sequence[Callable[[slice], Bar]],
        unsure: "torch.Tensor",
        moved: "torch.Tensor | float" = 0.0,
    ) -> list[_Found]:
        """The candidates on each of the terms; `moved` is by how much the scores lie below the products."""
        import torch

        grouped = scores.view(len(scores), _group_size(count, self._depth), -1)
        found = []
        for keys, bar in zip(self.keys, bars, strict=True):
            _fill(scores[:, :count], bar(block))
            least = torch.from_numpy(cosines_of(keys[block][:, -1]).astype(np.float32)).to(scores.device)
            found.append(_candidates(grouped, self._depth, least - moved, unsure))
        return found

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


def _rounded(
    vectors: "torch.Tensor", centre: "torch.Tensor | float" = 0.0
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """(n, dim) vectors less a centre in bfloat16, (n,) the length of what rounding took from each, and (n,) theirs."""
    import torch

    rounded = torch.empty(vectors.shape, dtype=torch.bfloat16, device=vectors.device)
    lost, lengths = torch.empty((2, len(vectors)), device=vectors.device)
    for start in range(0, len(vectors), _ROUNDED):
        part = slice(start, start + _ROUNDED)
        moved = vectors[part] - centre
        rounded[part] = moved
        torch.linalg.vector_norm(moved, dim=1, out=lengths[part])
        torch.linalg.vector_norm(moved.sub_(rounded[part]), dim=1, out=lost[part])
    return rounded, lost, lengths


def _fill(scores: "torch.Tensor", bar: Bar) -> None:
    import torch

    scores[tuple(torch.from_numpy(item).to(scores.device) for item in bar.pairs)] = -torch.inf
    if bar.mask is not None:
        scores.masked_fill_(torch.from_numpy(bar.mask).to(scores.device), -torch.inf)


def _group_size(width: int, depth: int) -> int:
    """Columns that share a maximum, so that about as many maxima are compared as scores of groups that qualify."""
    return 1 << max(0, round(math.log2(width / depth) / 2))


def _candidates(scores: "torch.Tensor", depth: int, least: "torch.Tensor", unsure: "torch.Tensor") -> _Found:
    """All scores that may be among the highest of their row, row by row.

    Scores are read once, for the maxima of groups of columns; the others only in groups whose maximum qualifies.

    Args:
        scores: (n, size, groups), of which columns that share the last place are a group; -inf never qualifies.
        depth: How many highest are sought.
        least: (n,) what the depth-th highest is known to reach, NaN where nothing is known.
        unsure: (n,) or () twice what a score may be off before it was rounded to its type.
    """
    import torch

    groups = scores.shape[2]
    maxima = scores.amax(1)
    if groups > depth and bool(least.isnan().any()):
        least = least.fmax(maxima.topk(depth, dim=1, sorted=False).values.amin(1).float())
    if scores.dtype == torch.bfloat16:
        # rounding keeps the order, so that what it takes at the limit counts
        unsure = (1 + _ROUNDING) * (unsure + 2 * _ROUNDING * least.abs())
    limit = (least - unsure).nan_to_num(nan=-torch.inf).clamp(min=torch.finfo(torch.float32).min)
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
