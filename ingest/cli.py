"""``cbmir ingest``: images or embeddings into a collection."""

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cbmir.dicomcard import claim
from cbmir.encoders import EncoderSettings, given
from cbmir.encoders.registry import check_given
from cbmir.ingest.console import NeededToStore, dry_run_code, dry_run_option, failed, finish, seen_by, show_readings
from cbmir.ingest.deferred import open_or_defer
from cbmir.ingest.dicom_cli import dicom_options, where_, write_audit
from cbmir.ingest.embeddings import EmbeddingsFiles, images_of, ingest_embeddings
from cbmir.ingest.path_options import no_links_option, path_prefix_option
from cbmir.ingest.pipeline import ingest_images
from cbmir.ingest.reindex.cli import reindex_
from cbmir.ingest.remembering import wanted_indexes, with_indexes
from cbmir.ingest.shard import Shard, open_in_turn
from cbmir.ingest.sources import GIVEN_FIELDS, SourceOptions, open_source
from cbmir.ingest.sources.dicom import DicomSource
from cbmir.ingest.tables.options import TableOptions, table_options
from cbmir.ingest.thumbnails.cli import thumbnail_options, thumbnails_
from cbmir.limit_options import image_limit_options, table_limit_options
from cbmir.modalities import MODALITIES
from cbmir.options import (
    defer_option,
    echo,
    encoder_options,
    index_timeout_option,
    json_option,
    layout_options,
    opened,
    own_name_option,
    print_estimate,
    print_json,
    say,
    store_option,
)
from cbmir.paths import PathPrefixes
from cbmir.store import Collection
from cbmir.store.identity import default_name
from cbmir.units import counted
from cbmir.vectorfile import write_embeddings

_EXISTING = click.Path(path_type=Path)
_store_option = partial(store_option, cls=NeededToStore)


@click.group()
def ingest() -> None:
    """Embed images, or take embeddings, into a collection.

    Running the same command again goes on where the last run ended: what is stored is not embedded again.
    """


