"""Cards of the encoders that transformers builds; their preprocessing comes with the weights."""

from cbmir.encoders.base import EncoderSpec

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
