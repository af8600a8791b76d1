"""``cbmir collections export | import``."""

from pathlib import Path

import click

from cbmir.collections.refusals import told
from cbmir.collections.transfer.transfer import transfer
from cbmir.filters import Where
from cbmir.options import (
    filter_options,
    foretell,
    index_timeout_option,
    json_option,
    layout_options,
    opened,
    store_option,
)
from cbmir.store import Layout


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
    from cbmir.collections.exchange.exchange import export  # h5py and pyarrow take their time

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
    from cbmir.collections.exchange.exchange import Export

    with Export(folder) as source, opened(location) as store:
        name, layout = new_name or source.name, layout.expecting(source.count() or None)
        foretell(store, name, source.card, layout)
        with store.open_or_create(name, source.card, layout) as made:
            report = transfer(source, made)
    return told(report, as_json)
