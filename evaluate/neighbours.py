"""The nearest gallery images of every query: by a scan of all vectors, and by the search that users get."""

import uuid
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.filters import Condition, Where
from cbmir.schema import Vectors
from cbmir.store import Collection
from evaluate.trial import NONE, Places, Trial, packed, stream_vectors

BLOCK = 512
"""Queries scored at once; with a chunk of the gallery that is 16 MiB of scores."""

ASKED = 128
"""Queries in one request to the store."""

_BITS = 30
_MISSING = np.iinfo(np.int64).min
_LOW = (1 << 32) - 1

Keys = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest gallery images of n queries, by falling cosine, equal ones by rising id.

    Attributes:
        places: (n, depth) places in the gallery, `NONE` where there are not as many images.
        scores: (n, depth) cosines, NaN at missing places.
    """

    places: Places
    scores: NDArray[np.float32]


def query_vectors(collection: Collection, trial: Trial) -> Vectors:
    """(queries, dim) the stored vectors of the queries."""
    vectors = np.empty((len(trial.queries), collection.card.dim), np.float32)
    for places, chunk in stream_vectors(collection, trial.queries_where, trial.queries, "queries"):
        vectors[places] = chunk
    return vectors


def exact(collection: Collection, trial: Trial, vectors: Vectors, depth: int) -> Neighbours:
    """Score every query against every gallery image that it may find.

    The gallery's vectors are read once, a chunk at a time, and never held together. Cosines are summed in double
    precision and rounded to 2**-30, so that copies of an image tie whatever the order of summation.

    Args:
        collection: Where the gallery's vectors are.
        trial: Queries and gallery.
        vectors: (queries, dim) of unit length.
        depth: Neighbours a query.
    """
    best = np.full((len(vectors), depth), _MISSING)
    for places, chunk in stream_vectors(collection, trial.gallery_where, trial.gallery, "exact search"):
        gallery = chunk.T.astype(np.float64)
        for start in range(0, len(vectors), BLOCK):
            block = slice(start, start + BLOCK)
            keys = _keys(vectors[block].astype(np.float64) @ gallery, places)
            keys[_barred(trial, block, places)] = _MISSING
            best[block] = _top(np.concatenate([best[block], _top(keys, depth)], axis=1), depth)
    best = np.sort(best, axis=1)[:, ::-1]
    missing = best == _MISSING
    found = np.where(missing, NONE, _LOW - (best & _LOW))
    scores = np.where(missing, np.nan, (best >> 32) / float(1 << _BITS)).astype(np.float32)
    return Neighbours(found, scores)


def approximate(collection: Collection, trial: Trial, vectors: Vectors, depth: int) -> Neighbours:
    """Ask the store as a user would, with a filter for the gallery and, where need be, against images not to be found.

    Args:
        collection: What is asked.
        trial: Queries and gallery.
        vectors: (queries, dim) of unit length.
        depth: Neighbours a query.

    Raises:
        ProtocolError: the store found an image that was not in the gallery when it was read.
    """
    found = np.full((len(vectors), depth), NONE)
    scores = np.full((len(vectors), depth), np.nan, np.float32)
    wheres = _wheres(trial)
    with tqdm(total=len(vectors), desc="approximate search", unit="query", leave=False, disable=None) as bar:
        for start in range(0, len(vectors), ASKED):
            block = slice(start, start + ASKED)
            answers = collection.query_batch(vectors[block], depth, wheres[block], fields=False)
            for row, hits in enumerate(answers, start=start):
                found[row, : len(hits)] = trial.gallery.places(packed(hit.id for hit in hits))
                scores[row, : len(hits)] = [hit.score for hit in hits]
            bar.update(len(answers))
    if ((found == NONE) & ~np.isnan(scores)).any():
        raise ProtocolError(f"{collection.name} got new images while it was measured; start again")
    return Neighbours(found, scores)


def _keys(cosines: NDArray[np.float64], places: Places) -> Keys:
    """One integer an image that sorts by cosine, then by falling place, so that the largest keys are the answer.

    The upper half is the cosine in units of 2**-30, the lower half counts places downwards.
    """
    cosines *= 1 << _BITS
    np.rint(cosines, out=cosines)
    keys = cosines.astype(np.int64)
    keys <<= 32
    keys += _LOW - places
    return keys


def _top(keys: Keys, depth: int) -> Keys:
    """(n, at most depth) the largest keys of each row, in no order; `keys` is reordered."""
    surplus = keys.shape[1] - depth
    if surplus <= 0:
        return keys
    keys.partition(surplus, axis=1)
    return keys[:, surplus:]


def _barred(trial: Trial, block: slice, places: Places) -> NDArray[np.bool_]:
    """(queries of the block, places) which gallery images a query may not find."""
    theirs: NDArray[np.bool_] = trial.barred_patients[block, np.newaxis] == trial.gallery.patients[places]
    itself: NDArray[np.bool_] = trial.own_places[block, np.newaxis] == places
    return theirs | itself


def _wheres(trial: Trial) -> list[Where]:
    """The filter of each query; one that bars nothing isn't sent, so that the store can share it among queries."""
    names = list(trial.vocabularies.patients)
    shared = np.isin(trial.barred_patients, trial.gallery.patients)
    wheres = []
    for row, (patient, own) in enumerate(zip(trial.barred_patients, trial.own_places, strict=True)):
        where = trial.gallery_where
        if shared[row]:
            where += (Condition("patient_id", "!=", (names[patient],)),)
        elif own != NONE:
            where += (Condition("id", "!=", (_text(trial.queries.ids[row]),)),)
        wheres.append(where)
    return wheres


def _text(packed_id: bytes) -> str:
    return str(uuid.UUID(bytes=packed_id.ljust(16, b"\0")))  # numpy drops closing zero bytes
