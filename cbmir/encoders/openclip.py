"""Encoders by open_clip: its networks by tag, and any repository, directory or file of weights in its layout."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.fitting import Fit, fit
from cbmir.encoders.weights import no_weights
from cbmir.errors import CbmirError, EncoderError, WeightsError
from cbmir.media import Preprocessing, Resize

if TYPE_CHECKING:
    from cbmir.encoders.network import TextTower
    from cbmir.encoders.weights import StateDict

PREFIX, PREFIX_FORM = "open_clip:", "ARCH/TAG or open_clip:hf-hub:ORG/REPO"

_HUB = "hf-hub:"
_CONFIG = "open_clip_config.json"
_TEXT = "text"
"""Folder of a pulled directory with what the text tower would otherwise ask the hub for."""
_AT_THE_HUB = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_IN_A_FOLDER = (*_AT_THE_HUB, "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "model.pth")
_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "vocab.txt")
_TOKENIZER_FILES = ("*token*.json", "vocab.*", "merges.txt", "*.model")
_NO_TEXT = {"context_length": 4, "vocab_size": 4, "width": 64, "heads": 1, "layers": 1}
_NO_IMAGE = {"image_size": 16, "patch_size": 16, "width": 64, "layers": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClipSpec(EncoderSpec):
    """An encoder whose repository has weights for a network of open_clip, and no configuration.

    Attributes:
        preprocessing: There is no other source of it.
        file: Its weights in the repository.
        bert: Repository of the BERT that its text tower is built like; None for the text tower of its architecture.
    """

    preprocessing: Preprocessing
    file: str
    bert: str | None = None


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an encoder is built from.

    Attributes:
        config: As in open_clip_config.json: ``model_cfg`` and ``preprocess_cfg``.
        weights: File of both towers.
        folder: Where its tokenizer may lie.
    """

    config: Mapping[str, Any]
    weights: Path
    folder: Path


