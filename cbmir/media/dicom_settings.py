"""How the DICOM files of a collection are read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cbmir.errors import SourceError
from cbmir.keyfile import Key

NAMED_WINDOWS = {"lung": (-1350.0, 150.0), "bone": (-500.0, 1300.0), "brain": (0.0, 80.0), "soft": (-160.0, 240.0)}
"""Windows of CT by name, in HU from black to white."""

WINDOWS = ("auto", "dicom", *NAMED_WINDOWS)
ORIENTATION = "axial CT and MR in radiological convention, others as stored"
DECODER = 1
"""Version of the decoder of DICOM; counted up when a file would get other pixels."""

_PAIR = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*")

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels as stored; right and bottom are the first outside."""


@dataclass(frozen=True, slots=True)
class DicomSettings:
    """How the DICOM files of a collection are read.

    Attributes:
        window: One of `WINDOWS`, or ``LO,HI`` in the units of the images.
        key: Identifiers and pixels are hashed with it; None where it isn't at hand: then nothing has a hash.
        rules: Of the user, more words for body regions: patterns and regions, see `cbmir.media.dicom_regions`.
        boxes: Parts of this one image that are blackened before it is windowed.

    Raises:
        SourceError: there is no such window.
    """

    window: str = "auto"
    key: Key | None = field(default=None, repr=False)
    rules: tuple[tuple[str, str], ...] = ()
    boxes: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", _checked(self.window))

    @property
    def limits(self) -> tuple[float, float] | None:
        """Black and white of a window that names both; None for any other."""
        found = _PAIR.fullmatch(self.window)
        return (float(found[1]), float(found[2])) if found else None

    def as_json(self) -> dict[str, Any]:
        """What a collection keeps of it; the key itself isn't in it, only its check value."""
        return {
            "window": self.window,
            "key_check": self.key.check if self.key else None,
            "rules": [list(rule) for rule in self.rules],
            "orientation": ORIENTATION,
            "decoder": DECODER,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], key: Key | None) -> "DicomSettings":
        """The inverse of `as_json`.

        Args:
            data: What a collection keeps.
            key: The one of the collection, where it is at hand.
        """
        rules: Sequence[Sequence[str]] = data.get("rules") or ()
        return cls(str(data.get("window", "auto")), key, tuple((str(rule[0]), str(rule[1])) for rule in rules))


def _checked(window: str) -> str:
    text = window.strip().lower()
    found = _PAIR.fullmatch(text)
    if found and float(found[1]) < float(found[2]):
        return f"{float(found[1]):g},{float(found[2]):g}"
    if text not in WINDOWS:
        raise SourceError(
            f"no window {window!r}: give {', '.join(WINDOWS)}, or LO,HI such as -160,240, the lower number first"
        )
    return text
