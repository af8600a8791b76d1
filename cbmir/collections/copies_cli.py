"""``cbmir collections push | pull | export | import``: copies in another store, and as files."""

from pathlib import Path

import click

from cbmir.collections.refusals import told
from cbmir.collections.transfer import is_unused_version, put_off_index, transfer
from cbmir.filters import Where
from cbmir.options import (
    defer_option,
    filter_options,
    index_timeout_option,
    json_option,
    layout_options,
    opened,
    print_estimate,
    store_key,
    store_option,
)
from cbmir.store import Key, Layout
from cbmir.store.keys import FROM_KEY, TO_KEY


@click.command()
@click.argument("name")
@store_option
@click.option("--to", "target", required=True, metavar="DIR|URL", help=f"The other store; its key is in {TO_KEY}.")
@click.option("--as", "new_name", metavar="NAME", help="Name of the copy; the same unless given.")
@index_timeout_option
@layout_options
@defer_option
@json_option
def push(name: str, location: str, target: str, new_name: str | None, layout: Layout, **options: bool) -> int:
    """Copy a collection to another store, such as a server, without embedding again.

    An interrupted copy is finished by the same command. At the end the copy is indexed, counted, and a sample of it
    compared with the original. A version NAME__vN that no alias leads to yet is filled with --defer-index.
    """
    keys = store_key(), Key.of_other(TO_KEY, target, location)
    return _copy((name, location), (new_name or name, target), keys, layout, **options)


@click.command()
@click.argument("name")
@store_option
@click.option("--from", "origin", required=True, metavar="DIR|URL", help=f"The other store; its key is in {FROM_KEY}.")
@click.option("--as", "new_name", metavar="NAME", help="Name of the copy; the same unless given.")
@index_timeout_option
@layout_options
@json_option
def pull(name: str, location: str, origin: str, new_name: str | None, layout: Layout, as_json: bool) -> int:
    """Copy a collection from another store, such as a server, into this one; as push does."""
    keys = Key.of_other(FROM_KEY, origin, location), store_key()
    return _copy((name, origin), (new_name or name, location), keys, layout, as_json)


@click.command("export")
@click.argument("name")
@store_option
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="For the files.")
@filter_options
@json_option
def export_(name: str, location: str, folder: Path, where: Where, as_json: bool) -> int:
    """Write a collection as files for other programs: vectors.h5, records.parquet, collection.json.

    The filter options choose which images. An earlier export in DIR is replaced.
    """
    from cbmir.collections.exports import export  # h5py and pyarrow take their time

    with opened(location) as store, store.open(name) as collection:
        report = export(collection, folder, where)
    return told(report, as_json)


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@store_option
@click.option("--as", "new_name", metavar="NAME", help="Name of the collection; as it was unless given.")
@index_timeout_option
@layout_options
@json_option
def import_(folder: Path, location: str, new_name: str | None, layout: Layout, as_json: bool) -> int:
    """Fill a collection from what `export` wrote to DIR.

    The checksums come first. What is there already is left alone, so that an interrupted import is finished by the
    same command. At the end the collection is indexed, counted, and a sample of it compared with the files.
    """
    from cbmir.collections.exports import Export

    with Export(folder) as source, opened(location) as store:
        name, layout = new_name or source.name, layout.expecting(source.count() or None)
        print_estimate(store, name, source.card, layout)
        with store.open_or_create(name, source.card, layout) as made:
            report = transfer(source, made)
    return told(report, as_json)


def _copy(
    original: tuple[str, str],
    copy: tuple[str, str],
    keys: tuple[Key, Key],
    layout: Layout,
    as_json: bool,
    defer: bool = False,
) -> int:
    (name, origin), (new_name, target) = original, copy
    if origin.rstrip("/") == target.rstrip("/") and name == new_name:
        raise click.UsageError(f"{name} of {origin} can't be copied onto itself")
    with opened(origin, keys[0]) as store, opened(target, keys[1]) as other, store.open(name) as source:
        layout = layout.expecting(source.count() or None)
        print_estimate(other, new_name, source.card, layout)
        with other.open_or_create(new_name, source.card, layout) as made:
            if defer or is_unused_version(other, new_name):
                put_off_index(made, wanted=defer)
            report = transfer(source, made)
    return told(report, as_json)