def load(spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
    """Build the image tower with its projection; the vector is what the text tower would be compared with.

    Raises:
        EncoderError: open_clip doesn't know the network, or it wants a preprocessing not done here.
        WeightsError: the weights can't be had or don't fit.
    """
    from cbmir.encoders.network import encoder

    with _one_line(spec.name, settings.weights):
        parts = _parts(spec, settings.weights)
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
    with _one_line(spec.name, None):
        parts = _parts(spec, None)
        bert, tokenizer = _text_files(parts)
        usual = _AT_THE_HUB[parts.weights.suffix != ".safetensors"]
        shutil.copyfile(parts.weights, to / usual)
        _copy(parts.folder, to, ("LICENSE*", "README.md", *_TOKENIZER_FILES))
        if bert:
            _copy(bert, to / _TEXT, ("config.json", *_TOKENIZER_FILES))
        if tokenizer not in (None, bert, parts.folder):
            _copy(tokenizer, to / _TEXT if bert else to, _TOKENIZER_FILES)
        (to / _CONFIG).write_text(json.dumps(parts.config, indent=2) + "\n", encoding="utf-8")


def _parts(spec: EncoderSpec, weights: Path | None) -> _Parts:
    at_the_hub = spec.architecture.startswith(_HUB)
    known = None if at_the_hub else _described(spec)
    in_a_folder = weights is not None and weights.is_dir()
    if not (known or at_the_hub or in_a_folder):
        raise _unknown(spec)
    file = None if in_a_folder else weights
    folder = file.parent if file else weights or _download(spec)
    own = _read_config(folder) if at_the_hub or in_a_folder else None
    config = own or known
    if config is None:
        raise WeightsError(f"{folder} has no {_CONFIG} that says what network its weights are of")
    if own and known and _image_config(own["model_cfg"]) != _image_config(known["model_cfg"]):
        raise WeightsError(f"{folder} holds another network than {spec.architecture}, by its {_CONFIG}")
    dim = config["model_cfg"]["embed_dim"]
    if spec.dim not in (None, dim):
        raise WeightsError(f"{folder} holds a network of {dim} dimensions, {spec.name} has {spec.dim}")
    return _Parts(config, file or _weights_in(folder, spec), folder)


def _described(spec: EncoderSpec) -> Mapping[str, Any] | None:
    """The configuration of a network that open_clip knows by name and tag; None of others.

    The activation is the tag's. open_clip 3.3 takes the network's and only warns: of its ``ViT-L-14`` with the weights
    ``openai`` it makes a network with GELU, though they were trained with QuickGELU.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    architecture, _, tag = spec.architecture.partition("/")
    model = open_clip.get_model_config(architecture) if architecture in open_clip.list_models() else None
    if model is None:
        return None
    if isinstance(spec, OpenClipSpec):
        how = asdict(spec.preprocessing) | {"resize_mode": spec.preprocessing.resize}
        if spec.bert:
            model["text_cfg"] = {
                "hf_model_name": spec.bert,
                "hf_tokenizer_name": spec.bert,
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": 256,
            }
    else:
        how = get_pretrained_cfg(architecture, tag)
        if how.get("quick_gelu"):
            model["quick_gelu"] = True
    names = ("mean", "std", "interpolation", "resize_mode")
    return {"model_cfg": model, "preprocess_cfg": {name: how[name] for name in names}} if how else None


def _unknown(spec: EncoderSpec) -> EncoderError:
    import open_clip

    architecture, _, tag = spec.architecture.partition("/")
    if architecture not in open_clip.list_models():
        return EncoderError(f"open_clip has no network {architecture!r}; see open_clip.list_models()")
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
    return EncoderError(f"{architecture} has no weights {tag!r}; there are {tags or 'none'}")


def _image_config(model: Mapping[str, Any]) -> object:
    """What tells one image tower from another, however it is written; timm's towers have their own activation."""
    from open_clip import CLIPVisionCfg

    vision = asdict(CLIPVisionCfg(**model["vision_cfg"])) | {"timm_model_pretrained": False}
    quick_gelu = bool(model.get("quick_gelu")) and not vision["timm_model_name"]
    return model["embed_dim"], quick_gelu, vision | {"timm_proj": vision["timm_proj"] or ""}


def _read_config(folder: Path) -> Mapping[str, Any] | None:
    path = folder / _CONFIG
    config: Mapping[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return config


def _weights_in(folder: Path, spec: EncoderSpec) -> Path:
    names = (*_hub(spec)[1], *_IN_A_FOLDER)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"no weights for {spec.name} in {folder}; looked for {', '.join(dict.fromkeys(names))}")


def _hub(spec: EncoderSpec) -> tuple[str, tuple[str, ...]]:
    """Repository of an encoder at the model hub, and the names its weights may have there."""
    from open_clip.pretrained import get_pretrained_cfg

    if isinstance(spec, OpenClipSpec):
        return spec.source, (spec.file,)
    if spec.architecture.startswith(_HUB):
        return spec.architecture.removeprefix(_HUB), _AT_THE_HUB
    architecture, _, tag = spec.architecture.partition("/")
    repository, _, file = get_pretrained_cfg(architecture, tag).get("hf_hub", "").rpartition("/")
    return repository, (file,) if file else _AT_THE_HUB


def _download(spec: EncoderSpec) -> Path:
    """One weights file, safetensors if there is one, with what describes it; repositories hold it in many formats."""
    repository, names = _hub(spec)
    if not repository:
        raise WeightsError(f"the weights of {spec.name} are not at the model hub; give --weights FILE")
    for name in names:
        folder = _fetch(repository, spec.revision, (_CONFIG, "LICENSE*", "README.md", *_TOKENIZER_FILES, name))
        if (folder / name).is_file():
            return folder
    raise WeightsError(f"no weights for {spec.name} from the model hub: {repository} has no {' or '.join(names)}")


def _fetch(repository: str, revision: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))


def _copy(folder: Path, to: Path, patterns: Sequence[str]) -> None:
    to.mkdir(exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns):
            shutil.copyfile(path, to / path.name)  # what the cache's links point to


def _image_tower(name: str, parts: _Parts) -> tuple[Any, Fit]:
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


def _load_text(name: str, given: Path | None, parts: _Parts) -> "TextTower":
    """The text tower, which stays on the CPU, behind open_clip's tokenizer for it."""
    import open_clip
    import torch
    from open_clip.model import convert_to_custom_text_state_dict

    with _one_line(name, given):
        model = parts.config["model_cfg"]
        text = dict(model["text_cfg"])
        bert, files = _text_files(parts)
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


def _text_files(parts: _Parts) -> tuple[Path | None, Path | None]:
    """Folders with the configuration of a BERT text tower, and with its tokenizer; None without them."""
    text = parts.config["model_cfg"]["text_cfg"]
    names = text.get("hf_model_name"), text.get("hf_tokenizer_name")
    pulled = parts.folder / _TEXT
    bert = _place(names[0], [pulled], ["config.json"]) if names[0] else None
    tokenizer = _place(names[1], [bert or pulled, parts.folder], _TOKENIZERS) if names[1] else None
    return bert, tokenizer


