"""``cbmir ingest thumbnails``, and the options that say where thumbnails go."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cbmir.filters import Where
from cbmir.ingest.console import failed
from cbmir.ingest.thumbnails.existing import set_thumbnails
from cbmir.ingest.thumbnails.place import MODE, Place, open_place
from cbmir.limit_options import image_limit_options
from cbmir.options import EXIT_INTERRUPTED, filter_options, json_option, opened, print_json, say, store_option

F = TypeVar("F", bound=Callable[..., Any])


def thumbnail_options(required: bool = False) -> Callable[[F], F]:
    """``--thumbnails``, ``--thumbnail-url`` and ``--thumbnail-mode``, passed as `place`; None without the first two."""

    def with_options(command: F) -> F:
        @functools.wraps(command)
        def with_place(*args: Any, **options: Any) -> Any:
            folder, url, mode = (options.pop(name) for name in ("thumbnails", "thumbnail_url", "thumbnail_mode"))
            if (folder is None) != (url is None):
                raise click.UsageError("give --thumbnails DIR and --thumbnail-url BASE, or neither")
            place = None if folder is None or url is None else open_place(folder, url, mode)
            return command(*args, place=place, **options)

        wrapped: Any = click.option(
            "--thumbnail-mode",
            default=f"{MODE:04o}",
            show_default=True,
            metavar="OCTAL",
            callback=lambda _context, _option, text: _mode(text),
            help="Rights of the thumbnails; a web server of another user needs to read them.",
        )(with_place)
        wrapped = click.option(
            "--thumbnail-url",
            required=required,
            metavar="BASE",
            help="Absolute http(s) URL under which a web server shows DIR; it is stored with each image.",
        )(wrapped)
        wrapped = click.option(
            "--thumbnails",
            required=required,
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Folder for a small JPEG of each image, which pages such as the Qdrant Web UI can show.",
        )(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return with_options


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[67][0-7]{2}", text) or int(text, 8) & 0o111:
        raise click.BadParameter(f"{text!r} is no mode of a file that you can read and write; give 0644, 0640 or 0600")
    return int(text, 8)


@click.command("thumbnails")
@click.argument("name")
@store_option
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the stored images.",
)
@thumbnail_options(required=True)
@click.option("--workers", type=click.IntRange(1), help="Decoding processes; one a core unless given.")
@click.option(
    "--failures", type=click.Path(path_type=Path), help="CSV of what failed; failures-thumbnails-NAME.csv unless given."
)
@image_limit_options
@filter_options
@json_option
def thumbnails_(name: str, location: str, root: Path, place: Place, as_json: bool, **options: Any) -> int:
    """Draw small pictures of the images in a collection, and set their URLs, without embedding again.

    Images that have theirs are passed over: an interrupted run is finished by the same command. The filter options
    choose which images get one.
    """
    where: Where = options["where"]
    with opened(location) as store, store.open(name) as collection:
        report = set_thumbnails(collection, root, place, where, options["workers"])
    say(str(report))
    if as_json:
        print_json(report.as_json())
    code = failed(report.failures, options["failures"] or Path(f"failures-thumbnails-{name}.csv"))
    if report.interrupted:
        say("interrupted; run the same command again to go on")
        return EXIT_INTERRUPTED
    return code
