"""``cbmir collections``: what a store holds."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cbmir.errors import StoreError
from cbmir.filters import Where
from cbmir.options import (
    EXIT_FAILURES,
    encoder_options,
    filter_options,
    json_option,
    opened,
    print_json,
    say,
    store_option,
)
from cbmir.store import Collection
from cbmir.store.prune import prune
from cbmir.store.transfer import transfer

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
    failed = [row for row in rows if "error" in row]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            if row not in failed:
                click.echo(f"{row['name']:32} {row['points']:>10,}  {row['encoder']['name']}  {row['fingerprint']}")
    for row in failed:
        say(f"failed: {row['name']}: {row['error']}")
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
    if as_json:
        print_json(data)
        return
    encoder = data["encoder"]
    click.echo(
        f"{name}: {data['points']:,} images, {data['indexed']:,} in the HNSW graph, {data['status']}, {data['engine']}"
    )
    click.echo(f"encoder {encoder['name']}, {encoder['dim']} dimensions, weights {encoder['weights'][:19]}")
    click.echo(f"fingerprint {data['fingerprint']}")
    for field, counts in data["counts"].items():
        click.echo(f"\n{field}")
        for value, count in counts.items():
            click.echo(f"  {value:40} {count:>10,}")


@collections.command()
@click.argument("name")
@store_option
@click.option("--yes", is_flag=True, help="Don't ask.")
def drop(name: str, location: str, yes: bool) -> None:
    """Delete a collection and all it holds."""
    with opened(location) as store:
        if not yes:
            click.confirm(f"Delete {name} of {location} for good?", abort=True, err=True)
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


@collections.command()
@click.argument("name")
@store_option
def optimize(name: str, location: str) -> None:
    """Build the index that makes searches fast; ingest does it at its end unless it was interrupted."""
    with opened(location) as store, store.open(name) as collection:
        collection.finish()
        info = collection.info()
    say(f"{name}: {info.points:,} images, {info.indexed:,} in the HNSW graph, {info.status}")


@collections.command()
@click.argument("name")
@store_option
@click.option("--encoder", required=True, help="Whose vectors it will hold, see `cbmir encoders list`.")
@click.option("--next", "beside", is_flag=True, help="A new version beside the one in use, on a server.")
@encoder_options
def create(name: str, location: str, encoder: str, beside: bool, **options: Any) -> None:
    """Make an empty collection with its indexes.

    Ingest does so itself where its key may; on a server whose key for ingest may write but not create, do it first.
    With --next: fill the new version under the name that is printed, then promote it.
    """
    from cbmir.encoders import EncoderSettings, get

    weights = Path(options["weights"]) if options["weights"] else None
    settings = EncoderSettings(weights, options["device"], options["precision"], options["batch_size"])
    card = get(encoder, settings).card
    with opened(location) as store:
        if beside:
            from cbmir.store.versions import begin

            name = begin(store, name, card)
        else:
            store.create(name, card).close()
    click.echo(name)


@collections.command("versions")
@click.argument("name")
@store_option
@json_option
def versions_(name: str, location: str, as_json: bool) -> None:
    """Print the versions of a collection on a server, the newest first; * is the one in use."""
    from cbmir.store.versions import versions

    with opened(location) as store:
        found = versions(store, name)
    if as_json:
        print_json([asdict(item) for item in found])
        return
    for item in found:
        mark = "*" if item.current else " "
        click.echo(f"{mark} {item.name:34} {item.points:>10,}  {item.status:7} {item.fingerprint or 'not of cbmir'}")


@collections.command("promote")
@click.argument("version")
@store_option
def promote_(version: str, location: str) -> None:
    """Let NAME lead to the version NAME__vN, at once for all readers."""
    from cbmir.store.versions import promote

    with opened(location) as store:
        name = promote(store, version)
    say(f"{name} is {version} now")


@collections.command("rollback")
@click.argument("name")
@store_option
def rollback_(name: str, location: str) -> None:
    """Let NAME lead to the version before the one in use."""
    from cbmir.store.versions import rollback

    with opened(location) as store:
        version = rollback(store, name)
    say(f"{name} is {version} now")


@collections.command()
@click.argument("name")
@store_option
@click.option("--to", "target", required=True, metavar="DIR|URL", help="The other store.")
@click.option("--as", "new_name", metavar="NAME", help="Name of the copy; the same unless given.")
@json_option
def push(name: str, location: str, target: str, new_name: str | None, as_json: bool) -> None:
    """Copy a collection to another store, such as a server, without embedding again.

    An interrupted copy is finished by the same command. At the end the copy is indexed, counted, and a sample of it
    compared with the original.
    """
    _copy(name, location, target, new_name or name, as_json)


@collections.command()
@click.argument("name")
@store_option
@click.option("--from", "origin", required=True, metavar="DIR|URL", help="The other store.")
@click.option("--as", "new_name", metavar="NAME", help="Name of the copy; the same unless given.")
@json_option
def pull(name: str, location: str, origin: str, new_name: str | None, as_json: bool) -> None:
    """Copy a collection from another store, such as a server, into this one; as push does."""
    _copy(name, origin, location, new_name or name, as_json)


def _copy(name: str, origin: str, target: str, new_name: str, as_json: bool) -> None:
    if origin.rstrip("/") == target.rstrip("/") and name == new_name:
        raise click.UsageError(f"{name} of {origin} can't be copied onto itself")
    with (
        opened(origin) as store,
        opened(target) as other,
        store.open(name) as source,
        other.open_or_create(new_name, source.card) as made,
    ):
        report = transfer(source, made)
    if as_json:
        print_json(asdict(report))
    else:
        click.echo(str(report))


def _head(collection: Collection) -> dict[str, Any]:
    info = collection.info()
    return {
        "points": info.points,
        "indexed": info.indexed,
        "status": info.status,
        "engine": info.engine,
        "fingerprint": collection.card.fingerprint,
        "encoder": collection.card.as_json(),
    }
