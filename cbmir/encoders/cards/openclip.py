"""Cards of the encoders that open_clip builds."""

from dataclasses import dataclass

from cbmir.encoders.base import EncoderSpec
from cbmir.media import Preprocessing, Resize


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
        architecture=f"hf-hub:{_BIOMEDCLIP}",
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
