"""``cbmir evaluate sweep``: how good is the encoder with a smaller gallery, and does more data still help?"""

from typing import Any

import click

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.sweep.galleries import UNITS, Size
from cbmir.evaluate.analyses.sweep.measurement import SIZES, SweepTerms, evaluate_sweep
from cbmir.evaluate.options import measure_options, measured, out_option, terms, terms_options
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.options import echo, filter_options, json_option, opened_collection, print_json, store_option


def _sizes(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[Size, ...]:
    try:
        return tuple(map(Size.read, texts))
    except ProtocolError as error:
        raise click.BadParameter(str(error)) from error


@click.command("sweep")
@store_option
@click.option("--collection", "name", metavar="NAME", help="Needed where the store holds several.")
@terms_options
@measure_options(("precision_capped", "precision"), (1, 10))
@click.option(
    "--size",
    "sizes",
    callback=_sizes,
    multiple=True,
    default=tuple(map(str, SIZES)),
    show_default=True,
    metavar="N|P%",
    help="Images in a smaller gallery, or their share of the whole one. Repeatable.",
)
@click.option(
    "--galleries",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Random galleries of each size; --seed is of these draws too.",
)
@click.option(
    "--unit",
    type=click.Choice(UNITS),
    default=UNITS[0],
    show_default=True,
    help="What is drawn; whole patients come as near to a size as they can, and an image without a patient id is drawn "
    "on its own.",
)
@out_option
@filter_options
@json_option
def sweep_command(location: str, name: str | None, as_json: bool, **options: Any) -> None:
    """Measure retrieval with smaller and smaller galleries, drawn at random from the whole one.

    Galleries of one draw are nested. Each is judged by itself: its relevant images, its coverage and its classes are
    those of a collection that holds nothing else. Read precision_capped and other measures that leave out queries
    without a right answer together with coverage: small galleries leave out the rare classes. The search is always
    exact, as an approximate index can't be made smaller. Intervals say how far other patients among the queries would
    move a figure; lowest and highest, how far other galleries of the size did.
    """
    protocol = RetrievalProtocol(
        **terms(options),
        **measured(options),
        searches=("exact",),
    )
    galleries = SweepTerms(sizes=options["sizes"], galleries=options["galleries"], unit=options["unit"])
    with opened_collection(location, name) as collection:
        report = evaluate_sweep(collection, protocol, galleries)
    if as_json:
        print_json(report.as_json())
    else:
        echo(report.table())
    if options["out"]:
        report.write_csv(options["out"])
