"""What was measured about the searches of a collection, by `cbmir.store.tuning`."""

from dataclasses import asdict, dataclass
from typing import Any

from cbmir.units import counted

MANY = 512
"""Queries of a sample that may settle whether a filter's recall holds where a smaller one leaves it open."""


@dataclass(frozen=True, slots=True)
class FilterRecall:
    """What the graph finds with one filter, measured on a sample of queries.

    Attributes:
        values: Payload fields and their values, by name of the field: the images that pass have all of them.
        points: Images that pass.
        recall: Mean recall@10 of the graph with the filter, 0 to 1.
        lowest: Recall of the worst query.
        floor: Lowest score of a tenth hit in the sample.
        ef: Width of the HNSW beam, of `WIDTHS`: the least at which the recall holds, else the last that was tried.
        under: Share of the queries with a recall below .9.
        queries: Queries of the sample; 0 where an earlier version measured.
    """

    values: tuple[tuple[str, str], ...]
    points: int
    recall: float
    lowest: float
    floor: float
    ef: int
    under: float = 0.0
    queries: int = 0

    @property
    def holds(self) -> bool:
        """Whether the graph may be asked with this filter: recall of .99 on average, and of .9 for 99 in 100 queries.

        The less a sample holds, the stricter it is judged: of a small one no query may fall below .9.
        """
        if self.recall >= 0.998 and self.lowest >= 0.9:
            return True
        return self.queries >= MANY and self.recall >= 0.995 and self.under <= 0.005

    @property
    def text(self) -> str:
        """The filter as users write it."""
        return " and ".join(f"{field}={value}" for field, value in self.values)

    @classmethod
    def from_json(cls, data: Any) -> "FilterRecall":
        """The inverse of `dataclasses.asdict`, through JSON."""
        return cls(**{**data, "values": tuple((field, value) for field, value in data["values"])})


@dataclass(frozen=True, slots=True)
class SearchProfile:
    """What was measured about searches in a collection; it is kept in the collection's card.

    Attributes:
        points: Images at that time.
        queries: Queries of the sample: stored vectors, and stored vectors moved to a cosine of .8.
        scan_us: Time to compare one image, in microseconds.
        ef: Width of the HNSW beam, of `WIDTHS`, that the graph is asked with.
        graph_ms: Median time of the graph for `PROBE` neighbours, at that width.
        check_ms: Median time to find out which of `PROBE` neighbours pass a filter.
        recall: Mean recall@10 of the graph without a filter.
        lowest: Recall of the worst query.
        floor: The graph finds what a scan finds among scores of at least this; None if it does so nowhere.
        filters: The common values of the filter fields, and pairs of those with which the graph loses nothing. Those
            that are too rare for the graph are left out.
    """

    points: int
    queries: int
    scan_us: float
    ef: int
    graph_ms: float
    check_ms: float
    recall: float
    lowest: float
    floor: float | None
    filters: tuple[FilterRecall, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The profile as it is stored in a collection's metadata."""
        return {**asdict(self), "filters": [asdict(item) for item in self.filters]}

    @classmethod
    def from_json(cls, data: Any) -> "SearchProfile | None":
        """The inverse of `as_json`; None where there is no profile or another version of cbmir wrote it."""
        try:
            filters = tuple(FilterRecall.from_json(item) for item in data["filters"])
            return cls(**{**data, "filters": filters})
        except (TypeError, KeyError, ValueError):
            return None

    def summary(self) -> str:
        """A line for people: the recall of the graph alone, and what the default search does about it."""
        text = f"recall@10 of the HNSW graph alone: {self.recall:.3f} without a filter"
        lost = sorted((item for item in self.filters if not item.holds), key=lambda item: item.recall)
        if self.filters:
            text += (
                f", {min(item.recall for item in self.filters):.3f} to {max(item.recall for item in self.filters):.3f}"
            )
            text += f" with {counted(len(self.filters), 'common filter')}"
        if lost:
            worst = lost[0]
            text += (
                f"; it loses neighbours with {len(lost)} of them ({worst.text} the most), so that "
                "searches check it and scan what passes where it fails, unless --approximate is given"
            )
        return text
