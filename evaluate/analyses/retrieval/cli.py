"""``cbmir evaluate retrieval``: how well the nearest images rank."""

from pathlib import Path
from typing import Any

import click

from cbmir.evaluate.analyses.retrieval.export import write_long, write_wide
from cbmir.evaluate.analyses.retrieval.measurement import measure, summarise
from cbmir.evaluate.options import measure_options, measured, out_option, terms, terms_options
from cbmir.evaluate.protocol import BOTH, RetrievalProtocol
from cbmir.evaluate.searchname import SearchName
from cbmir.options import echo, filter_options, json_option, opened_collection, print_json, store_option


@click.command()
@store_option
@click.option("--collection", "name", metavar="NAME", help="Needed where the store holds several.")
@terms_options
@measure_options(("precision_capped", "precision"), (1, 3, 5, 10))
@click.option(
    "--search",
    type=SearchName("both"),
    default="both",
    show_default=True,
    help="exact: a scan of all vectors; approximate or qdrant: the search that users get; qdrant-exact: a scan by the "
    "engine; both: exact and approximate.",
)
@out_option
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the neighbours of the first search, .csv or .parquet: a row a query, its path and those of its hits.",
)
@click.option(
    "--export-long",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The same with a row a hit: rank, cosine, relevance, ids and paths.",
)
@filter_options
@json_option
def retrieval(location: str, name: str | None, as_json: bool, **options: Any) -> None:
    """Measure the ranking of the nearest gallery images, over queries and over classes.

    The filter options narrow queries and gallery alike. A query never finds itself, and finds no image of its own
    patient unless asked to. Queries without a right answer in the gallery score 0 in precision, and are left out where
    the measure is 0/0 for them; coverage is the share of the others.
    """
    search = options["search"]
    protocol = RetrievalProtocol(
        **terms(options),
        **measured(options),
        searches=BOTH if search == "both" else (search,),
    )
    with opened_collection(location, name) as collection:
        measurement = measure(collection, protocol)
        report = summarise(measurement)
        for path, write in ((options["export"], write_wide), (options["export_long"], write_long)):
            if path:
                write(collection, measurement, path)
    if as_json:
        print_json(report.as_json())
    else:
        echo(report.table())
    if options["out"]:
        report.write_csv(options["out"])
