"""``cbmir search``: the stored images most similar to an image, a stored image, or a vector."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from cbmir.encoders import EncoderSettings
from cbmir.errors import ImageError, SourceError
from cbmir.filters import Where
from cbmir.options import (
    EXIT_FAILURES,
    echo,
    encoder_options,
    filter_options,
    json_option,
    print_json,
    say,
    store_option,
)
from cbmir.schema import Vectors, normalise
from cbmir.store.ways import BUDGET_MS, said
from search.output import FORMATS, as_json
from search.searcher import Answer, Query, Searcher, image_files

F = TypeVar("F", bound=Callable[..., Any])


def _query_options(command: F) -> F:
    for option in (
        json_option,
        click.option("--sheet", type=click.Path(path_type=Path), metavar="PNG", help="Draw query and hits."),
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            default=".",
            show_default=True,
            help="Folder of the stored images.",
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
        click.option("--exclude-same-patient", is_flag=True, help="Leave out stored images of the query's patient."),
        filter_options,
        click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Hits a query."),
        click.option("--collection", "name", help="The only one there is unless given."),
        store_option,
    ):
        command = option(command)
    return command


@click.group()
def search() -> None:
    """Find the stored images most similar to an image, a stored image, or a vector."""


@search.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH|DIR...")
@_query_options
@encoder_options
def image(paths: Sequence[Path], settings: EncoderSettings, **options: Any) -> int:
    """Search by image files, or by all images below a folder."""
    from cbmir.media import noted, passed_over  # Pillow: a search by id needs none

    files, ignored = image_files(paths)
    if not files:
        raise ImageError("; ".join((f"no image below {', '.join(map(str, paths))}", *passed_over(ignored))))
    for line in passed_over(ignored):
        say(line)
    with _searcher(options, settings) as searcher:
        answers = list(searcher.images(files, _query(options)))
        window_hu = searcher.collection.card.window_hu
    for line in noted(Counter(note for answer in answers for note in answer.notes)):
        say(f"queries: {line}")
    if options["exclude_same_patient"] and (unknown := sum(a.stored is None and a.reason is None for a in answers)):
        say(f"{unknown} of {len(answers)} query images are not stored, so their patients are unknown and not left out")
    return _print(answers, options, window_hu)


@search.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_query_options
def like(ids: Sequence[str], **options: Any) -> int:
    """Search by images that are stored: their id, or data set and file path."""
    with _searcher(options) as searcher:
        answers = [searcher.like(id, _query(options)) for id in ids]
        window_hu = searcher.collection.card.window_hu
    return _print(answers, options, window_hu)


@search.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.npy")
@_query_options
def vector(file: Path, **options: Any) -> int:
    """Search by the (dim,) or (n, dim) vectors of a NumPy file, whatever made them."""
    vectors = _read_vectors(file)
    with _searcher(options) as searcher:
        answers = searcher.vectors(vectors, _query(options))
        window_hu = searcher.collection.card.window_hu
    named = [Answer(f"{file.name} row {row}", tuple(found.hits), way=found.way) for row, found in enumerate(answers)]
    return _print(named, options, window_hu)


def _searcher(options: dict[str, Any], settings: EncoderSettings | None = None) -> Searcher:
    return Searcher(
        options["location"],
        options["name"],
        settings,
        os.environ.get("QDRANT_API_KEY") or None,
        options["budget_ms"],
        os.environ.get("CBMIR_READ_CONSISTENCY") or None,
    )


def _query(options: dict[str, Any]) -> Query:
    where: Where = options["where"]
    return Query(options["k"], where, options["exclude_same_patient"], options["way"] or "auto")


def _read_vectors(file: Path) -> Vectors:
    try:
        vectors = np.atleast_2d(np.load(file, allow_pickle=False)).astype(np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"can't read vectors from {file}: {error}") from error
    return normalise(vectors)


def _print(answers: list[Answer], options: dict[str, Any], window_hu: tuple[float, float] | None) -> int:
    failed = [answer for answer in answers if answer.reason is not None]
    if answers and len(failed) == len(answers):
        raise ImageError(f"no query could be used; the first, {failed[0].query}, {failed[0].reason}")
    if options["as_json"]:
        print_json(as_json(answers))
    else:
        echo(FORMATS[options["form"]](answers), exact=options["form"] != "table")
    say(f"searched {said(Counter(answer.way for answer in answers if answer.way))}")
    if options["sheet"]:
        from search.sheet import draw_sheet

        drawn = draw_sheet(answers, options["root"], options["sheet"], window_hu)
        missing = f", {drawn.missing} pictures not found below --root {options['root']}" if drawn.missing else ""
        say(f"{drawn.rows} of {len(answers)} queries drawn to {options['sheet']}{missing}")
    for answer in failed:
        say(f"failed: {answer.query} {answer.reason}")
    return EXIT_FAILURES if failed else 0
