"""The engine as a ranker: asked as a user would ask it, or made to compare all images that pass the filter."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.schema import Vectors
from cbmir.search.ranker import NONE, Exclusion, Gallery, Ranking, ranker
from cbmir.store import Collection
from cbmir.store.ways import Wanted

ASKED = 128
"""Queries in one request to the store."""


@ranker("approximate")
@ranker("qdrant")
class Engine:
    """The search that users get: the filter of the gallery and, where need be, conditions against excluded images.

    Attributes:
        way: How the store is to answer.
    """

    ranks_parts: ClassVar[bool] = False
    way: ClassVar[Wanted] = "auto"

    def __init__(self, collection: Collection, device: str = "auto") -> None:
        """Get ready; the device has no part."""
        self._collection = collection

    def rank(self, queries: Vectors, gallery: Gallery, exclusions: Sequence[Exclusion], depth: int) -> list[Ranking]:
        """Ask the store, once a query and exclusion; see `cbmir.search.ranker.Ranker`."""
        return [self._ranked(queries, gallery, exclusion, depth) for exclusion in exclusions]

    def _ranked(self, queries: Vectors, gallery: Gallery, exclusion: Exclusion, depth: int) -> Ranking:
        if exclusion.kept is not None:
            raise ProtocolError("the engine searches what a filter describes, not a part of a gallery drawn at random")
        found = np.full((len(queries), depth), NONE)
        scores = np.full((len(queries), depth), np.nan, np.float32)
        with tqdm(total=len(queries), desc="the store's search", unit="query", leave=False, disable=None) as bar:
            for start in range(0, len(queries), ASKED):
                rows = range(start, min(start + ASKED, len(queries)))
                wheres = [gallery.where + exclusion.where(row) for row in rows]
                asked = queries[rows.start : rows.stop]
                answers = self._collection.query_batch(asked, depth, wheres, way=self.way, fields=False)
                for row, hits in zip(rows, answers, strict=True):
                    found[row, : len(hits)] = gallery.positions([hit.id for hit in hits])
                    scores[row, : len(hits)] = [hit.score for hit in hits]
                bar.update(len(answers))
        if ((found == NONE) & ~np.isnan(scores)).any():
            raise ProtocolError(f"{self._collection.name} got new images while it was measured; start again")
        return Ranking(found, scores)


@ranker("qdrant-exact")
class EngineScan(Engine):
    """The engine's own comparison of all images that pass the filter."""

    way: ClassVar[Wanted] = "exact"
