"""A question and, apart from it, how it is to be answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cbmir.errors import QueryError, RecordError
from cbmir.filters import Where
from cbmir.schema import Vectors, normalise
from cbmir.store.ways import Wanted

if TYPE_CHECKING:
    from cbmir.media import Asset


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """An image or a volume that needn't be stored.

    Attributes:
        image: Its file, or where else its pixels come from.
    """

    image: "Path | Asset"


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A text, for encoders that embed texts into the space of the images.

    Attributes:
        text: What is looked for.
    """

    text: str


@dataclass(frozen=True, slots=True)
class StoredQuery:
    """A stored image; it never finds itself.

    Attributes:
        name: Its id, or ``dataset/filepath``, or only the file path.
    """

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class VectorQuery:
    """A vector of the encoder, whatever made it.

    Attributes:
        vector: (dim,) finite numbers, not all 0; the length has no meaning.
    """

    vector: Vectors


Single = ImageQuery | TextQuery | StoredQuery | VectorQuery


@dataclass(frozen=True, slots=True)
class WeightedQuery:
    """Several queries as one, such as an image and a text: the direction of the weighted sum of their unit vectors.

    Attributes:
        parts: The queries and their weights, finite and above 0; only the ratios of the weights matter.

    Raises:
        QueryError: there are no parts, or a weight is out of range.
    """

    parts: tuple[tuple[Single, float], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise QueryError("a weighted query has no parts; give one or more, such as (TextQuery('pneumonia'), 1.0)")
        for _, weight in self.parts:
            if not (np.isfinite(weight) and weight > 0):
                raise QueryError(f"the weight {weight} of a query can't be used; weights are finite and above 0")


Query = Single | WeightedQuery
"""A question. All kinds become (dim,) vectors of unit length before anything is ranked."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a query is to be answered.

    Attributes:
        k: Hits a query.
        where: Conditions the hits must satisfy: parsed, or as text such as ``modality=CT and age_years<60``.
        exclude_same_patient: Leave out the stored images of the query's patient, and the query image itself.
        exclude_self: Leave out the stored images whose file has the same content as the query's; for image files.
        way: ``auto``: the fastest way whose recall holds. ``exact``: compare all images that pass the filter.
            ``approximate``: by the HNSW graph, unchecked.

    Raises:
        RecordError: k is no whole number of 1 or more.
    """

    k: int = 10
    where: Where | Sequence[str] | str = ()
    exclude_same_patient: bool = False
    exclude_self: bool = False
    way: Wanted = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise RecordError(f"k is {self.k!r}; ask for 1 hit or more")


def weighted(vectors: Vectors, weights: Sequence[float]) -> Vectors:
    """Several batches of queries as one: sums of unit vectors, each of unit length again.

    The cosine of such a sum with an image is a positive multiple of the weighted sum of the cosines, so that ranking by
    the sum is ranking by the weighted cosines.

    Args:
        vectors: (parts, n, dim) vectors of unit length.
        weights: One a part.

    Returns:
        (n, dim) float32.

    Raises:
        QueryError: the parts of a query cancel each other, so that nothing is nearer than anything else.
    """
    sums = np.einsum("p,pnd->nd", np.asarray(weights, np.float64) / np.abs(weights).max(), vectors.astype(np.float64))
    if (np.linalg.norm(sums, axis=1) < 1e-6).any():
        raise QueryError("the parts of a weighted query cancel each other; change the weights, or leave one out")
    return normalise(sums.astype(np.float32))
