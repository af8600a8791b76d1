"""Encoders by transformers: ``hf:ORG/REPO``, from the hub or from a directory with the files of such a repository.

Any image or image-text model that the library loads by ``AutoModel``; code that comes with a repository is never run.
How features become one vector depends on the model:

- image-text models, as CLIP and SigLIP: the image features in the space they share with the text tower;
- ViT, DeiT, DINOv2, DINOv3, MAE and MSN: the CLS token after the last normalisation. The dense layer with a tanh that
  some of them have behind it isn't used, and taken off;
- all others, as ResNet, BiT, ConvNeXt and Swin: ``pooler_output``, the pooled features before a classifier.

MAE hides 75% of each picture by default, others at each call. Here it sees all of it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cbmir.encoders import weights as files
from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.cards.transformers import SPECS
from cbmir.encoders.processors import preprocessing_of, quiet
from cbmir.errors import CbmirError, EncoderError, WeightsError, one_line
from cbmir.schema import Vectors

if TYPE_CHECKING:
    import torch

__all__ = ["PREFIX", "PREFIX_FORM", "SPECS", "load", "pull"]

PREFIX, PREFIX_FORM = "hf:", "ORG/REPO"

Pooling = Literal["projected", "cls", "pooled"]

_CLS = ("deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "vit_mae", "vit_msn")
_HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.", "decoder.", "lm_head.")
_TRAINING = ("embeddings.mask_token", "vit.embeddings.mask_token")
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("*.model",))
_TEXTS_A_STEP = 32


def load(spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
    """Build the network, load its weights strictly and read its preprocessing.

    Every weight of the network must be in the files, but for a pooler that isn't used; the files may hold more only
    for a classifier or a decoder. The text tower is checked with the rest, and loaded again once a text comes.

    Raises:
        EncoderError: the model needs code of its own, gives no features, or wants a preprocessing not done here.
        WeightsError: the weights can't be had, don't fit, or are of another network than the encoder's.
    """
    from cbmir.encoders.network import encoder

    folder = _folder(spec, settings.weights)
    model = _model(spec, folder)
    pooling = _pooling(model)
    how = preprocessing_of(spec, folder)
    _leave_out(model, "text", "logit_")
    if pooling == "cls" and getattr(model, "pooler", None) is not None:
        model.pooler = None
    load_text = partial(_text_tower, spec, folder) if pooling == "projected" else None
    try:
        loaded = encoder(spec, _features(model, pooling), how, settings, load_text)
    except CbmirError:
        raise
    except Exception as error:  # what a model raises over pictures it can't take
        height, width = how.input_px
        raise EncoderError(f"{spec.name} makes no vectors of {height} x {width} pixels: {one_line(error)}") from error
    if spec.dim not in (None, loaded.card.dim):
        raise WeightsError(f"{folder} gives vectors of length {loaded.card.dim}, not {spec.dim} as {spec.name} has")
    return loaded


def pull(spec: EncoderSpec, to: Path) -> None:
    """Download a repository with configuration, weights and tokenizer.

    Raises:
        WeightsError: the hub can't be reached, or refuses.
    """
    files.download(spec.source, spec.revision, to=to)


def _folder(spec: EncoderSpec, weights: Path | None) -> Path:
    """The directory to load from, checked for what model it holds."""
    if weights and not weights.is_dir():
        raise WeightsError(
            f"{weights} is not a directory: {spec.name} needs the repository's, with config.json beside the weights"
        )
    folder = weights or files.download(spec.source, spec.revision)
    config = files.json_object(folder / "config.json")
    if config is None:
        raise WeightsError(f"no weights for {spec.name} from {folder}: it has no config.json that can be read")
    model_type = config.get("model_type")
    if not _known(model_type):
        if config.get("auto_map"):
            raise EncoderError(f"{spec.name} needs code that comes with its repository, which is never run here")
        raise WeightsError(f"{folder} holds no model of transformers: model_type is {model_type!r} in config.json")
    if spec in SPECS and model_type != spec.architecture:
        raise WeightsError(f"{folder} holds {model_type}, not {spec.architecture} as {spec.name} is")
    return folder


def _known(model_type: Any) -> bool:
    from transformers import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def _model(spec: EncoderSpec, folder: Path) -> Any:
    """The model in float32 and in evaluation mode, with all of its weights from the files."""
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            if config.model_type == "vit_mae":
                config.mask_ratio = 0.0
            model, loading = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,  # whatever the repository says
                output_loading_info=True,
                weights_only=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except Exception as error:  # the file system, torch and each model raise their own
        raise files.no_weights(spec.name, folder, error) from error
    _require_all(spec, folder, loading, "pooler." if _pooling(model) == "cls" else None)
    return model.eval()


def _require_all(spec: EncoderSpec, folder: Path, loading: dict[str, Any], unused: str | None) -> None:
    missing = [name for name in loading["missing_keys"] if not (unused and name.startswith(unused))]
    unexpected = [name for name in loading["unexpected_keys"] if not name.startswith(_HEADS + _TRAINING)]
    wrong = [str(item[0]) for item in loading["mismatched_keys"]] + [str(item) for item in loading["error_msgs"]]
    for what, names in {"lack": missing, "don't fit in": wrong, "hold, unlike the network,": unexpected}.items():
        if names:
            some = ", ".join(sorted(names)[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise WeightsError(f"no weights for {spec.name} from {folder}: they {what} {some}{more}")


def _pooling(model: Any) -> Pooling:
    if hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
        return "projected"
    return "cls" if model.config.model_type in _CLS else "pooled"


def _leave_out(model: Any, *prefixes: str) -> None:
    """Take off what a tower doesn't need: it would fill the device's memory and go into the other tower's hash."""
    parts = [name for name, _ in (*model.named_children(), *model.named_parameters(recurse=False))]
    for name in parts:
        if name.startswith(prefixes):
            delattr(model, name)


