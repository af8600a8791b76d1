"""``cbmir evaluate classify``: how well the nearest images tell classes apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cbmir.evaluate.analyses.classification.classify import VoteRules
from cbmir.evaluate.analyses.classification.knn import MAX_K as TRIED
from cbmir.evaluate.analyses.classification.knn import KnnTerms, evaluate_classification
from cbmir.evaluate.analyses.classification.report import MEASURES
from cbmir.evaluate.analyses.classification.votes import TEMPERATURE, VOTES
from cbmir.evaluate.options import out_option, terms, terms_options
from cbmir.evaluate.protocol import BOTH, MAX_K, RetrievalProtocol, conditions
from cbmir.evaluate.searchname import SearchName
from cbmir.options import echo, filter_options, json_option, opened_collection, print_json, store_option

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)


def classifier_options(command: F) -> F:
    """What commands that tell classes apart take, besides `terms_options`."""
    for option in (
        json_option,
        filter_options,
        click.option("--confusion", type=FILE, metavar="FILE", help="Write the confusion matrix as CSV."),
        out_option,
        click.option(
            "--measure",
            "measures",
            type=click.Choice(MEASURES),
            multiple=True,
            default=MEASURES,
            help="Repeatable; all unless given. With several labels an image, accuracy is exact_match_accuracy.",
        ),
        click.option(
            "--val",
            multiple=True,
            default=("split=val",),
            show_default=True,
            metavar="CONDITION",
            help="The validation images. Condition of the filter language. Repeatable, all must hold.",
        ),
        terms_options,
        click.option("--collection", "name", metavar="NAME", help="Needed where the store holds several."),
        store_option,
    ):
        command = option(command)
    return command


@click.command()
@classifier_options
@click.option("--vote", type=click.Choice(VOTES), default=VOTES[0], show_default=True, help="How neighbours count.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    default=TEMPERATURE,
    show_default=True,
    help="Of the softmax vote.",
)
@click.option("-k", type=click.IntRange(1, MAX_K), help="Neighbours that vote; chosen on --val unless given.")
@click.option(
    "--max-k", type=click.IntRange(1, MAX_K), default=TRIED, show_default=True, help="The largest k that is tried."
)
@click.option(
    "--protocol",
    "rules",
    type=click.Choice(("default", "paper")),
    default="default",
    show_default=True,
    help="paper: as many neighbours vote as the gallery has images of the true class, and k is one below the best, as "
    "in the published program; for comparison only, its figures are too high.",
)
@click.option("--search", type=SearchName(), default=BOTH[0], show_default=True, help="As in retrieval.")
def classify(location: str, name: str | None, as_json: bool, **options: Any) -> None:
    """Measure how well the nearest gallery images tell the classes of the queries.

    Each query gets the class that most of its k nearest gallery images have. The filter options narrow queries, gallery
    and validation images alike. A query never finds itself, and finds no image of its own patient unless asked to.
    Where images have several values of the label, each is a question of its own.
    """
    rules = VoteRules(
        vote=options["vote"], temperature=options["temperature"], k=options["k"], paper=options["rules"] == "paper"
    )
    protocol = RetrievalProtocol(**terms(options), searches=(options["search"],))
    chosen = KnnTerms(
        rules=rules,
        max_k=options["max_k"],
        val=conditions(options["val"]) + options["where"],
        measures=tuple(name for name in MEASURES if name in options["measures"]),
    )
    with opened_collection(location, name) as collection:
        report = evaluate_classification(collection, protocol, chosen)
    if as_json:
        print_json(report.as_json())
    else:
        echo(report.table())
    for path, write in ((options["out"], report.write_csv), (options["confusion"], report.write_confusion)):
        if path:
            write(path)
