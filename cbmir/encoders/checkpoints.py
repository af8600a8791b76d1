"""Radiology networks whose authors publish a bare checkpoint: a timm network of the same shape takes their weights.

The rule that turns the checkpoint's names into timm's is part of each spec. What the rule doesn't name must be timm's
own, and every tensor must find its place.
"""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.cards.checkpoints import SPECS, CheckpointSpec
from cbmir.encoders.fitting import fit
from cbmir.encoders.weights import no_weights
from cbmir.errors import WeightsError

if TYPE_CHECKING:
    import torch

    from cbmir.encoders.weights import StateDict

__all__ = ["PREFIX", "PREFIX_FORM", "SPECS", "load", "pull"]

PREFIX, PREFIX_FORM = None, ""
_log = logging.getLogger(__name__)
_ROTARY = "rope.freqs_cos"
_SAME_COSINES = 1e-2
"""Above the rounding of half precision, far below what another grid of rotary positions gives."""


def load(spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
    """Build the network and load the checkpoint into it strictly.

    Raises:
        EncoderError: the device or precision is not to be had.
        WeightsError: the checkpoint can't be had, can't be read without running what is in it, or doesn't fit.
    """
    from cbmir.encoders.network import encoder

    ours, weights = cast("CheckpointSpec", spec), settings.weights
    file = _fetch(ours) if weights is None else weights / ours.file if weights.is_dir() else weights
    return encoder(ours, _network(ours, file, say=weights is not None), ours.preprocessing, settings)


def pull(spec: EncoderSpec, to: Path) -> None:
    """Download the checkpoint.

    Raises:
        WeightsError: it is not at the model hub, or the hub can't be reached or refuses.
    """
    _fetch(cast("CheckpointSpec", spec), to)


def _fetch(spec: CheckpointSpec, to: Path | None = None) -> Path:
    """The one file, since the repositories hold many large ones."""
    from huggingface_hub import hf_hub_download

    if not spec.at_hub:
        how = f"run {spec.plain}" if spec.plain else f"download and unzip {spec.source}"
        raise WeightsError(f"the weights of {spec.name} are not at the model hub: {how}; then give --weights FILE|DIR")
    try:
        return Path(hf_hub_download(spec.source, spec.file, revision=spec.revision, local_dir=to))
    except Exception as error:  # the hub, the network and the file system raise their own
        raise no_weights(spec.name, None, error) from error


def _network(spec: CheckpointSpec, file: Path, say: bool) -> "torch.nn.Module":
    import timm
    import torch

    channels = spec.preprocessing.channels
    network: Any = timm.create_model(spec.architecture, num_classes=0, in_chans=channels, **dict(spec.options))
    if spec.head:
        network.set_submodule(spec.head, torch.nn.Linear(network.num_features, spec.dim, bias=False))
    tables: list[torch.Tensor] = []

    def convert(given: "StateDict") -> "StateDict":
        tables.extend(tensor for name, tensor in given.items() if name == _ROTARY)
        state = _renamed(spec, given)
        if spec.stem in state and state[spec.stem].shape[1] == 3:
            state[spec.stem] = state[spec.stem].sum(dim=1, keepdim=True)
        return state

    try:
        taken = fit(file, spec.name, network.state_dict(), convert)
    except WeightsError as error:
        if not spec.plain or "Unsupported global" not in str(error.__cause__):
            raise
        raise WeightsError(
            f"{file} can't be read without running what is in it; "
            f"if you trust it, run {spec.plain.replace('{file}', str(file))}; then give --weights FILE"
        ) from error
    network.load_state_dict(taken.take(spec.name, say), strict=True)
    _compare_rotary(spec, network, tables)
    return network  # type: ignore[no-any-return]


def _renamed(spec: CheckpointSpec, given: "StateDict") -> "StateDict":
    """The tensors of the image tower under timm's names.

    Raises:
        WeightsError: two tensors claim the same name.
    """
    state: StateDict = {}
    for old, tensor in given.items():
        if spec.left_out and re.fullmatch(spec.left_out, old):
            continue
        new = old
        for pattern, name in spec.renamed:
            new = re.sub(pattern, name, new)
        if new in state:
            raise WeightsError(f"no weights for {spec.name}: two tensors would be {new}")
        state[new] = tensor
    return _joined(state)


def _joined(state: "StateDict") -> "StateDict":
    import torch

    whole = {name: tensor for name, tensor in state.items() if "#" not in name}
    parts: dict[str, list[torch.Tensor]] = {}
    for name in sorted(set(state) - set(whole)):
        parts.setdefault(name.partition("#")[0], []).append(state[name])
    return whole | {name: torch.cat(tensors) for name, tensors in parts.items()}


def _compare_rotary(spec: CheckpointSpec, network: Any, tables: "list[torch.Tensor]") -> None:
    """Say so if a checkpoint's own table of rotary positions isn't the one that its authors' loader makes anew."""
    import torch

    if not tables:
        return
    table = tables[0]
    _, cosines = network.rope.get_embed().chunk(2, dim=-1)
    if table.shape != cosines.shape or not torch.allclose(table.float(), cosines.float(), atol=_SAME_COSINES):
        _log.warning("%s: its weights hold other rotary positions than its authors' code, which is followed", spec.name)
