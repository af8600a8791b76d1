"""Backup of a collection on a server: a snapshot of every node, and what snapshots leave out."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from cbmir.collections.manifests import BackupManifest, now
from cbmir.collections.seals import Seal
from cbmir.errors import CollectionError, StoreError
from cbmir.store import Collection
from cbmir.store.server import ServerStore
from cbmir.store.snapshots import SnapshotNode
from cbmir.units import counted
from cbmir.wholefile import replacing


def fetch(store: ServerStore, name: str, nodes: Sequence[SnapshotNode], folder: Path) -> BackupManifest:
    """Have every node pack its part of a collection, and fetch it; nothing is left on the nodes.

    Args:
        store: The server.
        name: Of the collection, or an alias.
        nodes: All nodes of the cluster.
        folder: For ``node-1.snapshot`` and so on.

    Raises:
        StoreError: a node doesn't answer, was named twice, or wasn't named.
        OSError: a file can't be written.
    """
    _check(nodes)
    aliases = store.aliases()
    own = aliases.get(name, name)
    with store.open(own) as collection:
        card, points = collection.card, collection.count()
    files = {f"node-{number}.snapshot": node for number, node in enumerate(nodes, start=1)}
    with tqdm(files.items(), desc=f"snapshot of {own}", unit="node", leave=False, disable=None) as bar:
        seals = {file: _fetched(node, own, folder / file) for file, node in bar}
    leading = tuple(sorted(alias for alias, target in aliases.items() if target == own))
    return BackupManifest("server", f"qdrant {nodes[0].version()}", own, leading, card, points, seals, now())


def send(
    folder: Path, manifest: BackupManifest, store: ServerStore, nodes: Sequence[SnapshotNode], name: str | None
) -> tuple[Collection, list[str]]:
    """Make a collection of a checked backup.

    Args:
        folder: Of the backup.
        manifest: Of the same.
        store: The server.
        nodes: As many as were backed up.
        name: Of an alias, for a version of its own; None for the names it had.

    Returns:
        The collection, and the aliases that lead to it now: those it had, where they lead nowhere else.

    Raises:
        CollectionError: it exists already.
        StoreError: the nodes are of another number or version, or a node refused.
    """
    _check(nodes)
    if len(nodes) != len(manifest.files):
        raise StoreError(
            f"the backup {folder} is of {counted(len(manifest.files), 'node')} and can be put back onto as many only; "
            f"named: {len(nodes)}"
        )
    for node in nodes:
        version = node.version()
        if _minor(version) != _minor(manifest.engine):
            raise StoreError(
                f"{node.url} runs Qdrant {version}, the backup was written by {manifest.engine}: "
                "snapshots can be put back within one minor version only; start that version, restore, then upgrade"
            )
    own = store.next_version(name) if name else manifest.collection
    if own in store.names() or own in store.aliases().values():
        raise CollectionError(f"{own} exists already on {store.location}; drop it, or give --as NAME for another one")
    for (file, seal), node in zip(manifest.files.items(), nodes, strict=True):
        node.recover(own, folder / file, seal.sha256)
    collection = store.open(own)
    collection.finish()
    leading = []
    for alias in [name] if name else manifest.aliases:
        if store.aliases().get(alias, own) == own:
            store.lead(alias, own)
            leading.append(alias)
    return collection, leading


def _check(nodes: Sequence[SnapshotNode]) -> None:
    """Every node of the cluster must be named, and once: each holds a part."""
    seen: dict[int, str] = {}
    others: dict[int, str] = {}
    for node in nodes:
        peers = node.peers()
        if peers.own is None:
            if len(nodes) > 1:
                raise StoreError(f"{node.url} is a server of its own and no node of a cluster; name it alone")
            continue
        if peers.own in seen:
            raise StoreError(f"{node.url} and {seen[peers.own]} are the same node")
        seen[peers.own] = node.url
        others |= peers.others
    missing = sorted(uri for number, uri in others.items() if number not in seen)
    if missing:
        raise StoreError(
            f"the cluster has nodes that were not named, and each holds a part: {', '.join(missing)}; "
            "give every node with --node URL"
        )


def _fetched(node: SnapshotNode, collection: str, path: Path) -> Seal:
    made = node.create(collection)
    try:
        with replacing(path) as partial:
            sha256, size = node.fetch(collection, made, partial)
    finally:
        with suppress(StoreError):  # the error that comes out is that of fetching
            node.delete(collection, made)
    return Seal(sha256, size)


def _minor(version: str) -> list[str]:
    return re.findall(r"\d+", version)[:2]
