"""Names of tensors in checkpoints for timm's networks: heads, classifiers, and SAM's other parts."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cbmir.encoders.weights import StateDict

_HEADS = re.compile(
    r"(heads?|head_\w+|(?!conv_)\w+_head|fc\d*|\w*classifier|last_linear|projector|projection|predictor|prototypes|"
    r"criterion|decoder|mask_token|n_averaged)(\.|$)"
)
"""What training puts beside a network, under its usual names."""
_SAM_DECODER = ("prompt_encoder.", "mask_decoder.", "shared_image_embedding.")
_SAM_NAMES = (
    ("image_encoder.", ""),  # as the authors of SAM and MedSAM save it
    (".mlp.lin", ".mlp.fc"),
    ("vision_encoder.layers.", "blocks."),  # as transformers does
    ("vision_encoder.", ""),
    ("patch_embed.projection.", "patch_embed.proj."),
    ("neck.conv1.", "neck.0."),
    ("neck.layer_norm1.", "neck.1."),
    ("neck.conv2.", "neck.2."),
    ("neck.layer_norm2.", "neck.3."),
    (".layer_norm", ".norm"),
)


def is_head(architecture: str, name: str) -> bool:
    """Whether a tensor that the network doesn't have belongs to a classifier, or only to the training."""
    return name.startswith(tuple(f"{head}." for head in _classifiers(architecture))) or bool(_HEADS.match(name))


def _classifiers(architecture: str) -> tuple[str, ...]:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(architecture)
    if config is None or not config.classifier:
        return ()
    return (config.classifier,) if isinstance(config.classifier, str) else tuple(config.classifier)


def class_counts(architecture: str, state: "StateDict") -> list[int]:
    """Numbers of classes a checkpoint may have: by its classifier; if that isn't found, the usual number or none."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(architecture)
    if config is None:
        return [0]
    for head in _classifiers(architecture):
        for name in (f"{head}.bias", f"{head}.weight"):
            if name in state:
                return [len(state[name]) - (config.label_offset or 0)]
    return [config.num_classes, 0] if config.num_classes else [0]


def without_decoder(state: "StateDict") -> "StateDict":
    """SAM's image encoder under timm's names, from its authors' file or from transformers'; others stay as they are.

    timm would leave out whatever is not the image encoder's. Here only the parts that are known to be something else
    go; any other name is refused when the network is loaded.
    """
    if not any(name.startswith(("image_encoder.", "vision_encoder.")) for name in state):
        return state
    return {_sam_name(name): value for name, value in state.items() if not name.startswith(_SAM_DECODER)}


def _sam_name(name: str) -> str:
    for theirs, ours in _SAM_NAMES:
        name = name.replace(theirs, ours)
    return name
