"""``cbmir collections push | pull``."""

from dataclasses import asdict

import click

from cbmir.collections.transfer.transfer import transfer
from cbmir.options import json_option, opened, print_json, store_option


@click.command()
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


@click.command()
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
