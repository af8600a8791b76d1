"""What was measured, and on which terms: the setting of a result, and the header that says it first."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

import cbmir
from cbmir.evaluate.intervals import FEW, Method
from cbmir.fingerprint import EncoderCard
from cbmir.units import counted

METHOD_WORDS: Mapping[Method, str] = {
    "expanded": "expanded percentiles",
    "percentile": "percentiles",
    "bca": "percentiles corrected for bias and skewness (BCa)",
    "wilson": "expanded percentiles, of shares of queries Wilson's",
}

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


@dataclass(frozen=True, slots=True)
class Side:
    """The queries or the gallery.

    Attributes:
        filter: Which images they are, in the filter language.
        images: How many took part.
        unlabelled: Images without a label. Where they take part, `images` are with them. Where they don't, `images` of
            the queries are without them, and those of the gallery with them, though they are never relevant.
        datasets: Images of each data set, with and without a label.
        further_labels: Labels of images beyond the first of each, where only the first is judged by.
    """

    filter: str
    images: int
    unlabelled: int
    datasets: Mapping[str, int]
    further_labels: int = 0


@dataclass(frozen=True, slots=True)
class Barred:
    """How the query itself and images of its patient were kept out of the answers; the query itself always is.

    Attributes:
        same_patient: ``excluded`` or ``included``.
        by: By what images were excluded.
        queries_affected: Queries for which a gallery image was excluded.
        images_excluded: Gallery images excluded, summed over queries.
        queries_without_patient: Queries of which the patient isn't known.
        gallery_without_patient: Gallery images of which the patient isn't known.
    """

    same_patient: Literal["excluded", "included"]
    by: tuple[str, ...]
    queries_affected: int
    images_excluded: int
    queries_without_patient: int
    gallery_without_patient: int = 0

    def warning(self, queries: int, gallery: int) -> str:
        """What a reader must know where patients are to be excluded and aren't known; else empty.

        Args:
            queries: How many there are.
            gallery: How many gallery images there are.
        """
        without = (self.queries_without_patient, self.gallery_without_patient)
        return "" if self.same_patient == "included" else unknown_patients(without, (queries, gallery))


@dataclass(frozen=True, slots=True)
class Intervals:
    """How 95% intervals were made: by a bootstrap over patients, or over images where these aren't known.

    Attributes:
        draws: 0 for none.
        seed: Of the draws.
        clusters: What is drawn: patients among the queries, and queries without one.
        alone: Of the clusters, queries without a patient.
        method: How draws became an interval, one of `cbmir.evaluate.intervals.METHODS`.
        own_gallery: Queries that are gallery images too, so that drawing patients draws parts of the gallery as well.
    """

    draws: int
    seed: int
    clusters: int
    alone: int = 0
    method: Method = "expanded"
    own_gallery: int = 0

    @property
    def words(self) -> str:
        """What was drawn how often, and what became of it."""
        return f"{counted(self.draws, 'draw')} of {self.units}, {METHOD_WORDS[self.method]}"

    def lines(self) -> Iterator[str]:
        """What a reader must know of the intervals: what they hold fixed, and when they are not to be relied on."""
        if not self.draws:
            return
        yield (
            f"intervals   how far results may be off for other {self.over} as queries; gallery, encoder and k are held "
            "fixed"
        )
        if warning := self.warning:
            yield f"WARNING     {warning}"

    @property
    def warning(self) -> str:
        """Why intervals are missing or not to be relied on; empty where they are."""
        if not self.draws:
            return ""
        units = self.units.partition(",")[0]
        if self.clusters < 2:
            return f"no intervals: the queries are of {units}, which says nothing of others"
        if self.clusters < FEW:
            return f"the queries are of {units}, fewer than {FEW}: don't rely on intervals and tests"
        if self.own_gallery:
            return (
                f"{counted(self.own_gallery, 'query')} in the gallery too: intervals are too narrow, as they take the "
                "gallery as fixed"
            )
        return ""

    @property
    def units(self) -> str:
        """How many of what is drawn, in words."""
        return self.drawn.words

    @property
    def over(self) -> str:
        """The kind of what is drawn."""
        return self.drawn.over

    @property
    def drawn(self) -> PatientCounts:
        """What is drawn."""
        return PatientCounts(self.clusters - self.alone, self.alone)


@dataclass(frozen=True, slots=True)
class Setting:
    """What was measured, and on which terms.

    Attributes:
        collection: Its name.
        store: Engine that holds it.
        vectors: Images in the collection.
        indexed: Vectors in an HNSW graph; the approximate search scans the others.
        queries: Who asks.
        gallery: What is searched.
        label: Field that decides relevance.
        relevance: ``any``, ``exact`` or ``jaccard``.
        relations: File of graded relations, None for modality, region, pathology.
        classes: Distinct first values of the label field among the queries.
        classes_without_gallery: Those of which no query has a relevant image in the gallery.
        exclusion: What a query may not find.
        measures: Names.
        k: Cutoffs.
        search: The searches compared.
        ef: HNSW beam width of the approximate search, None without one.
        intervals: How sure the figures are.
        unlabelled: ``exclude`` or ``include``: whether images without a label take part as a class.
        queries_without_relevant: Queries without a relevant image in the gallery.
        patients: How many the queries and the gallery have.
        queries_with_copies: Queries that may find an image whose file has the same content as theirs.
        patients_by: ``dataset`` or ``global``: where a patient id means the same patient.
        ids_in_several_datasets: Patient ids of several data sets that count as a patient in each.
        classes_of_one_patient: Classes whose queries are of one patient; 0 where there are no intervals.
        version: Of cbmir.
    """

    collection: str
    store: str
    vectors: int
    indexed: int
    queries: Side
    gallery: Side
    label: str
    relevance: str
    relations: str | None
    classes: int
    classes_without_gallery: tuple[str, ...]
    exclusion: Barred
    measures: tuple[str, ...]
    k: tuple[int, ...]
    search: tuple[str, ...]
    ef: int | None
    intervals: Intervals
    unlabelled: str = "exclude"
    queries_without_relevant: int = 0
    patients: Mapping[str, PatientCounts] = field(default_factory=dict)
    queries_with_copies: int = 0
    patients_by: str = "dataset"
    ids_in_several_datasets: int = 0
    classes_of_one_patient: int = 0
    version: str = cbmir.__version__

    @property
    def header(self) -> Header:
        """What the result says first."""
        return Header(
            label=self.label,
            unlabelled=self.unlabelled,
            without_label={"queries": self.queries.unlabelled, "gallery": self.gallery.unlabelled},
            left_out=(
                Omission(
                    "queries_without_relevant",
                    self.queries_without_relevant,
                    "query",
                    "without a relevant gallery image: 0 in precision, left out where a measure is 0/0",
                ),
                Omission(
                    "classes_without_relevant",
                    len(self.classes_without_gallery),
                    "class",
                    "of which no query has a relevant gallery image",
                ),
                Omission(
                    "classes_of_one_patient",
                    self.classes_of_one_patient,
                    "class",
                    "of one patient: macro intervals use the spread between classes for them",
                ),
            ),
            patients=self.patients,
            queries_with_copies=self.queries_with_copies,
            patients_by=self.patients_by,
            ids_in_several_datasets=self.ids_in_several_datasets,
            further_labels={"queries": self.queries.further_labels, "gallery": self.gallery.further_labels},
        )

    @property
    def warning(self) -> str:
        """See `Barred.warning`."""
        return self.exclusion.warning(self.queries.images, self.gallery.images)


def setting_columns(setting: Setting, encoder: EncoderCard, header: Header) -> dict[str, object]:
    """The columns of a CSV that say what its rows are results of.

    Args:
        setting: What was measured.
        encoder: What made the vectors.
        header: What the result says first.
    """
    return {
        "collection": setting.collection,
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        **header.columns(),
        "queries": setting.queries.filter,
        "gallery": setting.gallery.filter,
        "excluded_by": " ".join(setting.exclusion.by),
        "version": setting.version,
    }


EFFECTS = (
    "same-patient images are not excluded",
    "for these same-patient images are not excluded",
    "they are never excluded as images of the query's patient",
)


def unknown_patients(without: tuple[int, int], images: tuple[int, int], effects: tuple[str, str, str] = EFFECTS) -> str:
    """What it means that patients aren't known, in words; empty where all are.

    Args:
        without: Queries, and gallery images, without a patient id.
        images: All queries, and all gallery images.
        effects: What it means where no query or no gallery image has one, where some queries lack it, and where some
            gallery images do.
    """
    (queries, gallery), (asked, there) = without, images
    if queries == asked or gallery == there:
        who = "image" if queries == asked and gallery == there else "query" if queries == asked else "gallery image"
        return f"no {who} has a patient_id: {effects[0]}"
    parts = []
    if queries:
        parts.append(f"{queries:,} of {counted(asked, 'query')} without patient_id: {effects[1]}")
    if gallery:
        parts.append(f"{gallery:,} of {counted(there, 'gallery image')} without patient_id: {effects[2]}")
    return "; ".join(parts)
