"""``cbmir collections snapshot | restore | verify``."""

import os
from dataclasses import asdict
from pathlib import Path

import click

from cbmir.options import echo, index_timeout_option, json_option, opened, print_json, say, store_key, store_option

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
    from cbmir.collections.backup.backup import snapshot

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
    from cbmir.collections.backup.backup import restore

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
    from cbmir.collections.backup.backup import check

    flaws = check(folder)
    if as_json:
        print_json({"folder": str(folder), "damaged": flaws})
    for flaw in flaws:
        say(f"damaged: {flaw}")
    if not flaws:
        say(f"{folder} is whole")
    return 1 if flaws else 0


def _from_environment() -> tuple[str, ...]:
    return tuple(url.strip() for url in os.environ.get(_NODES, "").split(",") if url.strip())
