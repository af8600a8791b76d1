"""A first pass in half precision for the exact scan: it only narrows down which products are worth taking precisely.

A processor that multiplies bfloat16 in hardware needs about half the time for it. But a bfloat16 number has 8 bits of
precision, so that the order of close products is lost. The pass therefore never decides. It gives scores and, for each
query, a limit that no image among the nearest can lie below. `cbmir.evaluate.ranking.scan` takes the products of all
images above the limit again, precisely, so that the answer is the same with and without this pass.

How the limit comes about, for a query q, a gallery vector g, and the mean c of the first chunk of the gallery:

1. c is subtracted from every g. All scores of a query fall by q.c, which changes no order, and g - c is shorter than
   g, so that rounding it loses less.
2. Rounding takes a vector p from q and a vector r from g - c. By the inequality of Cauchy and Schwarz the score is off
   by at most |p| |g - c| + |q - p| |r|. The largest |g - c| and |r| of the chunk are taken for all of its images.
3. The score is given back in bfloat16 too. That keeps the order of scores, and moves one by at most 2**-8 of itself.
4. The score of the k-th best image may be too high by this error, and that of a candidate too low by it. So the limit
   is the k-th highest score minus twice the error.

Where vectors all lie close together, too many of them are above the limit. Then the scan drops this pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LONG = 256
"""Dimensions from which the pass saves more than taking the products of its candidates again costs."""

_ROUNDED = 4096  # vectors rounded at once: they stay in the cache
_ROUNDING = 1.01 * 2.0**-8  # of a number that becomes bfloat16, relative, with a little to spare


@dataclass(frozen=True, slots=True)
class Scores:
    """Products of some queries with a chunk of the gallery, and what they are good for.

    Attributes:
        table: (n, width) the products, minus `moved`; columns beyond the chunk are -inf.
        moved: (n,) or a number: by how much the products of each query were lowered.
        limit: From (n,) the k-th highest score of each query to (n,) the score from which an image may be among the k
            nearest.
    """

    table: "torch.Tensor"
    moved: "torch.Tensor | float"
    limit: "Callable[[torch.Tensor], torch.Tensor]"


class HalfPass:
    """Scores in bfloat16 of all chunks of one gallery."""

    def __init__(self, unsure: float) -> None:
        """Start.

        Args:
            unsure: Twice the largest error of a float32 sum of products of two unit vectors.
        """
        self._unsure = unsure
        self._centre: torch.Tensor | None = None

    def on(self, gallery: "torch.Tensor") -> "Callable[[torch.Tensor, torch.Tensor], Scores]":
        """Round a chunk of the gallery.

        Args:
            gallery: (m, dim) float32 vectors of unit length.

        Returns:
            A function from (n, dim) queries and an (n, width) bfloat16 buffer, whose columns from m on are -inf, to
            their scores.
        """
        import torch

        if self._centre is None:
            self._centre = gallery.mean(dim=0)
        centre = self._centre
        rounded, lost, lengths = _rounded(gallery, centre)
        most_lost, longest = lost.amax(), lengths.amax()

        def scores(queries: "torch.Tensor", buffer: "torch.Tensor") -> Scores:
            halves, own, _ = _rounded(queries)
            torch.mm(halves, rounded.T, out=buffer[:, : len(gallery)])
            # a rounded query has length 1 within _ROUNDING
            unsure = 2 * (1 + _ROUNDING) * (own * longest + most_lost) + 2 * self._unsure

            def limit(least: "torch.Tensor") -> "torch.Tensor":
                return least - (1 + _ROUNDING) * (unsure + 2 * _ROUNDING * least.abs())

            return Scores(buffer, queries @ centre, limit)

        return scores


def _rounded(
    vectors: "torch.Tensor", centre: "torch.Tensor | float" = 0.0
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """(n, dim) vectors minus a centre in bfloat16, (n,) the length of what rounding took from each, and (n,) theirs."""
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