def _features(model: Any, pooling: Pooling) -> "torch.nn.Module":
    """From (n, 3, height, width) normalised pictures to (n, dim) features."""
    import torch

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> Any:
            if pooling == "projected":
                return _vectors(self.model.get_image_features(pixel_values=images))
            if self.model.config.model_type == "vit_mae":  # it takes patches in the order of the noise
                patches = self.model.embeddings.patch_embeddings.num_patches
                noise = torch.arange(patches, device=images.device).expand(len(images), -1)
                return self.model(pixel_values=images, noise=noise).last_hidden_state[:, 0]
            output = self.model(pixel_values=images)
            return output.last_hidden_state[:, 0] if pooling == "cls" else output.pooler_output.flatten(1)

    return Features()


def _vectors(output: Any) -> Any:
    """Features of a tower, which early releases of transformers 5 don't wrap."""
    return getattr(output, "pooler_output", output)


def _text_tower(spec: EncoderSpec, folder: Path) -> Callable[[Sequence[str]], Vectors]:
    """The text tower and the tokenizer of the same directory.

    Texts are cut off at the length the tower was built for. SigLIP has learnt from texts filled up to that length, so
    it gets them so; others are filled up to the longest of a step, which leaves their vectors as they are.
    """
    import torch
    from transformers import AutoTokenizer

    if not any(all(any(folder.glob(name)) for name in names) for names in _VOCABULARIES):
        raise WeightsError(f"no tokenizer for {spec.name} in {folder}")  # transformers would make one without words
    declared = (files.json_object(folder / "tokenizer_config.json") or {}).get("tokenizer_class")
    if declared == "SiglipTokenizer" and not find_spec("sentencepiece"):
        raise WeightsError(f"the tokenizer of {spec.name} needs sentencepiece: pip install sentencepiece protobuf")
    model = _model(spec, folder)
    _leave_out(model, "vis", "logit_")
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each tokenizer raises its own
        raise WeightsError(f"no tokenizer for {spec.name} from {folder}: {one_line(error)}") from error
    length = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    padding = "max_length" if model.config.model_type in ("siglip", "siglip2") else "longest"

    def features(texts: Sequence[str]) -> Vectors:
        steps = [list(texts[start : start + _TEXTS_A_STEP]) for start in range(0, len(texts), _TEXTS_A_STEP)]
        found = []
        with torch.inference_mode():
            for step in steps:
                tokens = tokenizer(step, padding=padding, truncation=True, max_length=length, return_tensors="pt")
                found.append(_vectors(model.get_text_features(**tokens)).numpy())
        return np.concatenate(found)

    return features
