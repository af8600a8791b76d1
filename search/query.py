"""A question and, apart from it, how it is to be answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cbmir.errors import QueryError
from cbmir.filters import Where
from cbmir.schema import Vectors, normalise
from cbmir.store.ways import Wanted

if TYPE_CHECKING:
    from cbmir.media import Asset, Region

Mix = Literal["ranks", "vectors"]
"""How texts and images of one query come together, see `WeightedQuery`."""

GROUPS = {"patient": "patient_id", "study": "study_id", "series": "series_id", "region": "anatomic_region"}
"""Short names for what hits are grouped by."""


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """An image or a volume that needn't be stored.

    Attributes:
        image: Its file, or where else its pixels come from.
        region: The part of the image that is asked for; None for all of it.
    """

    image: "Path | Asset"
    region: "Region | None" = None


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
    """Several queries as one: examples to be like, examples to be unlike, a text beside an image.

    The vectors of examples are averaged by their weights; with examples to be unlike, the direction is twice the
    average of the others minus theirs, as in Qdrant's recommendation by average vector. Texts and images lie in
    different parts of an encoder's space, so with ``ranks`` they are ranked apart and the ranks are fused, see
    `cbmir.search.fusion`.

    Attributes:
        parts: The queries and their weights, finite and not 0. A weight below 0 is that of an example to be unlike.
            Only the ratios of the weights matter.
        mix: ``ranks``: texts and images are fused by rank. ``vectors``: all parts are averaged.

    Raises:
        QueryError: nothing is to be looked for, or a weight is out of range.
    """

    parts: tuple[tuple[Single, float], ...]
    mix: Mix = "ranks"

    def __post_init__(self) -> None:
        if not any(weight > 0 for _, weight in self.parts):
            raise QueryError("the query says only what hits must be unlike; give one example or text to be like")
        for _, weight in self.parts:
            if not (np.isfinite(weight) and weight):
                raise QueryError(f"the weight {weight} of a query can't be used; weights are finite and not 0")
        if self.mix not in ("ranks", "vectors"):
            raise QueryError(f"no mix {self.mix!r}; there are ranks, vectors")


Query = Single | WeightedQuery
"""A question. All kinds become (dim,) vectors of unit length before anything is ranked."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a query is to be answered.

    Attributes:
        k: Hits a query.
        where: Conditions the hits must satisfy: parsed, or as text such as ``modality=CT and age_years<60``.
        exclude_same_patient: Leave out the images of the query's patient and study, where they are known, and with
            them the stored copies of the query image itself.
        exclude_self: Leave out the stored images whose file has the same content as the query's; for image files.
        way: ``auto``: the fastest way whose recall holds. ``exact``: compare all images that pass the filter.
            ``approximate``: by the HNSW graph, unchecked.
        skip: Hits to leave out at the top, as for a second page.
        min_score: Hits have at least this cosine, -1 to 1; None for all.
        diversity: 0 to 1: how much hits shall differ among each other, by maximal marginal relevance over the nearest
            images; None for the nearest as they are.
        group_by: Only the best hit of each patient, study, series, or value of another field or own column; images
            without a value are each for themselves. None for all.

    Raises:
        QueryError: a value is out of range.
    """

    k: int = 10
    where: Where | Sequence[str] | str = ()
    exclude_same_patient: bool = True
    exclude_self: bool = False
    way: Wanted = "auto"
    skip: int = 0
    min_score: float | None = None
    diversity: float | None = None
    group_by: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise QueryError(f"k is {self.k!r}; ask for 1 hit or more")
        if not isinstance(self.skip, int) or isinstance(self.skip, bool) or self.skip < 0:
            raise QueryError(f"skip is {self.skip!r}; it is a whole number of 0 or more")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise QueryError(f"the least score is {self.min_score!r}; cosines lie between -1 and 1")
        if self.diversity is not None and not 0 <= self.diversity <= 1:
            raise QueryError(f"diversity is {self.diversity!r}; it lies between 0 and 1")

    @property
    def pool(self) -> int:
        """Nearest images from which diverse or fused answers are chosen, on whatever page."""
        return max(100, 10 * self.k)

    def check_page(self) -> None:
        """Refuse a page of a diverse or fused answer that lies beyond what it is chosen from.

        Raises:
            QueryError: it does.
        """
        if self.skip + self.k > self.pool:
            raise QueryError(
                f"{self.skip} skipped and {self.k} shown are more than the {self.pool} nearest images that diverse and "
                "fused answers are chosen from; skip fewer, or ask for more hits a page"
            )


def weighted(vectors: Vectors, weights: Sequence[float]) -> Vectors:
    """Several batches of queries as one, each of unit length again; see `WeightedQuery`.

    Args:
        vectors: (parts, n, dim) vectors of unit length.
        weights: One a part; below 0 for parts to be unlike.

    Returns:
        (n, dim) float32.

    Raises:
        QueryError: the parts of a query cancel each other, so that nothing is nearer than anything else.
    """
    given = np.asarray(weights, np.float64)
    like, unlike = np.clip(given, 0, None), np.clip(-given, 0, None)
    shares = like / (like.sum() or 1)
    if unlike.any():
        shares = 2 * shares - unlike / unlike.sum()
    sums = np.einsum("p,pnd->nd", shares, vectors.astype(np.float64))
    if (np.linalg.norm(sums, axis=1) < 1e-6).any():
        raise QueryError("the parts of a weighted query cancel each other; change the weights, or leave one out")
    return normalise(sums.astype(np.float32))
