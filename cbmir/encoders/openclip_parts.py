"""What a network of open_clip is built from: its configuration, and where its weights and its tokenizer lie."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cbmir.encoders.base import EncoderSpec
from cbmir.encoders.cards.openclip import OpenClipSpec
from cbmir.errors import EncoderError, WeightsError

_HUB = "hf-hub:"
_CONFIG = "open_clip_config.json"
_TEXT = "text"
"""Folder of a pulled directory with what the text tower would otherwise ask the hub for."""
_AT_THE_HUB = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_IN_A_FOLDER = (*_AT_THE_HUB, "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "model.pth")
_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "vocab.txt")
_TOKENIZER_FILES = ("*token*.json", "vocab.*", "merges.txt", "*.model")


@dataclass(frozen=True, slots=True)
class Parts:
    """What an encoder is built from.

    Attributes:
        config: As in open_clip_config.json: ``model_cfg`` and ``preprocess_cfg``.
        weights: File of both towers.
        folder: Where its tokenizer may lie.
    """

    config: Mapping[str, Any]
    weights: Path
    folder: Path


def parts_of(spec: EncoderSpec, weights: Path | None) -> Parts:
    """The parts of an encoder, from a file, a directory or, without either, the model hub.

    Raises:
        EncoderError: open_clip doesn't know the network.
        WeightsError: something is missing, or of another network.
    """
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
    return Parts(config, file or _weights_in(folder, spec), folder)


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


def write_parts(parts: Parts, to: Path) -> None:
    """Put everything that an encoder is built from into a directory that open_clip takes as ``local-dir:`` too.

    Raises:
        OSError: it can't be written.
    """
    bert, tokenizer = text_files(parts)
    usual = _AT_THE_HUB[parts.weights.suffix != ".safetensors"]
    shutil.copyfile(parts.weights, to / usual)
    _copy(parts.folder, to, ("LICENSE*", "README.md", *_TOKENIZER_FILES))
    if bert:
        _copy(bert, to / _TEXT, ("config.json", *_TOKENIZER_FILES))
    if tokenizer not in (None, bert, parts.folder):
        _copy(tokenizer, to / _TEXT if bert else to, _TOKENIZER_FILES)
    (to / _CONFIG).write_text(json.dumps(parts.config, indent=2) + "\n", encoding="utf-8")


def text_files(parts: Parts) -> tuple[Path | None, Path | None]:
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
