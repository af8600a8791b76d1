"""What a source of image records is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from cbmir.errors import RecordError, SourceError
from cbmir.ingest.report import Failure
from cbmir.ingest.sources.dicom_options import DicomOptions
from cbmir.ingest.tables.columns import GIVEN_FIELDS
from cbmir.ingest.tables.options import TableOptions
from cbmir.ingest.tables.reading import Reading
from cbmir.ingest.tables.values import value_of
from cbmir.media import Asset, expected_kind, split_key
from cbmir.modalities import modality_code
from cbmir.paths import PathPrefixes, printable
from cbmir.root import Root
from cbmir.schema import ImageRecord, label_slug, point_id

_KNOWN = 1 << 16
"""Texts whose values are kept: columns of tables hold the same few again and again."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image record and where its pixels are.

    Attributes:
        record: What the source knows of the image.
        asset: Its pixels; nothing of it has been read.
        former_keys: Keys that earlier versions of cbmir gave the image as its source writes it.
    """

    record: ImageRecord
    asset: Asset
    former_keys: tuple[str, ...] = ()

    @property
    def former_ids(self) -> list[str]:
        """Ids under which an earlier version may have stored the image; its own isn't among them."""
        ids = dict.fromkeys(point_id(self.record.dataset, key) for key in self.former_keys)
        return [id for id in ids if id != self.record.id]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read a source.

    Attributes:
        root: Folder the file paths are relative to; None for the table's own folder.
        dataset: Data set of records that name none.
        folder_labels: Whether folders below a folder source are labels.
        constants: Values of `GIVEN_FIELDS` for records that lack them.
        table: How to read a table.
        prefixes: Beginnings of written paths that are replaced.
        links: Whether symbolic links are followed; they are passed over otherwise.
        uris: Whether a URI that is no file is the name of an image, as where no file is opened.
        dicom: How DICOM is read.

    Raises:
        SourceError: a text is no Unicode, as bytes on a command line may be.
    """

    root: Path | None = None
    dataset: str | None = None
    folder_labels: bool = True
    constants: Mapping[str, str] = field(default_factory=dict)
    table: TableOptions = field(default_factory=TableOptions)
    prefixes: PathPrefixes = field(default_factory=PathPrefixes)
    links: bool = True
    uris: bool = False
    dicom: DicomOptions = field(default_factory=DicomOptions)

    def __post_init__(self) -> None:
        for text in (self.dataset or "", *self.constants.values()):
            if text != printable(text):
                raise SourceError(f"{printable(text)} is not UTF-8 text")

    def root_of(self, folder: Path) -> Root:
        """What paths are relative to: `root`, or this folder."""
        return Root(self.root or folder, self.prefixes, links=self.links, uris=self.uris)


class Source(Protocol):
    """Yields image records; a row that can't be one is a `Failure`, never lost."""

    @property
    def root(self) -> Path | None:
        """Folder that the file paths of its records are relative to; None where they are no paths."""

    @property
    def total(self) -> int | None:
        """How many items will come, where that is cheap to know."""

    @property
    def ignored(self) -> Mapping[str, int]:
        """Files that were passed over: without an image suffix, counted by suffix; hidden ones; symbolic links."""

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """All items, in the same order each time."""


class ReadSource(Source, Protocol):
    """A source that says how it is read, before anything is done with its images."""

    def reading(self) -> Reading:
        """How it is read, with counts of all its items."""


def make_record(
    filepath: str,
    dataset: str,
    labels: list[str],
    given: Mapping[str, str],
    extra: Mapping[str, Any],
    spellings: Mapping[str, str] | None = None,
) -> ImageRecord:
    """An image record from texts, in canonical form.

    Labels without a modality are completed by the modality and the region that are given. Modality and region that
    aren't given are taken from the first label. Whether it is an image or a volume is what its name tells, until it is
    decoded.

    Args:
        filepath: Key of the image within its data set.
        dataset: Name of the data set.
        labels: As written by people; repeated ones count once.
        given: Texts by field name, of `GIVEN_FIELDS`.
        extra: Anything else, JSON.
        spellings: Of modalities, in labels too, and what they are, besides those of `cbmir.modalities`.

    Raises:
        RecordError: a value doesn't fit its field.
    """
    values: dict[str, Any] = {
        name: _typed(name, text) for name, text in given.items() if name in GIVEN_FIELDS and text.strip()
    }
    values = {name: value for name, value in values.items() if value != ""}
    if spellings:
        labels = [_with_code(label, spellings) for label in labels]
        if "modality" in values:
            values["modality"] = modality_code(values["modality"], spellings)
    if values.get("modality") and values.get("anatomic_region"):
        start = f"{values['modality']}/{values['anatomic_region']}/"
        labels = [label if "/" in label else start + label for label in labels]
    slugs = tuple(dict.fromkeys(label_slug(label) for label in labels))
    if slugs and "/" in slugs[0]:
        modality, region, *_ = slugs[0].split("/")
        values.setdefault("modality", modality)
        values.setdefault("anatomic_region", region)
    kind = expected_kind(split_key(filepath)[0])
    return ImageRecord(filepath=filepath, dataset=dataset, labels=slugs, kind=kind, extra=extra, **values)


def _with_code(label: str, spellings: Mapping[str, str]) -> str:
    first, slash, rest = label.partition("/")
    return modality_code(first, spellings) + slash + rest if slash else label


@lru_cache(_KNOWN)
def _typed(name: str, text: str) -> str | float:
    try:
        value = value_of(name, text)
    except ValueError as error:
        raise RecordError(f"{name} {error}") from error
    return float(value) if name == "age_years" and value else value
