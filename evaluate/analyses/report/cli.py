"""``cbmir evaluate report``: all that is known of some collections on one page."""

from pathlib import Path
from typing import Any

import click

from cbmir.evaluate.analyses.report.embedding_map import MAP_IMAGES, MAPS
from cbmir.evaluate.analyses.report.terms import PRECISIONS, TITLE, ReportTerms
from cbmir.evaluate.options import terms, terms_options
from cbmir.evaluate.protocol import MAX_K, RetrievalProtocol
from cbmir.limit_options import image_limit_options
from cbmir.options import EXIT_FAILURES, echo, filter_options, json_option, opened, print_json, say, store_option
from cbmir.units import counted


@click.command("report")
@click.argument("names", nargs=-1, metavar="[COLLECTION]...")
@store_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Gets report.html, csv/ and png/.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the stored images; where ingest read them unless given.",
)
@click.option("--allow-missing", is_flag=True, help="Write the page although images of it can't be found.")
@terms_options
@click.option(
    "--measure",
    type=click.Choice(PRECISIONS),
    default=PRECISIONS[0],
    show_default=True,
    help="Of tables, curves and bars: over k places, or over as many as could be right (the paper's).",
)
@click.option(
    "-k",
    type=click.IntRange(1, MAX_K),
    multiple=True,
    default=(1, 5, 10),
    show_default=True,
    help="Cutoff of the tables; the bars take the smallest. Repeatable.",
)
@click.option(
    "--map",
    "projection",
    type=click.Choice(MAPS),
    default=MAPS[0],
    show_default=True,
    help=f"Lays vectors into the plane, {MAP_IMAGES:,} a collection at most; umap needs the package umap-learn.",
)
@click.option(
    "--pictures",
    type=click.IntRange(0),
    default=6,
    show_default=True,
    help="Best queries, and as many worst, shown of each collection with their first hits; 0 for none.",
)
@click.option("--title", default=TITLE, show_default=True, help="Of the page.")
@image_limit_options
@filter_options
@json_option
def report_command(names: tuple[str, ...], location: str, as_json: bool, **options: Any) -> int | None:
    """Write a page about collections, all of the store unless named: one HTML file that needs no network.

    It holds the table of encoders with intervals and paired tests, curves, bars a group and class, the confusion of the
    kNN vote, a map of the vectors, and the best and worst queries as pictures. Pictures of patients are in the file.

    A collection that can't be measured, and an image that can't be found, is in the report with the reason; the exit
    code is then 3.
    """
    from cbmir.evaluate.analyses.report.files import (
        write_report,  # imports matplotlib, which the other commands needn't wait for
    )
    from cbmir.evaluate.analyses.report.report import make_report

    chosen = ReportTerms(
        protocol=RetrievalProtocol(
            **terms(options), measures=(options["measure"],), k=tuple(sorted(set(options["k"]))), searches=("exact",)
        ),
        where=options["where"],
        root=options["root"],
        allow_missing=options["allow_missing"],
        projection=options["projection"],
        pictures=options["pictures"],
        title=options["title"],
    )
    with opened(location) as store:
        report = make_report(store, names, chosen)
    files = write_report(report, options["out"])
    if as_json:
        print_json({"files": [str(path) for path in files], **report.as_json()})
    else:
        echo(report.table())
        echo(f"{files[0]}: {counted(report.pictures, 'picture')}, {report.missing:,} could not be read")
    for finding in report.unmeasured:
        say(f"{finding.collection} could not be measured: {finding.reason}")
    incomplete = bool(report.missing) and not chosen.allow_missing
    if incomplete:
        say(f"{counted(report.missing, 'picture')} missing in the page: give --root FOLDER, or --allow-missing")
    return EXIT_FAILURES if report.unmeasured or incomplete else None
