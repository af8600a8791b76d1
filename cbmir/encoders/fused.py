"""The encoders of several collections as one, for queries to what `cbmir.store.fused` makes of these."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.encoders.base import Encoder
from cbmir.errors import EncoderError
from cbmir.fingerprint import EncoderCard
from cbmir.media import OwnPreprocessing, Preprocessing, VolumePreprocessing, preprocess, preprocess_volume
from cbmir.schema import Vectors

How = Preprocessing | VolumePreprocessing | OwnPreprocessing


class _Together:
    """The inputs of several encoders, as bytes one after the other."""

    def __init__(self, hows: Sequence[How]) -> None:
        self.hows = tuple(hows)

    def __call__(self, content: Any) -> NDArray[np.uint8]:
        made = [_applied(how, content) for how in self.hows]
        flat = [np.ascontiguousarray(pixels).view(np.uint8).ravel() for pixels in made]
        return np.concatenate(flat).reshape(1, 1, -1)


class FusedEncoder:
    """Several encoders as one; its vectors are those of the whole collection.

    Attributes:
        card: Of the whole collection.
    """

    def __init__(
        self, card: EncoderCard, encoders: Sequence[Encoder], whole: Callable[[Sequence[Vectors]], Vectors]
    ) -> None:
        """Put encoders together.

        Args:
            card: Of the whole collection.
            encoders: One a part, in its order.
            whole: From the vectors of the parts to those of the whole.

        Raises:
            EncoderError: some take images and others volumes.
        """
        self.card = card
        self._encoders = tuple(encoders)
        self._whole = whole
        hows = [encoder.preprocessing for encoder in encoders]
        if len({how.kind for how in hows}) > 1:
            raise EncoderError(f"{card.name}: some of the encoders take images, others volumes")
        self._sizes = [int(np.prod(how.shape)) * np.dtype(how.dtype).itemsize for how in hows]
        self._preprocessing = OwnPreprocessing(_Together(hows), (1, 1, sum(self._sizes)), kind=hows[0].kind)

    @property
    def preprocessing(self) -> OwnPreprocessing:
        """All of them at once."""
        return self._preprocessing

    @property
    def batch_size(self) -> int:
        """Images or volumes a step."""
        return min(encoder.batch_size for encoder in self._encoders)

    @property
    def running_on(self) -> str:
        """Device and precision of each."""
        return "; ".join(f"{encoder.card.name} on {encoder.running_on}" for encoder in self._encoders)

    def embed(self, pixels: NDArray[Any]) -> Vectors:
        """See `Encoder`."""
        flat = pixels.reshape(len(pixels), -1)
        vectors, start = [], 0
        for encoder, size in zip(self._encoders, self._sizes, strict=True):
            how = encoder.preprocessing
            part = np.ascontiguousarray(flat[:, start : start + size]).view(how.dtype).reshape(len(flat), *how.shape)
            vectors.append(encoder.embed(part))
            start += size
        return self._whole(vectors)

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder`."""
        return self._whole([encoder.embed_text(texts) for encoder in self._encoders])


def _applied(how: How, content: Any) -> NDArray[Any]:
    if isinstance(how, OwnPreprocessing):
        return how.apply(content)
    return preprocess_volume(content, how) if isinstance(how, VolumePreprocessing) else preprocess(content, how)
