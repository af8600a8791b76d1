"""Which keyed patient ids are patients, seen over a whole source."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Patients:
    """Gathers what a source says of each id, and then tells who is a patient.

    Attributes:
        dummies: Files whose id names nobody.
        blank: Files without an id.
    """

    dummies: int = 0
    blank: int = 0
    _said: dict[str, tuple[set[str], set[str]]] = field(default_factory=dict)
    _studies: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _files: Counter[str] = field(default_factory=Counter)

    def see(self, patient: str, study: str | None, birth: str, sex: str) -> None:
        """Take a file into account.

        Args:
            patient: Keyed hash.
            study: Keyed hash.
            birth: Birth date; empty where it isn't known. It is kept in memory only.
            sex: The same.
        """
        births, sexes = self._said.setdefault(patient, (set(), set()))
        births.update({birth} - {""})
        sexes.update({sex} & {"M", "F"})
        self._files[patient] += 1
        if study:
            self._studies[study].add(patient)

    def settled(self) -> "Settled":
        """Who is a patient."""
        several = {id for id, (births, sexes) in self._said.items() if len(births) > 1 or len(sexes) > 1}
        first: dict[str, str] = {}
        joined = 0
        for patients in self._studies.values():
            known = sorted(patients - several)
            joined += len(known) > 1
            for other in known[1:]:
                _join(first, known[0], other)
        same = {id: _root(first, id) for id in self._said if id not in several}
        counts = {id: self._files[id] for id in several}
        return Settled(same, counts, joined)


@dataclass(frozen=True, slots=True)
class Settled:
    """Who is a patient.

    Attributes:
        same: By id, the id that stands for the patient; ids that are no patient are not in it.
        several: Ids with several birth dates or sexes, and how many files each has.
        joined: Studies with several ids, whose patients count as one.
    """

    same: Mapping[str, str]
    several: Mapping[str, int]
    joined: int


def _root(first: dict[str, str], id: str) -> str:
    while id in first:
        id = first[id]
    return id


def _join(first: dict[str, str], one: str, other: str) -> None:
    roots: Iterable[str] = sorted({_root(first, one), _root(first, other)})
    low, *high = roots
    for root in high:
        first[root] = low
