"""Images that one side of a copy has under a spelling of their path that an earlier version kept."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from cbmir.filters import Condition
from cbmir.paths import normal_path
from cbmir.schema import StoredPoint, point_id
from cbmir.store.collection import Collection

_Alike = tuple[str, str, str]


def path_of(point: StoredPoint) -> str:
    """The path of a point as it is stored."""
    return str(point.payload.get("filepath", ""))


def _alike(point: StoredPoint) -> _Alike:
    """Data set, file name and hash, which are equal of one image under two paths."""
    payload = point.payload
    return str(payload.get("dataset", "")), path_of(point).rpartition("/")[2], str(payload.get("sha256"))


def usual_id(point: StoredPoint) -> str:
    """The id of a point if its path were in normal form."""
    usual = normal_path(path_of(point))
    return point.id if usual == path_of(point) else point_id(str(point.payload.get("dataset", "")), usual)


@dataclass(frozen=True, slots=True)
class Aim:
    """Where points go.

    Attributes:
        target: The copy.
        new: Whether it was empty.
        spelt: Ids that it has of images under other spellings of their paths, by their ids in normal form.
        absolute: Ids and paths that it has of images under absolute paths, by data set, file name and hash.
    """

    target: Collection
    new: bool
    spelt: Mapping[str, list[str]]
    absolute: Mapping[_Alike, list[tuple[str, str]]]

    @classmethod
    def of(cls, target: Collection) -> Self:
        """Look through a collection once; a new one has nothing to look through."""
        new = not target.count()
        spelt, absolute = defaultdict(list), defaultdict(list)
        for points in () if new else target.scroll(fields=["filepath", "dataset", "sha256"]):
            for point in points:
                path = path_of(point)
                if (usual := usual_id(point)) != point.id:
                    spelt[usual].append(point.id)
                elif path.startswith("/"):
                    absolute[_alike(point)].append((point.id, path))
        return cls(target, new, spelt, absolute)

    def doubled_by(self, point: StoredPoint) -> list[str]:
        """Ids in the copy of the same image under other spellings."""
        ids = list(self.spelt.get(point.id, ()))
        if point.payload.get("sha256"):
            below = f"/{path_of(point)}"
            ids += [id for id, path in self.absolute.get(_alike(point), ()) if path.endswith(below)]
        return ids

    def named_below(self, points: Sequence[StoredPoint]) -> dict[str, str]:
        """Of points with absolute paths, those whose image is in the copy under the end of it; its id by theirs."""
        hashes = tuple(str(hash) for point in points if (hash := point.payload.get("sha256")))
        if self.new or not hashes:
            return {}
        where = (Condition("sha256", "=", hashes),)
        found = defaultdict(list)
        for page in self.target.scroll(where, fields=["filepath", "dataset", "sha256"]):
            for point in page:
                found[_alike(point)].append(point)
        return {
            point.id: other.id
            for point in points
            for other in found[_alike(point)]
            if not path_of(other).startswith("/") and path_of(point).endswith(f"/{path_of(other)}")
        }


def usually_spelt(pages: Iterator[list[StoredPoint]]) -> Iterator[list[StoredPoint]]:
    """All points; those with the id of their path's normal form have the path in it, too."""
    for points in pages:
        yield [
            replace(point, payload={**point.payload, "filepath": usual})
            if (usual := normal_path(path_of(point))) != path_of(point) and usual_id(point) == point.id
            else point
            for point in points
        ]
