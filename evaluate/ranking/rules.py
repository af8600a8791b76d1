"""Rules of relevance: how much the labels of one image have in common with those of another.

A rule gives its grades for many pairs of label sets at once, by products of sparse matrices of who holds which label.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError, one_line
from cbmir.textfile import NOT_READ, read_text

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Rows = NDArray[np.integer[Any]]
Grades = NDArray[np.float64]
Counts = NDArray[np.int64]

_MAX_BYTES = 10_000_000  # of a file of relations
_MAX_DEPTH = 10  # of it: stream, document, mapping, list, list

LEVELS = 3
"""Parts of a label path: modality, region, pathology."""


class LabelSets:
    """n sets of labels.

    Attributes:
        labels: All labels, sorted.
        sizes: (n,) labels in each set.
    """

    def __init__(self, sets: Sequence[Sequence[str]]) -> None:
        from scipy.sparse import csr_array

        distinct = [set(labels) for labels in sets]
        self.labels = tuple(sorted(set().union(*distinct)))
        self.sizes = np.array([len(labels) for labels in distinct], np.int64)
        column = {label: number for number, label in enumerate(self.labels)}
        columns = [column[label] for labels in distinct for label in labels]
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        shape = (len(distinct), max(1, len(self.labels)))
        self._members: csr_array = csr_array((np.ones(len(columns), np.int32), columns, starts), shape=shape)

    def shared(self, rows: Rows, pairs: "csr_array | None" = None) -> Counts:
        """(rows, n) how many labels of a set pair with labels of each set: the same label, or those of `pairs`."""
        left = self._members[rows] if pairs is None else self._members[rows] @ pairs
        found: Counts = (left @ self._members.T).toarray()
        return found


Rule = Callable[[LabelSets, Rows], Grades]
"""From label sets and some of them to (rows, sets) grades; a set without labels has grade 0 with all."""


def any_shared(sets: LabelSets, rows: Rows) -> Grades:
    """1 where two images share a label."""
    grades: Grades = (sets.shared(rows) > 0).astype(np.float64)
    return grades


def exact(sets: LabelSets, rows: Rows) -> Grades:
    """1 where two images have the same labels."""
    shared, own = sets.shared(rows), sets.sizes[rows][:, np.newaxis]
    grades: Grades = ((shared == own) & (shared == sets.sizes) & (own > 0)).astype(np.float64)
    return grades


def jaccard(sets: LabelSets, rows: Rows) -> Grades:
    """Labels that two images share, as a part of those that either has."""
    shared = sets.shared(rows)
    either = sets.sizes[rows][:, np.newaxis] + sets.sizes - shared
    grades: Grades = np.divide(shared, either, out=np.zeros(shared.shape), where=either > 0)
    return grades


def hierarchy(sets: LabelSets, rows: Rows) -> Grades:
    """The most that a label of one image has in common with one of the other.

    1 for the same modality, 2 for the same region too, 3 for the same pathology too.
    """
    grades = np.zeros((len(rows), len(sets.sizes)))
    paths = [label.split("/") for label in sets.labels]
    for depth in range(1, LEVELS + 1):
        starts = [path[:depth] if len(path) >= depth else None for path in paths]
        grades[sets.shared(rows, _same(starts)) > 0] = depth
    return grades


RULES: dict[str, Rule] = {"any": any_shared, "exact": exact, "jaccard": jaccard}


@dataclass(frozen=True)
class Relations:
    """Grades of pairs of labels, from a YAML file.

    The file holds ``same`` (the grade of a label with itself, 3 unless given) and ``relations``, a list of
    ``[label, label, grade]``; a pair that isn't listed has grade 0. Of several labels the highest grade counts.

    Attributes:
        same: Grade of a label with itself.
        grades: Grades of other pairs, in both orders.
    """

    same: float
    grades: Mapping[tuple[str, str], float]

    def __call__(self, sets: LabelSets, rows: Rows) -> Grades:
        """The highest grade of a label of one image with one of the other."""
        grades = np.zeros((len(rows), len(sets.sizes)))
        place = {label: number for number, label in enumerate(sets.labels)}
        pairs: dict[float, list[tuple[int, int]]] = {self.same: [(number, number) for number in place.values()]}
        for (left, right), grade in self.grades.items():
            if left != right and left in place and right in place:
                pairs.setdefault(grade, []).append((place[left], place[right]))
        for grade in sorted(pairs):
            grades[sets.shared(rows, _table(pairs[grade], len(sets.labels))) > 0] = grade
        return grades

    @classmethod
    def read(cls, path: Path) -> "Relations":
        """Read a file.

        Raises:
            ProtocolError: it can't be read, or says something else.
        """
        import yaml

        try:
            text = read_text(path, _MAX_BYTES)
            _check_events(yaml.parse(text, yaml.SafeLoader))
            data = yaml.safe_load(text)
            grades: dict[tuple[str, str], float] = {}
            for left, right, grade in data.get("relations", []):
                if isinstance(left, dict | list) or isinstance(right, dict | list):
                    raise ValueError("a label is a list or a mapping, not a text")
                pair = str(left), str(right)
                if left == right:
                    raise ValueError(
                        f"{pair[0]!r} is paired with itself; `same` is the grade of every label with itself"
                    )
                if grades.get(pair, float(grade)) != float(grade):
                    raise ValueError(f"{pair[0]!r} and {pair[1]!r} have two grades")
                grades[pair] = grades[pair[::-1]] = float(grade)
            relations = cls(float(data.get("same", 3)), grades)
        except (*NOT_READ, yaml.YAMLError) as error:
            reason = one_line(error)
            raise ProtocolError(
                f"can't read relations of labels from {path} ({reason}); it holds `relations`, a list of "
                "[label, label, grade], and maybe `same`, the grade of a label with itself"
            ) from error
        if min([relations.same, *grades.values()]) < 0 or not np.isfinite([relations.same, *grades.values()]).all():
            raise ProtocolError(f"{path} has a grade below 0 or one that is no number")
        return relations


def _check_events(events: Iterable[Any]) -> None:
    """Refuse YAML that stands for more than is written, or is nested deeper than relations are: both take very long.

    Raises:
        ValueError: it does.
    """
    depth = 0
    for event in events:
        name = type(event).__name__
        depth += name.endswith("StartEvent") - name.endswith("EndEvent")
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
        if name == "AliasEvent":
            raise ValueError("aliases (*name) can stand for values without end; write each value out")


def _same(keys: Sequence[Sequence[str] | None]) -> "csr_array":
    """(labels, labels) 1 for each pair of equal keys; None equals nothing."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, key in enumerate(keys):
        if key is not None:
            groups.setdefault(tuple(key), []).append(number)
    from scipy.sparse import csr_array

    members = [(number, group) for group, numbers in enumerate(groups.values()) for number in numbers]
    rows, columns = np.array(members, np.int64).reshape(-1, 2).T
    shape = (max(1, len(keys)), max(1, len(groups)))
    belongs = csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)
    return belongs @ belongs.T


def _table(pairs: Sequence[tuple[int, int]], labels: int) -> "csr_array":
    from scipy.sparse import csr_array

    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    shape = (max(1, labels), max(1, labels))
    return csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)
