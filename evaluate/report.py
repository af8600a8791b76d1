"""What was measured and how: tidy rows, and the terms without which they are no result."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import cbmir
from cbmir.errors import CbmirError
from cbmir.fingerprint import EncoderCard
from evaluate.protocol import NAMED

Average = Literal["micro", "macro"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        measure: Name of a measure.
        k: Its cutoff.
        average: ``micro``, the mean over queries, or ``macro``, the mean over classes of the class means.
        group: ``all`` queries, or those of a ``modality=...``.
        value: The mean; NaN where no query has a value.
        n: Queries in the mean.
        coverage: Share of the group's queries with a relevant image in the gallery.
        search: ``exact`` or ``approximate``.
    """

    measure: str
    k: int
    average: Average
    group: str
    value: float
    n: int
    coverage: float
    search: str


@dataclass(frozen=True, slots=True)
class Side:
    """The queries or the gallery.

    Attributes:
        filter: Which images they are, in the filter language.
        images: How many took part.
        unlabelled: Images without a label: left out of the queries, never relevant in the gallery.
        datasets: Images of each data set, with and without a label.
    """

    filter: str
    images: int
    unlabelled: int
    datasets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Exclusion:
    """How the query itself and images of its patient were kept out of the answers; the query itself always is.

    Attributes:
        same_patient: ``excluded`` or ``included``.
        queries_affected: Queries for which a gallery image was excluded.
        images_excluded: Gallery images excluded, summed over queries.
        queries_without_patient: Queries of which the patient isn't known.
    """

    same_patient: Literal["excluded", "included"]
    queries_affected: int
    images_excluded: int
    queries_without_patient: int


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
        classes: Distinct first values of the label field among the queries.
        classes_without_gallery: Those of which no query has a relevant image in the gallery.
        exclusion: What a query may not find.
        measures: Names.
        k: Cutoffs.
        search: The searches compared.
        ef: HNSW beam width of the approximate search, None without one.
        version: Of cbmir.
    """

    collection: str
    store: str
    vectors: int
    indexed: int
    queries: Side
    gallery: Side
    label: str
    classes: int
    classes_without_gallery: tuple[str, ...]
    exclusion: Exclusion
    measures: tuple[str, ...]
    k: tuple[int, ...]
    search: tuple[str, ...]
    ef: int | None
    version: str = cbmir.__version__


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """The result of a retrieval measurement.

    Attributes:
        setting: What was measured, and on which terms.
        encoder: What made the vectors.
        rows: The figures; ``pandas.DataFrame(report.rows)`` makes a frame of them.
    """

    setting: Setting
    encoder: EncoderCard
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON takes it; a mean without any query is null."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["value"] = None if math.isnan(row["value"]) else row["value"]
        encoder = {**self.encoder.as_json(), "fingerprint": self.encoder.fingerprint}
        return {"protocol": asdict(self.setting), "encoder": encoder, "rows": rows}

    def write_csv(self, path: Path) -> None:
        """Write the rows, each with what it is a result of, so that the files of several encoders can be joined.

        Raises:
            CbmirError: the file can't be written.
        """
        setting = self.setting
        terms = {
            "collection": setting.collection,
            "encoder": self.encoder.name,
            "fingerprint": self.encoder.fingerprint,
            "label": setting.label,
            "queries": setting.queries.filter,
            "gallery": setting.gallery.filter,
            "same_patient": setting.exclusion.same_patient,
            "version": setting.version,
        }
        try:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow([*(item.name for item in fields(Row)), *terms])
                for row in self.rows:
                    values = ("" if isinstance(item, float) and math.isnan(item) else item for item in astuple(row))
                    writer.writerow([*values, *terms.values()])
        except OSError as error:
            raise CbmirError(f"can't write {path}: {error.strerror}") from error

    def table(self) -> str:
        """The report for people: the terms, then measures and cutoffs in columns."""
        return "\n".join([*self._terms(), "", *self._figures()])

    def _terms(self) -> Iterator[str]:
        setting, encoder, exclusion = self.setting, self.encoder, self.setting.exclusion
        yield f"collection  {setting.collection}: {setting.vectors:,} images, {setting.store}, cbmir {setting.version}"
        yield f"encoder     {encoder.name}, {encoder.dim} dimensions, fingerprint {encoder.fingerprint}"
        yield f"queries     {_side(setting.queries)}; {setting.queries.unlabelled:,} without {setting.label} left out"
        yield f"gallery     {_side(setting.gallery)}; {setting.gallery.unlabelled:,} of them without {setting.label}"
        yield f"relevant    who shares a value of {setting.label}; the queries have {setting.classes:,} classes"
        if missing := setting.classes_without_gallery:
            yield f"uncovered   {len(missing):,} classes have no relevant gallery image: {_few(missing)}"
        yield (
            f"excluded    the query itself{' and its patient' if exclusion.same_patient == 'excluded' else ''}: "
            f"{exclusion.images_excluded:,} images for {exclusion.queries_affected:,} queries; "
            f"{exclusion.queries_without_patient:,} queries without patient_id"
        )
        yield f"search      {'; '.join(_search(name, setting) for name in setting.search)}"

    def _figures(self) -> Iterator[str]:
        setting = self.setting
        deepest = max(setting.k)
        columns = [(measure, k) for measure in setting.measures for k in (*setting.k, 0)]  # 0: how many queries
        cells = {(row.group, row.average, row.search, row.measure, row.k): row for row in self.rows}
        groups = list(dict.fromkeys(row.group for row in self.rows))
        lines = list(dict.fromkeys((row.group, row.average, row.search, row.coverage) for row in self.rows))
        lines.sort(key=lambda line: (groups.index(line[0]), line[1] == "macro"))  # the searches one below the other
        wide = max(len(line[0]) for line in lines)
        head = "".join(f"  {measure:<{7 * len(setting.k) + 7}}" for measure in setting.measures)
        yield f"{'':{wide}}  {'':7}  {'':11}{head}".rstrip()
        head = "".join(f"{f'@{k}' if k else 'n':>{7 if k else 9}}" for _, k in columns)
        yield f"{'group':{wide}}  {'average':7}  {'search':11}{head}  coverage"
        for group, average, search, coverage in lines:
            figures = ""
            for measure, k in columns:
                row = cells[group, average, search, measure, k or deepest]
                figures += f"{_figure(row.value):>7}" if k else f"{row.n:>9,}"
            yield f"{group:{wide}}  {average:7}  {search:11}{figures}  {coverage:>8.4f}"


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _side(side: Side) -> str:
    return f"{side.filter}: {side.images:,} images of {_few(tuple(side.datasets))}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _search(name: str, setting: Setting) -> str:
    if name == "exact":
        return "exact, a scan of all vectors"
    return f"approximate, ef {setting.ef}, {setting.indexed:,} of {setting.vectors:,} vectors in the HNSW graph"
