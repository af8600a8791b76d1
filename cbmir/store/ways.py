"""How a query is answered: by the HNSW graph where its answer can be checked, by a scan of what passes otherwise.

The graph of the engine finds nearly every neighbour while no filter takes nodes away. With a filter it may lose most of
them, and says nothing. So by default a filter is not given to the graph. The graph is asked without the filter for more
neighbours than needed, and those that pass are taken. Two things must hold, or all images that pass are scanned:

- k of these neighbours pass the filter,
- the k-th score is not below a floor. `cbmir.store.tuning` has measured down to which score the graph of this
  collection finds what a scan finds. A query unlike all stored images, such as a text, has lower scores.

See ``docs/decisions/0011-filtered-search.md`` for the measurements behind this.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cbmir.filters import Condition, Where
from cbmir.schema import Hit

Way = Literal["exact", "graph", "approximate"]
"""How an answer was found. ``exact``: all images that pass were compared. ``graph``: by the HNSW graph, and the answer
passed the checks. ``approximate``: by the HNSW graph, unchecked; neighbours may be missing."""

Wanted = Literal["auto", "exact", "approximate"]
"""``auto``: the fastest way that holds its recall. The others force one way."""


def search_ef(k: int) -> int:
    """Width of the HNSW beam for k neighbours.

    Measured on 100,000 x 512: recall of the first 100 is .952 at the engine's default and .9995 at 512.
    """
    return max(128, 5 * k)


def forced_ef(k: int) -> int:
    """Width of the HNSW beam where a scan would exceed the budget."""
    return max(512, 5 * k)


BUDGET_MS = 1000.0
"""Estimated time of a scan beyond which it is not made: four million images of 512 dimensions on a slow machine."""

SCAN_US = 0.25
"""Estimated time to compare one image of 512 dimensions, in microseconds, in a collection that was not measured."""

PROBE = 64
"""Neighbours that the graph is asked for without the filter, at least."""

PROBE_MAX = 1024
WIDTHS = (128, 256, 512)
"""Widths of the HNSW beam that are measured; the one kept is the least that serves most queries."""

_OWN = ("id", "patient_id", "study_id", "series_id", "sha256")
"""Fields of which a query excludes its own value: such conditions leave nearly all images."""

_COUNTED_S = 60.0
_FILTERS_KEPT = 1024
_TRIED_ANEW = 32


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to one query.

    Attributes:
        hits: By falling score.
        way: How they were found.
    """

    hits: list[Hit]
    way: Way


@dataclass(frozen=True, slots=True)
class FilterRecall:
    """What the graph finds with one filter, measured on a sample of queries.

    Attributes:
        field: Payload field.
        value: The images that pass have this value.
        points: Images that pass.
        recall: Mean recall@10 of the graph with the filter, 0 to 1.
        lowest: Recall of the worst query.
        floor: Lowest score of a tenth hit in the sample.
    """

    field: str
    value: str
    points: int
    recall: float
    lowest: float
    floor: float

    @property
    def holds(self) -> bool:
        """Whether the graph may be asked with this filter: it missed next to nothing in the sample."""
        return self.recall >= 0.998 and self.lowest >= 0.9


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
        filters: The common values of the filter fields, those that are too rare for the graph left out.
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
            filters = tuple(FilterRecall(**item) for item in data["filters"])
            return cls(**{**data, "filters": filters})
        except (TypeError, KeyError):
            return None

    def summary(self) -> str:
        """A line for people: the recall of the graph alone, and what the default search does about it."""
        text = f"recall@10 of the HNSW graph alone: {self.recall:.3f} without a filter"
        lost = sorted((item for item in self.filters if not item.holds), key=lambda item: item.recall)
        if self.filters:
            text += (
                f", {min(item.recall for item in self.filters):.3f} to {max(item.recall for item in self.filters):.3f}"
            )
            text += f" with {len(self.filters)} common filters"
        if lost:
            worst = lost[0]
            text += (
                f"; it loses neighbours with {len(lost)} of them ({worst.field}={worst.value} the most), so that "
                "searches check it and scan what passes where it fails, unless --approximate is given"
            )
        return text


@dataclass(slots=True)
class _Experience:
    """What became of attempts with one filter so far."""

    tried: int = 0
    held: int = 0
    skipped: int = 0
    depth: int = PROBE

    def chance(self) -> float:
        """Estimated chance that the next attempt holds; 1 before the first."""
        return (self.held + 1) / (self.tried + 1)

    def add(self, held: bool) -> None:
        self.tried, self.held = self.tried + 1, self.held + held
        if self.tried >= 2 * _TRIED_ANEW:  # what was long ago counts less
            self.tried, self.held = self.tried // 2, self.held // 2


@dataclass(frozen=True, slots=True)
class Step:
    """What to do first with one query.

    Attributes:
        kind: ``graph``: ask the graph with the filter; ``probe``: ask it without, and take what passes; ``none``: go
            to the second step, a scan, at once.
        floor: Lowest score that a k-th hit may have.
        depth: Neighbours to ask for.
        ef: Width of the beam.
        cost_ms: Estimated time.
        experience: Where to write down whether the answer held.
    """

    kind: Literal["none", "probe", "graph"]
    floor: float = -math.inf
    depth: int = 0
    ef: int = 0
    cost_ms: float = 0.0
    experience: _Experience = field(default_factory=_Experience)

    def deepen(self) -> None:
        """Ask for more neighbours next time: all that the graph gave were near enough, and too few passed."""
        self.experience.depth = min(2 * self.depth, PROBE_MAX)


