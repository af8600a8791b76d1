"""``cbmir search``: the stored images most similar to an image, a stored image, or a vector."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from cbmir.encoders import EncoderSettings
from cbmir.errors import ImageError, SourceError
from cbmir.filters import check_column, resolve, wording
from cbmir.options import (
    EXIT_FAILURES,
    asked_option,
    echo,
    encoder_options,
    json_option,
    opened_collection,
    print_json,
    say,
    store_key,
    store_option,
)
from cbmir.schema import Vectors, normalise
from cbmir.search.answer import Answer
from cbmir.search.cautions import cautions
from cbmir.search.files import check_queries, image_files, query_asset
from cbmir.search.options import examples_of, options_of, query_options
from cbmir.search.output import FORMATS, as_json, shown_value
from cbmir.search.query import ImageQuery, TextQuery, WeightedQuery
from cbmir.search.searcher import Searcher
from cbmir.search.summary import LabelCount, label_counts, lines
from cbmir.search.thresholds import KEY, RATE, measure
from cbmir.store.ways import said
from cbmir.units import counted

if TYPE_CHECKING:
    from cbmir.search.sheet import SheetTerms
    from cbmir.search.shelf import Shelf

    Sheet = tuple[Shelf, SheetTerms]


@click.group()
def search() -> None:
    """Find the stored images most similar to an image, a stored image, a text, or several examples."""


@search.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH|DIR...")
@click.option(
    "--exclude-self", is_flag=True, help="Leave out stored images whose file has the same content as the query's."
)
@click.option(
    "--box",
    metavar="X,Y,WIDTH,HEIGHT",
    help="Ask for this region of each image, in pixels as a viewer shows it; a little around it is taken too.",
)
@click.option(
    "--window",
    metavar="NAME|LO,HI",
    help="Of DICOM queries; that of the collection unless given. Another one needs --force.",
)
@click.option("--force", is_flag=True, help="Read DICOM queries with another window than the collection's.")
@click.option("--as-one", is_flag=True, help="All images are one query, such as views of one patient: their average.")
@query_options
@asked_option
@encoder_options
def image(paths: Sequence[Path], settings: EncoderSettings, **options: Any) -> int:
    """Search by image files, or by all images below a folder."""
    from cbmir.media import Region, noted, passed_over  # Pillow: a search by id needs none

    terms = _sheet_terms(options)
    region = Region.read(options["box"]) if options["box"] else None
    files, ignored = image_files(paths)
    if not files:
        raise ImageError("; ".join((f"no image below {', '.join(map(str, paths))}", *passed_over(ignored))))
    for line in passed_over(ignored):
        say(line)
    check_queries(files)
    with _searcher(options, settings) as searcher:
        windows = searcher.dicom.use_window(options["window"], force=options["force"]) if options["window"] else None
        sheet = _sheet(searcher, terms, options)
        images = [query_asset(file) for file in files]
        if options["as_one"]:
            views = WeightedQuery(tuple((ImageQuery(item, region), 1.0) for item in images))
            answers = _checked(searcher, list(searcher.ask(views, options_of(options))), options)
        else:
            answers = _checked(searcher, list(searcher.images(images, options_of(options), region)), options)
        labels = _labels(searcher, answers, options)
    if windows:
        say(windows)
    for line in noted(Counter(note for answer in answers for note in answer.notes)):
        say(f"queries: {line}")
    return _print(answers, options, sheet, labels)


@search.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@query_options
def like(ids: Sequence[str], **options: Any) -> int:
    """Search by images that are stored: their id, or data set and file path."""
    terms = _sheet_terms(options)
    with _searcher(options) as searcher:
        sheet = _sheet(searcher, terms, options)
        answers = _checked(searcher, [searcher.like(id, options_of(options)) for id in ids], options)
        labels = _labels(searcher, answers, options)
    return _print(answers, options, sheet, labels)


@search.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@query_options
@asked_option
@encoder_options
def text(texts: Sequence[str], settings: EncoderSettings, **options: Any) -> int:
    """Search by texts, each a query of its own, with an encoder that has a text tower."""
    terms = _sheet_terms(options)
    with _searcher(options, settings) as searcher:
        sheet = _sheet(searcher, terms, options)
        found = [answer for item in texts for answer in searcher.ask(TextQuery(item), options_of(options))]
        answers = _checked(searcher, found, options)
        labels = _labels(searcher, answers, options)
    return _print(answers, options, sheet, labels)


@search.command()
@click.option("--image", "image", multiple=True, metavar="FILE", help="An image to be like. Repeatable.")
@click.option("--stored", multiple=True, metavar="ID", help="A stored image to be like. Repeatable.")
@click.option("--text", "text", multiple=True, metavar="TEXT", help="A text to be like. Repeatable.")
@click.option("--not-image", multiple=True, metavar="FILE", help="An image to be unlike. Repeatable.")
@click.option("--not-stored", multiple=True, metavar="ID", help="A stored image to be unlike. Repeatable.")
@click.option("--not-text", multiple=True, metavar="TEXT", help="A text to be unlike. Repeatable.")
@click.option(
    "--mix",
    type=click.Choice(["ranks", "vectors"]),
    default="ranks",
    show_default=True,
    help="How texts and images come together: ranked apart and fused by rank, or averaged.",
)
@query_options
@asked_option
@encoder_options
def examples(settings: EncoderSettings, **options: Any) -> int:
    """Search by several examples at once, to be like or to be unlike.

    A weight can stand before each, such as --image 2*a.png.
    """
    terms = _sheet_terms(options)
    query = WeightedQuery(tuple(examples_of(options)), options["mix"])
    with _searcher(options, settings) as searcher:
        sheet = _sheet(searcher, terms, options)
        answers = _checked(searcher, list(searcher.ask(query, options_of(options))), options)
        labels = _labels(searcher, answers, options)
    return _print(answers, options, sheet, labels)


@search.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.npy")
@query_options
def vector(file: Path, **options: Any) -> int:
    """Search by the (dim,) or (n, dim) vectors of a NumPy file, whatever made them."""
    terms = _sheet_terms(options)
    vectors = _read_vectors(file)
    with _searcher(options) as searcher:
        sheet = _sheet(searcher, terms, options)
        found = searcher.vectors(vectors, options_of(options))
        named = [Answer(f"{file.name} row {row}", tuple(item.hits), way=item.way) for row, item in enumerate(found)]
        answers = _checked(searcher, named, options)
        labels = _labels(searcher, answers, options)
    return _print(answers, options, sheet, labels)


@search.command()
@click.option("--collection", "name", help="The only one there is unless given.")
@click.option(
    "--rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=RATE,
    show_default=True,
    help="False alarms: share of images that have a similar case and are said to have none.",
)
@store_option
@json_option
def thresholds(location: str, name: str | None, rate: float, as_json: bool) -> None:
    """Measure below which cosine there is no similar case, by modality and region; searches say so from then on.

    Groups of fewer than 50 patients are not judged. Run it again when the collection has changed.
    """
    with opened_collection(location, name) as collection:
        measured = measure(collection, rate)
        collection.set_metadata({KEY: measured.as_json()})
    if as_json:
        print_json(measured.as_json())
        return
    echo(f"{'modality and region':32}  {'images':>9}  {'patients':>8}  {'asked':>5}  threshold")
    for group in measured.groups:
        shown = "not enough patients" if group.threshold is None else f"{group.threshold:.4f}"
        echo(f"{group.name:32}  {group.images:>9,}  {group.patients:>8,}  {group.queries:>5}  {shown}")


def _searcher(options: dict[str, Any], settings: EncoderSettings | None = None) -> Searcher:
    consistency = os.environ.get("CBMIR_READ_CONSISTENCY") or None
    return Searcher(options["location"], options["name"], settings, store_key(), options["budget_ms"], consistency)


def _checked(searcher: Searcher, answers: list[Answer], options: dict[str, Any]) -> list[Answer]:
    """The answers, if what ``--show`` names exists; the collection is read only where no hit has it."""
    if options["show"] and options["form"] == "csv" and not options["as_json"]:
        raise click.UsageError("--format csv holds paths only; --show needs table, csv-long or --json")
    for name in options["show"]:
        if not any(shown_value(hit.payload, name) for answer in answers for hit in answer.hits):
            check_column(name, searcher.collection)
    return answers


def _sheet_terms(options: dict[str, Any]) -> "SheetTerms | None":
    """What the sheet is to be, checked before anything is opened; None where there is to be none."""
    if not options["sheet"]:
        idle = {"root": "--root", "captions": "--caption", "allow_missing": "--allow-missing"}
        for name, option in idle.items():
            if options[name]:
                raise click.UsageError(f"{option} is for a sheet: give --sheet FILE too")
        return None
    from cbmir.search.sheet import SheetTerms

    captions = tuple(item.strip() for item in (options["captions"] or "").split(",") if item.strip())
    return SheetTerms(path=options["sheet"], captions=captions, allow_missing=options["allow_missing"])


def _sheet(searcher: Searcher, terms: "SheetTerms | None", options: dict[str, Any]) -> "Sheet | None":
    """The sheet with where its images are, looked for before the search."""
    if terms is None:
        return None
    from cbmir.search.shelf import Shelf

    collection, where = searcher.collection, options["where"]
    shelf = Shelf(collection, options["root"])
    if not terms.allow_missing:
        shelf.check(resolve(where, collection))
    card = collection.card
    filtered = f", {wording(where)}" if where else ""
    title = f"{collection.name}: nearest by cosine of {card.name} {card.fingerprint}{filtered}"
    return shelf, replace(terms, title=title)


def _read_vectors(file: Path) -> Vectors:
    try:
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            raise ValueError("an archive of several arrays")
        vectors = np.atleast_2d(loaded).astype(np.float32)
    except OSError as error:
        raise SourceError(f"can't read vectors from {file}: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError) as error:
        reason = "it is no NumPy file (.npy) with one array of numbers"
        raise SourceError(f"can't read vectors from {file}: {reason}") from error
    return normalise(vectors)


def _labels(searcher: Searcher, answers: list[Answer], options: dict[str, Any]) -> list[list[LabelCount]]:
    """The labels of the hits of each query, where they are to be printed."""
    if not (options["say_labels"] or options["as_json"]):
        return []
    return [label_counts(answer.hits, searcher.collection) for answer in answers]


def _print(
    answers: list[Answer], options: dict[str, Any], sheet: "Sheet | None", labels: list[list[LabelCount]]
) -> int:
    failed = [answer for answer in answers if answer.reason is not None]
    if answers and len(failed) == len(answers):
        first = f"{failed[0].query} can't be used: {failed[0].reason}"
        raise ImageError(first if len(failed) == 1 else f"none of {len(failed):,} queries can be used; {first}")
    if options["as_json"]:
        both = zip(as_json(answers), labels, strict=True)
        print_json([{**item, "labels": [count.as_json() for count in counts]} for item, counts in both])
    else:
        echo(FORMATS[options["form"]](answers, options["show"]), exact=options["form"] != "table")
        for answer, counts in zip(answers, labels, strict=False):
            for line in (answer.query, *lines(counts, len(answer.hits))):
                say(line)
    say(f"searched {said(Counter(answer.way for answer in answers if answer.way))}")
    for caution in cautions(answers):
        say(caution)
    for answer in failed:
        say(f"failed: {answer.query} {answer.reason}")
    if sheet:
        from cbmir.search.sheet import draw_sheet

        drawn = draw_sheet(answers, *sheet)
        left_out = f"; hits beyond the first {drawn.hits} left out: {drawn.left_out:,}" if drawn.left_out else ""
        missing = f"; {counted(len(drawn.missing), 'image')} could not be drawn" if drawn.missing else ""
        say(f"{drawn.rows} of {counted(len(answers), 'query')} drawn to {options['sheet']}{left_out}{missing}")
    return EXIT_FAILURES if failed else 0
