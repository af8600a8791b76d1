"""What an encoder is to the rest of the house."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cbmir.fingerprint import EncoderCard
from cbmir.schema import Vectors

if TYPE_CHECKING:
    from cbmir.images import Pixels, Preprocessing


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What is known of an encoder before it is loaded.

    Attributes:
        name: What users call it.
        architecture: The loader's own name of the network.
        weights: Where the weights come from unless a file or directory is given.
        licence: Of the weights.
        trained_on: Data the weights have seen: a figure on it is contaminated.
        dim: Length of the vectors.
    """

    name: str
    architecture: str
    weights: str
    licence: str
    trained_on: str
    dim: int | None = None


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How to run an encoder.

    Attributes:
        weights: A file or directory instead of the encoder's own source of weights.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16``.
        batch_size: Images a step; None lets the encoder choose for its device.
    """

    weights: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None


class Encoder(Protocol):
    """A frozen network with its own preprocessing."""

    @property
    def card(self) -> EncoderCard:
        """Name, weights, preprocessing and their fingerprint."""

    @property
    def preprocessing(self) -> "Preprocessing":
        """What `cbmir.images.preprocess` does before `embed`."""

    @property
    def batch_size(self) -> int:
        """Images a step."""

    @property
    def running_on(self) -> str:
        """Device and precision, for people."""

    def embed(self, pixels: "Pixels") -> Vectors:
        """Vectors of preprocessed pictures; several threads may ask at once.

        Args:
            pixels: (n, height, width, channels), n of 1 or more.

        Returns:
            (n, dim) float32 rows of unit length; a row is NaN where a picture has no vector.
        """
