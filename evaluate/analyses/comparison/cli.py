"""``cbmir evaluate compare``: is one encoder better than another, or is it chance?"""

from typing import Any

import click

from cbmir.evaluate.analyses.comparison.compare import compare
from cbmir.evaluate.options import measure_options, measured, out_option, terms, terms_options, without
from cbmir.evaluate.protocol import BOTH, RetrievalProtocol
from cbmir.evaluate.searchname import SearchName
from cbmir.options import echo, filter_options, json_option, opened, print_json, store_option


@without("by")
@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="COLLECTION COLLECTION...")
@store_option
@terms_options
@measure_options(("precision_capped",), (1,), "; each adds to the tests that are corrected for")
@click.option("--search", type=SearchName(), default=BOTH[0], show_default=True, help="See retrieval.")
@out_option
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
        **measured(options),
        searches=(options["search"],),
    )
    with opened(location) as store:
        report = compare(store, names, protocol)
    if as_json:
        print_json(report.as_json())
    else:
        echo(report.table())
    if options["out"]:
        report.write_csv(options["out"])
