"""A directory as a store: Qdrant Edge, the real engine inside this process.

``DIR/<collection>/collection.json`` holds the metadata, ``DIR/<collection>/shard/`` what the engine keeps. One process
at a time holds a collection: by ``DIR/<collection>/lock``, which it keeps while another process of its own builds the
index, and by the engine's own lock on its write-ahead log.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from cbmir.errors import (
    CollectionError,
    StoreError,
    failed_writing,
)
from cbmir.fingerprint import EncoderCard
from cbmir.store.edge_points import EdgeCollection, read_card
from cbmir.store.folders import all_remains, delete_folder, held, put_aside, remains
from cbmir.store.identity import check_name, metadata
from cbmir.store.layout import DEFAULT, Layout, plan
from cbmir.store.sealed import damages
from cbmir.store.shard import ENGINE, create_shard
from cbmir.store.store import Store


class EdgeStore(Store):
    """A directory of collections, made with the first one.

    Attributes:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise StoreError(f"the store {path} is a file; give a directory or an http(s) URL")
        self.path = path
        self.location = str(path)

    def names(self) -> list[str]:
        """The collections, sorted."""
        try:
            return sorted(
                item.parent.name for item in self.path.glob("*/collection.json") if not item.parent.name.startswith(".")
            )
        except OSError as error:
            raise StoreError(f"can't read the store {self.path}: {error}") from error

    def create(self, name: str, card: EncoderCard, layout: Layout = DEFAULT) -> EdgeCollection:
        """Make a collection; a process killed at any moment leaves either the whole of it or nothing."""
        if layout.spread:
            raise CollectionError(f"{self.path} is a directory: it has no shards and replicas, which are for a cluster")

        def fill(made: Path) -> None:
            create_shard(made / "shard", card.dim, plan(layout, card.dim))
            data = {**metadata(card), "engine": ENGINE}
            (made / "collection.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

        return self.adopt(name, fill)

    def adopt(self, name: str, fill: Callable[[Path], object]) -> EdgeCollection:
        """Make a collection of the files of another one; a process killed meanwhile leaves nothing.

        Args:
            name: Of the new collection.
            fill: Puts the files into an empty folder.

        Raises:
            CollectionError: it exists already, the name can't be used, or the files are of another engine or damaged.
        """
        check_name(name)
        folder = self.path / name
        if folder.exists():
            raise CollectionError(f"{folder} exists already; drop the collection or choose another name")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._clean(name)
            made = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".new", dir=self.path))
            lock = held(made)
            try:
                fill(made)
                card = read_card(made)
                made.rename(folder)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                lock.close()
                raise
        except OSError as error:
            raise failed_writing(f"can't make the collection {folder}: {error}", error) from error
        return EdgeCollection(folder, card, lock)

    def _clean(self, name: str) -> int:
        """Delete what killed processes left half made or half deleted, not what another one is at right now."""
        left = remains(self.path, name)
        for folder in left:
            delete_folder(folder)
        return len(left)

    def remains(self) -> list[str]:
        """What killed processes left of collections, a sentence each with the remedy."""
        return [
            f"{folder} is left of a collection {name} that was being {doing} when cbmir was killed, and may hold its "
            + (
                f"data: delete this folder; the collection {name} is another one and stays"
                if (self.path / name).exists()
                else f"data: `cbmir collections drop {name} --store {self.path}` deletes it"
            )
            for folder, name, doing in all_remains(self.path)
        ]

    def _open(self, name: str) -> EdgeCollection:
        """Open a collection and hold it against other processes until it is closed.

        Where it is open in this process already, that one is returned, and is closed when all who opened it have.
        """
        folder = self.path / name
        if name not in self.names():
            raise self._missing(name)
        return EdgeCollection.opened(folder)

    def _nothing(self) -> str:
        return super()._nothing() if self.path.exists() else "there is no such directory"

    def damages(self, name: str, *, full: bool = False) -> list[str]:
        """Files of a closed collection that aren't as they were when it was indexed."""
        with held(self.path / name):
            return damages(self.path / name, full=full)

    def drop(self, name: str) -> None:
        """Delete a collection, a damaged one too, or what a killed process left of one.

        From the first step on nobody sees the collection; a drop that is killed later is finished by another one.
        """
        if name not in self.names():
            if not (self.path.is_dir() and self._clean(name)):
                raise self._missing(name)
            return
        folder = self.path / name
        with held(folder):
            try:
                gone = put_aside(folder)
                delete_folder(gone)
            except OSError as error:
                raise StoreError(f"can't delete the collection {folder}: {error}") from error
