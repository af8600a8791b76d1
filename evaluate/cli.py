"""``cbmir evaluate``: how well a collection retrieves."""

from pathlib import Path
from typing import Any

import click

from cbmir.filters import Where
from cbmir.options import filter_options, json_option, opened_collection, print_json, store_option
from evaluate.metrics import METRICS
from evaluate.protocol import LABELS, MAX_K, SEARCHES, RetrievalProtocol, conditions
from evaluate.retrieval import evaluate_retrieval

_CONDITIONS = "Condition of the filter language, or 'all'. Repeatable, all must hold."


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def evaluate() -> None:
    """Measure how well a collection retrieves."""


@evaluate.command()
@store_option
@click.option("--collection", "name", metavar="NAME", help="Needed where the store holds several.")
@click.option(
    "--queries",
    multiple=True,
    default=("split=test",),
    show_default=True,
    metavar="CONDITION",
    help=f"Who asks. {_CONDITIONS} The published protocol has 'split=test|val'.",
)
@click.option(
    "--gallery",
    multiple=True,
    default=("split=train",),
    show_default=True,
    metavar="CONDITION",
    help=f"What is searched. {_CONDITIONS}",
)
@click.option(
    "--label",
    type=click.Choice(LABELS),
    default=LABELS[0],
    show_default=True,
    help="Images that share a value of this field are relevant to each other.",
)
@click.option(
    "--measure",
    "measures",
    type=click.Choice(sorted(METRICS)),
    multiple=True,
    default=("precision_capped", "precision"),
    show_default=True,
    help="Repeatable.",
)
@click.option(
    "-k",
    type=click.IntRange(1, MAX_K),
    multiple=True,
    default=(1, 3, 5, 10),
    show_default=True,
    help="Cutoff. Repeatable.",
)
@click.option(
    "--search",
    type=click.Choice([*SEARCHES, "both"]),
    default="both",
    show_default=True,
    help="A scan of all vectors, the search that users get, or both.",
)
@click.option("--include-same-patient", is_flag=True, help="Let a query find images of its own patient.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the rows as CSV.")
@filter_options
@json_option
def retrieval(location: str, name: str | None, as_json: bool, out: Path | None, where: Where, **terms: Any) -> None:
    """Measure precision of the nearest gallery images, over queries and over classes.

    The filter options narrow queries and gallery alike. A query never finds itself, and finds no image of its own
    patient unless asked to. Queries without a right answer in the gallery score 0 in precision, and are left out of
    precision_capped, which is 0/0 for them; coverage is the share of the others.
    """
    protocol = RetrievalProtocol(
        queries=conditions(terms["queries"]) + where,
        gallery=conditions(terms["gallery"]) + where,
        label=terms["label"],
        measures=tuple(dict.fromkeys(terms["measures"])),
        k=tuple(sorted(set(terms["k"]))),
        searches=SEARCHES if terms["search"] == "both" else (terms["search"],),
        same_patient=terms["include_same_patient"],
    )
    with opened_collection(location, name) as collection:
        report = evaluate_retrieval(collection, protocol)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table())
    if out:
        report.write_csv(out)