def _place(name: str, folders: Sequence[Path], files: Sequence[str]) -> Path:
    """Where one of the files is: in one of the folders, in a directory of that name, or else at the hub."""
    for folder in (*folders, Path(name)):
        if any((folder / file).is_file() for file in files):
            return folder
    return _fetch(name, "main", ("config.json", *_TOKENIZER_FILES))


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
def _one_line(name: str, weights: Path | None) -> Iterator[None]:
    """Whatever the libraries raise as our error; what open_clip logs before it raises is part of it."""
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


def _clip(px: int, resize: Resize = "shortest") -> Preprocessing:
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return Preprocessing((px, px), resize, px, "bicubic", mean, std)


def _half(px: int, interpolation: str) -> Preprocessing:
    return Preprocessing((px, px), "squash", px, interpolation, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


_BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"

SPECS = (
    EncoderSpec(
        name="clip-l14",
        architecture="ViT-L-14-quickgelu/openai",
        source="timm/vit_large_patch14_clip_224.openai",
        licence="Apache-2.0 as given there; OpenAI's own copy is MIT",
        trained_on="WIT-400M: pairs of images and texts from the web",
        citation="arXiv 2103.00020",
        pooling="projected",
        dim=768,
        text=True,
        preprocessing=_clip(224),
    ),
    EncoderSpec(
        name="biomedclip",
        architecture=f"{_HUB}{_BIOMEDCLIP}",
        source=_BIOMEDCLIP,
        revision="9f341de24bfb00180f1b847274256e9b65a3a32e",
        licence="MIT",
        trained_on="PMC-15M: figures and captions of PubMed Central",
        seen=("pmc",),
        citation="arXiv 2303.00915",
        pooling="projected",
        dim=512,
        text=True,
        preprocessing=_clip(224),
    ),
    EncoderSpec(
        name="siglip2-so400m",
        architecture="ViT-SO400M-16-SigLIP2-384/webli",
        source="timm/ViT-SO400M-16-SigLIP2-384",
        licence="Apache-2.0",
        trained_on="WebLI: images and texts from the web, in many languages",
        citation="arXiv 2502.14786",
        pooling="projected",
        dim=1152,
        text=True,
        preprocessing=_half(384, "bicubic"),
    ),
    EncoderSpec(
        name="pe-core-l14",
        architecture="PE-Core-L-14-336/meta",
        source="timm/PE-Core-L-14-336",
        licence="Apache-2.0",
        trained_on="Meta's pairs of images and texts from the web, and videos",
        citation="arXiv 2504.13181",
        pooling="projected",
        dim=1024,
        text=True,
        preprocessing=_half(336, "bilinear"),
    ),
    EncoderSpec(
        name="dfn-h14",
        architecture="ViT-H-14-378-quickgelu/dfn5b",
        source="apple/DFN5B-CLIP-ViT-H-14-378",
        licence="Apple Machine Learning Research Model licence (apple-amlr)",
        non_commercial=True,
        trained_on="DFN-5B: pairs from the web, chosen by a data filtering network",
        citation="arXiv 2309.17425",
        pooling="projected",
        dim=1024,
        text=True,
        preprocessing=_clip(378, "squash"),
    ),
    OpenClipSpec(
        name="bmc-clip",
        architecture="ViT-L-14",
        source="BIOMEDICA/BMC_CLIP_CF",
        file="BMC_CLIP_CF.pt",
        licence="see its model card",
        trained_on="BIOMEDICA: figures and captions of PubMed Central, on top of CommonPool-XL",
        seen=("pmc",),
        citation="arXiv 2501.07171",
        pooling="projected",
        dim=768,
        text=True,
        preprocessing=_clip(224),
    ),
    OpenClipSpec(
        name="unimed-clip-b16",
        architecture="ViT-B-16-quickgelu",
        source="UzairK/unimed-clip-vit-b16",
        file="unimed-clip-vit-b16.pt",
        bert="microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        licence="CC-BY-NC-4.0",
        non_commercial=True,
        trained_on="UniMed: CheXpert, MIMIC-CXR, ChestX-ray8, OpenI, RadImageNet, ROCO v2, PMC-OA, Quilt-1M, "
        "LLaVA-Med, sets of retinas",
        seen=("chexpert", "mimic", "nih14", "openi", "radimagenet", "roco"),
        undisclosed=True,
        citation="arXiv 2412.10372",
        pooling="projected",
        dim=512,
        text=True,
        preprocessing=_clip(224),
    ),
)
