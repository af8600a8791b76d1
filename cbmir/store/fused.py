"""Several collections of one store as one, by the ids of their images: ``a+b``, or ``2*a+b`` with weights.

A vector of the whole is the vectors of the parts, one after the other, each scaled: so a cosine of the whole is the
weighted mean of the parts' cosines, each divided by its spread. What reads a collection can therefore read this:
searches, evaluations, and tests against the parts.
"""

import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from cbmir.errors import CollectionError, StoreError
from cbmir.filters import Where
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, Hit, Payload, StoredPoint, Vectors, rank_hits
from cbmir.store.collection import SCROLL_BATCH, Collection
from cbmir.store.columns import IndexKind, OwnIndex
from cbmir.store.info import CollectionInfo
from cbmir.store.ways import Fields

SIGN = "+"
"""Stands between the parts of a name; no collection can have it in its own."""

_PART = re.compile(r"(?:(\d+(?:\.\d+)?)\*)?([^+*]+)")
_SAMPLE = 512
_POOL = 100
_log = logging.getLogger(__name__)


def parts_of(name: str) -> list[tuple[str, float]]:
    """The collections that a name is made of, and their weights.

    Raises:
        CollectionError: a part can't be read, has no weight, or stands twice.
    """
    found = [_PART.fullmatch(part.strip()) for part in name.split(SIGN)]
    parts = [(match[2], float(match[1] or 1)) for match in found if match]
    names = [part for part, _ in parts]
    if len(parts) < len(found) or not all(weight > 0 for _, weight in parts) or len({*names}) < len(names):
        raise CollectionError(
            f"{name!r} can't be read as several collections; write their names once each, such as a+b or 2*a+b"
        )
    return parts


def open_fused(name: str, opening: Callable[[str], Collection]) -> "FusedCollection":
    """Open the collections that a name is made of.

    Args:
        name: Such as ``a+b``.
        opening: Opens one of them.

    Raises:
        CollectionError: the name can't be read, one of them doesn't exist, or they have no image in common.
    """
    parts = parts_of(name)
    opened: list[Collection] = []
    try:
        for part, _ in parts:
            opened.append(opening(part))
        return FusedCollection(name, opened, [weight for _, weight in parts])
    except BaseException:
        for collection in opened:
            collection.close()
        raise


