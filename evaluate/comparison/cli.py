"""``cbmir evaluate compare``: is one encoder better than another, or is it chance?"""

from pathlib import Path
from typing import Any

import click

from cbmir.options import filter_options, json_option, opened, print_json, store_option
from evaluate.comparison.compare import compare
from evaluate.metrics import METRICS
from evaluate.options import terms, terms_options, without
from evaluate.protocol import MAX_K, SEARCHES, RetrievalProtocol


@without("by")
@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="COLLECTION COLLECTION...")
@store_option
@terms_options
@click.option(
    "--measure",
    "measures",
    type=click.Choice(sorted(METRICS)),
    multiple=True,
    default=("precision_capped",),
    show_default=True,
    help="Repeatable; each adds to the tests that are corrected for.",
)
@click.option(
    "-k",
    type=click.IntRange(1, MAX_K),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Cutoff. Repeatable; each adds to the tests that are corrected for.",
)
@click.option("--search", type=click.Choice(SEARCHES), default=SEARCHES[0], show_default=True, help="See retrieval.")
@click.option(
    "--relations",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.yaml",
    help="Grades of pairs of labels for ndcg, instead of 1 modality, 2 region, 3 pathology.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the rows as CSV.")
@filter_options
@json_option
def compare_command(names: tuple[str, ...], location: str, as_json: bool, **options: Any) -> None:
    """Compare collections of a store with each other, on the queries that all of them have.

    The test swaps the scores of two collections at random, all queries of a patient together; its p-values are adjusted
    with Holm's method for all pairs, measures, cutoffs and averages of the table. The difference is that of the first
    less the second.
    """
    protocol = RetrievalProtocol(
        **terms({**options, "by": ()}),
        measures=tuple(dict.fromkeys(options["measures"])),
        k=tuple(sorted(set(options["k"]))),
        searches=(options["search"],),
        relations=options["relations"],
    )
    with opened(location) as store:
        report = compare(store, names, protocol)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table())
    if options["out"]:
        report.write_csv(options["out"])
