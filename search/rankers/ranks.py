"""Several encoders as one ranking, by their ranks: for collections that are named together, such as ``a+b``."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from cbmir.errors import ProtocolError
from cbmir.schema import Vectors
from cbmir.search.fusion import reciprocal_ranks
from cbmir.search.ranker import Exclusion, Gallery, Ranking, allowed, best, ranker
from cbmir.store import Collection
from cbmir.store.fused import FusedCollection

_SCORES = 1 << 24
"""Scores that are held at once, of each encoder."""


@ranker("ranks")
class FusedRanks:
    """Each encoder ranks all images that a query may find; the ranks are fused, see `cbmir.search.fusion`.

    It takes the memory of the gallery's vectors, and time for sorting all of it once a query and encoder.
    """

    ranks_parts: ClassVar[bool] = True

    def __init__(self, collection: Collection, device: str = "auto") -> None:
        """Get ready.

        Raises:
            ProtocolError: the collection is one encoder's.
        """
        if not isinstance(collection, FusedCollection):
            raise ProtocolError(
                f"the search 'ranks' fuses the ranks of several encoders, and {collection.name} is one: name them "
                "together, such as a+b"
            )
        self._blocks, self._weights = collection.blocks, collection.weights

    def rank(self, queries: Vectors, gallery: Gallery, exclusions: Sequence[Exclusion], depth: int) -> list[Ranking]:
        """Rank by fused ranks; see `cbmir.search.ranker.Ranker`."""
        images = np.concatenate([vectors for _, vectors in gallery.chunks(max(len(gallery), 1))])
        rows = max(1, _SCORES // max(len(gallery), 1))
        blocks = [slice(start, min(start + rows, len(queries))) for start in range(0, len(queries), rows)]
        return [
            _stacked([self._ranked(queries, images, exclusion, block, depth) for block in blocks], depth)
            for exclusion in exclusions
        ]

    def _ranked(self, queries: Vectors, images: Vectors, exclusion: Exclusion, block: slice, depth: int) -> Ranking:
        may = allowed(exclusion, block, len(images))
        cosines = np.stack([queries[block, part] @ images[:, part].T for part in self._blocks], axis=1)
        fused = np.full(may.shape, -np.inf)
        for row, open_to in enumerate(may):
            fused[row, open_to] = reciprocal_ranks(np.round(cosines[row][:, open_to], 6), self._weights)
        return best(fused, depth)


def _stacked(parts: Sequence[Ranking], depth: int) -> Ranking:
    if not parts:
        return Ranking(np.empty((0, depth), np.int64), np.empty((0, depth), np.float32))
    return Ranking(np.concatenate([part.positions for part in parts]), np.concatenate([part.scores for part in parts]))
