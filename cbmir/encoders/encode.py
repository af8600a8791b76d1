"""Images in any form to vectors, for people who want nothing stored."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cbmir.device import cores
from cbmir.encoders.base import Encoder
from cbmir.errors import ImageError
from cbmir.schema import Vectors

if TYPE_CHECKING:
    from cbmir.media import HoldsPixels

AT_ONCE = {"image": 64, "volume": 1}
"""Images or volumes decoded and embedded together, at least a step of the encoder."""


def encode(
    encoder: Encoder, images: "Sequence[HoldsPixels]", batch_size: int | None = None, *, progress: bool = False
) -> Vectors:
    """Embed images that are stored nowhere, as ingest would.

    Args:
        encoder: What embeds them.
        images: Paths, bytes of files, Pillow images, arrays or assets, see `cbmir.media.Asset.of`.
        batch_size: How many are decoded and handed to the encoder at once; the vectors don't depend on it.
        progress: Show how far it is.

    Returns:
        (n, dim) float32 rows of unit length; a row is NaN where an image is even and has no vector.

    Raises:
        ImageError: one of them can't be used; the message says which.
    """
    kind = encoder.preprocessing.kind
    vectors = np.empty((len(images), encoder.card.dim), np.float32)
    numbered = iter(enumerate(images))
    step = max(1, batch_size or max(AT_ONCE[kind], encoder.batch_size if kind == "image" else 1))
    with (
        ThreadPoolExecutor(cores()) as threads,
        tqdm(total=len(images), unit=kind, desc="encode", disable=None if progress else True) as bar,
    ):
        while part := list(islice(numbered, step)):
            pixels = np.stack(list(threads.map(partial(_prepared, encoder), part)))
            first = part[0][0]
            vectors[first : first + len(part)] = encoder.embed(pixels)
            bar.update(len(part))
    return vectors


def _prepared(encoder: Encoder, numbered: "tuple[int, HoldsPixels]") -> NDArray[Any]:
    from cbmir.media import Asset, prepare

    number, image = numbered
    try:
        asset = Asset.of(image)
        return prepare(asset, encoder.preprocessing, encoder.card.name).pixels
    except ImageError as error:
        place = str(image.location) if isinstance(image, Asset) else image if isinstance(image, str | Path) else ""
        name = f" ({place})" if place else ""
        raise ImageError(f"image {number}{name} {error}") from error
