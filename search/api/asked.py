"""What travels to the processes that hold the collections, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbmir.encoders.base import EncoderSettings
from cbmir.filters import Where
from cbmir.schema import RecordKind
from cbmir.search.query import Mix, Options


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process holds.

    Attributes:
        location: Directory or URL of the store.
        collections: Their names; empty for all there are.
        root: Folder of the stored images, looked into first.
        settings: How to load the encoders.
    """

    location: str
    collections: tuple[str, ...] = ()
    root: Path | None = None
    settings: EncoderSettings = field(default_factory=EncoderSettings)


@dataclass(frozen=True, slots=True)
class Served:
    """A collection that is served.

    Attributes:
        name: Its name.
        encoder: Name of the encoder.
        fingerprint: Of the encoder.
        dim: Length of the vectors.
        takes: What can be uploaded as a query, ``image`` or ``volume``; None where the encoder can't be run here.
        texts: Whether it can be searched by words.
        reason: Why nothing can be uploaded, for people; empty otherwise.
    """

    name: str
    encoder: str
    fingerprint: str
    dim: int
    takes: RecordKind | None
    texts: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a collection somebody may see.

    Attributes:
        collection: Its name.
        where: Conditions that every image they see satisfies.
    """

    collection: str
    where: Where = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a query: exactly one of an uploaded file, the id of a stored image, and a text.

    Attributes:
        weight: Below 0 for what hits shall be unlike.
        data: Content of a file.
        id: Of a stored image.
        text: Words.
    """

    weight: float
    data: bytes | None = None
    id: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A query.

    Attributes:
        parts: One or more.
        how: How to answer it; its filter is what was asked for, without what the scope adds.
        box: x, y, width and height of what is asked for of the only uploaded image; None for all of it.
        mix: How texts and images come together.
    """

    parts: tuple[Part, ...]
    how: Options
    box: tuple[int, int, int, int] | None = None
    mix: Mix = "ranks"


@dataclass(frozen=True, slots=True)
class Counted:
    """How many images have which values.

    Attributes:
        total: Images that satisfy the filter.
        fields: By field, the most frequent values and their images. Conditions on the field itself don't count there,
            so that a user sees what else could be chosen.
        more: Fields that have more values than are listed.
    """

    total: int
    fields: Mapping[str, Mapping[str, int]]
    more: frozenset[str]


@dataclass(frozen=True, slots=True)
class Record:
    """A stored image.

    Attributes:
        id: UUID in text form.
        payload: All that is stored of it.
        vector: Its vector; None unless asked for.
    """

    id: str
    payload: Mapping[str, Any]
    vector: tuple[float, ...] | None = None
