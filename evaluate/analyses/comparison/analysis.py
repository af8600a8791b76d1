"""``cbmir evaluate compare``: is one encoder better than another, or is it chance?."""

from collections.abc import Iterable
from typing import Annotated

from cbmir.evaluate.analysis import Chosen, analysis
from cbmir.evaluate.configuration import (
    Asking,
    Cutoffs,
    Excluding,
    Measures,
    OneSearch,
    Option,
    Relations,
)
from cbmir.evaluate.protocol import SEARCHES, RetrievalProtocol
from cbmir.evaluate.results import Result
from cbmir.store import Collection


class CompareConfiguration(Asking, Excluding):
    """What ``compare`` can be asked."""

    measures: Annotated[
        Measures, Option("Repeatable; each adds to the tests that are corrected for.", name="measure")
    ] = ("precision_capped",)
    k: Annotated[Cutoffs, Option("Cutoff. Repeatable; each adds to the tests that are corrected for.", name="k")] = (1,)
    relations: Relations = None
    search: OneSearch = SEARCHES[0]

    @property
    def protocol(self) -> RetrievalProtocol:
        """The retrieval task."""
        return RetrievalProtocol(**self._terms(), searches=(self.search,), by=())


@analysis("compare", CompareConfiguration, "several")
def compare(collections: Chosen | Iterable[Collection], asked: CompareConfiguration) -> Result:
    """Compare collections of a store with each other, on the queries that all of them have.

    The test swaps the scores of two collections at random, all queries of a patient together. Its p-values are adjusted
    with Holm's method for all pairs, measures, cutoffs and averages of the table. The difference is first minus second.
    """
    from cbmir.evaluate.analyses.comparison.compare import compare as compare_named
    from cbmir.evaluate.analyses.comparison.compare import compare_collections

    if isinstance(collections, Chosen):
        return compare_named(collections.store, collections.names, asked.protocol)
    return compare_collections(list(collections), asked.protocol)
