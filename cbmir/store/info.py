"""A collection in figures."""

from dataclasses import dataclass

_SMALL = 2_560_000
"""Numbers in all vectors of a segment, 10,000 kB, below which the engines make no graph of it unless asked to."""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection in figures.

    Attributes:
        points: Stored images.
        indexed: Vectors in an HNSW graph; the others are found by a full scan.
        status: ``green`` when nothing is left to optimise.
        engine: Name and version of what holds it.
        fields: Payload fields that have an index; those of `cbmir.schema.INDEXED_FIELDS` should.
        deferred: Whether `Collection.defer_index` has put off the graph, which `Collection.finish` then builds.
    """

    points: int
    indexed: int
    status: str
    engine: str
    fields: frozenset[str] = frozenset()
    deferred: bool = False

    def indexing(self, dim: int) -> str:
        """How the images are searched, in words.

        Args:
            dim: Length of the vectors.
        """
        if self.deferred:
            return "searched exactly: the graph is put off until collections optimize"
        if self.indexed >= self.points > 0:
            return f"{self.indexed:,} in the HNSW graph"
        if self.indexed:
            return f"{self.indexed:,} in the HNSW graph, the others searched exactly"
        waiting = self.status != "green" or (self.engine.startswith("qdrant-edge") and self.points * dim >= _SMALL)
        return "searched exactly: not indexed yet" if waiting else "searched exactly: too small to index"
