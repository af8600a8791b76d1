"""The floor: the picture itself, as 32 x 32 grey values. An encoder that does no better has learnt nothing of use."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.cards.pixels import SIDE_PX, SPECS
from cbmir.encoders.probes import probe_vectors
from cbmir.errors import EncoderError
from cbmir.fingerprint import EncoderCard
from cbmir.media import Pixels, Preprocessing
from cbmir.schema import Vectors, normalise

__all__ = ["PREFIX", "PREFIX_FORM", "SPECS", "load", "pull"]

PREFIX, PREFIX_FORM = None, ""


@dataclass(slots=True)
class PixelEncoder:
    """Grey values about their mean, so that a cosine is the normalised cross-correlation of two pictures."""

    card: EncoderCard
    preprocessing: Preprocessing
    batch_size: int
    running_on: str = "cpu, fp32"

    def embed(self, pixels: Pixels) -> Vectors:
        """(n, 1024) vectors; a picture of one even grey has none."""
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)
        return normalise(flat - flat.mean(axis=1, keepdims=True))

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """It has no text tower.

        Raises:
            EncoderError: always.
        """
        raise EncoderError(f"{self.card.name} has no text tower: it can't be asked by text")


def load(spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
    """Build the encoder; device and precision make no difference.

    Raises:
        EncoderError: weights were given.
    """
    if settings.weights:
        raise EncoderError(f"{spec.name} has no weights; leave out --weights")
    how = Preprocessing((SIDE_PX, SIDE_PX), "squash", SIDE_PX, "bilinear", (0.0,), (1.0,), channels=1)
    made = PixelEncoder(EncoderCard(spec.name, SIDE_PX**2, "none", how.as_json()), how, settings.batch_size or 256)
    made.card = replace(made.card, probes=probe_vectors(how, made.embed))
    return made


def pull(spec: EncoderSpec, to: Path) -> None:
    """There is nothing to download.

    Raises:
        EncoderError: always.
    """
    raise EncoderError(f"{spec.name} has no weights: it works without internet as it is")
