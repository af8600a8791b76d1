"""What a report shows."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.report.embedding_map import MAPS, require
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.filters import Where

PRECISIONS = ("precision", "precision_capped")
AVERAGE_PRECISION = "map"

TITLE = "Retrieval of similar medical images"

CURVE_K = 100
"""Places that a curve of precision shows, where the gallery is as large; the largest k that the vote tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTerms:
    """What a report measures and shows.

    Attributes:
        protocol: Who asks, what is searched, what is right. Its first measure is one of `PRECISIONS`, its groups are
            drawn as bars, and the first of its searches
            counts.
        where: What narrows queries and gallery alike; the maps and the validation images are narrowed by it too.
        root: Folder that the stored file paths are relative to; None for where ingest read the images.
        allow_missing: Whether images that can't be shown are no failure.
        projection: One of `MAPS`.
        pictures: Best queries, and as many worst, that are shown of each collection; 0 for none.
        title: Of the page.

    Raises:
        ProtocolError: the measure or the map isn't known, the map's package is missing, or pictures is below 0.
    """

    protocol: RetrievalProtocol = field(
        default_factory=lambda: RetrievalProtocol(measures=PRECISIONS[:1], k=(1, 5, 10))
    )
    where: Where = ()
    root: Path | None = None
    allow_missing: bool = False
    projection: str = "pca"
    pictures: int = 6
    title: str = TITLE

    def __post_init__(self) -> None:
        if self.measure not in PRECISIONS:
            raise ProtocolError(f"a report shows {' or '.join(PRECISIONS)}, not {self.measure}")
        if self.projection not in MAPS:
            raise ProtocolError(f"no map {self.projection!r}; there are {', '.join(MAPS)}")
        if self.pictures < 0:
            raise ProtocolError(f"{self.pictures} queries can't be shown; ask for 0 or more")
        require(self.projection)

    @property
    def measure(self) -> str:
        """The precision that tables, curves and bars show."""
        return self.protocol.measures[0]

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """The cutoffs of the tables, rising."""
        return tuple(sorted(set(self.protocol.k)))

    @property
    def deep(self) -> RetrievalProtocol:
        """The protocol of the one scan that a collection gets: deep enough for curves, with each class as a group."""
        protocol = self.protocol
        return replace(
            protocol,
            measures=(self.measure, AVERAGE_PRECISION),
            k=tuple(sorted({*protocol.k, CURVE_K})),
            by=tuple(dict.fromkeys((*protocol.by, "class"))),
            searches=protocol.searches[:1],
        )
