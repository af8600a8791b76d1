"""``cbmir collections versions | promote | rollback``; the server's client is imported only where it is needed."""

from dataclasses import asdict

import click

from cbmir.options import echo, json_option, opened, print_json, say, store_option


@click.command("versions")
@click.argument("name")
@store_option
@json_option
def versions_(name: str, location: str, as_json: bool) -> None:
    """Print the versions of a collection on a server, the newest first; * is the one in use."""
    from cbmir.collections.versions import versions

    with opened(location) as store:
        found = versions(store, name)
    if as_json:
        print_json([asdict(item) for item in found])
        return
    for item in found:
        mark = "*" if item.current else " "
        echo(f"{mark} {item.name:34} {item.points:>10,}  {item.status:7} {item.fingerprint or 'not of cbmir'}")


@click.command("promote")
@click.argument("version")
@store_option
def promote_(version: str, location: str) -> None:
    """Let NAME lead to the version NAME__vN, at once for all readers."""
    from cbmir.collections.versions import promote

    with opened(location) as store:
        name = promote(store, version)
    say(f"{name} is {version} now")


@click.command("rollback")
@click.argument("name")
@store_option
def rollback_(name: str, location: str) -> None:
    """Let NAME lead to the version before the one in use.

    Each run goes back one version more. After an interrupted run, `versions` shows which one is in use.
    """
    from cbmir.collections.versions import rollback

    with opened(location) as store:
        version = rollback(store, name)
    say(f"{name} is {version} now")