@ingest.command()
@click.argument("source", type=_EXISTING)
@click.option(
    "--encoder",
    required=True,
    cls=NeededToStore,
    help="One of `cbmir encoders list`, timm:NAME, open_clip:ARCH/TAG, ORG/REPO of the model hub, or FILE.py:FUNCTION.",
)
@_store_option
@click.option("--collection", "name", help="Name of the collection; the encoder's unless given.")
@click.option(
    "--root", type=_EXISTING, help="Folder that file paths in a table are relative to; the table's unless given."
)
@path_prefix_option
@no_links_option
@click.option(
    "--dataset", help="Data set of images whose table names none; the name of the table or folder unless given."
)
@click.option(
    "--labels",
    type=click.Choice(["folders", "none"]),
    default="folders",
    show_default=True,
    help="Whether the folders of a folder SOURCE are split and label, as in train/XR/chest/pneumonia/1.png.",
)
@click.option(
    "--set",
    "constants",
    multiple=True,
    metavar="FIELD=VALUE",
    help=f"For images that lack the field: {', '.join(GIVEN_FIELDS)}. Repeatable.",
)
@click.option("--workers", type=click.IntRange(1), help="Decoding processes; one a core unless given.")
@click.option("--shard", metavar="i/n", help="Only the i-th of n parts of SOURCE; other runs do the others.")
@click.option("--embeddings", type=click.Path(path_type=Path), metavar="DIR", help="Write DIR/COLLECTION.h5 besides.")
@thumbnail_options()
@click.option(
    "--failures", type=click.Path(path_type=Path), help="CSV of what failed; failures-COLLECTION.csv unless given."
)
@table_options
@click.option(
    "--index",
    "own_indexes",
    multiple=True,
    metavar="COLUMN",
    help="Make a payload index for an own column, so that filters by it are fast. Repeatable.",
)
@dicom_options
@table_limit_options
@image_limit_options
@dry_run_option
@own_name_option
@encoder_options
@index_timeout_option
@layout_options
@defer_option
@json_option
def images(
    source: Path,
    encoder: str,
    location: str,
    table: TableOptions,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Embed the images (or CT volumes) of SOURCE into a collection.

    SOURCE is a folder, a table (CSV, Excel, Parquet), or DICOM: a folder, a zip file, a DICOMDIR or one file.
    """
    how = SourceOptions(
        options["root"],
        options["dataset"],
        options["labels"] == "folders",
        _constants(options["constants"]),
        table,
        options["prefixes"],
        options["links"],
        dicom=options["dicom"],
    )
    if not dry_run:
        _check_first(encoder, options["settings"], location)
    whole = open_source(source, how)
    items = Shard.parse(whole, options["shard"]) if options["shard"] else whole
    readings = show_readings([whole], dry_run and as_json, how.prefixes)
    indexes = wanted_indexes(options["own_indexes"], readings)
    if dry_run:
        return dry_run_code(readings)
    network = given(encoder, options["settings"])
    say(f"{encoder} on {network.running_on}, {counted(network.batch_size, network.preprocessing.kind)} a step")
    name, layout = options["name"] or default_name(network.card.name), options["layout"].expecting(whole.total)
    with opened(location) as store:
        print_estimate(store, name, network.card, layout)
        waiting = say if options["shard"] else None

        def opening() -> Collection:
            opened_now = open_in_turn(store, name, network.card, layout, waiting)
            if isinstance(whole, DicomSource):
                claim(opened_now, whole.settings)
            return with_indexes(opened_now, indexes)

        with open_or_defer(store, name, network.card, opening) as collection:
            if options["defer"]:
                collection.defer_index()
            with tqdm(total=items.total, unit="image", disable=None) as bar:
                seen, place = seen_by(bar), options["place"]
                report = ingest_images(items, network, collection, options["workers"], seen, place)
                report.readings = readings
            write_audit(whole, options["audit"], collection.name)
            code = finish(collection, report, options["failures"], as_json, table)
            if options["embeddings"] and not report.interrupted:
                path = options["embeddings"] / f"{collection.name}.h5"
                say(f"{counted(write_embeddings(collection, path), 'vector')} written to {path}")
    return code


@ingest.command()
@click.argument("files", nargs=-1, required=True, type=_EXISTING, metavar="FILE.h5...")
@click.option(
    "--table", "tables", multiple=True, required=True, type=_EXISTING, help="Table of the images. Repeatable."
)
@click.option("--encoder", required=True, cls=NeededToStore, help="What made the vectors; any name.")
@_store_option
@click.option("--collection", "name", help="Name of the collection; the encoder's unless given.")
@click.option(
    "--root", type=_EXISTING, help="Folder that file paths in the tables are relative to; each table's unless given."
)
@path_prefix_option
@click.option("--dataset", help="Data set of images whose table names none; the name of the table unless given.")
@click.option(
    "--failures", type=click.Path(path_type=Path), help="CSV of what failed; failures-COLLECTION.csv unless given."
)
@table_options
@table_limit_options
@dry_run_option
@index_timeout_option
@layout_options
@defer_option
@json_option
def embeddings(
    files: tuple[Path, ...], tables: tuple[Path, ...], encoder: str, location: str, table: TableOptions, **options: Any
) -> int:
    """Fill a collection from vectors in HDF5, without embedding.

    FILE.h5 is what `--embeddings` wrote, or the published layout: one HDF5 dataset an image, its key the file path.
    """
    prefixes: PathPrefixes = options["prefixes"]
    how = SourceOptions(options["root"], options["dataset"], table=table, prefixes=prefixes, uris=True)
    sources = [open_source(path, how) for path in tables]
    if options["dry_run"]:
        return dry_run_code(show_readings(sources, options["as_json"], prefixes))
    name = options["name"] or default_name(encoder)
    with EmbeddingsFiles(files, prefixes) as vectors, opened(location) as store:
        readings = show_readings(sources, False, prefixes)
        card = vectors.card(encoder, images_of(sources))
        layout = options["layout"].expecting(vectors.count)
        print_estimate(store, name, card, layout)
        opening = partial(store.open_or_create, name, card, layout)
        with open_or_defer(store, name, card, opening) as collection:
            if options["defer"]:
                collection.defer_index()
            report = ingest_embeddings(sources, vectors, collection)
            report.readings = readings
            return finish(collection, report, options["failures"], options["as_json"], table)


class _Dataset(click.Argument):
    """Shows the data sets there are where help is asked for; pandas is not imported otherwise."""

    def make_metavar(self, *_: Any) -> str:
        from cbmir.ingest.datasets import DATASETS

        return "|".join(sorted(DATASETS))


@ingest.command()
@click.argument("dataset", cls=_Dataset)
@click.argument("folder", type=_EXISTING, metavar="DIR")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The table, .csv or .csv.gz.")
@click.option(
    "--labels",
    type=click.Choice(["single", "multi"]),
    default="single",
    show_default=True,
    help="The published rule, one label an image; or every label.",
)
@click.option("--ignore", type=_EXISTING, metavar="FILE", help="Images to leave out, a name a line.")
@click.option(
    "--failures", type=click.Path(path_type=Path), help="CSV of the missing files; failures-DATASET.csv unless given."
)
@table_limit_options
@json_option
def prepare(dataset: str, folder: Path, out: Path, as_json: bool, **options: Any) -> int:
    """Make the table of a published data set that lies in DIR, by the published rules, for `cbmir ingest images`."""
    from cbmir.ingest import datasets  # pandas and scikit-learn take a second

    datasets.check_suffix(out)
    prepared = datasets.prepare(dataset, folder, datasets.PrepareOptions(options["labels"], options["ignore"]))
    prepared.write(out)
    for line in prepared.report.lines():
        say(line)
    if as_json:
        print_json(prepared.report.as_json())
    else:
        echo("\n".join(prepared.report.rows()))
    root = () if out.parent.resolve() == folder.resolve() else ("--root", str(folder))
    say(f"table: {out}; next: cbmir ingest images {shlex.join((str(out), *root))} --encoder ENCODER --store STORE")
    return failed(list(prepared.failures), options["failures"] or Path(f"failures-{dataset}.csv"))


@ingest.command()
@click.argument("tables", nargs=-1, required=True, type=_EXISTING, metavar="TABLE.csv...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new table, .csv or .csv.gz.")
@click.option(
    "--root",
    type=_EXISTING,
    help="Folder that file paths of all tables are relative to; each table's unless given.",
)
@table_limit_options
@json_option
def merge(tables: tuple[Path, ...], out: Path, root: Path | None, as_json: bool) -> None:
    """Write several tables as one: the union of their labels, and file paths relative to the new table (or --root)."""
    from cbmir.ingest import datasets

    merged = datasets.merge(tables, out, root)
    if as_json:
        print_json(merged.as_json())
    for path, count in merged.rows.items():
        say(f"{path}: {counted(count, 'row')}")
    say(
        f"table: {out}, {counted(merged.columns, 'column')}, {counted(merged.labels, 'label')}, "
        f"of which shared: {len(merged.shared)}"
    )
    if merged.root is not None:
        say(f"paths are relative to {merged.root}: give cbmir ingest images --root {shlex.quote(merged.root)}")


@ingest.command()
@json_option
def modalities(as_json: bool) -> None:
    """Print the codes of modalities and their spellings; --values modality:NAME=CODE adds others to a collection."""
    if as_json:
        print_json({code: list(spellings) for code, spellings in MODALITIES.items()})
        return
    for code, spellings in MODALITIES.items():
        echo(f"{code:5} {', '.join(spellings)}")


def _check_first(encoder: str, settings: EncoderSettings, location: str) -> None:
    """Refuse what is mistyped before a large source is read.

    Raises:
        EncoderError: no such encoder.
        StoreError: the store can't be opened.
    """
    check_given(encoder, settings)
    with opened(location):
        pass


def _constants(texts: tuple[str, ...]) -> Mapping[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    unknown = [name for name, value in pairs.items() if name not in GIVEN_FIELDS or not value]
    if unknown:
        raise click.BadParameter(
            f"{unknown[0]!r}: write FIELD=VALUE; fields are {', '.join(GIVEN_FIELDS)}", param_hint="--set"
        )
    return pairs


for _command in (reindex_, thumbnails_, where_):
    ingest.add_command(_command)
