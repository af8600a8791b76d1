"""``cbmir collections push | pull``."""

from dataclasses import asdict

import click

from cbmir.collections.transfer.transfer import transfer
from cbmir.options import (
    echo,
    foretell,
    index_timeout_option,
    json_option,
    layout_options,
    opened,
    print_json,
    store_option,
)
from cbmir.store import Layout


@click.command()
@click.argument("name")
@store_option
@click.option("--to", "target", required=True, metavar="DIR|URL", help="The other store.")
@click.option("--as", "new_name", metavar="NAME", help="Name of the copy; the same unless given.")
@index_timeout_option
@layout_options
@json_option
def push(name: str, location: str, target: str, new_name: str | None, layout: Layout, as_json: bool) -> None:
    """Copy a collection to another store, such as a server, without embedding again.

    An interrupted copy is finished by the same command. At the end the copy is indexed, counted, and a sample of it
    compared with the original.
    """
    _copy((name, location), (new_name or name, target), layout, as_json)


@click.command()
@click.argument("name")
@store_option
@click.option("--from", "origin", required=True, metavar="DIR|URL", help="The other store.")
@click.option("--as", "new_name", metavar="NAME", help="Name of the copy; the same unless given.")
@index_timeout_option
@layout_options
@json_option
def pull(name: str, location: str, origin: str, new_name: str | None, layout: Layout, as_json: bool) -> None:
    """Copy a collection from another store, such as a server, into this one; as push does."""
    _copy((name, origin), (new_name or name, location), layout, as_json)


def _copy(original: tuple[str, str], copy: tuple[str, str], layout: Layout, as_json: bool) -> None:
    (name, origin), (new_name, target) = original, copy
    if origin.rstrip("/") == target.rstrip("/") and name == new_name:
        raise click.UsageError(f"{name} of {origin} can't be copied onto itself")
    with opened(origin) as store, opened(target) as other, store.open(name) as source:
        layout = layout.expecting(source.count() or None)
        foretell(other, new_name, source.card, layout)
        with other.open_or_create(new_name, source.card, layout) as made:
            report = transfer(source, made)
    if as_json:
        print_json(asdict(report))
    else:
        echo(str(report))
