"""Cards of the radiology networks whose authors publish a bare checkpoint, and what its tensors are called in timm."""

from dataclasses import dataclass
from typing import Any

from cbmir.encoders.base import EncoderSpec
from cbmir.media import Preprocessing


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
