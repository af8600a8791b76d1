"""What an encoder is to the rest of the house."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from cbmir.device import PRECISIONS
from cbmir.errors import EncoderError
from cbmir.fingerprint import EncoderCard
from cbmir.schema import RecordKind, Vectors

if TYPE_CHECKING:
    from cbmir.media import OwnPreprocessing, Preprocessing, VolumePreprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """What is known of an encoder before it is loaded.

    Attributes:
        name: What users call it.
        architecture: The loader's own name of the network.
        source: Where the weights come from unless a file or directory is given: ``ORG/REPO`` at the model hub,
            ``package NAME``, ``untrained`` or ``none``.
        revision: Branch, tag or commit at the hub.
        licence: Of the weights.
        gated: Whether the hub asks for an accepted licence and a token.
        non_commercial: Whether the licence forbids commercial use.
        trained_on: Data the weights have seen, for people: a figure on it is contaminated.
        seen: The published data sets of medical images among it, by the names of `cbmir.encoders.contamination`.
        undisclosed: Whether there may be others, because its authors don't name all of them.
        citation: Paper that describes the network.
        pooling: How features become one vector.
        dim: Length of the vectors.
        text: Whether texts can be embedded into the same space.
        input_px: Side of the square that the network sees, where no preprocessing is given here.
        kind: What it takes: one image, or a volume.
        preprocessing: Instead of what comes with the weights.
        volume: The preprocessing of an encoder of volumes.
    """

    name: str
    architecture: str
    source: str
    licence: str
    trained_on: str
    seen: tuple[str, ...] = ()
    undisclosed: bool = False
    revision: str = "main"
    gated: bool = False
    non_commercial: bool = False
    citation: str = ""
    pooling: str = ""
    dim: int | None = None
    text: bool = False
    input_px: int | None = None
    kind: RecordKind = "image"
    preprocessing: "Preprocessing | None" = None
    volume: "VolumePreprocessing | None" = None

    @property
    def takes(self) -> str:
        """Size of what the network sees: pixels as ``224`` or ``224 x 320``, voxels as ``224 x 224 x 160``."""
        sides: tuple[int, ...] = (self.input_px,) * 2 if self.input_px else ()
        if self.preprocessing or self.volume:
            sides = self.preprocessing.input_px if self.preprocessing else self.volume.input_voxels  # type: ignore[union-attr]  # one of both is there
        return str(sides[0]) if len(sides) == 2 and sides[0] == sides[1] else " x ".join(map(str, sides))


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How to run an encoder.

    Attributes:
        weights: A file or directory instead of the encoder's own source of weights.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16``.
        batch_size: Images a step; None lets the encoder choose for its device.
        torch_compile: Compile the network by torch.compile, which takes a minute or so at the first step.
        name: What the encoder shall be called instead of its own name.
        asked: What the user asks for where a collection says which encoder it needs: ``FILE.py:FUNCTION`` of theirs.

    Raises:
        EncoderError: the precision is unknown, or the batch size is no whole number of 1 or more.
    """

    weights: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    torch_compile: bool = False
    name: str | None = None
    asked: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise EncoderError(f"no precision {self.precision!r}; there are {', '.join(PRECISIONS)}")
        if self.batch_size is not None and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise EncoderError(f"the batch size is {self.batch_size!r}; it is a whole number of 1 or more")


class Encoder(Protocol):
    """A frozen network with its own preprocessing.

    Attributes:
        card: Name, weights, preprocessing and their fingerprint.
    """

    card: EncoderCard

    @property
    def preprocessing(self) -> "Preprocessing | VolumePreprocessing | OwnPreprocessing":
        """What `cbmir.media.prepare` does before `embed`."""

    @property
    def batch_size(self) -> int:
        """Images or volumes a step."""

    @property
    def running_on(self) -> str:
        """Device and precision, for people; only the device while the precision isn't settled."""

    def embed(self, pixels: NDArray[Any]) -> Vectors:
        """Vectors of preprocessed pictures or volumes; several threads may ask at once.

        Args:
            pixels: (n, height, width, channels) `cbmir.media.Pixels` or (n, x, y, z) `cbmir.media.Voxels`, n of 1
                or more.

        Returns:
            (n, dim) float32 rows of unit length; a row is NaN where a picture has no vector.
        """

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts in the space of the pictures.

        Args:
            texts: One or more; what is too long for the text tower is cut off.

        Returns:
            (n, dim) float32 rows of unit length.

        Raises:
            EncoderError: the encoder has no text tower.
            WeightsError: its text tower can't be loaded.
        """
