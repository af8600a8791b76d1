"""The vectors of a collection in the plane, to be looked at: neighbours there need not be neighbours in truth."""

import importlib.util
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.ranking.trial import packed, text_ids
from cbmir.filters import Where, resolve
from cbmir.schema import Vectors
from cbmir.store import Collection

MAPS = ("pca", "tsne", "umap", "none")

MAP_IMAGES = 2000
"""Images on a map at most: more points hide each other, and t-SNE takes minutes."""

NO_MODALITY = "no modality"
_LEAST = 3
_PERPLEXITY = 30.0

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """n images of a collection in the plane.

    Attributes:
        method: One of `MAPS`.
        ids: (n,) UUIDs, rising.
        points: (n, 2) coordinates.
        modalities: (n,) of each image, `NO_MODALITY` where it has none.
        images: That could have been drawn.
        seed: Of the draw, and of t-SNE and UMAP.
        shares: Share of the variance that each axis shows; PCA only.
    """

    method: str
    ids: tuple[str, ...]
    points: Points
    modalities: tuple[str, ...]
    images: int
    seed: int
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MapRow:
    """An image on a map.

    Attributes:
        id: Its UUID.
        x: Place on the first axis.
        y: Place on the second axis.
        modality: Of the image.
    """

    id: str
    x: float
    y: float
    modality: str

    @classmethod
    def of(cls, drawn: EmbeddingMap) -> "list[MapRow]":
        """A row a point."""
        places = zip(drawn.ids, drawn.points.tolist(), drawn.modalities, strict=True)
        return [cls(id, x, y, modality) for id, (x, y), modality in places]


def require(method: str) -> None:
    """Refuse a map whose package isn't installed.

    Raises:
        ProtocolError: the package is missing.
    """
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise ProtocolError("the map umap needs the package umap-learn, which isn't installed; pca and tsne need none")


def map_of(
    collection: Collection, where: Where, method: str, seed: int, known: NDArray[np.bytes_] | None = None
) -> EmbeddingMap:
    """Draw up to `MAP_IMAGES` images of a collection and place them in the plane.

    Collections of the same images draw the same ones with the same seed.

    Args:
        collection: Whose vectors are shown.
        where: Which of its images.
        method: One of `MAPS`, other than ``none``.
        seed: Of the draw, and of methods that start at random.
        known: (images,) the ids of all of these images, where they were read before.

    Raises:
        FilterError: the filter names what doesn't exist.
        ProtocolError: fewer than three images satisfy it, or the method's package is missing.
    """
    require(method)
    where = resolve(where, collection)
    every = known
    if every is None:
        ids = [packed(points) for points in collection.scroll(where, fields=False)]
        every = np.concatenate(ids) if ids else np.empty(0, "S16")
    if len(every) < _LEAST:
        raise ProtocolError(f"a map takes {_LEAST} images or more; {len(every)} of {collection.name} are asked for")
    drawn = np.sort(every)
    if len(drawn) > MAP_IMAGES:
        drawn = np.sort(np.random.default_rng(seed).choice(drawn, MAP_IMAGES, replace=False))
    stored = collection.get(text_ids(drawn), fields=["modality"], vectors=True)
    stored.sort(key=lambda point: point.id)
    vectors = np.stack([point.vector for point in stored if point.vector is not None])
    points, shares = _placed(vectors, method, seed)
    return EmbeddingMap(
        method=method,
        ids=tuple(point.id for point in stored),
        points=points,
        modalities=tuple(str(point.payload.get("modality") or NO_MODALITY) for point in stored),
        images=len(every),
        seed=seed,
        shares=shares,
    )


def principal(vectors: Vectors) -> tuple[Points, tuple[float, ...]]:
    """The first two principal components of n vectors, and their shares of the variance.

    An axis along which nothing varies is 0.

    Args:
        vectors: (n, dim), two or more.

    Returns:
        (n, 2) scores, and two shares in 0 to 1.
    """
    from sklearn.decomposition import PCA

    points, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    axes = min(2, *vectors.shape)
    with np.errstate(invalid="ignore"):  # shares of a variance of 0
        components = PCA(axes, svd_solver="full")  # the largest loading of each axis is positive
        points[:, :axes] = components.fit_transform(vectors.astype(np.float64))
        shares[:axes] = np.nan_to_num(components.explained_variance_ratio_)
    return points, tuple(shares.tolist())


def _placed(vectors: Vectors, method: str, seed: int) -> tuple[Points, tuple[float, ...]]:
    points, shares = principal(vectors)
    if method == "pca":
        return points, shares
    if method == "tsne":
        from sklearn.manifold import TSNE

        started = 1e-4 * points / max(float(points[:, 0].std()), 1e-12)  # as sklearn's init="pca", with our signs
        perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
        placed = TSNE(perplexity=perplexity, init=started.astype(np.float32), random_state=seed).fit_transform(vectors)
    else:
        import umap

        neighbours = min(15, len(vectors) - 1)
        placed = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed).fit_transform(vectors)
    return np.asarray(placed, np.float64), ()
