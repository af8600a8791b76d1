"""``cbmir collections prune``."""

from dataclasses import asdict
from pathlib import Path

import click

from cbmir.collections.prune.prune import prune
from cbmir.filters import Where
from cbmir.options import filter_options, json_option, opened, print_json, say, store_option


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
@filter_options
@json_option
def prune_(name: str, location: str, root: Path, yes: bool, where: Where, as_json: bool) -> None:
    """List the images whose files are gone, and remove them with --yes.

    The filter options choose which images are looked at. Where not one file is found nothing is removed: then the
    folder is another.
    """
    with opened(location) as store, store.open(name) as collection:
        report = prune(collection, root, where, remove=yes)
    if as_json:
        print_json(asdict(report))
        return
    for id, path in report.gone:
        click.echo(f"{id}  {path}")
    say(str(report))
