"""Names of networks as people copy them from model pages, brought to the one that the loaders and collections use."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

from cbmir.errors import EncoderError, one_line

HUB = "hf-hub:"
_PAGES = re.compile(r"^(?:hf[-_]hub:|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)")
_REPOSITORY = re.compile(r"([\w.-]+)/([\w.-]+)(@[\w./-]+)?/?")
_TIMM, _OPEN_CLIP, _TRANSFORMERS = "timm:", "open_clip:", "hf:"
_CONFIGS = ("open_clip_config.json", "config.json")


def canonical(name: str, weights: Path | None = None) -> str:
    """The name with its loader's prefix.

    =====================================  ==================================================================
    ``timm/NAME``, ``timm:timm/NAME``      ``timm:NAME``, if timm has that network
    ``ARCH/TAG``                           ``open_clip:ARCH/TAG``, if open_clip has that architecture
    ``hf-hub:ORG/REPO``, its page's URL    by the repository's configuration: open_clip_config.json means open_clip,
    or ``ORG/REPO``                        config.json with ``model_type`` transformers, with ``architecture`` timm
    ``timm:hf-hub:ORG/REPO``               stays, and may be written ``timm:ORG/REPO``
    =====================================  ==================================================================

    Any other name is returned as it is. The configuration is looked for in a directory given as weights, in the cache,
    and at the hub.

    Raises:
        EncoderError: the configuration can't be had, or says nothing of a library.
    """
    prefix = _TIMM if name.startswith(_TIMM) else ""
    bare = _PAGES.sub("", name.removeprefix(prefix))
    found = _REPOSITORY.fullmatch(bare)
    if not found:
        return name
    owner, repository, revision = found[1], found[2], found[3] or ""
    if owner == "timm" and _timm_has(repository):
        return f"{_TIMM}{repository}{revision}"
    if prefix:
        return f"{_TIMM}{HUB}{owner}/{repository}{revision}"
    if bare == name and _open_clip_has(owner):
        return f"{_OPEN_CLIP}{name}"
    loader = _by_config(f"{owner}/{repository}", revision.removeprefix("@") or "main", weights)
    return f"{loader}{'' if loader == _TRANSFORMERS else HUB}{owner}/{repository}{revision}"


def _timm_has(name: str) -> bool:
    import timm

    return bool(timm.is_model(name.partition(".")[0]))


def _open_clip_has(architecture: str) -> bool:
    """By the package's files: importing it takes seconds."""
    package = find_spec("open_clip")
    places = package.submodule_search_locations if package else None
    return any((Path(place) / "model_configs" / f"{architecture}.json").is_file() for place in places or ())


def _by_config(repository: str, revision: str, weights: Path | None) -> str:
    """The prefix of the library that a repository is for."""
    reasons: list[str] = []
    for file in _CONFIGS:
        path = _config(repository, revision, file, weights, reasons)
        if path is None:
            continue
        if file == _CONFIGS[0]:
            return _OPEN_CLIP
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EncoderError(f"can't read {path}: {error}") from error
        if "model_type" in config:
            return _TRANSFORMERS
        if "architecture" in config:
            return _TIMM
        reasons.append("its config.json has neither model_type nor architecture")
    where = weights if weights and weights.is_dir() else f"{repository} at the model hub"
    raise EncoderError(
        f"which library loads {repository} is unknown here: give --weights DIR with the files of the repository, or "
        f"write timm:{HUB}{repository}, open_clip:{HUB}{repository} or hf:{repository}; {where}: "
        f"{'; '.join(dict.fromkeys(reasons)) or f'no {_CONFIGS[0]} and no {_CONFIGS[1]}'}"
    )


def _config(repository: str, revision: str, file: str, weights: Path | None, reasons: list[str]) -> Path | None:
    """The file, from the weights' directory or else from the hub; None where it isn't there, or can't be had."""
    if weights is not None and weights.is_dir():
        return weights / file if (weights / file).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # the hub, the network and the file system raise their own
        if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
            reasons.append(one_line(error))
        return None
