"""``cbmir collections``: what a store holds."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cbmir.collections.backups_cli import restore_, salvage_, snapshot_, verify_
from cbmir.collections.columns import index_columns, source_lines
from cbmir.collections.copies_cli import export_, import_, pull, push
from cbmir.collections.prune import ALLOWED, prune
from cbmir.collections.versions_cli import promote_, rollback_, versions_
from cbmir.errors import StoreError
from cbmir.filters import Where
from cbmir.options import (
    EXIT_FAILURES,
    CardChoice,
    card_options,
    echo,
    filter_options,
    index_timeout_option,
    json_option,
    layout_options,
    opened,
    print_json,
    say,
    store_option,
)
from cbmir.store import Collection, Layout
from cbmir.store.layout import announcement
from cbmir.store.sources import SPELLINGS, sources_of
from cbmir.terminal import on_one_line, shown
from cbmir.units import counted

_SHOWN = ("dataset", "split", "modality", "anatomic_region", "primary_label")


@click.group()
def collections() -> None:
    """List, show, make, index, copy, switch and drop collections."""


@collections.command("list")
@store_option
@json_option
def list_(location: str, as_json: bool) -> int:
    """Print the collections of a store with their encoder and count."""
    rows: list[dict[str, Any]] = []
    with opened(location) as store:
        for name in store.names():
            try:
                with store.open(name) as collection:
                    rows.append({"name": name, **_head(collection)})
            except StoreError as error:  # one that is in use or damaged doesn't hide the others
                rows.append({"name": name, "error": str(error)})
        remains = store.remains()
    failed = [row for row in rows if "error" in row]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            if row not in failed:
                echo(f"{row['name']:32} {row['points']:>10,}  {row['encoder']['name']}  {row['fingerprint']}")
    for row in failed:
        say(f"failed: {row['name']}: {row['error']}")
    for line in remains:
        say(f"left over: {line}")
    if not rows:
        exists = "://" in location or Path(location).exists()
        say(f"{location} holds no collection yet" if exists else f"there is no {location} yet; ingest makes it")
    return EXIT_FAILURES if failed else 0


@collections.command()
@click.argument("name")
@store_option
@json_option
def show(name: str, location: str, as_json: bool) -> None:
    """Print a collection: encoder, counts, and images by data set, split, modality, region and label."""
    with opened(location) as store, store.open(name) as collection:
        data = {"name": name, **_head(collection), "counts": {field: collection.facet(field) for field in _SHOWN}}
        metadata = collection.metadata()
        data |= {"sources": sources_of(metadata), "modalities": metadata.get(SPELLINGS) or {}}
    if as_json:
        print_json(data)
        return
    encoder = data["encoder"]
    echo(f"{name}: {counted(data['points'], 'image')}, {data['search']}, {data['status']}, {data['engine']}")
    echo(f"encoder {encoder['name']}, {encoder['dim']} dimensions, weights {encoder['weights'][:19]}")
    echo(f"fingerprint {data['fingerprint']}")
    for line in source_lines(data["sources"], data["modalities"]):
        echo(line)
    for field, counts in data["counts"].items():
        echo(f"\n{field}")
        for value, count in counts.items():
            echo(f"  {value:40} {count:>10,}")


@collections.command()
@click.argument("name")
@store_option
@card_options("Whose vectors it will hold, see `cbmir encoders list`.", required=True)
@click.option("--next", "beside", is_flag=True, help="A new version beside the one in use, on a server.")
@layout_options
def create(name: str, location: str, choice: CardChoice, beside: bool, layout: Layout) -> None:
    """Make an empty collection with its indexes.

    Ingest does so itself where its key may; on a server whose key for ingest may write but not create, do it first.
    --dim N makes it for vectors from files, which no encoder of cbmir made.
    With --next: fill the new version under the name that is printed, then promote it.
    """
    card = choice.card()
    say(announcement(layout, card.dim))
    with opened(location) as store:
        if beside:
            from cbmir.collections.versions import begin

            name = begin(store, name, card, layout)
        else:
            store.create(name, card, layout).close()
    echo(name)


@collections.command()
@click.argument("name")
@index_timeout_option
@store_option
def optimize(name: str, location: str) -> None:
    """Build the index that makes searches fast; ingest does it at its end unless it was interrupted."""
    with opened(location) as store, store.open(name) as collection:
        collection.finish()
        info = collection.info()
        profile = collection.profile
    say(f"{name}: {counted(info.points, 'image')}, {info.indexing(collection.card.dim)}, {info.status}")
    if profile:
        say(profile.summary())


@collections.command("index")
@click.argument("name")
@click.argument("columns", nargs=-1, required=True, metavar="COLUMN...")
@store_option
def index_(name: str, columns: tuple[str, ...], location: str) -> None:
    """Make payload indexes for own columns, so that filters by them are fast; a server in strict mode needs them."""
    with opened(location) as store, store.open(name) as collection:
        for line in index_columns(collection, columns):
            say(line)


@collections.command()
@click.argument("name")
@store_option
@click.option("--yes", is_flag=True, help="Don't ask.")
def drop(name: str, location: str, yes: bool) -> None:
    """Delete a collection and all it holds."""
    with opened(location) as store:
        if not yes:
            click.confirm(shown(f"Delete {name} of {location} for good?"), abort=True, err=True)
        store.drop(name)
    say(f"{name} is gone")


@collections.command("prune")
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


def _head(collection: Collection) -> dict[str, Any]:
    info = collection.info()
    return {
        "points": info.points,
        "indexed": info.indexed,
        "search": info.indexing(collection.card.dim),
        "status": info.status,
        "engine": info.engine,
        "fingerprint": collection.card.fingerprint,
        "encoder": collection.card.as_json(),
    }


for _command in (
    *(versions_, promote_, rollback_),
    *(push, pull, export_, import_),
    *(snapshot_, restore_, verify_, salvage_),
):
    collections.add_command(_command)
