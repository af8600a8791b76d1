"""Queries answered by the fastest way whose recall holds: a first step each, and where it fails, a second."""

import time
from collections.abc import Sequence
from typing import Protocol

from cbmir.filters import Where
from cbmir.schema import Hit, Vectors
from cbmir.store.ways import Chooser, Fields, Found, Step, among, forced_ef


class Ask(Protocol):
    """The search of an engine, see `cbmir.store.collection.Collection`."""

    def __call__(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], *, exact: bool, ef: int, fields: Fields
    ) -> list[list[Hit]]:
        """The hits of checked queries, each with a filter of its own."""


class Asking:
    """Asks one collection, and learns how long its answers take.

    Args:
        ask: The engine.
        chooser: Chooses the steps.
    """

    def __init__(self, ask: Ask, chooser: Chooser) -> None:
        self._ask = ask
        self._chooser = chooser

    def best(self, vectors: Vectors, k: int, wheres: Sequence[Where], fields: Fields, budget_ms: float) -> list[Found]:
        """Take the first step of each query, those with equal steps together; where it failed, the second.

        Args:
            vectors: (n, dim) queries.
            k: Hits a query.
            wheres: Their filters.
            fields: Payload fields of the hits.
            budget_ms: A scan that is estimated to take longer is not made.
        """
        steps = [self._chooser.step(where, k, budget_ms) for where in wheres]
        answers = self._attempt(vectors, k, wheres, steps, fields)
        for way in ("exact", "approximate"):
            rows = [
                row
                for row in range(len(vectors))
                if row not in answers and (self._chooser.affordable(wheres[row], budget_ms) == (way == "exact"))
            ]
            if rows:
                filters, began = [wheres[row] for row in rows], time.perf_counter()
                found = self._ask(vectors[rows], k, filters, exact=way == "exact", ef=forced_ef(k), fields=fields)
                took_ms = 1000 * (time.perf_counter() - began) / len(rows)
                for row, hits in zip(rows, found, strict=True):
                    answers[row] = Found(hits, way)
                    if way == "exact":
                        steps[row].scanned(took_ms)
        return [answers[row] for row in range(len(vectors))]

    def _attempt(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], steps: Sequence[Step], fields: Fields
    ) -> dict[int, Found]:
        """The answers of the graph that passed their checks, by row."""
        answers: dict[int, Found] = {}
        groups: dict[tuple[str, int, int], list[int]] = {}
        for row, step in enumerate(steps):
            if step.kind != "none":
                groups.setdefault((step.kind, step.depth, step.ef), []).append(row)
        for (kind, depth, ef), rows in groups.items():
            asked, filters, began = vectors[rows], [wheres[row] for row in rows], time.perf_counter()
            if kind == "probe":
                attempts = self._probe(asked, k, filters, [steps[row] for row in rows], fields)
            else:
                attempts = self._ask(asked, depth, filters, exact=False, ef=ef, fields=fields)
            took_ms = 1000 * (time.perf_counter() - began) / len(rows)
            for row, hits in zip(rows, attempts, strict=True):
                held = len(hits) == k and hits[-1].score >= steps[row].floor
                steps[row].attempted(took_ms, held)
                if held:
                    answers[row] = Found(hits, "graph")
        return answers

    def _probe(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], steps: Sequence[Step], fields: Fields
    ) -> list[list[Hit]]:
        """Ask the graph without the filters, and take what passes; no hits where fewer than k are near enough."""
        first = steps[0]
        near = self._ask(vectors, first.depth, [()] * len(vectors), exact=False, ef=first.ef, fields=False)
        close = [[hit for hit in hits if hit.score >= step.floor] for hits, step in zip(near, steps, strict=True)]
        enough = [row for row, hits in enumerate(close) if len(hits) >= k]
        filters = [among(wheres[row], close[row]) for row in enough]
        answers: list[list[Hit]] = [[] for _ in close]
        if enough:
            passed = self._ask(vectors[enough], k, filters, exact=True, ef=first.ef, fields=fields)
            for row, hits in zip(enough, passed, strict=True):
                answers[row] = hits
                if len(hits) < k and len(close[row]) == first.depth:
                    steps[row].deepen()  # all were near enough: more of them might have passed
        return answers
