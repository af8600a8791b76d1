"""What was measured, and on which terms: the setting of a result, and the header that says it first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import cbmir
from cbmir.evaluate.header import Header, Omission, PatientCounts
from cbmir.evaluate.intervals import FEW, Method
from cbmir.fingerprint import EncoderCard
from cbmir.units import counted

METHOD_WORDS: Mapping[Method, str] = {
    "expanded": "expanded percentiles",
    "percentile": "percentiles",
    "bca": "percentiles corrected for bias and skewness (BCa)",
    "wilson": "expanded percentiles, of shares of queries Wilson's",
}


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
