"""A rectangle of an image, which a query can ask for instead of the whole image."""

from dataclasses import dataclass
from typing import Self

from PIL import Image

from cbmir.errors import ImageError

CONTEXT = 0.2
"""How much of a region's longer side is taken beside it, half of that on either side: encoders were trained on whole
images and see a lesion better with what is around it."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of an image as a viewer shows it, after its orientation was applied.

    Attributes:
        x: First column, from 0.
        y: First row, from 0.
        width: Columns, 1 or more.
        height: Rows, 1 or more.

    Raises:
        ImageError: a number is out of range.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if min(self.x, self.y) < 0 or min(self.width, self.height) < 1:
            raise ImageError(f"the region {self} has no pixels; it is x,y,width,height in pixels, such as 120,80,64,64")

    @classmethod
    def read(cls, text: str) -> Self:
        """A region from ``x,y,width,height``.

        Raises:
            ImageError: the text isn't four whole numbers, or one is out of range.
        """
        parts = text.split(",")
        try:
            x, y, width, height = (int(part) for part in parts)
        except ValueError as error:
            raise ImageError(
                f"the region {text!r} can't be read; it is x,y,width,height in pixels, such as 120,80,64,64"
            ) from error
        return cls(x, y, width, height)

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"

    def square(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the square that is searched: the region in the middle, with its context.

        At an edge of the image the square is moved inwards. It is shortened only where the image is.

        Args:
            size: Width and height of the image.

        Raises:
            ImageError: the region isn't wholly in the image.
        """
        if self.x + self.width > size[0] or self.y + self.height > size[1]:
            raise ImageError(f"has {size[0]} x {size[1]} pixels, which the region {self} goes beyond")
        side = round(max(self.width, self.height) * (1 + CONTEXT))
        left, right = _span(self.x, self.width, side, size[0])
        top, bottom = _span(self.y, self.height, side, size[1])
        return left, top, right, bottom

    def of(self, picture: Image.Image) -> Image.Image:
        """What of a picture is searched.

        Raises:
            ImageError: the region isn't wholly in it.
        """
        return picture.crop(self.square(picture.size))


def _span(start: int, length: int, side: int, whole: int) -> tuple[int, int]:
    side = min(side, whole)
    first = min(max(start - (side - length) // 2, 0), whole - side)
    return first, first + side
