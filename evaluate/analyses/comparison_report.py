"""What a comparison of collections found: a row a pair and figure, and the terms without which they are no result."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from cbmir.evaluate.header import Header, Omission, PatientCounts
from cbmir.evaluate.results import Asked, Average, TabularResult, figure, row_json
from cbmir.evaluate.setting import Intervals, Setting
from cbmir.evaluate.significance import least_draws
from cbmir.units import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRow:
    """One figure of two collections; both means are over the queries that have a value in both.

    Attributes:
        first: Name of a collection.
        second: Name of the other.
        measure: Name of a measure.
        k: Its cutoff.
        average: ``micro``, the mean over queries, or ``macro``, the mean over classes of the class means.
        first_value: The mean of the first.
        second_value: The mean of the second.
        difference: The first less the second.
        low: Lower end of the difference's 95% interval, drawn over patients; NaN where there is none.
        high: Upper end.
        p: Two-sided, of the paired randomisation test over patients; NaN without draws.
        p_holm: The same, adjusted for all tests of the table.
        n: Queries in the means.
        wins: Queries on which the first scores higher.
        ties: Queries on which both score the same.
        losses: Queries on which the second scores higher.
        patients: Of the queries in the means; queries without a patient id aren't counted.
        test: Number of its test: rows of one number can only have one p-value, such as those of a micro and a macro
            mean over one class, and count once in Holm's correction.
    """

    first: str
    second: str
    measure: str
    k: int
    average: Average
    first_value: float
    second_value: float
    difference: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    n: int
    wins: int
    ties: int
    losses: int
    patients: int = 0
    test: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """What a collection brought to a comparison.

    Attributes:
        collection: Its name.
        encoder: Name of its encoder.
        fingerprint: Of that encoder.
        queries: Queries it has.
        queries_left_out: Those of them that another collection lacks, or has without a label.
        unlabelled: Queries without a label here: left out, and not among `queries`, unless they take part as a class.
        relabelled: Shared queries of another class than in the first collection, whose classes count.
        gallery: Images it was searched for.
        gallery_alone: Those of them that are not in every gallery.
        gallery_unlabelled: Those of them that have no label here.
        queries_without_relevant: Queries that have no relevant image in the gallery.
    """

    collection: str
    encoder: str
    fingerprint: str
    queries: int
    queries_left_out: int
    unlabelled: int
    relabelled: int
    gallery: int
    gallery_alone: int
    gallery_unlabelled: int = 0
    queries_without_relevant: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class ComparisonReport(TabularResult):
    """The result of a comparison.

    Attributes:
        setting: The terms, as the first collection met them.
        entries: The collections, in the order given.
        queries: Queries that all of them share.
        clusters: Patients among these, and queries without one.
        rows: A row a pair, measure, cutoff and average.
        alone: Of the clusters, queries without a patient.
        asked: What it is the answer to.
    """

    setting: Setting
    entries: tuple[Entry, ...]
    queries: int
    clusters: int
    rows: tuple[CompareRow, ...]
    alone: int = 0
    asked: Asked | None = None

    @property
    def same_gallery(self) -> bool:
        """Whether all collections were searched for the same images; else figures don't compare one to one."""
        return not any(entry.gallery_alone for entry in self.entries)

    @property
    def tests(self) -> int:
        """Tests that Holm's correction took together."""
        return len({row.test for row in self.rows if not math.isnan(row.p)})

    @property
    def intervals(self) -> Intervals:
        """How sure the differences are: of the queries that all collections share."""
        return replace(self.setting.intervals, clusters=self.clusters, alone=self.alone)

    @property
    def draws_needed(self) -> int:
        """Draws with which the smallest corrected p-value can reach .05; 0 where these are enough."""
        needed = least_draws(self.tests)
        return needed if needed > self.setting.intervals.draws else 0

    @property
    def shared(self) -> PatientCounts:
        """Patients of the queries that all collections share."""
        return PatientCounts(self.clusters - self.alone, self.alone)

    @property
    def header(self) -> Header:
        """What the result says first; images are counted once a collection."""

        def total(name: str) -> int:
            return sum(getattr(entry, name) for entry in self.entries)

        return Header(
            label=self.setting.label,
            unlabelled=self.setting.unlabelled,
            without_label={"queries": total("unlabelled"), "gallery": total("gallery_unlabelled")},
            left_out=(
                Omission("queries_not_shared", total("queries_left_out"), "query", "that not all collections share"),
                Omission(
                    "gallery_not_shared", total("gallery_alone"), "gallery image", "that not all collections share"
                ),
                Omission(
                    "queries_without_relevant",
                    total("queries_without_relevant"),
                    "query",
                    "without a relevant gallery image, all collections together",
                ),
            ),
            patients={"queries": self.shared},
            queries_with_copies=self.setting.queries_with_copies,
            further_labels=self.setting.header.further_labels,
            patients_by=self.setting.patients_by,
            ids_in_several_datasets=self.setting.ids_in_several_datasets,
            scope=f"counted in each of the {len(self.entries):,} collections",
        )

    def content(self) -> dict[str, Any]:
        """The report as JSON takes it; a figure that doesn't exist is null."""
        setting = self.setting
        return {
            "protocol": {
                "queries": setting.queries.filter,
                "gallery": setting.gallery.filter,
                **self.header.as_json(),
                "relevance": setting.relevance,
                "relations": setting.relations,
                "excluded_by": setting.exclusion.by,
                "search": setting.search[0],
                "ef": setting.ef,
                "draws": setting.intervals.draws,
                "seed": setting.intervals.seed,
                "version": setting.version,
            },
            "collections": [asdict(entry) for entry in self.entries],
            "queries_shared": self.queries,
            "patients": self.clusters - self.alone,
            "queries_without_patient": self.alone,
            "same_gallery": self.same_gallery,
            "tests": self.tests,
            "draws_needed": self.draws_needed,
            "rows": [row_json(row) for row in self.rows],
        }

    def csv_rows(self) -> tuple[CompareRow, ...]:
        """A row a pair and value."""
        return self.rows

    def csv_terms(self) -> dict[str, object]:
        """Header, queries and gallery, and the encoders' fingerprints."""
        setting = self.setting
        return {
            **self.header.columns(),
            "queries": setting.queries.filter,
            "gallery": setting.gallery.filter,
            "excluded_by": " ".join(setting.exclusion.by),
            "same_gallery": self.same_gallery,
            "tests": self.tests,
            "fingerprints": " ".join(f"{entry.collection}:{entry.fingerprint}" for entry in self.entries),
            "version": setting.version,
        }

    def table(self) -> str:
        """The report for people: the terms, then a line a row."""
        return "\n".join([*self._terms(), "", *self._lines()])

    def _terms(self) -> Iterator[str]:
        setting = self.setting
        wide = max(11, *(len(entry.collection) for entry in self.entries))
        for entry in self.entries:
            yield (
                f"{entry.collection:{wide}} {entry.encoder}, fingerprint {entry.fingerprint}; {entry.queries:,} asked, "
                f"{entry.queries_left_out:,} not shared by all, {entry.unlabelled:,} "
                f"{'of them' if setting.unlabelled == 'include' else 'more'} without {setting.label}"
            )
            if entry.relabelled:
                yield f"{'':{wide}} queries of another class here than in the first: {entry.relabelled:,}"
        yield f"{'queries':{wide}} {setting.queries.filter}: {self.queries:,} shared"
        yield f"{'gallery':{wide}} {setting.gallery.filter}: {self._galleries()}"
        yield from (f"{term:{wide}} {text}" for term, text in self.header.pairs())
        excluded = " and ".join(["the query itself", *(f"its {name}" for name in setting.exclusion.by)])
        yield f"{'excluded':{wide}} {excluded}; search {setting.search[0]}, cbmir {setting.version}"
        if warning := setting.warning:
            yield f"{'WARNING':{wide}} {warning}"
        draws = setting.intervals.draws
        sureness = (
            f"paired randomisation over {self.shared.over}, {counted(draws, 'draw')}, seed {setting.intervals.seed}; "
            f"Holm's correction for {counted(self.tests, 'test')}; 95% intervals of the difference, which aren't "
            "corrected for the number of tests"
        )
        yield f"{'test':{wide}} {sureness if draws else 'none was asked for'}"
        if draws and self.draws_needed:
            least = min(1.0, self.tests / (draws + 1))
            yield (
                f"{'WARNING':{wide}} p Holm can't be below {least:.4f} with {counted(draws, 'draw')} and "
                f"{counted(self.tests, 'test')}; reaching .05 takes --draws {self.draws_needed} or fewer tests"
            )
        for line in self.intervals.lines():
            term, text = line[:11].rstrip(), line[12:]
            yield f"{term:{wide}} {text}"

    def _galleries(self) -> str:
        if self.same_gallery:
            return f"the same {counted(self.entries[0].gallery, 'image')}"
        alone = ", ".join(f"{entry.collection} {entry.gallery_alone:,} of {entry.gallery:,}" for entry in self.entries)
        return f"DIFFERENT images, figures don't compare one to one; not in every gallery: {alone}"

    def _lines(self) -> Iterator[str]:
        names = max(6, *(len(entry.collection) for entry in self.entries))
        measures = max(7, *(len(f"{row.measure}@{row.k}") for row in self.rows))
        yield (
            f"{'first':{names}}  {'second':{names}}  {'measure':{measures}}  average   first  second  difference"
            f"  {'95% interval':18}       p  p Holm         n  patients  win/tie/loss"
        )
        for row in self.rows:
            interval = "-" if math.isnan(row.low) else f"{figure(row.low, '+')} to {figure(row.high, '+')}"
            yield (
                f"{row.first:{names}}  {row.second:{names}}  {f'{row.measure}@{row.k}':{measures}}  {row.average:7}"
                f"  {figure(row.first_value):>6}  {figure(row.second_value):>6}  {figure(row.difference, '+'):>10}"
                f"  {interval:18}  {figure(row.p):>6}  {figure(row.p_holm):>6}  {row.n:>8,}  {row.patients:>8,}"
                f"  {row.wins:,}/{row.ties:,}/{row.losses:,}"
            )
