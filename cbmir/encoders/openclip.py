"""Image towers by open_clip: ``open_clip:ARCH/TAG``, from the hub or from a directory or file of weights."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.weights import no_weights, weights_hash
from cbmir.errors import EncoderError
from cbmir.fingerprint import EncoderCard
from cbmir.images import Preprocessing

PREFIX = "open_clip:"
SPECS: tuple[EncoderSpec, ...] = ()


def load(spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
    """Build the image tower with its projection; the vector is what the text tower would be compared with.

    Raises:
        EncoderError: open_clip doesn't know the network, or it wants a preprocessing not done here.
        WeightsError: the weights can't be had or don't fit.
    """
    from cbmir.encoders.device import place
    from cbmir.encoders.network import TorchEncoder, output_dim

    placement = place(settings.device, settings.precision)
    visual = _visual(spec, settings.weights)
    how = _preprocessing(spec.name, visual.preprocess_cfg)
    card = EncoderCard(spec.name, output_dim(spec.name, visual, how), weights_hash(visual), how.as_json())
    return TorchEncoder(visual, card, how, placement, settings.batch_size)


def _visual(spec: EncoderSpec, weights: Path | None) -> Any:
    import open_clip

    architecture, _, tag = spec.architecture.partition("/")
    source: str | None
    if weights and weights.is_dir():
        architecture, source = f"local-dir:{weights}", None  # its own open_clip_config.json says which network
    elif architecture not in open_clip.list_models():
        raise EncoderError(f"open_clip has no network {architecture!r}; see open_clip.list_models()")
    elif weights:
        source = str(weights)
    else:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if tag not in tags:
            raise EncoderError(f"{architecture} has no weights {tag!r}; there are {', '.join(tags) or 'none'}")
        source = tag
    try:
        with _unlogged():
            model = open_clip.create_model(architecture, pretrained=source, require_pretrained=True, weights_only=True)
    except Exception as error:  # the hub, the file system and torch raise their own
        raise no_weights(spec.name, weights, error) from error
    return model.visual


@contextmanager
def _unlogged() -> Iterator[None]:
    """What open_clip logs on the root logger before it raises comes back in our own error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _preprocessing(name: str, config: dict[str, Any]) -> Preprocessing:
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = config["resize_mode"]
    if mode not in ("shortest", "squash") or (mode == "shortest" and height != width):
        raise EncoderError(f"{name} wants resize mode {mode!r} at {height} x {width}, which is not done here")
    return Preprocessing(
        input_px=(height, width),
        resize=mode,
        resize_px=height,
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
