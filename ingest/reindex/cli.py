"""``cbmir ingest reindex``."""

import shlex
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cbmir.encoders import EncoderSettings, given
from cbmir.ingest.console import finish, seen_by
from cbmir.ingest.pipeline import ingest_images
from cbmir.limit_options import image_limit_options
from cbmir.options import (
    EXIT_FAILURES,
    encoder_options,
    index_timeout_option,
    json_option,
    layout_options,
    opened,
    own_name_option,
    print_estimate,
    say,
    store_option,
)
from cbmir.store import Layout
from cbmir.store.sources import pass_on
from cbmir.units import counted


@click.command("reindex")
@click.argument("name")
@click.option("--encoder", required=True, help="Whose vectors the images get, see `cbmir encoders list`.")
@store_option
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the stored images.",
)
@click.option("--as", "new_name", metavar="NEW", help="Make a collection of this name instead; a directory needs one.")
@click.option("--promote", "promoting", is_flag=True, help="Let NAME lead to the new version if no image failed.")
@click.option("--workers", type=click.IntRange(1), help="Decoding processes; one a core unless given.")
@click.option(
    "--failures", type=click.Path(path_type=Path), help="CSV of what failed; failures-COLLECTION.csv unless given."
)
@image_limit_options
@own_name_option
@encoder_options
@index_timeout_option
@layout_options
@json_option
def reindex_(
    name: str,
    encoder: str,
    location: str,
    settings: EncoderSettings,
    layout: Layout,
    as_json: bool,
    **options: Any,
) -> int:
    """Embed the images of the collection NAME with another encoder, or with other weights.

    On a server they go to the next version, NAME__vN; whoever reads NAME keeps the old one until the new is promoted.
    What is stored of each image goes along. An interrupted run is finished by the same command.
    """
    from cbmir.collections.versions import promote
    from cbmir.ingest.reindex.reindex import StoredSource, check_target, hindrance, open_target

    new_name, promoting = options["new_name"], options["promoting"]
    if new_name and promoting:
        raise click.UsageError("--promote is for the next version of NAME, --as for a collection beside it")
    with opened(location) as store, store.open(name) as old:
        check_target(store, name, new_name)
        network = given(encoder, settings)
        source = StoredSource(old, options["root"])
        layout = layout.expecting(source.total or None)
        print_estimate(store, new_name, network.card, layout)
        with open_target(store, old, network.card, new_name, layout) as new:
            say(f"{name} -> {new.name}, which holds {counted(new.count(), 'image')}; {encoder} on {network.running_on}")
            with tqdm(total=source.total, unit="image", disable=None) as bar:
                report = ingest_images(source, network, new, options["workers"], seen_by(bar))
            pass_on(old.metadata(), new)
            code = finish(new, report, options["failures"], as_json)
            if not promoting or report.interrupted:
                return code
            if missing := hindrance(old, new, report):
                by_hand = shlex.join(("cbmir", "collections", "promote", new.name, "--store", location))
                say(f"not promoted: {missing}; {name} stays as it was. To promote all the same: {by_hand}")
                return EXIT_FAILURES
            promote(store, new.name)
            say(f"{name} is {new.name} now")
    return code
