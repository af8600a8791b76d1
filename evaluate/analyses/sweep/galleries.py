"""Smaller galleries drawn from a larger one, each within the next larger."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.ranking.trial import Images

UNITS = ("image", "patient")
"""What is drawn: single images, or all images of a patient at once."""

_SIZE = re.compile(r"(\d+)|(\d+(?:\.\d+)?|\.\d+)%")


@dataclass(frozen=True, slots=True)
class Size:
    """How large a gallery shall be.

    Attributes:
        number: Images, or percent of all.
        percent: Which of the two.

    Raises:
        ProtocolError: it is not above 0, above 100 percent, or a part of an image.
    """

    number: float
    percent: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.number <= (100 if self.percent else np.inf) or not (self.percent or self.number % 1 == 0):
            raise ProtocolError(
                f"a gallery can't have the size {self}; sizes are whole images from 1 on, or above 0% and up to 100%"
            )

    def __str__(self) -> str:
        """As people write it; the inverse of `read`."""
        return f"{self.number:.15g}{'%' if self.percent else ''}"

    @classmethod
    def read(cls, text: str) -> "Size":
        """Read ``1000`` (images) or ``2.5%``.

        Raises:
            ProtocolError: it is neither.
        """
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ProtocolError(f"can't read the size {text!r}; write images, as 1000, or a part of the gallery, as 5%")
        images, percent = match.groups()
        return cls(float(images or percent), percent=images is None)

    def images(self, total: int) -> int:
        """Images that a gallery of this size has, the nearest number; 0 or more than `total` where there is none."""
        return round(total * self.number / 100) if self.percent else int(self.number)


@dataclass(frozen=True, slots=True)
class Order:
    """A random order of the units of a gallery; its first ones are the smaller galleries, so that these are nested.

    Attributes:
        ranks: (images,) place of each image's unit in the order, from 0.
        ends: (units,) images of the units up to each place.
    """

    ranks: NDArray[np.int64]
    ends: NDArray[np.int64]

    def first(self, images: int) -> NDArray[np.bool_]:
        """(images,) the gallery of the first units that have together the nearest number of images, one at least.

        Of two numbers that are as near it has the lower one.
        """
        kept: NDArray[np.bool_] = self.ranks <= np.argmin(np.abs(self.ends - images))
        return kept


def units_of(gallery: Images, unit: str) -> NDArray[np.int64]:
    """(images,) number of the unit of each image, by their first images; an image without a patient is a unit alone."""
    if unit == "image":
        return np.arange(len(gallery))
    codes = gallery.codes["patient_id"].astype(np.int64)
    codes = np.where(codes > 0, codes, -np.arange(len(gallery)))
    _, first, units = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[units]


def draw_order(units: NDArray[np.int64], seed: int, number: int) -> Order:
    """A random order, the same for the same units, seed and number.

    Images stand by rising id, which depends on neither encoder nor queries: collections whose whole galleries are the
    same images get the same smaller ones.

    Args:
        units: (images,) see `units_of`.
        seed: Of all draws.
        number: Of this one.
    """
    shuffled = np.random.default_rng([seed, number]).permutation(int(units.max()) + 1)
    ranks = shuffled[units]
    return Order(ranks, np.cumsum(np.bincount(ranks)))
