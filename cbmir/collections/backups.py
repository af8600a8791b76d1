"""Backups of a collection: taken, checked, put back."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cbmir.collections import backup_directory, backup_server
from cbmir.collections.backup_folder import writing
from cbmir.collections.manifests import BackupManifest
from cbmir.collections.seals import broken, verify
from cbmir.errors import SourceError, StoreError
from cbmir.store import Key, Store
from cbmir.store.edge import EdgeStore
from cbmir.store.edge_points import EdgeCollection
from cbmir.store.server import ServerStore
from cbmir.store.snapshots import SnapshotNode
from cbmir.units import counted


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What was taken, or put back.

    Attributes:
        collection: The collection's own name.
        aliases: That lead to it, on a server.
        fingerprint: Of its encoder.
        points: Images.
        folder: Of the backup.
        files: How many there are beside ``backup.json``.
        bytes: Of these.
    """

    collection: str
    aliases: tuple[str, ...]
    fingerprint: str
    points: int
    folder: str
    files: int
    bytes: int

    def __str__(self) -> str:
        """A line for people."""
        aliases = f" ({', '.join(self.aliases)})" if self.aliases else ""
        return (
            f"{self.collection}{aliases}: {counted(self.points, 'image')}, fingerprint {self.fingerprint}; "
            f"{self.folder} has {counted(self.files, 'file')}, {self.bytes:,} bytes"
        )


def snapshot(
    store: Store, name: str, folder: Path, nodes: Sequence[str] = (), api_key: str | Key | None = None
) -> BackupReport:
    """Take a backup of a collection.

    Args:
        store: A directory or a server.
        name: Of the collection.
        folder: For the files; not there yet, empty, or left by an interrupted run.
        nodes: URLs of all nodes of a cluster; those of the store unless given.
        api_key: Of the server.

    Raises:
        SourceError: the folder holds something, or can't be written.
        StoreError: the store refused, or not all nodes were named.
    """
    try:
        with ExitStack() as stack:
            stack.enter_context(writing(folder))
            if isinstance(store, ServerStore):
                made = backup_server.fetch(store, name, _nodes(store, nodes, api_key, stack), folder)
            else:
                collection = stack.enter_context(store.open(name))
                assert isinstance(collection, EdgeCollection)
                made = backup_directory.pack(collection, folder)
            made.write(folder)
    except OSError as error:
        raise SourceError(f"can't write the backup {folder}: {error.strerror or error}") from error
    return _report(made, folder, made.collection, made.aliases)


def restore(
    folder: Path, store: Store, name: str | None = None, nodes: Sequence[str] = (), api_key: str | Key | None = None
) -> BackupReport:
    """Put a backup back, and compare what is there then.

    Args:
        folder: Of the backup.
        store: Of the kind it was taken from.
        name: Of the collection; as it was unless given.
        nodes: URLs of as many nodes as were backed up; those of the store unless given.
        api_key: Of the server.

    Raises:
        SourceError: the backup is damaged.
        CollectionError: the collection exists already.
        StoreError: the store is of another kind, version or number of nodes, refused, or holds something else now.
    """
    made = BackupManifest.read(folder)
    verify(folder, made.files)
    aliases: Sequence[str] = ()
    with ExitStack() as stack:
        if made.kind == "server" and isinstance(store, ServerStore):
            collection, aliases = backup_server.send(folder, made, store, _nodes(store, nodes, api_key, stack), name)
        elif made.kind == "directory" and isinstance(store, EdgeStore):
            collection = backup_directory.unpack(folder, made, store, name or made.collection)
        else:
            raise StoreError(
                f"{folder} is the backup of a {made.kind}, {store.location} is none; "
                "restore it to one, then use collections push or pull"
            )
        with collection:
            points, fingerprint = collection.count(), collection.card.fingerprint
            own = collection.name
    if (points, fingerprint) != (made.points, made.card.fingerprint):
        raise StoreError(
            f"{own} has {counted(points, 'image')} of fingerprint {fingerprint} now, "
            f"the backup {made.points:,} of {made.card.fingerprint}"
        )
    return _report(made, folder, own, aliases)


def check(folder: Path) -> list[str]:
    """What is wrong with the files of a backup, a line a file.

    Raises:
        SourceError: it isn't a whole backup.
    """
    return broken(folder, BackupManifest.read(folder).files)


def _nodes(store: ServerStore, urls: Sequence[str], api_key: str | Key | None, stack: ExitStack) -> list[SnapshotNode]:
    wanted = urls or [url for url, _ in store.connection.nodes]
    return [stack.enter_context(SnapshotNode(url, api_key)) for url in wanted]


def _report(made: BackupManifest, folder: Path, own: str, aliases: Sequence[str]) -> BackupReport:
    size = sum(seal.bytes for seal in made.files.values())
    return BackupReport(own, tuple(aliases), made.card.fingerprint, made.points, str(folder), len(made.files), size)
