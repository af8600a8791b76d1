"""The options of search commands, and what they ask for."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from cbmir.filters import Where
from cbmir.limit_options import image_limit_options
from cbmir.options import filter_options, json_option, store_option
from cbmir.search.output import FORMATS
from cbmir.search.query import ImageQuery, Options, Single, StoredQuery, TextQuery
from cbmir.store.ways import BUDGET_MS

F = TypeVar("F", bound=Callable[..., Any])

_WEIGHT = re.compile(r"(?:(\d+(?:\.\d+)?)\*)?(.*)", re.DOTALL)


def query_options(command: F) -> F:
    """What all search commands can be told."""
    for option in (
        json_option,
        image_limit_options,
        click.option("--allow-missing", is_flag=True, help="Draw a sheet although images of it can't be found."),
        click.option(
            "--caption",
            "captions",
            metavar="LIST",
            help="What stands below each image of a sheet: filename, patient, dataset, separated by commas.",
        ),
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            metavar="FOLDER",
            help="Folder of the stored images, for a sheet; where ingest read them unless given.",
        ),
        click.option(
            "--sheet",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Draw queries and hits as a .png, .jpg, .svg or .pdf.",
        ),
        click.option("--format", "form", type=click.Choice(list(FORMATS)), default="table", show_default=True),
        click.option(
            "--search-budget-ms",
            "budget_ms",
            type=click.FloatRange(0),
            default=BUDGET_MS,
            show_default=True,
            help="Don't compare all images that pass the filter where that is estimated to take longer; such an answer "
            "may be approximate, and cbmir says so.",
        ),
        click.option(
            "--approximate",
            "way",
            flag_value="approximate",
            help="Search by the HNSW graph alone, unchecked: fast, but a filter may cost it neighbours.",
        ),
        click.option("--exact", "way", flag_value="exact", help="Compare all images that pass the filter."),
        click.option(
            "--show",
            multiple=True,
            metavar="FIELD|COLUMN",
            help="Print this payload field or own column of each hit, too; --json has all of them. Repeatable.",
        ),
        click.option(
            "--labels",
            "say_labels",
            is_flag=True,
            help="Print the labels of the hits with their counts, beside those of the whole collection.",
        ),
        click.option(
            "--exclude-same-patient/--include-same-patient",
            default=True,
            show_default=True,
            help="Leave out stored images of the query's patient and study, where they are known.",
        ),
        click.option(
            "--group-by",
            metavar="FIELD|COLUMN",
            help="Only the best hit of each patient, study, series, or value of another field or column.",
        ),
        click.option(
            "--diversity",
            type=click.FloatRange(0, 1),
            help="How much hits shall differ from each other: 0 not at all, 1 as much as possible.",
        ),
        click.option("--min-score", type=click.FloatRange(-1, 1), help="Leave out hits below this cosine."),
        click.option(
            "--skip", type=click.IntRange(0), default=0, show_default=True, help="Hits to leave out at the top."
        ),
        filter_options,
        click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Hits a query."),
        click.option("--collection", "name", help="The only one there is unless given."),
        store_option,
    ):
        command = option(command)
    return command


def options_of(options: dict[str, Any]) -> Options:
    """How a command asks."""
    where: Where = options["where"]
    return Options(
        k=options["k"],
        where=where,
        exclude_same_patient=options["exclude_same_patient"],
        exclude_self=options.get("exclude_self", False),
        way=options["way"] or "auto",
        skip=options["skip"],
        min_score=options["min_score"],
        diversity=options["diversity"],
        group_by=options["group_by"],
    )


def examples_of(options: dict[str, Any]) -> Iterator[tuple[Single, float]]:
    """The examples of a query with their weights, below 0 for those to be unlike."""
    made: dict[str, Callable[[str], Single]] = {
        "image": lambda file: ImageQuery(Path(file)),
        "stored": StoredQuery,
        "text": TextQuery,
    }
    for kind, make in made.items():
        for name, sign in ((kind, 1.0), (f"not_{kind}", -1.0)):
            for given in options[name]:
                weight, what = _WEIGHT.fullmatch(given).groups()  # type: ignore[union-attr]  # it matches all texts
                yield make(what), sign * float(weight or 1)
