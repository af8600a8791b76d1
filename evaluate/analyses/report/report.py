"""``cbmir evaluate report``: all that is known of some collections on one page, with charts and values as files."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Annotated, Any

from pydantic import DirectoryPath, Field
from tqdm import tqdm

import cbmir
from cbmir.errors import CollectionError, ProtocolError
from cbmir.evaluate.analyses.comparison_report import ComparisonReport
from cbmir.evaluate.analyses.report.cases import look_for_pictures
from cbmir.evaluate.analyses.report.charts import Drawing
from cbmir.evaluate.analyses.report.embedding_map import MAP_IMAGES, MAPS
from cbmir.evaluate.analyses.report.figures import (
    Panel,
    Standing,
    chart_name,
    draw_curves,
    draw_groups,
    draw_panel,
    standings,
    table,
)
from cbmir.evaluate.analyses.report.findings import Finding, Measured, compare_measured, find
from cbmir.evaluate.analyses.report.terms import PRECISIONS, TITLE, ReportTerms
from cbmir.evaluate.analysis import Chosen, analysis
from cbmir.evaluate.configuration import Cutoffs, OneOf, Option
from cbmir.evaluate.options import Excluding, Grouped, OneSearch
from cbmir.evaluate.protocol import BOTH, RetrievalProtocol, wording
from cbmir.evaluate.results import PACKAGES, Asked, Result
from cbmir.extras import require
from cbmir.store import Store
from cbmir.units import counted


@dataclass(frozen=True, slots=True, repr=False)
class Report(Result):
    """All that is on the page.

    Attributes:
        terms: What was asked for.
        location: The store, without any key.
        moment: When it was made, UTC.
        findings: A collection each.
        comparison: Of those that could be measured; None where there are fewer than two.
        no_comparison: Why there is none; empty otherwise.
        standings: The table of encoders, in the order of the findings.
        curves: Precision by number of places; None where nothing could be measured.
        groups: Charts of bars.
        panels: The charts of each collection, in the order of the findings.
        versions: Of programs and engine.
        asked: What it is the answer to.
    """

    terms: ReportTerms
    location: str
    moment: datetime
    findings: tuple[Finding, ...]
    comparison: ComparisonReport | None
    no_comparison: str
    standings: tuple[Standing, ...]
    curves: Drawing | None
    groups: tuple[Drawing, ...]
    panels: tuple[Panel, ...]
    versions: dict[str, str]
    asked: Asked | None = None

    @property
    def measured(self) -> tuple[Measured, ...]:
        """What could be measured."""
        return tuple(item.measured for item in self.findings if item.measured)

    @property
    def unmeasured(self) -> tuple[Finding, ...]:
        """Collections without figures."""
        return tuple(item for item in self.findings if not item.measured)

    @property
    def ungrouped(self) -> tuple[str, ...]:
        """Fields without a chart of bars, as no query has a value of them."""
        drawn = {drawing.name for drawing in self.groups}
        return tuple(field for field in self.terms.deep.by if chart_name(field) not in drawn)

    @property
    def pictures(self) -> int:
        """Pictures on the page."""
        return self._tiles(drawn=True)

    @property
    def missing(self) -> int:
        """Pictures that could not be read; a frame with the reason stands for each."""
        return self._tiles(drawn=False)

    def drawings(self) -> Iterator[Drawing]:
        """All charts."""
        if self.curves:
            yield self.curves
        yield from self.groups
        for panel in self.panels:
            yield from (item for item in (panel.confusion, panel.plane) if item)

    def content(self) -> dict[str, Any]:
        """What was made, as JSON takes it."""
        return {
            "protocol": {
                "label": self.terms.protocol.label,
                "unlabelled": self.terms.protocol.unlabelled,
                "queries": wording(self.terms.protocol.queries),
                "gallery": wording(self.terms.protocol.gallery),
            },
            "collections": len(self.findings),
            "measured": len(self.measured),
            "queries": sum(item.retrieval.setting.queries.images for item in self.measured),
            "pictures": self.pictures,
            "pictures_missing": self.missing,
            "encoders": [row.as_json() for row in self.standings],
            "version": cbmir.__version__,
        }

    def frame_rows(self) -> list[dict[str, Any]]:
        """A row a figure of the table of encoders."""
        return [
            {"collection": row.collection, "encoder": row.encoder, **asdict(cell)}
            for row in self.standings
            for cell in row.cells
        ]

    def table(self) -> str:
        """The table of encoders for people, and how many images the page shows."""
        return f"{table(self.standings)}\n{counted(self.pictures, 'picture')}, {self.missing:,} could not be read"

    def write(self, out: Path) -> list[Path]:
        """Write the page and its files into a folder; the page comes first."""
        from cbmir.evaluate.analyses.report.files import write_report  # imports matplotlib

        return write_report(self, out)

    def shortcomings(self) -> list[str]:
        """Collections that could not be measured, and images that are missing unless that was allowed."""
        lines = [f"{item.collection} could not be measured: {item.reason}" for item in self.unmeasured]
        if self.missing and not self.terms.allow_missing:
            lines.append(
                f"{counted(self.missing, 'picture')} missing in the page: give --root FOLDER, or --allow-missing"
            )
        return lines

    def _tiles(self, *, drawn: bool) -> int:
        tiles = (tile for item in self.measured for case in item.cases for tile in (case.query, *case.hits))
        return sum(bool(tile.picture) == drawn for tile in tiles)


def make_report(
    store: Store, names: Sequence[str], terms: ReportTerms | None = None, moment: datetime | None = None
) -> Report:
    """Measure collections one after the other, compare them and draw the charts.

    A collection that can't be measured on these terms is in the report with the reason.

    Args:
        store: Holds the collections.
        names: Of collections; none for all of the store.
        terms: What is measured and shown.
        moment: For the head of the page; now, unless given.

    Raises:
        CollectionError: a collection doesn't exist, or the store holds none.
        SourceError: of a data set no image is where it should be; see `Shelf.check`.
        StoreError: the store can't be read.
    """
    terms = terms or ReportTerms()
    names = tuple(dict.fromkeys(names)) or tuple(store.names())
    if not names:
        raise CollectionError(f"{store.location} holds no collection yet")
    if terms.pictures and not terms.allow_missing:
        look_for_pictures(store, names, terms)
    findings = []
    for name in tqdm(names, desc="collections", unit="collection", leave=False, disable=None):
        findings.append(find(store, name, terms))
    comparison, no_comparison = _compared(findings, terms)
    measured = any(item.measured for item in findings)
    return Report(
        terms=terms,
        location=store.location,
        moment=(moment or datetime.now(UTC)).astimezone(UTC),
        findings=tuple(findings),
        comparison=comparison,
        no_comparison=no_comparison,
        standings=standings(findings, comparison, terms),
        curves=draw_curves(findings, terms) if measured else None,
        groups=tuple(draw_groups(findings, terms)) if measured else (),
        panels=tuple(draw_panel(item) for item in findings),
        versions=_versions(findings),
    )


def _compared(findings: Sequence[Finding], terms: ReportTerms) -> tuple[ComparisonReport | None, str]:
    measured = [item.measured for item in findings if item.measured]
    if len(measured) < 2:
        return None, f"A comparison takes two collections or more; {len(measured)} could be measured here."
    try:
        return compare_measured(measured, terms.cutoffs[-1]), ""
    except ProtocolError as error:
        return None, f"The collections can't be compared: {error}."


def _versions(findings: Sequence[Finding]) -> dict[str, str]:
    engines = ", ".join(dict.fromkeys(item.info.engine for item in findings))
    packages = {name: version(name) for name in (*PACKAGES, "matplotlib")}
    return {"cbmir": cbmir.__version__, "Python": python_version(), "engine": engines, **packages}


class ReportConfiguration(Grouped, Excluding):
    """What ``report`` can be asked."""

    root: Annotated[
        DirectoryPath | None, Option("Folder of the stored images.", default="where ingest read them", metavar="DIR")
    ] = None
    allow_missing: Annotated[bool, Option("Write the page although images of it can't be found.")] = False
    measure: Annotated[
        str,
        OneOf("precision", lambda: PRECISIONS),
        Option(
            "Precision of tables, curves and bars: over k rank positions, or over as many as there are relevant images "
            "(the paper's)."
        ),
    ] = PRECISIONS[0]
    k: Annotated[Cutoffs, Option("Cutoff of the tables; the bars take the smallest. Repeatable.", name="k")] = (
        1,
        5,
        10,
    )
    projection: Annotated[
        str,
        OneOf("map", lambda: MAPS),
        Option(
            f"How vectors are placed in the plane, {MAP_IMAGES:,} a collection at most; umap needs the package "
            "umap-learn.",
            name="map",
        ),
    ] = MAPS[0]
    pictures: Annotated[
        int,
        Field(ge=0),
        Option("Best queries, and as many worst, shown of each collection with their first hits; 0 for none."),
    ] = 6
    title: Annotated[str, Option("Of the page.")] = TITLE
    search: OneSearch = BOTH[0]

    @property
    def protocol(self) -> RetrievalProtocol:
        """The retrieval task."""
        return RetrievalProtocol(**self._terms(), measures=(self.measure,), searches=(self.search,))


@analysis("report", ReportConfiguration, "store", folder=True, decodes=True)
def report(chosen: Chosen, asked: ReportConfiguration) -> Result:
    """Write a page about collections, all of the store unless named: one HTML file that needs no network.

    It holds the table of encoders with intervals and paired tests, curves, bars for each group and class, the confusion
    of the kNN vote, a map of the vectors, and the images of the best and worst queries. So the file contains images of
    patients.

    If a collection can't be measured or an image can't be found, the report says why, and the exit code is 3.
    """
    require("matplotlib", "plots", "a report")
    from cbmir.evaluate.analyses.report.terms import ReportTerms

    terms = ReportTerms(
        protocol=asked.protocol,
        where=asked.where,
        root=asked.root,
        allow_missing=asked.allow_missing,
        projection=asked.projection,
        pictures=asked.pictures,
        title=asked.title,
    )
    return make_report(chosen.store, chosen.names, terms)
