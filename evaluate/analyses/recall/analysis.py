"""``cbmir evaluate recall``: what the approximate search misses, and what it saves."""

from typing import Annotated

from pydantic import Field

from cbmir.evaluate.analyses.recall.cases import FILTERED
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import (
    Conditions,
    Configuration,
    Listed,
    Option,
)
from cbmir.evaluate.protocol import MAX_K
from cbmir.evaluate.results import Result
from cbmir.store import Collection


class RecallConfiguration(Configuration):
    """What ``recall`` can be asked."""

    k: Annotated[int, Field(ge=1, le=MAX_K), Option("Neighbours a query.")] = 10
    filters: Annotated[
        tuple[Conditions, ...],
        Listed,
        Option(
            "Measure this filter beside no filter; join conditions by ' and '. Repeatable.",
            name="filter",
            metavar="CONDITION",
            default=f"the most frequent value of {', '.join(FILTERED)}, pairs of them, another modality and region "
            "than the query's, and all images but those of the query's patient",
        ),
    ] = ()
    efs: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Listed,
        Option(
            "Beam width of the HNSW search to try without a filter; the engine takes k where that is larger. "
            "Repeatable.",
            name="ef",
        ),
    ] = (32, 64, 128, 256, 512)
    queries: Annotated[
        Conditions, Option("Stored images that queries are drawn from. Repeatable: all must hold.", metavar="FILTER")
    ] = ()
    count: Annotated[int, Field(ge=1), Option("Number of queries: stored vectors.")] = 200
    seed: Annotated[int, Field(ge=0), Option("Of the draw of queries.")] = 0


@analysis("recall", RecallConfiguration)
def recall(collection: Collection, asked: RecallConfiguration) -> Result:
    """Compare the default search, and the HNSW graph alone, with a scan of all vectors: recall and time by filter.

    Queries are vectors drawn from the collection, sent one at a time; each may find itself.
    """
    from cbmir.evaluate.analyses.recall.measurement import RecallTerms, measure_recall

    terms = RecallTerms(
        filters=asked.filters or None,
        queries=asked.queries,
        efs=asked.efs,
        k=asked.k,
        count=asked.count,
        seed=asked.seed,
    )
    return measure_recall(collection, terms)