class FusedCollection(Collection):
    """The images that several collections have in common; it can only be read.

    Filters and payload are those of the first.

    Attributes:
        parts: The collections.
        weights: One a part, above 0.
        scales: What the unit vectors of each part are multiplied by; the whole has unit length again.
        left_out: Images that aren't in all of them.
    """

    def __init__(self, name: str, parts: Sequence[Collection], weights: Sequence[float]) -> None:
        """Compare the ids of the parts and measure the spread of their cosines.

        Raises:
            CollectionError: they have no image in common.
        """
        self.parts = tuple(parts)
        self.weights = tuple(weights)
        ids = [{point.id for page in part.scroll(fields=False) for point in page} for part in parts]
        self._common = set.intersection(*ids)
        if not self._common:
            raise CollectionError(f"{name}: no image is in all of {', '.join(part.name for part in parts)}")
        self.left_out = len(set.union(*ids)) - len(self._common)
        if self.left_out:
            _log.warning("%s: images that aren't in all of them, and are left out: %s", name, f"{self.left_out:,}")
        self._whole = len(self._common) == len(ids[0])
        shares = np.array([weight / _spread(part) for part, weight in zip(parts, weights, strict=True)])
        self.scales = tuple(np.sqrt(shares / shares.sum()).tolist())
        super().__init__(name, _card(name, parts, self.scales), None, parts[0].roots)

    @property
    def blocks(self) -> list[slice]:
        """The positions of each part's vector in the vector of the whole."""
        ends = np.cumsum([part.card.dim for part in self.parts]).tolist()
        return [slice(end - part.card.dim, end) for part, end in zip(self.parts, ends, strict=True)]

    def scroll(
        self, where: Where = (), *, fields: Fields = True, vectors: bool = False, batch: int = SCROLL_BATCH
    ) -> Iterator[list[StoredPoint]]:
        """See `Collection.scroll`."""
        for page in self.parts[0].scroll(where, fields=fields, vectors=vectors, batch=batch):
            if points := self._joined(page, vectors):
                yield points

    def get(self, ids: Sequence[str], *, fields: Fields = True, vectors: bool = False) -> list[StoredPoint]:
        """See `Collection.get`."""
        return self._joined(self.parts[0].get(ids, fields=fields, vectors=vectors), vectors)

    def count(self, where: Where = ()) -> int:
        """See `Collection.count`."""
        if self._whole:
            return self.parts[0].count(where)
        return sum(len(page) for page in self.scroll(where, fields=False))

    def without_vector(self) -> int:
        """None: images without a vector are left out."""
        return 0

    def metadata(self) -> dict[str, Any]:
        """That of the first part, but for what was measured about its searches."""
        return {key: value for key, value in self.parts[0].metadata().items() if key != "search"}

    def info(self) -> CollectionInfo:
        """See `Collection.info`; there is no graph of the whole."""
        return replace(self.parts[0].info(), points=len(self._common), indexed=0, engine="fused", status="green")

    def close(self) -> None:
        """Close the parts."""
        for part in self.parts:
            part.close()

    def may_change(self) -> bool:
        """Never."""
        return False

    def flush(self) -> None:
        """Nothing is written."""

    def _joined(self, points: Sequence[StoredPoint], vectors: bool) -> list[StoredPoint]:
        """Points of the first part that are in all, with the vector of the whole if that is wanted."""
        there = [point for point in points if point.id in self._common]
        if not vectors or not there:
            return there
        ids = [point.id for point in there]
        found: list[Mapping[str, Vectors | None]] = [{point.id: point.vector for point in there}]
        for part in self.parts[1:]:
            found.append({point.id: point.vector for point in part.get(ids, fields=False, vectors=True)})
        return [
            replace(point, vector=self.whole([known[point.id] for known in found]))  # type: ignore[misc]
            for point in there
            if all(known.get(point.id) is not None for known in found)
        ]

    def whole(self, vectors: Sequence[Vectors]) -> Vectors:
        """The vectors of the whole.

        Args:
            vectors: (..., dim) of unit length, one array a part.
        """
        scaled = [scale * vector for scale, vector in zip(self.scales, vectors, strict=True)]
        return np.concatenate(scaled, axis=-1).astype(np.float32)

    def _search(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], *, exact: bool, ef: int, fields: Fields
    ) -> list[list[Hit]]:
        """Exactly by reading all that passes; else among the nearest of each part."""
        answers: list[list[tuple[str, float]]] = [[] for _ in wheres]
        groups: dict[Where, list[int]] = {}
        for row, where in enumerate(wheres):
            groups.setdefault(tuple(where), []).append(row)
        for where, rows in groups.items():
            for ids, stored in self._scanned(where) if exact else self._near(vectors[rows], k, where, ef):
                scores = vectors[rows] @ stored.T
                for row, values in zip(rows, scores, strict=True):
                    both = [*answers[row], *zip(ids, values.tolist(), strict=True)]
                    answers[row] = sorted(both, key=lambda item: (-item[1], item[0]))[:k]
        names = sorted({id for hits in answers for id, _ in hits})
        payloads = {point.id: point.payload for point in self.parts[0].get(names, fields=fields)}
        return [rank_hits([(id, score, payloads.get(id, {})) for id, score in hits]) for hits in answers]

    def _scanned(self, where: Where) -> Iterator[tuple[list[str], Vectors]]:
        for page in self.scroll(where, fields=False, vectors=True):
            yield [point.id for point in page], np.stack([_sure(point) for point in page])

    def _near(self, vectors: Vectors, k: int, where: Where, ef: int) -> Iterator[tuple[list[str], Vectors]]:
        ids: set[str] = set()
        for part, block, scale in zip(self.parts, self.blocks, self.scales, strict=True):
            asked = vectors[:, block] / scale
            pool = max(_POOL, 10 * k)
            for found in part.search(asked, pool, where, way="approximate", ef=max(ef, pool), fields=False):
                ids |= {hit.id for hit in found.hits}
        points = self.get(sorted(ids), fields=False, vectors=True)
        if points:
            yield [point.id for point in points], np.stack([_sure(point) for point in points])

    def _facet(self, field: str, where: Where, limit: int) -> dict[str, int]:
        if self._whole:
            return self.parts[0].facet(field, where, limit=limit)
        counts: Counter[str] = Counter()
        for page in self.scroll(where, fields=[field]):
            for point in page:
                value = point.payload.get(field)
                counts.update(value if isinstance(value, list) else [] if value is None else [value])
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])

    def _own_index(self, key: str) -> OwnIndex | None:
        return self.parts[0]._own_index(key)

    def _refuse(self) -> NoReturn:
        raise StoreError(f"{self.name} is several collections at once, which can only be read; write to one of them")

    def _write(self, batch: EmbeddedBatch) -> None:
        self._refuse()

    def _delete(self, ids: Sequence[str]) -> None:
        self._refuse()

    def _set_payloads(self, changes: Mapping[str, Payload]) -> None:
        self._refuse()

    def _set_metadata(self, changes: Mapping[str, Any]) -> None:
        self._refuse()

    def _make_index(self, field: str, kind: IndexKind) -> None:
        self._refuse()

    def _index(self, progress: Callable[[str], None] | None) -> None:
        self._refuse()


def _spread(part: Collection) -> float:
    """Standard deviation of the cosines among images of a collection, of up to `_SAMPLE` of them; 1 of one or two."""
    page = next(part.scroll(fields=False, vectors=True, batch=_SAMPLE), [])
    rows = np.array([point.vector for point in page if point.vector is not None], np.float64)
    if len(rows) < 3:
        return 1.0
    cosines = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    spread = float(cosines.std())
    return spread if math.isfinite(spread) and spread > 1e-6 else 1.0


def _card(name: str, parts: Sequence[Collection], scales: Sequence[float]) -> EncoderCard:
    """The card of the whole: another one wherever a part's encoder or a scale is another."""
    made = [[part.card.fingerprint, round(scale, 6)] for part, scale in zip(parts, scales, strict=True)]
    digest = hashlib.sha256(json.dumps(made).encode()).hexdigest()
    named = ", ".join(f"{part.name} ({part.card.fingerprint})" for part in parts)
    dim = sum(part.card.dim for part in parts)
    return EncoderCard(
        name, dim, f"sha256:{digest}", {"fused": [dict(part.card.preprocessing) for part in parts]}, named
    )


def _sure(point: StoredPoint) -> Vectors:
    if point.vector is None:
        raise StoreError(f"the image {point.id} lost its vector while it was read")
    return point.vector
