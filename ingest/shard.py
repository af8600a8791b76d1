"""One of several runs that divide a source: by GPU, by machine, or one after another."""

import re
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cbmir.errors import SourceError, StoreLockedError
from cbmir.fingerprint import EncoderCard
from cbmir.ingest.report import Failure
from cbmir.ingest.sources import Source, SourceImage
from cbmir.store import Collection, Layout, Store

_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Shard:
    """The images of a source that belong to one part of several.

    An image belongs to a part by its id, so the same one each time, however the source is ordered or grows; every item
    belongs to exactly one part.

    Attributes:
        source: The whole.
        part: 0 to `parts` - 1.
        parts: Runs that divide the source.
        total: Unknown, as it depends on the ids.
    """

    source: Source
    part: int
    parts: int
    total: int | None = None

    @classmethod
    def parse(cls, source: Source, text: str) -> Self:
        """A shard as users write it: ``1/4`` to ``4/4``.

        Raises:
            SourceError: the text is of another form, or names no part.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not found or not int(found[2]):
            raise SourceError(f"no shard {text!r}; write i/n, as 1/4, 2/4, 3/4 and 4/4")
        if not 1 <= int(found[1]) <= int(found[2]):
            raise SourceError(f"no shard {text!r}; shards count from 1: give 1/{found[2]} to {found[2]}/{found[2]}")
        return cls(source, int(found[1]) % int(found[2]), int(found[2]))

    @property
    def root(self) -> Path | None:
        """Folder that file paths are relative to; None where they are no paths."""
        return self.source.root

    @property
    def ignored(self) -> Mapping[str, int]:
        """Files that the source passed over, in the first part's report only."""
        return self.source.ignored if self.part == 1 % self.parts else {}

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """The items of this part, in the order of the source."""
        return (item for item in self.source if _number(item) % self.parts == self.part)


def open_in_turn(
    store: Store, name: str, card: EncoderCard, layout: Layout, waiting: Callable[[str], object] | None
) -> Collection:
    """Open or make a collection; where another run holds it, wait for that to end.

    A server takes many writers. A directory takes one at a time, so shards of one directory run one after another.

    Args:
        store: Where it is.
        name: Of the collection.
        card: Of its encoder.
        layout: Of a new one.
        waiting: Told once that it waits, and why; None for no waiting.

    Raises:
        StoreLockedError: another run holds it, and there is no waiting.
        CollectionError, FingerprintError, StoreError: as `Store.open_or_create`.
    """
    told = False
    while True:
        try:
            return store.open_or_create(name, card, layout)
        except StoreLockedError as error:
            if waiting is None:
                raise
            if not told:
                waiting(f"{error}; waiting for it: a directory takes one writer at a time, a server takes many")
            told = True
            time.sleep(_POLL_S)


def _number(item: SourceImage | Failure) -> int:
    if isinstance(item, Failure):
        return zlib.crc32(f"{item.place} {item.filepath}".encode())
    return uuid.UUID(item.record.id).int
