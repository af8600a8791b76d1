"""``cbmir collections prune``."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cbmir.collections.prune.prune import ALLOWED, prune
from cbmir.filters import Where
from cbmir.options import echo, filter_options, json_option, opened, print_json, say, store_option
from cbmir.terminal import on_one_line


@click.command("prune")
@click.argument("name")
@store_option
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the stored images.",
)
@click.option("--yes", is_flag=True, help="Remove them; without it they are only listed.")
@click.option(
    "--allow-missing",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help=f"With --yes: how many of the files may be gone. {ALLOWED:.0f} unless given, and then no whole top folder.",
)
@filter_options
@json_option
def prune_(name: str, location: str, root: Path, where: Where, as_json: bool, **options: Any) -> None:
    """List the images whose files are gone, and remove them with --yes.

    The filter options choose which images are looked at. Where not one file is found nothing is removed: then the
    folder is another. Where more than 10% of them are missing, or all of a top folder, --allow-missing is needed.
    """
    remove, allowed = options["yes"], options["allow_missing"]
    with opened(location) as store, store.open(name) as collection:
        report = prune(collection, root, where, remove=remove, allow_missing=allowed)
    if as_json:
        print_json(asdict(report))
        return
    for id, path in report.gone:
        echo(f"{id}  {on_one_line(path)}")
    say(str(report))
