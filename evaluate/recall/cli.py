"""``cbmir evaluate recall``: what the approximate search misses, and what it saves."""

from typing import Any

import click

from cbmir.options import json_option, opened_collection, print_json, store_option
from evaluate.options import out_option
from evaluate.protocol import MAX_K, conditions
from evaluate.recall.measurement import EFS, FILTERED, RecallTerms, measure_recall


@click.command("recall")
@store_option
@click.option("--collection", "name", metavar="NAME", help="Needed where the store holds several.")
@click.option("-k", type=click.IntRange(1, MAX_K), default=10, show_default=True, help="Neighbours a query.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="CONDITION",
    help="A row for this condition of the filter language, beside that without a filter. Repeatable. "
    f"[default: the most frequent value of {', '.join(FILTERED)}]",
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
@click.option("--count", type=click.IntRange(1), default=200, show_default=True, help="Queries: stored vectors.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw of queries.")
@out_option
@json_option
def recall_command(location: str, name: str | None, as_json: bool, **options: Any) -> None:
    """Compare the search that users get with a scan of all vectors: recall and time, by filter and by beam width.

    Queries are vectors drawn from the collection, asked one at a time; each may find itself.
    """
    filters = tuple(conditions([text]) for text in options["filters"]) or None
    terms = RecallTerms(
        filters=filters, efs=options["efs"], k=options["k"], count=options["count"], seed=options["seed"]
    )
    with opened_collection(location, name) as collection:
        report = measure_recall(collection, terms)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table())
    if options["out"]:
        report.write_csv(options["out"])
