"""Encoders by transformers: ``hf:ORG/REPO``, from the hub or from a directory with the files of such a repository.

Any image or image-text model that the library loads by ``AutoModel``; code that comes with a repository is never run.
How features become one vector depends on the model:

- image-text models, as CLIP and SigLIP: the image features in the space they share with the text tower;
- ViT, DeiT, DINOv2, DINOv3, MAE and MSN: the CLS token after the last normalisation. The dense layer with a tanh that
  some of them have behind it isn't used, and taken off;
- all others, as ResNet, BiT, ConvNeXt and Swin: ``pooler_output``, the pooled features before a classifier.

MAE hides 75% of each picture by default, others at each call. Here it sees all of it.

Pictures are prepared as by the library's processors that run on Pillow, pixel for pixel: `load` lets the processor of
the repository and our own preprocess some pictures, and refuses what differs. Its processors that run on torchvision,
the default since transformers 5, round otherwise: measured on photographs and noise, pixels were up to 2 grey levels
away, 0.25 in the mean, and vectors had a cosine above .9999. DINOv3 has only such a processor, which scales before it
rounds; its pixels are up to 1 grey level away from ours.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from cbmir.encoders import weights as files
from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.errors import CbmirError, EncoderError, WeightsError
from cbmir.media import Preprocessing, preprocess
from cbmir.schema import Vectors

if TYPE_CHECKING:
    import torch

PREFIX, PREFIX_FORM = "hf:", "ORG/REPO"

Pooling = Literal["projected", "cls", "pooled"]

_CLS = ("deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "vit_mae", "vit_msn")
_HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.", "decoder.", "lm_head.")
_TRAINING = ("embeddings.mask_token", "vit.embeddings.mask_token")
_INTERPOLATION = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_PROBES_PX = ((97, 62), (61, 98), (613, 1037))
_GREY_LEVELS = {"pil": 0.01, "torchvision": 1.01}
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
    how = _preprocessing(spec, folder)
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
        raise EncoderError(f"{spec.name} makes no vectors of {height} x {width} pixels: {_line(error)}") from error
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
    config = _json(folder / "config.json")
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


def _json(file: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _model(spec: EncoderSpec, folder: Path) -> Any:
    """The model in float32 and in evaluation mode, with all of its weights from the files."""
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        with _quiet():
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
    declared = (_json(folder / "tokenizer_config.json") or {}).get("tokenizer_class")
    if declared == "SiglipTokenizer" and not find_spec("sentencepiece"):
        raise WeightsError(f"the tokenizer of {spec.name} needs sentencepiece: pip install sentencepiece protobuf")
    model = _model(spec, folder)
    _leave_out(model, "vis", "logit_")
    try:
        with _quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each tokenizer raises its own
        raise WeightsError(f"no tokenizer for {spec.name} from {folder}: {_line(error)}") from error
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


def _preprocessing(spec: EncoderSpec, folder: Path) -> Preprocessing:
    """What the repository's own processor does, proven on some pictures."""
    from transformers import AutoImageProcessor

    try:
        with _quiet():
            processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]  # its own stub lacks types
                folder, backend="pil", trust_remote_code=False, local_files_only=True
            )
    except Exception as error:
        raise WeightsError(f"no preprocessing for {spec.name} from {folder}: {_line(error)}") from error
    try:
        how = _as_data(processor)
        apart = max(_grey_levels_apart(processor, how, size) for size in _PROBES_PX)
    except Exception as error:  # each processor raises its own
        raise EncoderError(f"{_not_here(spec, processor)}: {_line(error)}") from error
    if not apart <= _GREY_LEVELS[processor.backend]:
        raise EncoderError(f"{_not_here(spec, processor)}: pixels would differ by {apart:.1f} grey levels")
    return how


def _not_here(spec: EncoderSpec, processor: Any) -> str:
    return f"{spec.name} wants a preprocessing that is not done here, {type(processor).__name__}"


def _as_data(processor: Any) -> Preprocessing:
    """A processor's settings; where they say nothing or another thing than it does, the pixels will differ.

    Raises:
        ValueError: they can't be said as `Preprocessing`.
    """
    size = processor.size
    share = getattr(processor, "crop_pct", None)
    if not processor.do_resize or processor.resample not in _INTERPOLATION:
        raise ValueError(f"do_resize={processor.do_resize}, resample={processor.resample}")
    crop = processor.crop_size if processor.do_center_crop else None
    if size.height and size.width:
        squashed, short, input_px = True, 0, (size.height, size.width)
    elif share and size.shortest_edge:  # ConvNeXt's, which crops only below 384
        short = size.shortest_edge
        squashed, input_px = short >= 384, (short, short)
        short = int(short / share)
    elif size.shortest_edge and not size.longest_edge and crop:
        squashed, short, input_px = False, size.shortest_edge, (crop.height, crop.width)
    else:
        raise ValueError(f"size={dict(size)} doesn't bring all pictures to one size")
    factor = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    if abs(factor - 1) < 1e-6:  # repositories write 1/255 with more or fewer digits
        factor = 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return Preprocessing(
        input_px=input_px,
        resize="squash" if squashed else "shortest",
        resize_px=short or input_px[0],
        interpolation=_INTERPOLATION[int(processor.resample)],
        mean=tuple(value / factor for value in mean),
        std=tuple(value / factor for value in std),
        crop="round" if squashed else "floor",
    )


def _grey_levels_apart(processor: Any, how: Preprocessing, size: tuple[int, int]) -> float:
    """The largest difference between both ways to prepare a picture of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    theirs = np.asarray(processor(images=picture, return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
    theirs = 255 * (theirs * np.array(how.std) + np.array(how.mean))
    return float(np.abs(theirs - preprocess(picture, how)).max())


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars, warnings or reports of what was missing: what matters comes back as an error."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


SPECS = (
    EncoderSpec(
        name="rad-dino",
        architecture="dinov2",
        source="microsoft/rad-dino",
        input_px=518,
        revision="c3736a62544137a0450cc4fa02c9e37e55f28e32",
        licence="MIT; shared for research only, says its card",
        trained_on="chest X-rays of MIMIC-CXR, CheXpert, NIH-CXR, PadChest and BRAX, listed in its training_images.csv",
        seen=("mimic", "chexpert", "nih14", "padchest", "brax"),
        citation="Pérez-García et al. 2025, doi:10.1038/s42256-024-00965-w",
        pooling="CLS token",
        dim=768,
    ),
    EncoderSpec(
        name="medsiglip",
        architecture="siglip",
        source="google/medsiglip-448",
        input_px=448,
        licence="Health AI Developer Foundations terms",
        gated=True,
        trained_on="radiology, dermatology, ophthalmology and histopathology images with texts, and photographs",
        seen=("mimic",),
        undisclosed=True,
        citation="Sellergren et al. 2025, arXiv:2507.05201",
        pooling="SigLIP's attention pooling",
        dim=1152,
        text=True,
    ),
    EncoderSpec(
        name="pubmedclip",
        architecture="clip",
        source="flaviagiammarino/pubmed-clip-vit-base-patch32",
        input_px=224,
        licence="MIT",
        trained_on="ROCO, radiology figures of PubMed articles, after OpenAI's CLIP",
        seen=("roco",),
        citation="Eslami et al. 2023, arXiv:2112.13906",
        pooling="CLIP's projection of the CLS token",
        dim=512,
        text=True,
    ),
)
