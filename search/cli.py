"""``cbmir search``: the stored images most similar to an image, a stored image, or a vector."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np

from cbmir.encoders import EncoderSettings
from cbmir.errors import ImageError, SourceError
from cbmir.filters import Where, check_column, resolve, wording
from cbmir.limit_options import image_limit_options
from cbmir.options import (
    EXIT_FAILURES,
    asked_option,
    echo,
    encoder_options,
    filter_options,
    json_option,
    print_json,
    say,
    store_key,
    store_option,
)
from cbmir.schema import Vectors, normalise
from cbmir.search.files import check_queries, image_files, query_asset
from cbmir.search.output import FORMATS, as_json, shown_value
from cbmir.search.query import Options
from cbmir.search.searcher import Answer, Searcher
from cbmir.store.ways import BUDGET_MS, said
from cbmir.units import counted

if TYPE_CHECKING:
    from cbmir.search.sheet import SheetTerms
    from cbmir.search.shelf import Shelf

    Sheet = tuple[Shelf, SheetTerms]

F = TypeVar("F", bound=Callable[..., Any])


def _query_options(command: F) -> F:
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
@click.option(
    "--exclude-self", is_flag=True, help="Leave out stored images whose file has the same content as the query's."
)
@click.option(
    "--window",
    metavar="NAME|LO,HI",
    help="Of DICOM queries; that of the collection unless given. Another one needs --force.",
)
@click.option("--force", is_flag=True, help="Read DICOM queries with another window than the collection's.")
@_query_options
@asked_option
@encoder_options
def image(paths: Sequence[Path], settings: EncoderSettings, **options: Any) -> int:
    """Search by image files, or by all images below a folder."""
    from cbmir.media import noted, passed_over  # Pillow: a search by id needs none

    terms = _sheet_terms(options)
    files, ignored = image_files(paths)
    if not files:
        raise ImageError("; ".join((f"no image below {', '.join(map(str, paths))}", *passed_over(ignored))))
    for line in passed_over(ignored):
        say(line)
    check_queries(files)
    with _searcher(options, settings) as searcher:
        windows = searcher.use_window(options["window"], force=options["force"]) if options["window"] else None
        sheet = _sheet(searcher, terms, options)
        images = map(query_asset, files)
        answers = _checked(searcher, list(searcher.images(images, _query(options))), options)
    if windows:
        say(windows)
    for line in noted(Counter(note for answer in answers for note in answer.notes)):
        say(f"queries: {line}")
    if options["exclude_same_patient"] and (
        unknown := sum(not a.is_patient_known and a.reason is None for a in answers)
    ):
        say(f"patients not left out, as the query image is not stored: {unknown} of {counted(len(answers), 'query')}")
    return _print(answers, options, sheet)


@search.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_query_options
def like(ids: Sequence[str], **options: Any) -> int:
    """Search by images that are stored: their id, or data set and file path."""
    terms = _sheet_terms(options)
    with _searcher(options) as searcher:
        sheet = _sheet(searcher, terms, options)
        answers = _checked(searcher, [searcher.like(id, _query(options)) for id in ids], options)
    return _print(answers, options, sheet)


@search.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.npy")
@_query_options
def vector(file: Path, **options: Any) -> int:
    """Search by the (dim,) or (n, dim) vectors of a NumPy file, whatever made them."""
    terms = _sheet_terms(options)
    vectors = _read_vectors(file)
    with _searcher(options) as searcher:
        sheet = _sheet(searcher, terms, options)
        found = searcher.vectors(vectors, _query(options))
        named = [Answer(f"{file.name} row {row}", tuple(item.hits), way=item.way) for row, item in enumerate(found)]
        answers = _checked(searcher, named, options)
    return _print(answers, options, sheet)


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


def _query(options: dict[str, Any]) -> Options:
    where: Where = options["where"]
    exclude_self = options.get("exclude_self", False)
    return Options(options["k"], where, options["exclude_same_patient"], exclude_self, options["way"] or "auto")


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


def _print(answers: list[Answer], options: dict[str, Any], sheet: "Sheet | None") -> int:
    failed = [answer for answer in answers if answer.reason is not None]
    if answers and len(failed) == len(answers):
        first = f"{failed[0].query} can't be used: {failed[0].reason}"
        raise ImageError(first if len(failed) == 1 else f"none of {len(failed):,} queries can be used; {first}")
    if options["as_json"]:
        print_json(as_json(answers))
    else:
        echo(FORMATS[options["form"]](answers, options["show"]), exact=options["form"] != "table")
    say(f"searched {said(Counter(answer.way for answer in answers if answer.way))}")
    for answer in failed:
        say(f"failed: {answer.query} {answer.reason}")
    if sheet:
        from cbmir.search.sheet import draw_sheet

        drawn = draw_sheet(answers, *sheet)
        left_out = f"; hits beyond the first {drawn.hits} left out: {drawn.left_out:,}" if drawn.left_out else ""
        missing = f"; {counted(len(drawn.missing), 'image')} could not be drawn" if drawn.missing else ""
        say(f"{drawn.rows} of {counted(len(answers), 'query')} drawn to {options['sheet']}{left_out}{missing}")
    return EXIT_FAILURES if failed else 0
