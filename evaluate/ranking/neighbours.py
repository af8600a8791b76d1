"""The nearest gallery images of every query: by a scan of all vectors, and by the search that users get."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.keys import cosines_of, places_of
from cbmir.evaluate.ranking.scan import CHUNK_IMAGES, Bar, Scan
from cbmir.evaluate.ranking.trial import NONE, Places, Trial, packed_ids, stream_gallery, text_ids
from cbmir.filters import Condition, Where
from cbmir.store import Collection
from cbmir.store.ways import Wanted

ASKED = 128
"""Queries in one request to the store."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest gallery images of n queries, by falling cosine, equal ones by rising id.

    Attributes:
        places: (n, depth) places in the gallery, `NONE` where there are not as many images.
        scores: (n, depth) cosines, NaN at missing places.
    """

    places: Places
    scores: NDArray[np.float32]


def scan(
    collection: Collection, trial: Trial, exclusions: tuple[Exclusion, ...], depth: int, device: str = "cpu"
) -> list[Neighbours]:
    """Score every query against every gallery image.

    Takes the memory of the query vectors, one chunk of the gallery (all of it, where the trial holds it), its scores
    (134 MB) and 8 bytes a neighbour.

    Args:
        collection: Where the gallery's vectors are.
        trial: Queries and gallery.
        exclusions: What the queries may not find, each all of what the one before bars, and more; each gives a result.
        depth: Neighbours a query.
        device: Of the matrix products: ``cpu``, ``cuda``, ``cuda:1``.
    """
    best = Scan(trial.query_vectors, depth, len(exclusions), device)
    with tqdm(total=len(trial.gallery), desc="exact search", unit="image", leave=False, disable=None) as bar:
        for places, vectors in stream_gallery(collection, trial, CHUNK_IMAGES):
            bars = [_barred(exclusion, places) for exclusion in exclusions]
            best.show(places, vectors, bars, last=places[-1] == len(trial.gallery) - 1)
            bar.update(len(places))
    return [Neighbours(places_of(keys), cosines_of(keys).astype(np.float32)) for keys in best.keys]


def ask(collection: Collection, trial: Trial, exclusion: Exclusion, depth: int, *, exact: bool) -> Neighbours:
    """Ask the store as a user would, with a filter for the gallery and, where need be, against images not to be found.

    Args:
        collection: What is asked.
        trial: Queries and gallery.
        exclusion: What the queries may not find.
        depth: Neighbours a query.
        exact: Have the store compare all images that pass; False for the way that it chooses itself, as for users.

    Raises:
        ProtocolError: the store found an image that was not in the gallery when it was read.
    """
    vectors = trial.query_vectors
    found = np.full((len(vectors), depth), NONE)
    scores = np.full((len(vectors), depth), np.nan, np.float32)
    where_of = _wheres(trial, exclusion)
    with tqdm(total=len(vectors), desc="the store's search", unit="query", leave=False, disable=None) as bar:
        for start in range(0, len(vectors), ASKED):
            rows = range(start, min(start + ASKED, len(vectors)))
            wheres = [where_of(row) for row in rows]
            way: Wanted = "exact" if exact else "auto"
            answers = collection.query_batch(vectors[rows.start : rows.stop], depth, wheres, way=way, fields=False)
            for row, hits in zip(rows, answers, strict=True):
                found[row, : len(hits)] = trial.gallery.places(packed_ids(hit.id for hit in hits))
                scores[row, : len(hits)] = [hit.score for hit in hits]
            bar.update(len(answers))
    if ((found == NONE) & ~np.isnan(scores)).any():
        raise ProtocolError(f"{collection.name} got new images while it was measured; start again")
    return Neighbours(found, scores)


def _barred(exclusion: Exclusion, places: Places) -> Callable[[slice], Bar]:
    """What is barred within a chunk, with columns instead of places."""
    first, last = places[0], places[-1]

    def within(block: slice) -> Bar:
        rows, barred = exclusion.pairs(block)
        there = (barred >= first) & (barred <= last)
        mask = None
        if exclusion.across_datasets:
            mask = exclusion.same_dataset(np.arange(block.start, block.stop)[:, np.newaxis], places[np.newaxis])
        return Bar((rows[there], np.searchsorted(places, barred[there])), mask)

    return within


def _wheres(trial: Trial, exclusion: Exclusion) -> Callable[[int], Where]:
    """The filter of each query; what bars nothing isn't sent, so that the store can share filters among queries."""
    names = {field: list(trial.vocabularies[field]) for field in exclusion.fields}
    codes = {field: trial.queries.codes[field] for field in exclusion.fields}
    shared = {field: np.isin(codes[field], trial.gallery.codes[field]) & (codes[field] > 0) for field in names}

    def where_of(row: int) -> Where:
        where = trial.gallery_where
        for field in exclusion.fields:
            if shared[field][row]:
                where += (Condition(field, "!=", names[field][codes[field][row]]),)
        if where == trial.gallery_where and trial.own_places[row] != NONE:
            where += (Condition("id", "!=", tuple(text_ids(trial.queries.ids[row : row + 1]))),)
        return where

    return where_of
