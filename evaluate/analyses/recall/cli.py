"""``cbmir evaluate recall``: what the approximate search misses, and what it saves."""

from typing import Any

import click

from cbmir.evaluate.analyses.recall.cases import FILTERED
from cbmir.evaluate.analyses.recall.measurement import EFS, RecallTerms, measure_recall
from cbmir.evaluate.options import out_option
from cbmir.evaluate.protocol import MAX_K, conditions
from cbmir.options import echo, json_option, opened_collection, print_json, store_option


@click.command("recall")
@store_option
@click.option("--collection", "name", metavar="NAME", help="Needed where the store holds several.")
@click.option("-k", type=click.IntRange(1, MAX_K), default=10, show_default=True, help="Neighbours a query.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="CONDITION",
    help="Measure this filter beside no filter; join conditions by ' and '. Repeatable. "
    f"[default: the most frequent value of {', '.join(FILTERED)}, pairs of them, another modality and region than the "
    "query's, and all images but those of the query's patient]",
)
@click.option(
    "--ef",
    "efs",
    type=click.IntRange(1),
    multiple=True,
    default=EFS,
    show_default=True,
    help="Width of the HNSW beam to try without a filter; the engine takes k where it is less. Repeatable.",
)
@click.option(
    "--queries", metavar="FILTER", default="all", show_default=True, help="Stored images that queries are drawn from."
)
@click.option("--count", type=click.IntRange(1), default=200, show_default=True, help="Queries: stored vectors.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw of queries.")
@out_option
@json_option
def recall_command(location: str, name: str | None, as_json: bool, **options: Any) -> None:
    """Compare the default search, and the HNSW graph alone, with a scan of all vectors: recall and time by filter.

    Queries are vectors drawn from the collection, asked one at a time; each may find itself.
    """
    filters = tuple(conditions(text.split(" and ")) for text in options["filters"]) or None
    terms = RecallTerms(
        filters=filters,
        queries=conditions(options["queries"].split(" and ")),
        efs=options["efs"],
        k=options["k"],
        count=options["count"],
        seed=options["seed"],
    )
    with opened_collection(location, name) as collection:
        report = measure_recall(collection, terms)
    if as_json:
        print_json(report.as_json())
    else:
        echo(report.table())
    if options["out"]:
        report.write_csv(options["out"])
