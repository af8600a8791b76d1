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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cbmir.filters import Condition, Where
from cbmir.schema import Hit
from cbmir.store.profile import FilterRecall, SearchProfile

Way = Literal["exact", "graph", "approximate"]
"""How an answer was found. ``exact``: all images that pass were compared. ``graph``: by the HNSW graph, and the answer
passed the checks. ``approximate``: by the HNSW graph, unchecked; neighbours may be missing."""

Wanted = Literal["auto", "exact", "approximate"]
"""``auto``: the fastest way that holds its recall. The others force one way."""

Fields = Sequence[str] | bool
"""Payload fields of a hit: names, True for all, False for none."""


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
WIDTHS = (128, 192, 256, 512)
"""Widths of the HNSW beam that are measured; the one kept is the least that serves most queries."""

_OWN = ("id", "patient_id", "study_id", "series_id", "sha256")
"""Fields of which a query excludes its own value: such conditions leave nearly all images."""

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


@dataclass(slots=True)
class _Experience:
    """What became of attempts with one filter so far.

    Attributes:
        tried: Attempts.
        held: Attempts of which the answer held.
        skipped: Queries that were scanned at once, because an attempt was not expected to pay.
        depth: Neighbours that a probe asks for.
        attempt_pace: Time that attempts took, as a multiple of the estimate.
        scan_pace: The same for scans: a filter of several conditions takes longer than its count of images says.
    """

    tried: int = 0
    held: int = 0
    skipped: int = 0
    depth: int = PROBE
    attempt_pace: float = 1.0
    scan_pace: float = 1.0

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
        experience: What became of earlier queries with this filter, and where this one is added.
        scan_ms: Estimated time of a scan of what passes.
        floor: Lowest score that a k-th hit may have.
        depth: Neighbours to ask for.
        ef: Width of the beam.
        attempt_ms: Estimated time of this step.
    """

    kind: Literal["none", "probe", "graph"]
    experience: _Experience
    scan_ms: float
    floor: float = -math.inf
    depth: int = 0
    ef: int = 0
    attempt_ms: float = 0.0

    def attempted(self, took_ms: float, held: bool) -> None:
        """Learn from this attempt: the time that it took, and whether its answer passed the checks."""
        self.experience.add(held)
        self.experience.attempt_pace = _paced(self.experience.attempt_pace, took_ms, self.attempt_ms)

    def scanned(self, took_ms: float) -> None:
        """Learn from the time that a scan with this filter took."""
        self.experience.scan_pace = _paced(self.experience.scan_pace, took_ms, self.scan_ms)

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
            count: How many images satisfy a filter; it is asked for each query.
            dim: Length of the vectors.
            profile: What was measured.
        """
        self.profile = profile
        self._count = count
        self._scan_us = profile.scan_us if profile else SCAN_US * dim / 512
        self._experience: dict[tuple[Where, tuple[str, ...]], _Experience] = {}
        self._trusted = {item.values: item for item in profile.filters if item.holds} if profile else {}

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
        images = self._count(base)
        if (base, own) not in self._experience and len(self._experience) >= _FILTERS_KEPT:
            self._experience.clear()
        scan = Step("none", self._experience.setdefault((base, own), _Experience()), self._scan_ms(images))
        attempt = self._attempt(base, own, k, images, scan)
        return attempt if attempt is not None and (scan.scan_ms > budget_ms or _pays(attempt)) else scan

    def affordable(self, where: Where, budget_ms: float) -> bool:
        """Whether a scan of what passes is estimated to fit the budget."""
        return self._scan_ms(self._count(_split(where)[0])) <= budget_ms

    def _attempt(self, base: Where, own: tuple[str, ...], k: int, images: int, scan: Step) -> Step | None:
        """What the graph could be asked; None where its answer can't be checked."""
        profile, everything = self.profile, self._count(())
        if profile is None or everything > 2 * profile.points:
            return None
        trusted = self._trusting(base) if set(own) <= {"id"} else None
        if trusted is not None:
            ef = max(search_ef(k), trusted.ef)
            return replace(
                scan, kind="graph", floor=trusted.floor, depth=k, ef=ef, attempt_ms=profile.graph_ms * ef / profile.ef
            )
        if profile.floor is None:
            return None
        ef = max(search_ef(k), profile.ef)
        if not (base or own):
            attempt_ms = profile.graph_ms * ef / profile.ef
            return replace(scan, kind="graph", floor=profile.floor, depth=k, ef=ef, attempt_ms=attempt_ms)
        depth = max(PROBE, scan.experience.depth, math.ceil(1.5 * k * everything / max(images, 1)), k + len(own))
        if depth > max(PROBE_MAX, 2 * k):
            return None
        ef = max(ef, 2 * depth)
        attempt_ms = profile.graph_ms * ef / profile.ef + profile.check_ms * depth / PROBE
        return replace(scan, kind="probe", floor=profile.floor, depth=depth, ef=ef, attempt_ms=attempt_ms)

    def _trusting(self, base: Where) -> FilterRecall | None:
        if any(item.op != "=" or len(item.values) != 1 for item in base):
            return None
        return self._trusted.get(tuple(sorted((item.field, str(item.values[0])) for item in base)))


def _pays(step: Step) -> bool:
    """Whether the step and, where it fails, a scan are expected to take less time than the scan alone."""
    known = step.experience
    scan_ms = step.scan_ms * known.scan_pace
    if step.attempt_ms * known.attempt_pace < known.chance() * scan_ms:
        return True
    known.skipped += 1  # now and then it is tried anew, unless it can't pay even at its estimated time
    return step.attempt_ms * min(known.attempt_pace, 1.0) < scan_ms and known.skipped % _TRIED_ANEW == 0


def _paced(pace: float, took_ms: float, estimated_ms: float) -> float:
    """The pace with one more measurement: a single slow query, such as the first, moves it by a quarter at most."""
    ratio = took_ms / max(estimated_ms, 1e-3)
    return pace + (min(max(ratio, pace / 2), 2 * pace) - pace) / 4


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
