"""The header of a result: what was measured on, said before any value."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbmir.units import counted

NO_LABEL = "no label"
"""The class of images without a label, where they take part; a stored label has no space in it."""


@dataclass(frozen=True, slots=True)
class PatientCounts:
    """How many patients some images are of; an image without a patient id is counted on its own.

    Attributes:
        patients: Distinct patient ids.
        images_without_id: Images without one.
    """

    patients: int
    images_without_id: int

    @classmethod
    def of(cls, codes: NDArray[Any]) -> Self:
        """From the (images,) codes of their patients, 0 or less for an image without a patient id."""
        known = codes > 0
        return cls(len(np.unique(codes[known])), int((~known).sum()))

    def __add__(self, other: "PatientCounts") -> "PatientCounts":
        return PatientCounts(self.patients + other.patients, self.images_without_id + other.images_without_id)

    @property
    def words(self) -> str:
        """How many there are, for people; images are never called patients."""
        alone = counted(self.images_without_id, "image")
        if not self.patients:
            return f"{alone}, as none has a patient id (each counted on its own)"
        patients = counted(self.patients, "patient")
        if not self.images_without_id:
            return patients
        return f"{patients} and {alone} without a patient id (each counted on its own)"

    @property
    def only_in_part(self) -> bool:
        """Whether some images have a patient id and others don't."""
        return self.patients > 0 and self.images_without_id > 0

    @property
    def over(self) -> str:
        """What intervals and tests are taken over."""
        if self.only_in_part:
            return "patients and images without a patient id"
        return "patients" if self.patients else "images"


@dataclass(frozen=True, slots=True)
class Omission:
    """Something that a result, or a part of it, leaves out.

    Attributes:
        name: Key in JSON and column in CSV.
        count: How many.
        noun: What they are, in the singular.
        words: What it is about them, for people.
    """

    name: str
    count: int
    noun: str
    words: str

    @property
    def text(self) -> str:
        """For people: ``1 query without ...``."""
        return f"{counted(self.count, self.noun)} {self.words}"


@dataclass(frozen=True, slots=True)
class Header:
    """The first lines of a result, and the same for JSON and CSV.

    Attributes:
        label: Field that the evaluation judges by; None where no label has a part.
        unlabelled: ``exclude`` or ``include``; None where no label has a part.
        without_label: Images without a label by role: queries, gallery, ...
        left_out: What else is left out.
        patients: By role.
        scope: What images are counted in, where that isn't one collection.
        queries_with_copies: Queries that may find an image whose file has the same content as theirs.
        further_labels: By role, labels of images beyond the first of each, where only the first is judged by.
        patients_by: ``dataset`` or ``global``: where a patient id means the same patient; empty where nothing depends
            on it.
        ids_in_several_datasets: Patient ids of several data sets that count as a patient in each.
    """

    label: str | None
    unlabelled: str | None
    without_label: Mapping[str, int]
    left_out: tuple[Omission, ...]
    patients: Mapping[str, PatientCounts] = field(default_factory=dict)
    scope: str = ""
    queries_with_copies: int = 0
    further_labels: Mapping[str, int] = field(default_factory=dict)
    patients_by: str = ""
    ids_in_several_datasets: int = 0

    def as_json(self) -> dict[str, Any]:
        """The keys of a result's ``protocol``."""
        return {
            "label": self.label,
            "unlabelled": self.unlabelled,
            "images_without_label": dict(self.without_label),
            "further_labels": dict(self.further_labels),
            "queries_with_copies": self.queries_with_copies,
            "left_out": {item.name: item.count for item in self.left_out},
            "patients": {role: asdict(counts) for role, counts in self.patients.items()},
            "patients_by": self.patients_by,
            "ids_in_several_datasets": self.ids_in_several_datasets,
        }

    def columns(self) -> dict[str, object]:
        """The columns of a CSV that are the same in all rows."""
        return {
            "label": self.label or "",
            "unlabelled": self.unlabelled or "",
            **{f"{role}_without_label": count for role, count in self.without_label.items()},
            **{item.name: item.count for item in self.left_out},
            **{f"{role}_patients": counts.patients for role, counts in self.patients.items()},
            **{f"{role}_without_patient_id": counts.images_without_id for role, counts in self.patients.items()},
        }

    def pairs(self, *, everything: bool = False) -> Iterator[tuple[str, str]]:
        """Term and text of each line.

        Args:
            everything: Give the counts that are 0 as well.
        """
        yield "label", f"{self.label}{self._further()}" if self.label else "none: this evaluation judges by no label"
        if self.label:
            yield "unlabelled", f"{self.unlabelled}: {self._unlabelled()}"
        omitted = [item.text for item in self.left_out if item.count or everything]
        for text in omitted or ["nothing else" if self.label else "nothing"]:
            yield "left out", text
        yield "patients", self._patients()
        if self.queries_with_copies:
            count = self.queries_with_copies
            queries = counted(count, "query")
            text = "whose file is the same as theirs, for it isn't excluded as one of their patient"
            yield (
                "copies",
                f"{queries} may find an image {text}: the results may be far too good",
            )

    def lines(self) -> Iterator[str]:
        """The lines of a table."""
        return (f"{term:11} {text}" for term, text in self.pairs())

    def _unlabelled(self) -> str:
        *parts, last = (counted(count, _noun(role)) for role, count in self.without_label.items())
        counts = f"{', '.join(parts)} and {last}" if parts else last
        counts += f" ({self.scope})" if self.scope else ""
        if self.unlabelled == "include":
            return f"{counts} without {self.label}, taken as the class '{NO_LABEL}'"
        left_out = "such queries are left out, such gallery images are never relevant, never vote and teach nothing"
        if "images" in self.without_label:
            left_out = "in no figure of the label"
        return f"{counts} without {self.label}: {left_out}"

    def _further(self) -> str:
        counts = [f"{role} {count:,}" for role, count in self.further_labels.items() if count]
        if not counts:
            return ""
        further = f"further labels ({', '.join(counts)}) don't count; --label labels takes them"
        return f", the first label of each image: {further}"

    def _patients(self) -> str:
        if not any(counts.patients for counts in self.patients.values()):
            one = "query" if list(self.patients) == ["queries"] else "image"
            return f"no {one} has a patient id: each {one} is counted on its own"
        words = "; ".join(f"{role}: {counts.words}" for role, counts in self.patients.items())
        if self.patients_by == "global":
            words += "; an id is one patient in all data sets"
        if count := self.ids_in_several_datasets:
            verb = "counts" if count == 1 else "count"
            words += (
                f"; {counted(count, 'id')} of several data sets {verb} as a patient in each (--patients global: as one)"
            )
        return words


def _noun(role: str) -> str:
    """An image of a role."""
    return {"queries": "query", "images": "image"}.get(role, f"{role} image")
