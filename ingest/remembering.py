"""What stays with a collection of how its sources were read, and the indexes that its own columns get."""

import difflib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cbmir import __version__
from cbmir.errors import SourceError
from cbmir.filters import own_column, own_field
from cbmir.ingest.tables.columns import EXTRA, IGNORED
from cbmir.ingest.tables.options import TableOptions
from cbmir.ingest.tables.reading import Reading
from cbmir.modalities import modality_code
from cbmir.schema import FIELDS
from cbmir.store import Collection
from cbmir.store.columns import IndexKind
from cbmir.store.sources import remember

_IDS = ("patient_id", "study_id", "series_id")
_NAMED = 3


def remember_readings(collection: Collection, readings: Sequence[Reading], options: TableOptions | None = None) -> None:
    """Keep how sources were read in the metadata of the collection, one entry a source and data set.

    Args:
        collection: Open.
        readings: Of the sources.
        options: How the tables were read; spellings of modalities that the user gave count in filters too.

    Raises:
        StoreError: the store refused.
    """
    spellings = options.values.get("modality", {}) if options else {}
    codes = {spelling: modality_code(code) for spelling, code in spellings.items() if code}
    remember(collection, {source_name(reading): _kept(reading) for reading in readings}, codes)


def source_name(reading: Reading) -> str:
    """The name of a source in a collection: its data sets and its file or folder."""
    datasets = reading.tally.datasets
    more = f"+{len(datasets) - _NAMED} more" if len(datasets) > _NAMED else ""
    return f"{'+'.join(datasets[:_NAMED])}{more}/{Path(reading.source).name}"


def wanted_indexes(names: Sequence[str], readings: Sequence[Reading]) -> dict[str, IndexKind]:
    """The indexes that the user asks for, by field.

    Args:
        names: Of own columns, with or without ``extra.``.
        readings: Of the sources that have them.

    Raises:
        SourceError: no source has such an own column; the message names those that are near.
    """
    kinds = {own_field(column.name): column.kind for item in readings for column in item.columns if _is_own(column)}
    wanted: dict[str, IndexKind] = {}
    for name in names:
        field = own_field(name)
        if field not in kinds:
            raise SourceError(_no_column(name, [own_column(known) or "" for known in kinds]))
        wanted[field] = kinds[field]
    return wanted


def with_indexes(collection: Collection, wanted: Mapping[str, IndexKind]) -> Collection:
    """Make indexes on own columns, before the images are written."""
    for field, kind in wanted.items():
        collection.make_index(field, kind)
    return collection


def _is_own(column: Any) -> bool:
    return bool(column.became == EXTRA)


def _no_column(name: str, known: Sequence[str]) -> str:
    if name in FIELDS:
        return f"--index {name}: this is a payload field, which has its index by itself"
    near = difflib.get_close_matches(name, known, 3, 0.6) or list(known)[:12]
    return f"--index {name}: the source has no own column {name}; there are {', '.join(near) or 'none'}"


def _kept(reading: Reading) -> dict[str, Any]:
    """A reading without the values of columns that are ids or are not stored: they don't belong in metadata."""
    data = reading.as_json()
    del data["id_warnings"]  # they name ids
    data["tally"]["reasons"], data["tally"]["first_missing"] = [], ""
    for column in data["columns"]:
        if column["became"] in (IGNORED, *_IDS):
            column["first"] = []
    for name in ("normalised", "lost"):
        for change in data[name]:
            if change["field"] in _IDS:
                change["examples"] = {}
    return {"read_at": datetime.now(UTC).isoformat(timespec="seconds"), "read_by": f"cbmir {__version__}", **data}
