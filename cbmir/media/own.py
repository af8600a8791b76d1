"""Preprocessing by a function of the user's own, such as CLAHE or a window by percentiles."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import EncoderError, ImageError
from cbmir.schema import RecordKind
from cbmir.sourcefile import SourceFile, in_words
from cbmir.units import counted

_DTYPES = ("uint8", "float16", "float32")
_UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class OwnPreprocessing:
    """What happens to an image or a volume before the network, as a function.

    It runs in the processes that read the images, so pickle must be able to name it: a function or an object of a class
    at the top level of its file, or a `functools.partial` of one; no lambda and no inner function.

    Attributes:
        function: From an 8-bit RGB Pillow image to (height, width, channels), or from a `cbmir.media.Volume` to
            (x, y, z). It gives the same for the same image each time, and may raise `ImageError`.
        shape: Of what it gives.
        settings: Its parameters as JSON; encoders with other settings are other encoders.
        mean: Subtracted from each channel of an image, after uint8 was scaled to 0..1; one number, or one a channel.
        std: Divides each channel after that.
        kind: ``image`` or ``volume``.
        dtype: Of what it gives: uint8, float16 or float32, by name too.
        pixels: SHA-256 of what it makes of the probes; set by cbmir.
        code: The file of the function, where it was given as one; set by cbmir.

    Raises:
        EncoderError: the values don't fit together.
    """

    function: Callable[[Any], Any]
    shape: tuple[int, int, int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    kind: RecordKind = "image"
    dtype: np.dtype[Any] = _UINT8
    pixels: str = ""
    code: SourceFile | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "shape", tuple(self.shape))
        if not callable(self.function):
            raise EncoderError(f"the preprocessing is {self.function!r}, which can't be called")
        if self.kind not in ("image", "volume") or str(self.dtype) not in _DTYPES:
            raise EncoderError(
                f"a preprocessing of kind {self.kind!r} and dtype {self.dtype}: kinds are image and volume, "
                f"dtypes {', '.join(_DTYPES)}"
            )
        if len(self.shape) != 3 or not all(isinstance(side, int) and side > 0 for side in self.shape):
            axes = "(height, width, channels)" if self.kind == "image" else "(x, y, z)"
            raise EncoderError(f"a preprocessed {self.kind} has the shape {axes}, not {self.shape}")
        if not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise EncoderError(
                f"mean of {len(self.mean)} and std of {len(self.std)} for {counted(self.channels, 'channel')}"
            )

    @property
    def input_px(self) -> tuple[int, int]:
        """Height and width of an image for the network."""
        return self.shape[0], self.shape[1]

    @property
    def channels(self) -> int:
        """Of an image; a volume has one."""
        return self.shape[2] if self.kind == "image" else 1

    @property
    def white(self) -> float:
        """The value that is 1 before mean and std."""
        return 255.0 if self.dtype == _UINT8 else 1.0

    def apply(self, source: Any) -> NDArray[Any]:
        """What the function makes of an image or a volume, of `shape` and `dtype`.

        Raises:
            ImageError: the function raised, or gave something else.
        """
        try:
            made = np.asarray(self.function(source))
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"the encoder's own preprocessing failed: {in_words(error)}") from error
        return self._checked(made)

    def _checked(self, made: NDArray[Any]) -> NDArray[Any]:
        if made.shape == self.shape[:2] and self.shape[2] == 1:
            made = made[..., np.newaxis]  # grey without an axis of channels
        floats = made.dtype.kind == "f" and self.dtype.kind == "f"
        if made.shape != self.shape or not (floats or made.dtype == self.dtype):
            raise ImageError(
                f"the encoder's own preprocessing gave {made.dtype} of {made.shape}, not {self.dtype} of {self.shape}"
            )
        made = made.astype(self.dtype, copy=False)
        if floats and not np.isfinite(made).all():
            raise ImageError("the encoder's own preprocessing gave values that are not finite")
        return made

    def as_json(self) -> Mapping[str, Any]:
        """The form that goes into an encoder's fingerprint."""
        return {
            "own": True,
            "kind": self.kind,
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "mean": list(self.mean),
            "std": list(self.std),
            "settings": dict(self.settings),
            "pixels": self.pixels,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process: the file first, for pickle finds functions by the name of their module."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("function", "code")}
        return _restored, (self.code, pickle.dumps(self.function), values)


def _restored(code: SourceFile | None, function: bytes, values: dict[str, Any]) -> OwnPreprocessing:
    if code is not None:
        code.module()
    return OwnPreprocessing(pickle.loads(function), code=code, **values)  # noqa: S301  made by this program
