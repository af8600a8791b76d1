"""``cbmir evaluate classify`` and ``probe``: how well the vectors tell classes apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cbmir.options import filter_options, json_option, opened_collection, print_json, store_option
from evaluate.classify import VoteRules
from evaluate.descent import ProbeSettings
from evaluate.knn import MAX_K as TRIED
from evaluate.knn import KnnTerms, evaluate_classification
from evaluate.options import terms, terms_options
from evaluate.probing import ProbeTerms, evaluate_probe
from evaluate.protocol import MAX_K, SEARCHES, RetrievalProtocol, conditions
from evaluate.verdict_report import MEASURES
from evaluate.votes import TEMPERATURE, VOTES

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)


def _classifier_options(command: F) -> F:
    """What both commands take, besides `terms_options`."""
    for option in (
        json_option,
        filter_options,
        click.option("--confusion", type=_FILE, metavar="FILE", help="Write the confusion matrix as CSV."),
        click.option("--out", type=_FILE, metavar="FILE", help="Write the rows as CSV."),
        click.option(
            "--measure",
            "measures",
            type=click.Choice(MEASURES),
            multiple=True,
            default=MEASURES,
            help="Repeatable; all unless given.",
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
@_classifier_options
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
@click.option("--search", type=click.Choice(SEARCHES), default=SEARCHES[0], show_default=True, help="As in retrieval.")
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
        click.echo(report.table())
    for path, write in ((options["out"], report.write_csv), (options["confusion"], report.write_confusion)):
        if path:
            write(path)


@click.command()
@_classifier_options
@click.option("--epochs", type=click.IntRange(1), default=100, show_default=True, help="At most.")
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Epochs without a better accuracy on --val after which training stops.",
)
@click.option(
    "--shots", type=click.IntRange(1), multiple=True, metavar="N", help="Also train on N images a class. Repeatable."
)
@click.option("--draws-shots", type=click.IntRange(1), default=5, show_default=True, help="Draws of such images.")
@click.option(
    "--checkpoints",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the probe here after each epoch, and go on where an earlier run was stopped.",
)
@click.option("--curve", type=_FILE, metavar="FILE", help="Write the learning curve as CSV.")
def probe(location: str, name: str | None, as_json: bool, **options: Any) -> None:
    """Train a linear layer on the vectors of the gallery, and measure how well it tells the classes of the queries.

    Training sees the whole gallery: queries whose patient is in it are counted, not left out. The seed is also that of
    the training, the device its device.
    """
    for option in ("exclude", "include_same_patient"):
        if click.get_current_context().get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            text = option.replace("_", "-")
            raise click.UsageError(f"--{text} has no part in a probe, which learns from all of the gallery")
    protocol = RetrievalProtocol(**terms(options))
    settings = ProbeSettings(
        epochs=options["epochs"], patience=options["patience"], seed=options["seed"], device=options["device"]
    )
    chosen = ProbeTerms(
        settings=settings,
        val=conditions(options["val"]) + options["where"],
        measures=tuple(name for name in MEASURES if name in options["measures"]),
        shots=options["shots"],
        draws=options["draws_shots"],
        folder=options["checkpoints"],
    )
    with opened_collection(location, name) as collection:
        result = evaluate_probe(collection, protocol, chosen)
    if as_json:
        print_json(result.as_json())
    else:
        click.echo(result.table())
    written = ((options["out"], result.report.write_csv), (options["confusion"], result.report.write_confusion))
    for path, write in (*written, (options["curve"], result.write_curve)):
        if path:
            write(path)
