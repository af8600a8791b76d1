"""Versions of a collection on a server: NAME is an alias of one NAME__vN, so that a re-index switches at once.

A new version is made beside the one in use, filled under its own name, and promoted; the old one stays until it is
dropped, so that `rollback` is as quick.
"""

import re
from dataclasses import dataclass

from cbmir.errors import CollectionError
from cbmir.fingerprint import EncoderCard
from cbmir.store.layout import DEFAULT, Layout
from cbmir.store.server import ServerStore
from cbmir.store.store import Store


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a collection.

    Attributes:
        name: Its own name, ``NAME__vN``.
        number: N.
        points: Images.
        status: ``green`` when nothing is left to index.
        fingerprint: Of its encoder; None where it isn't ours.
        current: Whether the alias leads to it.
    """

    name: str
    number: int
    points: int
    status: str
    fingerprint: str | None
    current: bool


def versions(store: Store, name: str) -> list[Version]:
    """The versions of a collection, the newest first.

    Raises:
        CollectionError: there is none, or the store is a directory, which has no versions.
    """
    server = _server_of(store)
    current = server.aliases().get(name)
    found = [_version(server, version, version == current) for version in server.versions(name)]
    if not found:
        raise CollectionError(f"{name} has no versions on {server.location}; there are {', '.join(server.names())}")
    return sorted(found, key=lambda item: -item.number)


def begin(store: Store, name: str, card: EncoderCard, layout: Layout = DEFAULT, *, resume: bool = False) -> str:
    """Make the next version of a collection, empty and with its indexes; the alias stays where it is.

    Args:
        store: A server.
        name: Of the alias.
        card: Of the encoder whose vectors it will hold.
        layout: Of a new version.
        resume: Take up the latest version for the same encoder that is newer than the one in use, however much it
            holds; else only an empty one is taken up.

    Returns:
        Its own name, under which it is filled.
    """
    server = _server_of(store)
    if resume:
        found = versions(store, name)
        current = next((item.number for item in found if item.current), 0)
        for item in found:
            if item.number > current and item.points and item.fingerprint == card.fingerprint:
                return item.name
    return server.create_version(name, card, layout)


def promote(store: Store, version: str) -> str:
    """Let the alias lead to a version, in one step.

    Args:
        store: A server.
        version: ``NAME__vN``.

    Returns:
        The name of the alias.

    Raises:
        CollectionError: there is no such version, it is empty, or it isn't indexed yet.
    """
    name = re.sub(r"__v\d+$", "", version)
    found = {item.name: item for item in versions(store, name)}
    if version not in found:
        raise CollectionError(f"no version {version!r} on {store.location}; there are {', '.join(found)}")
    chosen = found[version]
    if not chosen.points:
        raise CollectionError(f"{version} is empty; fill it before it is promoted")
    if chosen.status != "green":
        raise CollectionError(f"{version} is {chosen.status}: wait until the server has indexed it")
    _server_of(store).lead(name, version)
    return name


def rollback(store: Store, name: str) -> str:
    """Let the alias lead to the version before the current one; returns that.

    Raises:
        CollectionError: there is none before it.
    """
    found = versions(store, name)
    current = next((item.number for item in found if item.current), None)
    if current is None:
        raise CollectionError(f"{name} leads to no version on {store.location}; promote one")
    before = [item for item in found if item.number < current]
    if not before:
        raise CollectionError(f"{name} is at its oldest version, {name}__v{current}")
    _server_of(store).lead(name, before[0].name)
    return before[0].name


def _version(server: ServerStore, name: str, current: bool) -> Version:
    info = server.connection.call(lambda client: client.get_collection(name))
    count = server.connection.call(lambda client: client.count(name, exact=True)).count
    fingerprint = (info.config.metadata or {}).get("fingerprint")
    return Version(name, _number(name), count, str(info.status.value), fingerprint, current)


def _number(version: str) -> int:
    return int(version.rpartition("__v")[2])


def _server_of(store: Store) -> ServerStore:
    if not isinstance(store, ServerStore):
        raise CollectionError(f"{store.location} is a directory: it has no versions; make a collection of another name")
    return store
