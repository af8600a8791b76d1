"""The neighbours of all queries as a file, for other programs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from cbmir.errors import CbmirError, ProtocolError
from cbmir.evaluate.analyses.retrieval.measurement import Measurement
from cbmir.evaluate.ranking.trial import NONE, SCROLL_IMAGES, Images, packed, text_ids
from cbmir.evaluate.results import Asked, write_asked
from cbmir.filters import Where
from cbmir.store import Collection

FORMS = (".csv", ".parquet")
_ROWS = 50_000
"""Hits written at once."""


def write_wide(collection: Collection, measurement: Measurement, path: Path, asked: Asked | None = None) -> None:
    """A row a query: the path of its file, and those of its hits in columns ``1`` to the deepest cutoff.

    The layout of the reference program's ``knn.csv``; a missing hit is empty.

    Raises:
        CbmirError: the file can't be written.
    """
    trial = measurement.trial
    places = _first(measurement).places
    query_paths = _paths(collection, trial.queries_where, trial.queries)
    there = _paths(collection, trial.gallery_where, trial.gallery)
    names = ["query", *(str(rank) for rank in range(1, places.shape[1] + 1))]

    def parts() -> Iterator[pa.Table]:
        step = max(1, _ROWS // places.shape[1])
        for start in range(0, len(places), step):
            block = places[start : start + step]
            columns = [pa.array(query_paths[start : start + step]), *(_taken(there, column) for column in block.T)]
            yield pa.table(dict(zip(names, columns, strict=True)))

    write_parts(parts(), path, asked)


def write_long(collection: Collection, measurement: Measurement, path: Path, asked: Asked | None = None) -> None:
    """A row a hit: ids and paths of query and hit, rank from 1, cosine, and grade of relevance.

    Raises:
        CbmirError: the file can't be written.
    """
    trial = measurement.trial
    neighbours = _first(measurement)
    grades = measurement.relevance.grades(trial, neighbours.places)
    query_paths = _paths(collection, trial.queries_where, trial.queries)
    there = _paths(collection, trial.gallery_where, trial.gallery)

    def parts() -> Iterator[pa.Table]:
        step = max(1, _ROWS // neighbours.places.shape[1])
        for start in range(0, len(grades), step):
            block = neighbours.places[start : start + step]
            rows, ranks = np.nonzero(block != NONE)
            places = block[rows, ranks]
            rows += start
            columns: dict[str, Any] = {
                "query_id": text_ids(trial.queries.ids[rows]),
                "query": query_paths[rows],
                "rank": ranks + 1,
                "hit_id": text_ids(trial.gallery.ids[places]),
                "hit": there[places],
                "cosine": neighbours.scores[rows, ranks],
                "grade": grades[rows, ranks],
            }
            yield pa.table(columns)

    write_parts(parts(), path, asked)


def write_parts(parts: Iterator[pa.Table], path: Path, asked: Asked | None = None) -> None:
    """Write a long table as .csv or .parquet, a part at a time.

    What it is the answer to is in the metadata of a Parquet file under ``cbmir``, and in a file beside a CSV.

    Args:
        parts: One or more of the same columns.
        path: The file, which is replaced.
        asked: What it is the answer to.

    Raises:
        ProtocolError: the name of the file ends otherwise.
        CbmirError: the file can't be written.
    """
    form = path.suffix.lower()
    if form not in FORMS:
        raise ProtocolError(f"can't export to {path}: the name ends in {' or '.join(FORMS)}")
    try:
        part = next(parts)
        opened = pa.csv.CSVWriter if form == ".csv" else pa.parquet.ParquetWriter
        schema = part.schema.with_metadata({"cbmir": json.dumps(asked.as_json())} if asked else None)
        with opened(str(path), schema) as writer:
            writer.write_table(part.cast(schema))
            for part in parts:
                writer.write_table(part.cast(schema))
    except OSError as error:
        raise CbmirError(f"can't write {path}: {error}") from error
    if form == ".csv":
        write_asked(path, asked)


def _first(measurement: Measurement) -> Any:
    return next(iter(measurement.answers.values())).neighbours


def _taken(paths: Any, places: Any) -> pa.Array:
    return pa.array(paths[places], mask=places == NONE)


def _paths(collection: Collection, where: Where, images: Images) -> Any:
    """(images,) path of each image's file."""
    paths = np.full(len(images), "", object)
    for points in collection.scroll(where, fields=["filepath"], batch=SCROLL_IMAGES):
        places = images.places(packed(points))
        there = places != NONE
        paths[places[there]] = np.array([point.payload.get("filepath", "") for point in points], object)[there]
    return paths
