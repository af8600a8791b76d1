"""What an encoder makes of the probes, `cbmir.encoders.probes`: by it an encoder is known again when its hash differs.

A library that renames a parameter changes the hash of the same weights. It doesn't change the vectors.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np

from cbmir.schema import Vectors

VERSION = 1
"""Of the probes; counted up when one of them changes. Vectors of different versions can't be compared."""

SAME_COSINE = 0.99999
"""Of two float32 vectors of one probe, at which the encoders count as the same."""


class ProbeVectors:
    """Vectors of the probe images, or of the probe volume, and of the probe texts; measured when first looked at.

    Attributes:
        told: Fingerprints that were accepted by these vectors, so that it is said once.
    """

    def __init__(self, images: Callable[[], Vectors], texts: Callable[[], Vectors | None]) -> None:
        self._measure_images = images
        self._measure_texts = texts
        self.told: set[str] = set()

    @cached_property
    def images(self) -> Vectors:
        """(8, dim) float32 rows of unit length; (1, dim) of an encoder of volumes.

        Raises:
            EncoderError: the encoder fails on a probe.
        """
        return self._measure_images()

    @cached_property
    def texts(self) -> Vectors | None:
        """(4, dim) float32 rows of unit length; None without a text tower, or where it can't be loaded."""
        return self._measure_texts()

    def as_json(self) -> dict[str, Any]:
        """The form in a collection's metadata: float32, little-endian, in base64."""
        data: dict[str, Any] = {"version": VERSION, "images": _packed(self.images)}
        return data if self.texts is None else {**data, "texts": _packed(self.texts)}

    @classmethod
    def from_json(cls, data: object, dim: int) -> Self | None:
        """The inverse of `as_json`.

        Args:
            data: Of a collection's metadata.
            dim: Length of its vectors.

        Returns:
            None where there are none that can be read, or where they are of other probes than this version's.
        """
        if not isinstance(data, Mapping) or data.get("version") != VERSION:
            return None
        try:
            images = _unpacked(data["images"], dim)
            texts = _unpacked(data["texts"], dim) if "texts" in data else None
        except (KeyError, TypeError, ValueError, binascii.Error):
            return None
        return cls(lambda: images, lambda: texts)

    def lowest_cosines(self, other: "ProbeVectors") -> dict[str, float]:
        """The lowest cosine of ``images`` and, where both have them, of ``texts``; -1 where they can't be compared."""
        found = {"images": _lowest(self.images, other.images)}
        if self.texts is not None and other.texts is not None:
            found["texts"] = _lowest(self.texts, other.texts)
        return found


def _lowest(one: Vectors, other: Vectors) -> float:
    if one.shape != other.shape:
        return -1.0
    left, right = one.astype(np.float64), other.astype(np.float64)
    cosines = (left * right).sum(axis=1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
    lowest = float(cosines.min())
    return lowest if lowest == lowest else -1.0  # a probe without a vector


def _packed(vectors: Vectors) -> str:
    return base64.b64encode(np.ascontiguousarray(vectors, "<f4").tobytes()).decode("ascii")


def _unpacked(text: object, dim: int) -> Vectors:
    if not isinstance(text, str):
        raise TypeError("no text")
    rows = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32).reshape(-1, dim)
    if not len(rows) or not np.isfinite(rows).all():
        raise ValueError("no vectors")
    return rows
