"""Radiology networks whose authors publish a bare checkpoint: a timm network of the same shape takes their weights.

The rule that turns the checkpoint's names into timm's is part of each spec. What the rule doesn't name must be timm's
own, and every tensor must find its place.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.fitting import fit
from cbmir.encoders.weights import no_weights
from cbmir.errors import WeightsError
from cbmir.media import Preprocessing

if TYPE_CHECKING:
    import torch

    from cbmir.encoders.weights import StateDict

PREFIX, PREFIX_FORM = None, ""
_log = logging.getLogger(__name__)
_ROTARY = "rope.freqs_cos"
_SAME_COSINES = 1e-2
"""Above the rounding of half precision, far below what another grid of rotary positions gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSpec(EncoderSpec):
    """An encoder from a bare checkpoint. Its `source` is a repository at the model hub, or a URL for people.

    Attributes:
        file: Name of the checkpoint in the repository, and in a directory given as weights.
        preprocessing: What the authors' own code does to a picture.
        options: For timm's ``create_model``.
        head: Name of timm's classifier, whose place a projection to `dim` without bias takes; none if empty.
        left_out: Pattern of the names that the image tower has no use for.
        renamed: Patterns of names and what replaces them, applied in this order. Tensors renamed to ``NAME#0``,
            ``NAME#1``, ... become one, laid end to end.
        stem: First convolution, if it was trained on three equal grey channels and gets one here: its weights are
            added up.
        plain: Shell command that turns a pickle of more than tensors, ``{file}``, into weights that can be read here.
    """

    file: str
    dim: int
    preprocessing: Preprocessing
    options: tuple[tuple[str, Any], ...] = ()
    head: str = ""
    left_out: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    stem: str = ""
    plain: str = ""

    @property
    def at_hub(self) -> bool:
        """Whether the weights can be downloaded from the model hub."""
        return "://" not in self.source


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


def _grey(mean: float, std: float) -> dict[str, Any]:
    return {"mean": (mean,), "std": (std,), "channels": 1}


def _rgb(mean: float, std: float) -> dict[str, Any]:
    return {"mean": (mean,) * 3, "std": (std,) * 3}


