"""``cbmir evaluate report``: all that is known of some collections on one page."""

from typing import Annotated

from pydantic import DirectoryPath, Field

from cbmir.evaluate.analyses.report.embedding_map import MAP_IMAGES, MAPS
from cbmir.evaluate.analyses.report.terms import PRECISIONS, TITLE
from cbmir.evaluate.analysis import Chosen, analysis
from cbmir.evaluate.configuration import (
    Cutoffs,
    Excluding,
    Grouped,
    OneOf,
    Option,
)
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.evaluate.results import Result


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

    @property
    def protocol(self) -> RetrievalProtocol:
        """The retrieval task."""
        return RetrievalProtocol(**self._terms(), measures=(self.measure,), searches=("exact",))


@analysis("report", ReportConfiguration, "store", folder=True, decodes=True)
def report(chosen: Chosen, asked: ReportConfiguration) -> Result:
    """Write a page about collections, all of the store unless named: one HTML file that needs no network.

    It holds the table of encoders with intervals and paired tests, curves, bars for each group and class, the confusion
    of the kNN vote, a map of the vectors, and the images of the best and worst queries. So the file contains images of
    patients.

    If a collection can't be measured or an image can't be found, the report says why, and the exit code is 3.
    """
    from cbmir.evaluate.analyses.report.report import make_report
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
