"""What a source of image records is."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from cbmir.errors import RecordError, SourceError
from cbmir.filters import canonical
from cbmir.media import kind_of
from cbmir.schema import FIELDS, ImageRecord, label_slug

GIVEN_FIELDS = (
    "split",
    "modality",
    "anatomic_region",
    "patient_id",
    "study_id",
    "series_id",
    "age_years",
    "sex",
    "view",
    "study_date",
    "thumbnail_url",
)
"""Fields a source may know besides file path, data set and labels; the others are computed from the file."""

_SPLITS = {"validation": "val", "valid": "val", "training": "train", "testing": "test"}


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image record and where its pixels lie.

    Attributes:
        record: What the source knows of the image.
        path: The pixel file.
    """

    record: ImageRecord
    path: Path


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that was not stored.

    Attributes:
        filepath: As the source names it.
        place: Where it stands, such as ``table.csv row 17``.
        reason: One line for people.
    """

    filepath: str
    place: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", " ".join(self.reason.split()))  # names of files may hold line breaks


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read a source.

    Attributes:
        root: Folder the file paths are relative to; None for the table's own folder.
        dataset: Data set of records that name none.
        folder_labels: Whether folders below a folder source are labels.
        constants: Values of `GIVEN_FIELDS` for records that lack them.

    Raises:
        SourceError: a text is no Unicode, as bytes on a command line may be.
    """

    root: Path | None = None
    dataset: str | None = None
    folder_labels: bool = True
    constants: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for text in (self.dataset or "", *self.constants.values()):
            if text != printable(text):
                raise SourceError(f"{printable(text)} is not UTF-8 text")


class Source(Protocol):
    """Yields image records; a row that can't be one is a `Failure`, never lost."""

    @property
    def total(self) -> int | None:
        """How many items will come, where that is cheap to know."""

    @property
    def ignored(self) -> Mapping[str, int]:
        """Files that were passed over because they have no image suffix, counted by suffix."""

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """All items, in the same order each time."""


def make_record(
    filepath: str, dataset: str, labels: list[str], given: Mapping[str, str], extra: Mapping[str, Any]
) -> ImageRecord:
    """An image record from texts, in canonical form.

    Modality and region that aren't given are taken from the first label; the name of the file says whether it is an
    image or a volume.

    Args:
        filepath: Key of the image within its data set.
        dataset: Name of the data set.
        labels: As written by people; repeated ones count once.
        given: Texts by field name, of `GIVEN_FIELDS`.
        extra: Anything else, JSON.

    Raises:
        RecordError: a value doesn't fit its field.
    """
    values: dict[str, Any] = {
        name: _typed(name, text) for name, text in given.items() if name in GIVEN_FIELDS and text.strip()
    }
    slugs = tuple(dict.fromkeys(label_slug(label) for label in labels))
    if slugs and "/" in slugs[0]:
        modality, region, *_ = slugs[0].split("/")
        values.setdefault("modality", modality)
        values.setdefault("anatomic_region", region)
    return ImageRecord(filepath=filepath, dataset=dataset, labels=slugs, kind=kind_of(filepath), extra=extra, **values)


def printable(name: str) -> str:
    """A file name as text; bytes that are no UTF-8 become escapes, for the engine stores text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _typed(name: str, text: str) -> str | float:
    if name == "split":
        return _SPLITS.get(text.strip().lower(), text.strip().lower())
    kind = FIELDS[name].kind
    try:
        if kind == "datetime":
            return datetime.fromisoformat(text.strip()).isoformat()  # the engines read fewer spellings than Python
        if kind != "float":
            return canonical(name, text)
        number = float(text)
    except ValueError as error:
        raise RecordError(f"{name} {text!r} is no {'number' if kind == 'float' else 'date'}") from error
    if not math.isfinite(number):
        raise RecordError(f"{name} {text!r} is not finite")
    return number
