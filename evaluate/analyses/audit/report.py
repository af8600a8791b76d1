"""What an audit found, and the terms without which it is no result."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cbmir
from cbmir.encoders.contamination import Contamination
from cbmir.evaluate.analyses.audit.confounding import Confounding
from cbmir.evaluate.analyses.audit.copies import COPIES, CopyPairs, SplitCopies
from cbmir.evaluate.analyses.audit.patients import Patients
from cbmir.evaluate.analyses.audit.terms import AuditTerms
from cbmir.evaluate.header import Header, Omission, PatientCounts
from cbmir.evaluate.protocol import NAMED, wording
from cbmir.evaluate.results import Asked, TabularResult, figure, row_json
from cbmir.fingerprint import EncoderCard
from cbmir.units import counted

DOMINANT = 0.8
"""Share of the queries from which one value of a confounder decides the index of all."""

NO_PATIENT = "no image has a patient_id:"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One figure.

    Attributes:
        part: ``copies``, ``patients``, ``confounding`` or ``contamination``.
        subject: What it is a figure of: two splits, a confounder, a data set.
        measure: Its name.
        value: NaN where it can't be told.
        n: What it is a part of: images, pairs, patients or queries.
        low: Lower end of its 95% interval, drawn over patients; NaN where there is none.
        high: Upper end.
    """

    part: str
    subject: str
    measure: str
    value: float
    n: int
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AuditReport(TabularResult):
    """The result of an audit.

    Attributes:
        collection: Its name.
        store: Engine that holds it.
        vectors: Images in it.
        encoder: What made the vectors.
        terms: What was looked at, and how.
        images: Images that were looked at.
        splits: How many of them are in each split; those without a split are the rest.
        unlabelled: How many of them have no label.
        people: How many patients they are of.
        queried: The same of those that ask for the confounder index, over which its intervals are drawn.
        copies: Near copies, by pair of splits.
        pairs: The near copies themselves.
        patients: Patients in more than one split.
        confounding: By confounder.
        datasets: Images of each data set.
        contamination: What the encoder is known to have seen, by data set.
        ids_in_several_datasets: Patient ids of several data sets that count as a patient in each.
        version: Of cbmir.
        asked: What it is the answer to.
    """

    collection: str
    store: str
    vectors: int
    encoder: EncoderCard
    terms: AuditTerms
    images: int
    splits: Mapping[str, int]
    unlabelled: int
    people: PatientCounts
    queried: PatientCounts
    copies: tuple[SplitCopies, ...]
    pairs: CopyPairs
    patients: Patients
    confounding: tuple[Confounding, ...]
    datasets: Mapping[str, int]
    contamination: tuple[Contamination, ...]
    ids_in_several_datasets: int = 0
    version: str = cbmir.__version__
    asked: Asked | None = None

    @property
    def without_split(self) -> int:
        """Images that are in no split: they take no part in what is compared between splits."""
        return self.images - sum(self.splits.values())

    @property
    def header(self) -> Header:
        """What the result says first."""
        return Header(
            label=self.terms.label,
            unlabelled=self.terms.unlabelled,
            without_label={"images": self.unlabelled},
            left_out=(
                Omission(
                    "without_split", self.without_split, "image", "without split, in nothing that compares splits"
                ),
            ),
            patients={"images": self.people},
            patients_by=self.terms.patients,
            ids_in_several_datasets=self.ids_in_several_datasets,
        )

    @property
    def rows(self) -> tuple[AuditRow, ...]:
        """All figures, tidy."""
        return (*self._copy_rows(), *self._patient_rows(), *self._confounding_rows(), *self._contamination_rows())

    def content(self) -> dict[str, Any]:
        """The report as JSON takes it, with all patients in more than one split; what can't be told is null."""
        return {
            "protocol": {
                **self._protocol(),
                **self.header.as_json(),
                "store": self.store,
                "vectors": self.vectors,
                "images": self.images,
                "splits": dict(self.splits),
                "without_split": self.without_split,
                "without_label": self.unlabelled,
                "copies_looked_for": COPIES,
            },
            "encoder": {**self.encoder.as_json(), "fingerprint": self.encoder.fingerprint},
            "copies": [asdict(item) for item in self.copies],
            "patients": asdict(self.patients),
            "confounding": [
                {
                    **row_json(item),
                    "pull": item.pull,
                    "places": [row_json(place) | {"pull": place.pull} for place in item.places],
                }
                for item in self.confounding
            ],
            "contamination": [{**asdict(item), "images": self.datasets[item.dataset]} for item in self.contamination],
            "rows": [row_json(row) for row in self.rows],
        }

    def csv_rows(self) -> tuple[AuditRow, ...]:
        """All values."""
        return self.rows

    def csv_terms(self) -> dict[str, object]:
        """Collection, encoder, terms and header."""
        encoder = {"encoder": self.encoder.name, "fingerprint": self.encoder.fingerprint}
        protocol = {
            name: " ".join(item) if isinstance(item, tuple) else item for name, item in self._protocol().items()
        }
        return {**protocol, **self.header.columns(), **encoder}

    def table(self) -> str:
        """The report for people: the terms, then the four parts."""
        parts = (self._terms(), self._copies(), self._patients(), self._confounding(), self._contamination())
        return "\n\n".join("\n".join(part) for part in parts)

    def _protocol(self) -> dict[str, Any]:
        terms = self.terms
        return {
            "collection": self.collection,
            "filter": wording(terms.where),
            "label": terms.label,
            "k": terms.k,
            "threshold": terms.threshold,
            "excluded_by": terms.exclude,
            "draws": terms.draws,
            "seed": terms.seed,
            "version": self.version,
        }

    def _copy_rows(self) -> Iterator[AuditRow]:
        for item in self.copies:
            for side in item.sides:
                subject = f"{side.split} in {side.other}"
                for measure in ("copied", "capped", "median", "p95", "p99", "highest"):
                    yield AuditRow("copies", subject, measure, getattr(side, measure), side.images)
            subject = _subject(item.sides[0].split, item.sides[0].other)
            kinds = ("same_patient", "other_patient", "unknown_patient", "identical_files", "unknown_files")
            for measure in ("pairs", *kinds):
                yield AuditRow("copies", subject, measure, getattr(item, measure), item.pairs)

    def _patient_rows(self) -> Iterator[AuditRow]:
        patients = self.patients
        yield AuditRow("patients", "all", "shared", len(patients.shared), patients.patients)
        yield AuditRow("patients", "all", "shared_images", patients.images, sum(self.splits.values()))
        yield AuditRow("patients", "all", "without_patient", patients.without_patient, sum(self.splits.values()))
        for item in patients.splits:
            subject = _subject(item.first, item.second)
            yield AuditRow("patients", subject, "shared", item.patients, patients.patients)
            for split, images in ((item.first, item.first_images), (item.second, item.second_images)):
                yield AuditRow("patients", subject, f"shared_images_{split}", images, self.splits[split])

    def _confounding_rows(self) -> Iterator[AuditRow]:
        for item in self.confounding:
            row = ("confounding", item.field)
            yield AuditRow(*row, "index", item.index, item.queries, item.low, item.high)
            yield AuditRow(*row, "index_by_chance", item.chance, item.queries)
            yield AuditRow(*row, "ratio", item.ratio, item.queries, item.ratio_low, item.ratio_high)
            yield AuditRow(*row, "ratio_by_chance", item.ratio_chance, item.queries)
            for measure in ("same_label_elsewhere", "other_label_same_place", "neighbours", "neighbours_left_out"):
                yield AuditRow(*row, measure, getattr(item, measure), item.neighbours + item.neighbours_left_out)
            yield AuditRow(*row, "queries_left_out", item.queries_left_out, item.queries + item.queries_left_out)
            yield AuditRow(*row, "detectable", item.detectable, item.queries)
            for place in item.places:
                name = ("confounding", f"{item.field}={place.value}")
                yield AuditRow(*name, "index", place.index, place.queries, place.low, place.high)
                yield AuditRow(*name, "index_by_chance", place.chance, place.queries)
                yield AuditRow(*name, "share_of_queries", place.share, item.queries)
                yield AuditRow(*name, "detectable", place.detectable, place.queries)

    def _contamination_rows(self) -> Iterator[AuditRow]:
        seen = {"seen": 1.0, "not listed": 0.0, "unknown": math.nan}
        for item in self.contamination:
            images = self.datasets[item.dataset]
            yield AuditRow("contamination", item.dataset, "seen", seen[item.verdict], images)

    def _terms(self) -> Iterator[str]:
        encoder, terms = self.encoder, self.terms
        yield f"collection  {self.collection}: {counted(self.vectors, 'image')}, {self.store}, cbmir {self.version}"
        yield f"encoder     {encoder.name}, {encoder.dim} dimensions, fingerprint {encoder.fingerprint}"
        splits = ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        yield f"audited     {wording(terms.where)}: {counted(self.images, 'image')}; {splits or 'no splits'}"
        yield from self.header.lines()
        if "patient" in terms.exclude and (unknown := self.people.images_without_id):
            known = self.people.patients
            which = (
                f"{unknown:,} of {counted(self.images, 'image')} without patient_id: for these" if known else NO_PATIENT
            )
            yield f"WARNING     {which} same-patient images are not excluded"

    def _copies(self) -> Iterator[str]:
        yield f"near copies: cosine {self.terms.threshold:g} or more to an image of another split"
        if not self.copies:
            yield "no two splits have images: nothing to compare"
            return
        yield f"{'':39}cosine of the nearest image of the other"
        yield (
            f"{'images of':15}  {'images':>9}  {'with copy':>9}  {'median':>7}  {'95%':>7}  {'99%':>7}  {'highest':>7}"
        )
        for side in (side for item in self.copies for side in item.sides):
            yield (
                f"{f'{side.split} in {side.other}':15}  {side.images:>9,}  {side.copied:>9,}  {side.median:>7.4f}"
                f"  {side.p95:>7.4f}  {side.p99:>7.4f}  {side.highest:>7.4f}"
            )
        for item in self.copies:
            capped = sum(side.capped for side in item.sides)
            yield (
                f"{_subject(item.sides[0].split, item.sides[0].other)}: {'at least ' if capped else ''}"
                f"{counted(item.pairs, 'pair')}, {item.same_patient:,} of the same patient, "
                f"{item.other_patient:,} of two patients, {item.unknown_patient:,} unknown; "
                f"{counted(item.identical_files, 'identical file')}"
                + (f", {item.unknown_files:,} unknown" if item.unknown_files else "")
                + (
                    f"; images with {COPIES} copies or more, of which {COPIES} are looked for: {capped:,}"
                    if capped
                    else ""
                )
            )

    def _patients(self) -> Iterator[str]:
        patients = self.patients
        if not patients.patients:
            yield f"patients in more than one split: can't be told, {self._no_patient()}"
            return
        yield (
            f"patients in more than one split: {len(patients.shared):,} of {patients.patients:,}, with "
            f"{counted(patients.images, 'image')}; nothing can be said of "
            f"{counted(patients.without_patient, 'image')} without patient_id"
        )
        for item in patients.splits:
            yield (
                f"{_subject(item.first, item.second)}: {counted(item.patients, 'patient')}, "
                f"{counted(item.first_images, 'image')} in {item.first}, {item.second_images:,} in {item.second}"
            )
        if patients.shared:
            named = ", ".join(patient.patient_id for patient in patients.shared[:NAMED])
            yield f"they are {named}{', ...' if len(patients.shared) > NAMED else ''}"
        if several := sum(patient.datasets > 1 for patient in patients.shared):
            yield f"{several:,} of them with images of several data sets, maybe others of the same patient_id"

    def _confounding(self) -> Iterator[str]:
        terms = self.terms
        excluded = " and ".join(["itself", *(f"those of its {name}" for name in terms.exclude)])
        yield f"confounders: {counted(terms.k, 'neighbour')} an image, of all images without {excluded}"
        yield (
            f"index: those of its {terms.label} with another value of the confounder, as a part of these and those of"
        )
        yield "another label with its value; above chance neighbours follow the label, below it the confounder"
        wide = max(len("confounder"), *(len(item.field) for item in self.confounding))
        yield (
            f"{'confounder':{wide}}  values  {'queries':>9}  left out   index  95% interval      chance  nearer by   "
            "ratio  chance  neighbours left out"
        )
        for item in self.confounding:
            head = f"{item.field:{wide}}  {item.values:>6,}  {item.queries:>9,}  {item.queries_left_out:>8,}"
            if item.reason:
                yield f"{head}  {item.reason}"
                continue
            interval = "-" if math.isnan(item.low) else f"{item.low:.4f} to {item.high:.4f}"
            yield (
                f"{head}  {figure(item.index):>6}  {interval:16}  {figure(item.chance):>6}  {item.pull:10}"
                f"  {figure(item.ratio):>6}  {figure(item.ratio_chance):>6}  {item.neighbours_left_out:>19,}"
            )
        yield from self._places()
        yield (
            "ratio: those of its label to those with its value; intervals of the index: "
            f"{counted(terms.draws, 'draw')} of {self.queried.words}, seed {terms.seed}"
        )

    def _places(self) -> Iterator[str]:
        """The values of each confounder by themselves, and what could be seen at all."""
        shown = [(item, place) for item in self.confounding for place in item.places]
        if not shown:
            return
        yield "each value by itself; power: the least difference from chance that 4 of 5 such samples would show"
        wide = max(*(len(f"{item.field}={place.value}") for item, place in shown), len("value"))
        yield f"{'value':{wide}}  {'queries':>9}   share   index  95% interval      chance  nearer by    power"
        for item, place in shown:
            interval = "-" if math.isnan(place.low) else f"{figure(place.low)} to {figure(place.high)}"
            yield (
                f"{f'{item.field}={place.value}':{wide}}  {place.queries:>9,}  {place.share:>6.1%}"
                f"  {figure(place.index):>6}  {interval:16}  {figure(place.chance):>6}  {place.pull:10}"
                f"  {figure(place.detectable):>6}"
            )
        for item in self.confounding:
            if hidden := item.values - len(item.places) if item.places else 0:
                yield f"{item.field}: {counted(hidden, 'rarer value')} not shown"
        for item, place in shown:
            if place.share > DOMINANT:
                yield (
                    f"WARNING     {place.share:.1%} of the queries have {item.field}={place.value}: the index of all "
                    "is that of these; look at the other values by themselves"
                )

    def _no_patient(self) -> str:
        """Why there are no patients to compare between splits."""
        return "no image in a split has a patient_id" if self.people.patients else NO_PATIENT.rstrip(":")

    def _contamination(self) -> Iterator[str]:
        yield "contamination: has the encoder seen the data set in training?"
        wide = max(len(name) for name in self.datasets)
        for item in self.contamination:
            yield f"{item.dataset:{wide}}  {counted(self.datasets[item.dataset], 'image'):>16}  {item.verdict}"
        yield from dict.fromkeys(item.reason for item in self.contamination)


def _subject(first: str, second: str) -> str:
    return f"{first}/{second}"
