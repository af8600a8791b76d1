"""The exact scan as a ranker: every query is scored against every gallery image."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from cbmir.device import place
from cbmir.evaluate.ranking.keys import cosines_of, places_of
from cbmir.evaluate.ranking.scan import CHUNK_IMAGES, ExclusionMask, Scan
from cbmir.schema import Vectors
from cbmir.search.ranker import Exclusion, Gallery, Positions, Ranking, ranker
from cbmir.store import Collection


@ranker("exact")
class ExactScan:
    """All vectors of the gallery, once, whatever the number of exclusions.

    It takes the memory of the query vectors, one chunk of the gallery (all of it, where it is held), its scores (134
    MB, once more where parts of the gallery are ranked) and 20 bytes a rank position of each exclusion.
    """

    ranks_parts: ClassVar[bool] = True

    def __init__(self, collection: Collection, device: str = "auto") -> None:
        """Get ready.

        Raises:
            EncoderError: there is no such device.
        """
        self._device = place(device, "fp32").device

    def rank(self, queries: Vectors, gallery: Gallery, exclusions: Sequence[Exclusion], depth: int) -> list[Ranking]:
        """Score every query against every gallery image; see `cbmir.search.ranker.Ranker`."""
        best = Scan(queries, depth, len(exclusions), self._device)
        with tqdm(total=len(gallery), desc="exact search", unit="image", leave=False, disable=None) as bar:
            for positions, vectors in gallery.chunks(CHUNK_IMAGES):
                masks = [
                    _excluded_within(exclusion, before, positions)
                    for exclusion, before in zip(exclusions, (None, *exclusions), strict=False)
                ]
                best.add(positions, vectors, masks, last=positions[-1] == len(gallery) - 1)
                bar.update(len(positions))
        return [Ranking(places_of(keys), cosines_of(keys).astype(np.float32)) for keys in best.keys]


def _excluded_within(
    exclusion: Exclusion, before: Exclusion | None, positions: Positions
) -> Callable[[slice], ExclusionMask]:
    """What is barred within a chunk, with columns instead of positions."""
    first, last = positions[0], positions[-1]
    columns = None if exclusion.kept is None else np.flatnonzero(exclusion.kept[positions])
    known = before is not None and exclusion.excludes_as(before)

    def within(block: slice) -> ExclusionMask:
        if known:
            return ExclusionMask(None, None, columns)
        rows, barred = exclusion.pairs(block)
        there = (barred >= first) & (barred <= last)
        pairs = rows[there], np.searchsorted(positions, barred[there])
        return ExclusionMask(pairs, exclusion.mask(block, positions), columns)

    return within
