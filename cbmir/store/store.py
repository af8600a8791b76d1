"""What callers see of a store, the same over every engine: its collections by name."""

from abc import ABC, abstractmethod
from typing import Self

from cbmir.errors import CbmirError, CollectionError, FingerprintError
from cbmir.fingerprint import EncoderCard
from cbmir.store.collection import Collection
from cbmir.store.fused import SIGN, open_fused
from cbmir.store.layout import DEFAULT, Layout


class Store(ABC):
    """Where collections live.

    Attributes:
        location: The directory or URL, without any key.
    """

    location: str

    @abstractmethod
    def names(self) -> list[str]:
        """The collections, sorted."""

    @abstractmethod
    def create(self, name: str, card: EncoderCard, layout: Layout = DEFAULT) -> Collection:
        """Make a collection with its payload indexes and open it.

        Raises:
            CollectionError: it exists already, or the name or the layout can't be used.
        """

    def open(self, name: str) -> Collection:
        """Open a collection, or several as one: ``a+b``, see `cbmir.store.fused`.

        Raises:
            CollectionError: there is none of this name; the message names those there are.
            StoreLockedError: another process holds it.
        """
        return open_fused(name, self._open) if SIGN in name else self._open(name)

    @abstractmethod
    def _open(self, name: str) -> Collection:
        """Open one collection."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """Delete a collection and all it holds.

        Raises:
            CollectionError: there is none of this name.
            StoreLockedError: another process holds it.
        """

    def open_or_create(self, name: str, card: EncoderCard, layout: Layout = DEFAULT) -> Collection:
        """Open a collection for the vectors of an encoder, make it where it doesn't exist.

        The layout of one that exists stays as it is.

        Raises:
            FingerprintError: it holds the vectors of another encoder.
        """
        if name not in self.names():
            try:
                return self.create(name, card, layout)
            except CbmirError:
                if name not in self.names():
                    raise  # else: another process was first
        collection = self.open(name)
        try:
            collection.card.require(card, f"collection {name}")
        except FingerprintError:
            collection.close()
            raise
        return collection

    def only(self) -> str:
        """The name of the only collection.

        Raises:
            CollectionError: there is none, or there are several.
        """
        names = self.names()
        if not names:
            raise CollectionError(f"no collection in {self.location}: {self._nothing()}")
        if len(names) > 1:
            raise CollectionError(f"name a collection of {self.location} (--collection); it has {', '.join(names)}")
        return names[0]

    def unhealthy(self, name: str) -> list[str]:
        """Parts of a collection on a cluster that are dead, and where; none on one machine."""
        return []

    def damages(self, name: str, *, full: bool = False) -> list[str]:
        """Files of a closed collection that aren't as they were when it was indexed; none where nobody can tell.

        Args:
            name: Of the collection.
            full: Read large ones too.
        """
        return []

    def recovering(self, name: str) -> list[str]:
        """Parts of a collection on a cluster that are not complete yet, and become so by themselves; and where."""
        return []

    def remains(self) -> list[str]:
        """What killed processes left of collections, a sentence each with the remedy; a server leaves none."""
        return []

    def close(self) -> None:  # noqa: B027  a directory has no connection
        """Let go of connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _nothing(self) -> str:
        """Why a store has no collection, in words."""
        return "it holds no collection yet"

    def _missing(self, name: str) -> CollectionError:
        names = self.names()
        there = f"there are {', '.join(names)}" if names else self._nothing()
        return CollectionError(f"no collection {name!r} in {self.location}; {there}")
