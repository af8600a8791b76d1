"""``cbmir evaluate probe``: how well a linear layer on the vectors tells classes apart."""

from pathlib import Path
from typing import Any

import click

from cbmir.evaluate.analyses.classification.cli import FILE, classifier_options
from cbmir.evaluate.analyses.classification.report import MEASURES
from cbmir.evaluate.analyses.probe.descent import ProbeSettings
from cbmir.evaluate.analyses.probe.measurement import ProbeTerms, evaluate_probe
from cbmir.evaluate.options import terms
from cbmir.evaluate.protocol import RetrievalProtocol, conditions
from cbmir.options import echo, opened_collection, print_json


@click.command()
@classifier_options
@click.option("--epochs", type=click.IntRange(1), default=100, show_default=True, help="At most.")
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Epochs without a better accuracy on --val after which training stops.",
)
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True, help="Of AdamW."
)
@click.option("--batch-size", type=click.IntRange(1), default=512, show_default=True, help="Images a step.")
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
@click.option("--curve", type=FILE, metavar="FILE", help="Write the learning curve as CSV.")
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
        epochs=options["epochs"],
        patience=options["patience"],
        batch=options["batch_size"],
        learning_rate=options["learning_rate"],
        seed=options["seed"],
        device=options["device"],
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
        echo(result.table())
    written = ((options["out"], result.report.write_csv), (options["confusion"], result.report.write_confusion))
    for path, write in (*written, (options["curve"], result.write_curve)):
        if path:
            write(path)