class Chooser:
    """Chooses how the queries of one collection are answered, and learns from the answers.

    Attributes:
        profile: What was measured, None for a collection that was not.
    """

    def __init__(self, count: Callable[[Where], int], dim: int, profile: SearchProfile | None) -> None:
        """Start.

        Args:
            count: How many images satisfy a filter.
            dim: Length of the vectors.
            profile: What was measured.
        """
        self.profile = profile
        self._count = count
        self._scan_us = profile.scan_us if profile else SCAN_US * dim / 512
        self._counts: dict[Where, tuple[float, int]] = {}
        self._experience: dict[tuple[Where, tuple[str, ...]], _Experience] = {}
        self._trusted = {(item.field, item.value): item for item in profile.filters if item.holds} if profile else {}

    def passing(self, where: Where) -> int:
        """Images that satisfy a filter, as counted within the last minute; what a query excludes of its own counts."""
        now = time.monotonic()
        counted = self._counts.get(where)
        if counted is None or now - counted[0] > _COUNTED_S:
            if len(self._counts) >= _FILTERS_KEPT:
                self._counts.clear()
            counted = self._counts[where] = (now, self._count(where))
        return counted[1]

    def _scan_ms(self, images: int) -> float:
        return 0.1 + images * self._scan_us / 1000

    def step(self, where: Where, k: int, budget_ms: float) -> Step:
        """The first step for a query.

        Args:
            where: Its filter.
            k: Hits asked for.
            budget_ms: A scan that is estimated to take longer is not made.
        """
        base, own = _split(where)
        images = self.passing(base)
        scan_ms = self._scan_ms(images)
        attempt = self._attempt(base, own, k, images)
        if attempt is not None and (scan_ms > budget_ms or self._pays(attempt, scan_ms)):
            return attempt
        return Step("none")

    def affordable(self, where: Where, budget_ms: float) -> bool:
        """Whether a scan of what passes is estimated to fit the budget."""
        return self._scan_ms(self.passing(_split(where)[0])) <= budget_ms

    def _attempt(self, base: Where, own: tuple[str, ...], k: int, images: int) -> Step | None:
        """What the graph could be asked; None where its answer can't be checked."""
        profile, everything = self.profile, self.passing(())
        if profile is None or everything > 2 * profile.points:
            return None
        trusted = self._trusting(base) if set(own) <= {"id"} else None
        key = (base, own)
        if key not in self._experience and len(self._experience) >= _FILTERS_KEPT:
            self._experience.clear()
        known = self._experience.setdefault(key, _Experience())
        if trusted is None and profile.floor is None:
            return None
        if trusted is not None or not (base or own):
            floor = profile.floor if trusted is None else trusted.floor
            assert floor is not None
            ef = search_ef(k) if trusted else max(search_ef(k), profile.ef)
            return Step("graph", floor, k, ef, profile.graph_ms * ef / profile.ef, known)
        depth = max(PROBE, known.depth, math.ceil(1.5 * k * everything / max(images, 1)), k + len(own))
        if depth > max(PROBE_MAX, 2 * k):
            return None
        ef = max(search_ef(k), profile.ef, 2 * depth)
        cost_ms = profile.graph_ms * ef / profile.ef + profile.check_ms * depth / PROBE
        return Step("probe", profile.floor or 0.0, depth, ef, cost_ms, known)

    def _trusting(self, base: Where) -> FilterRecall | None:
        if len(base) != 1 or base[0].op != "=" or len(base[0].values) != 1:
            return None
        return self._trusted.get((base[0].field, str(base[0].values[0])))

    @staticmethod
    def _pays(step: Step, scan_ms: float) -> bool:
        """Whether the step and, where it fails, a scan are expected to take less time than the scan alone."""
        if step.cost_ms < step.experience.chance() * scan_ms:
            return True
        step.experience.skipped += 1
        return step.cost_ms < scan_ms / 4 and step.experience.skipped % _TRIED_ANEW == 0


def _split(where: Where) -> tuple[Where, tuple[str, ...]]:
    """The conditions that many queries share, and the fields of which a query excludes its own value."""
    own = tuple(item.field for item in where if item.op == "!=" and item.field in _OWN)
    if not own:
        return where, ()
    return tuple(item for item in where if item.op != "!=" or item.field not in _OWN), own


def among(where: Where, hits: Sequence[Hit]) -> Where:
    """The filter, for these images only."""
    return (*where, Condition("id", "=", tuple(hit.id for hit in hits)))


def said(ways: Mapping[Way, int]) -> str:
    """A line for people: how many queries were answered in which way."""
    words = {
        "exact": "by comparing all images that pass (exact)",
        "graph": "by the HNSW graph, checked",
        "approximate": "by the HNSW graph, unchecked: neighbours may be missing (approximate)",
    }
    return "; ".join(f"{count:,} {words[way]}" for way, count in ways.items() if count)
