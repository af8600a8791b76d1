"""``cbmir evaluate retrieval``: how well the nearest images rank."""

from typing import Annotated

from pydantic import AfterValidator

from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import (
    CutoffsOption,
    Excluding,
    Grouped,
    Listed,
    MeasuresOption,
    OneOf,
    Option,
    Relations,
    Written,
)
from cbmir.evaluate.protocol import SEARCHES, RetrievalProtocol
from cbmir.evaluate.results import Result
from cbmir.store import Collection


def _spelled_out(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for name in names for one in (SEARCHES[:2] if name == "both" else (name,))))


class RetrievalConfiguration(Grouped, Excluding):
    """What ``retrieval`` can be asked."""

    measures: MeasuresOption = ("precision_capped", "precision")
    k: CutoffsOption = (1, 3, 5, 10)
    relations: Relations = None
    search: Annotated[
        tuple[Annotated[str, OneOf("search", lambda: (*SEARCHES, "both"))], ...],
        Listed,
        AfterValidator(_spelled_out),
        Option(
            "exact: a scan of all vectors; approximate or qdrant: the search that users get; qdrant-exact: a scan by "
            "the engine; both: exact and approximate. Repeatable.",
        ),
    ] = SEARCHES[:2]
    export: Annotated[
        Written | None,
        Option(
            "Write the neighbours of the first search, .csv or .parquet: one row for each query, with its path and the "
            "paths of its hits.",
            metavar="FILE",
        ),
    ] = None
    export_long: Annotated[
        Written | None,
        Option("The same with one row for each hit: rank, cosine, relevance, ids and paths.", metavar="FILE"),
    ] = None

    @property
    def protocol(self) -> RetrievalProtocol:
        """The retrieval task."""
        return RetrievalProtocol(**self._terms(), searches=self.search)


@analysis("retrieval", RetrievalConfiguration)
def retrieval(collection: Collection, asked: RetrievalConfiguration) -> Result:
    """Measure the ranking of the nearest gallery images, over queries and over classes.

    The filter options narrow both queries and gallery. A query never finds itself, and by default no image of its own
    patient. Queries without a relevant image in the gallery score 0 in precision, and are left out where a measure is
    0/0 for them; coverage is the share of the others.
    """
    from cbmir.evaluate.analyses.retrieval.export import write_long, write_wide
    from cbmir.evaluate.analyses.retrieval.measurement import measure, summarise

    measurement = measure(collection, asked.protocol)
    report = summarise(measurement).of("retrieval", asked)
    for path, write in ((asked.export, write_wide), (asked.export_long, write_long)):
        if path:
            write(collection, measurement, path, report.asked)
    return report
