"""``cbmir collections snapshot | restore | verify | salvage``: backups, and what is left of a damaged collection."""

import os
from dataclasses import asdict
from pathlib import Path

import click

from cbmir.collections.refusals import told
from cbmir.errors import CollectionError, StoreDamagedError, StoreError
from cbmir.options import (
    EXIT_FAILURES,
    CardChoice,
    card_options,
    echo,
    index_timeout_option,
    json_option,
    opened,
    print_json,
    say,
    store_key,
    store_option,
)

_NODES = "QDRANT_CLUSTER_URLS"

node_option = click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="URL",
    help=f"A node of the cluster; repeat it for each. Those of {_NODES} or of the store unless given.",
)


@click.command("snapshot")
@click.argument("name")
@store_option
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="An empty one.")
@node_option
@json_option
def snapshot_(name: str, location: str, folder: Path, nodes: tuple[str, ...], as_json: bool) -> None:
    """Take a backup of a collection: all nodes' parts, the aliases, and checksums.

    On a server this needs the full key. Nothing is left there.
    """
    from cbmir.collections.backups import snapshot

    with opened(location) as store:
        report = snapshot(store, name, folder, nodes or _from_environment(), store_key())
    if as_json:
        print_json(asdict(report))
    else:
        echo(str(report))


@click.command("restore")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@store_option
@click.option("--as", "name", metavar="NAME", help="Name of the collection; as it was unless given.")
@node_option
@index_timeout_option
@json_option
def restore_(folder: Path, location: str, name: str | None, nodes: tuple[str, ...], as_json: bool) -> None:
    """Put a backup back that `snapshot` has written to DIR.

    The checksums come first. It goes to the kind of store it was taken from, on a server of the same minor version
    with as many nodes. An alias that leads to another version meanwhile stays there: see `promote`.
    """
    from cbmir.collections.backups import restore

    with opened(location) as store:
        report = restore(folder, store, name, nodes or _from_environment(), store_key())
    if as_json:
        print_json(asdict(report))
    else:
        echo(str(report))


@click.command("verify")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@json_option
def verify_(folder: Path, as_json: bool) -> int:
    """Compare the files of a backup with their checksums; the exit code is 1 where one is damaged."""
    from cbmir.collections.backups import check

    flaws = check(folder)
    if as_json:
        print_json({"folder": str(folder), "damaged": flaws})
    for flaw in flaws:
        say(f"damaged: {flaw}")
    if not flaws:
        say(f"{folder} is whole")
    return 1 if flaws else 0


@click.command("salvage")
@click.argument("damaged", metavar="DIR|NAME")
@click.argument("name", metavar="NEW")
@store_option
@card_options("Whose vectors they are, if collection.json is lost.")
@json_option
def salvage_(damaged: str, name: str, location: str, choice: CardChoice, as_json: bool) -> int:
    """Take what can be read out of a damaged collection of a directory into the new collection NEW.

    DIR is the folder of the damaged collection, NAME one in the store. It is read from a copy, and never written to.
    Where the write-ahead log or a segment can't be read, all others are. What is lost is counted; ingest again what is
    missing. The exit code is 3 where something is lost.
    """
    from cbmir.collections.salvage import salvage
    from cbmir.store.edge import EdgeStore
    from cbmir.store.edge_points import read_card

    with opened(location) as store:
        folder = Path(damaged)
        if isinstance(store, EdgeStore) and (store.path / damaged).is_dir():
            folder = store.path / damaged
        if not folder.is_dir():
            raise StoreError(f"there is no collection {damaged} in {store.location}, and no folder {damaged}")
        try:
            card = read_card(folder)
        except (CollectionError, StoreDamagedError) as error:
            if choice.encoder is None:
                raise StoreError(
                    f"{error}; whose vectors these are must be said: --encoder NAME, and --dim N for vectors from files"
                ) from error
            card = choice.card()
        report = salvage(folder, store, name, card)
    code = told(report, as_json)
    for part in report.lost:
        say(f"lost: {part}")
    return EXIT_FAILURES if report.lost else code


def _from_environment() -> tuple[str, ...]:
    return tuple(url.strip() for url in os.environ.get(_NODES, "").split(",") if url.strip())
