"""Encoders by open_clip: its networks by tag, and any repository, directory or file of weights in its layout."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.cards.openclip import SPECS
from cbmir.encoders.fitting import Fit, fit
from cbmir.encoders.openclip_parts import Parts, parts_of, text_files, write_parts
from cbmir.encoders.weights import no_weights
from cbmir.errors import CbmirError, EncoderError, WeightsError
from cbmir.media import Preprocessing

if TYPE_CHECKING:
    from cbmir.encoders.network import TextTower
    from cbmir.encoders.weights import StateDict

__all__ = ["PREFIX", "PREFIX_FORM", "SPECS", "load", "pull"]

PREFIX, PREFIX_FORM = "open_clip:", "ARCH/TAG or open_clip:hf-hub:ORG/REPO"

_NO_TEXT = {"context_length": 4, "vocab_size": 4, "width": 64, "heads": 1, "layers": 1}
_NO_IMAGE = {"image_size": 16, "patch_size": 16, "width": 64, "layers": 1}


def load(spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
    """Build the image tower with its projection; the vector is what the text tower would be compared with.

    Raises:
        EncoderError: open_clip doesn't know the network, or it wants a preprocessing not done here.
        WeightsError: the weights can't be had or don't fit.
    """
    from cbmir.encoders.network import encoder

    with _our_error(spec.name, settings.weights):
        parts = parts_of(spec, settings.weights)
        visual, taken = _image_tower(spec.name, parts)
        how = _preprocessing(spec.name, visual.image_size, parts.config.get("preprocess_cfg") or {})
    if settings.weights:
        taken.say()
    if isinstance(spec.preprocessing, Preprocessing):
        if spec.preprocessing.input_px != how.input_px:
            raise WeightsError(f"the network in {parts.folder} takes {how.input_px} pixels, which {spec.name} doesn't")
        how = spec.preprocessing
    return encoder(spec, visual, how, settings, partial(_load_text, spec.name, settings.weights, parts))


def pull(spec: EncoderSpec, to: Path) -> None:
    """Make a directory that `load` takes, and open_clip as ``local-dir:``, with the tokenizer.

    What a BERT text tower is built from, its configuration and tokenizer, comes into ``text/``.

    Raises:
        EncoderError: open_clip doesn't know the network.
        WeightsError: the hub can't be reached, or refuses.
    """
    with _our_error(spec.name, None):
        write_parts(parts_of(spec, None), to)


def _image_tower(name: str, parts: Parts) -> tuple[Any, Fit]:
    import open_clip
    from open_clip.convert import convert_state_dict

    model = parts.config["model_cfg"]
    image = model["vision_cfg"] | {"timm_model_pretrained": False}
    clip = open_clip.CustomTextCLIP(model["embed_dim"], image, _NO_TEXT, model.get("quick_gelu", False))
    own = clip.visual.state_dict()

    def convert(state: "StateDict") -> "StateDict":
        return _under("visual.", convert_state_dict(clip, state))

    taken = fit(parts.weights, name, own, convert)
    if not taken.matched:  # the image tower alone
        taken = fit(parts.weights, name, own)
    clip.visual.load_state_dict(taken.take(name, say=False), strict=True)
    return clip.visual, taken


def _load_text(name: str, given: Path | None, parts: Parts) -> "TextTower":
    """The text tower, which stays on the CPU, behind open_clip's tokenizer for it."""
    import open_clip
    import torch
    from open_clip.model import convert_to_custom_text_state_dict

    with _our_error(name, given):
        model = parts.config["model_cfg"]
        text = dict(model["text_cfg"])
        bert, files = text_files(parts)
        if bert:
            text |= {"hf_model_name": str(bert), "hf_model_pretrained": False}
        clip = open_clip.CustomTextCLIP(model["embed_dim"], _NO_IMAGE, text, model.get("quick_gelu", False))

        def convert(given: "StateDict") -> "StateDict":
            state = convert_to_custom_text_state_dict(given)
            own = _under("text.", state) or _under("text_encoder.", state)  # the latter in UniMed-CLIP's
            own.pop("transformer.embeddings.position_ids", None)  # in files of transformers before 4.31: 0, 1, 2, ...
            return own

        tower = clip.text
        taken = fit(parts.weights, name, tower.state_dict(), convert)
        tower.load_state_dict(taken.take(name, say=False), strict=True)
        tower.eval()
        length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
        options = {"context_length": length, **(text.get("tokenizer_kwargs") or {})}
        if files:
            options |= {"tokenizer_mode": text.get("tokenizer_mode"), "trust_remote_code": False}
            tokenizer = open_clip.tokenizer.HFTokenizer(str(files), **options)
        else:
            tokenizer = open_clip.SimpleTokenizer(**options)

    def embed(texts: Sequence[str]) -> Any:
        with torch.inference_mode():
            return tower(tokenizer(list(texts))).float().numpy()

    return embed


def _under(prefix: str, state: "StateDict") -> "StateDict":
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _preprocessing(name: str, size: int | tuple[int, int], config: Mapping[str, Any]) -> Preprocessing:
    """As open_clip's own for evaluation; what the configuration leaves out is as for CLIP."""
    from open_clip.transform import PreprocessCfg

    how = asdict(PreprocessCfg()) | {name: value for name, value in config.items() if value is not None}
    height, width = (size, size) if isinstance(size, int) else size
    mode = how["resize_mode"]
    if mode not in ("shortest", "squash") or (mode == "shortest" and height != width):
        raise EncoderError(f"{name} wants resize mode {mode!r} at {height} x {width}, which is not done here")
    return Preprocessing(
        input_px=(height, width),
        resize=mode,
        resize_px=height,
        interpolation="bilinear" if how["interpolation"] == "bilinear" else "bicubic",  # also for "random"
        mean=tuple(how["mean"]),
        std=tuple(how["std"]),
    )


@contextmanager
def _our_error(name: str, weights: Path | None) -> Iterator[None]:
    """Turn whatever the libraries raise into a line of ours; what open_clip logs before it raises is part of it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    except CbmirError:
        raise
    except Exception as error:  # the hub, the file system, torch and transformers raise their own
        raise no_weights(name, weights, error) from error
    finally:
        logging.disable(before)