# transformers' Swin, in the names of the time, to timm's: the patch merging belongs to the stage after it
_SWIN = (
    (r"^vision_model\.projection_head\.", "head.fc."),
    (r"^vision_model\.model\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.", ""),
    (r"^layers\.2\.downsample\.", "layers.3.downsample."),
    (r"^layers\.1\.downsample\.", "layers.2.downsample."),
    (r"^layers\.0\.downsample\.", "layers.1.downsample."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.query\.(\w+)$", r".attn.qkv.\1#0"),
    (r"\.attention\.self\.key\.(\w+)$", r".attn.qkv.\1#1"),
    (r"\.attention\.self\.value\.(\w+)$", r".attn.qkv.\1#2"),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_EVA02 = (
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
    (r"^norm\.", "fc_norm."),
)
_RESNET = (
    (r"^backbone\.0\.", "conv1."),
    (r"^backbone\.1\.", "bn1."),
    (r"^backbone\.4\.", "layer1."),
    (r"^backbone\.5\.", "layer2."),
    (r"^backbone\.6\.", "layer3."),
    (r"^backbone\.7\.", "layer4."),
)

_MEDCLIP: dict[str, Any] = {
    "architecture": "swin_tiny_patch4_window7_224",
    "source": "https://storage.googleapis.com/pytrial/medclip-vit-pretrained.zip",
    "file": "pytorch_model.bin",
    "licence": "MIT",
    "trained_on": "CheXpert and MIMIC-CXR",
    "seen": ("chexpert", "mimic"),
    "citation": "Wang et al. 2022, MedCLIP, arXiv:2210.10163",
    "pooling": "mean of the patches, projected",
    "dim": 512,
    "head": "head.fc",
    "left_out": r"text_model\..+|logit_scale|vision_model\.model\.encoder\..+\.relative_position_index",
    "renamed": _SWIN,
}
_MEDCLIP_SCALE = (0.5862785803043838, 0.27950088968644304)
_XRV_PLAIN = (
    'pip install torchxrayvision && python -c "import torch, torchxrayvision as xrv; '
    "network = xrv.models.DenseNet(weights='densenet121-res224-all'); "
    "torch.save(network.state_dict(), 'densenet121-res224-all.pt')\""
)
_EVA_X_PLAIN = (
    "python -c \"import torch; data = torch.load('{file}', 'cpu', weights_only=False); "
    "torch.save(data.get('module', data), 'eva_x_base.pt')\""
)

SPECS = (
    # as MedCLIPProcessor: grey, laid on a black square of at least 224 pixels a side, then scaled
    CheckpointSpec(
        name="medclip",
        preprocessing=Preprocessing((224, 224), "square", 224, "bicubic", **_grey(*_MEDCLIP_SCALE)),
        stem="patch_embed.proj.weight",
        **_MEDCLIP,
    ),
    # as the program of arXiv:2403.06567: transformers' CLIP processor, which takes no notice of `do_pad_square`
    CheckpointSpec(
        name="medclip-cropped",
        preprocessing=Preprocessing((224, 224), "shortest", 224, "bicubic", **_rgb(*_MEDCLIP_SCALE), crop="floor"),
        **_MEDCLIP,
    ),
    # its authors' notebook scales to -1..1, by OpenCV's bilinear interpolation without anti-aliasing: on noisy pictures
    # of 300 to 1000 pixels it differs by .004 to .013 on average; it also takes colours in the order blue, green, red
    CheckpointSpec(
        name="radimagenet-resnet50",
        architecture="resnet50",
        source="Lab-Rasool/RadImageNet",
        file="ResNet50.pt",
        licence="MIT",
        trained_on="RadImageNet",
        seen=("radimagenet",),
        citation="Mei et al. 2022, RadImageNet, doi:10.1148/ryai.210315",
        pooling="mean",
        dim=2048,
        renamed=_RESNET,
        preprocessing=Preprocessing((224, 224), "squash", 224, "bilinear", **_rgb(0.5, 0.5)),
    ),
    # its authors crop first and scale floats from -1024 to 1024 by scikit-image, whose blur is another: .1% to 1.7% of
    # that range on average; of a picture in colour they take the red channel, not the grey
    CheckpointSpec(
        name="xrv-densenet121",
        architecture="densenet121",
        source="https://github.com/mlmed/torchxrayvision",
        file="densenet121-res224-all.pt",
        licence="Apache-2.0",
        trained_on="ChestX-ray14, RSNA, PadChest, CheXpert, MIMIC-CXR and OpenI",
        seen=("nih14", "rsna", "padchest", "chexpert", "mimic", "openi"),
        citation="Cohen et al. 2021, TorchXRayVision, arXiv:2111.00595",
        pooling="mean after ReLU",
        dim=1024,
        left_out=r"classifier\.(weight|bias)|op_threshs",
        plain=_XRV_PLAIN,
        preprocessing=Preprocessing((224, 224), "shortest", 224, "bilinear", **_grey(0.5, 1 / 2048)),
    ),
    CheckpointSpec(
        name="eva-x-b",
        architecture="eva02_base_patch14_224",
        options=(("patch_size", 16), ("ref_feat_shape", (14, 14))),
        source="MapleF/eva_x",
        file="eva_x_base_patch16_merged520k_mim.pt",
        licence="MIT",
        trained_on="520,000 chest X-rays of ChestX-ray14, CheXpert and MIMIC-CXR",
        seen=("nih14", "chexpert", "mimic"),
        citation="Yao et al. 2024, EVA-X, arXiv:2405.05237",
        pooling="mean of the patches",
        dim=768,
        left_out=r"mask_token|lm_head\.(weight|bias)|(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)",
        renamed=_EVA02,
        plain=_EVA_X_PLAIN,
        preprocessing=Preprocessing((224, 224), "shortest", 256, "bicubic", **_rgb(0.49185243, 0.28509309)),
    ),
)
