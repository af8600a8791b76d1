"""``hf:`` against transformers itself: checkpoints in the layout of the hub, made here, loaded by both."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
from pictures import real_pictures
from PIL import Image

from cbmir.encoders import Encoder, EncoderSettings, get
from cbmir.encoders.registry import find
from cbmir.errors import EncoderError, WeightsError
from cbmir.media import preprocess

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

SIZES = ((301, 227), (227, 301), (640, 480), (100, 80), (1024, 700), (51, 64))
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLIP_STATS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
RESCALE = {"do_rescale": True, "rescale_factor": 0.00392156862745098}
ON = {"do_resize": True, "do_normalize": True}
CROP = {"do_center_crop": True}

RAD_DINO = (
    ON
    | CROP
    | RESCALE
    | {
        "_valid_processor_keys": [
            *("images", "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale"),
            *("rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb", "return_tensors"),
            *("data_format", "input_data_format"),
        ],
        "crop_size": {"height": 518, "width": 518},
        "do_convert_rgb": True,
        "image_mean": [0.5307] * 3,
        "image_processor_type": "BitImageProcessor",
        "image_std": [0.2583] * 3,
        "resample": 3,
        "size": {"shortest_edge": 518},
    }
)
MEDSIGLIP = (
    ON
    | HALF
    | {
        "do_rescale": True,
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862,
        "size": {"height": 448, "width": 448},
    }
)
PUBMEDCLIP = (
    ON
    | CROP
    | CLIP_STATS
    | {"crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 224}
)


def _picture(size: tuple[int, int], seed: int) -> Image.Image:
    """A smooth field with noise, of its own colour, detail and contrast; every second one is grey."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(0, 256, (2, 3)), axis=0)
    cells = rng.integers(low, high + 1, (3 + 4 * seed, 2 + 3 * seed, 3), dtype=np.uint8)
    field = np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC))
    pixels = np.clip(field + rng.normal(0, 8 * seed, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("L").convert("RGB") if seed % 2 else Image.fromarray(pixels)


MADE = [_picture(size, seed) for seed, size in enumerate(SIZES)]
PICTURES = [*MADE, *real_pictures()]


def _at_the_hub(name: str, model: Any) -> str:
    """The name a weight has in repositories, where today's transformers would write another."""
    if type(model).__name__ == "CLIPVisionModel":
        return f"vision_model.{name}"
    return name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.")


def _save(model: Any, folder: Path, processor: dict[str, Any]) -> Path:
    """A repository as at the hub. Each weight gets a value that matters: no ones, zeros or tiny layer scales."""
    from safetensors.torch import load_file, save_file

    torch.manual_seed(3)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.ndim >= 2:
            value.normal_(0, (1.5 if "embed" not in name else 1.0) / np.sqrt(value[0].numel()))
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_(0, 0.2).add_(0 if name.endswith(("bias", "running_mean")) else 1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    state = {_at_the_hub(name, model): value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _fp32(weights: Path) -> EncoderSettings:
    return EncoderSettings(weights=weights, device="cpu", precision="fp32", batch_size=2)


def _keys(folder: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT = SMALL | {"image_size": 64, "patch_size": 16}
DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 14}
TEXT = SMALL | {"vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 97, "eos_token_id": 98}
TWO_TOWERS = {"vision_config": VIT, "text_config": TEXT, "projection_dim": 24}
MAE = VIT | {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}
SQUASH_64 = ON | RESCALE | HALF | {"size": {"height": 64, "width": 64}, "resample": 2}
CROP_70 = ON | CROP | RESCALE | IMAGENET | {"size": {"shortest_edge": 80}, "crop_size": {"height": 70, "width": 70}}
CONVNEXT = ON | IMAGENET | {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "resample": 3}

CASES = {  # of transformers: configuration, its settings, class that saves, class that reads, processor; a key, pooling
    "vit": (
        "ViTConfig", VIT, "ViTForImageClassification", "ViTModel", "ViTImageProcessorPil",
        ON | HALF | {"size": 64}, "vit.encoder.layer.1.attention.attention.query.weight", "cls",
    ),
    "deit": (
        "DeiTConfig", VIT, "DeiTModel", "DeiTModel", "DeiTImageProcessorPil",
        ON | CROP | IMAGENET | {"size": {"height": 64, "width": 64}, "crop_size": 64, "resample": 3,
        "image_processor_type": "DeiTImageProcessor"}, "embeddings.distillation_token", "cls",
    ),
    "vit_mae": (
        "ViTMAEConfig", MAE, "ViTMAEForPreTraining", "ViTModel", "ViTImageProcessorPil",
        SQUASH_64 | {"image_processor_type": "ViTImageProcessor"},
        "vit.encoder.layer.1.attention.attention.query.weight", "cls",
    ),
    "dinov2": (
        "Dinov2Config", DINO | {"image_size": 140}, "Dinov2Model", "Dinov2Model", "BitImageProcessorPil",
        CROP_70 | {"image_processor_type": "BitImageProcessor", "resample": 3},
        "encoder.layer.1.layer_scale1.lambda1", "cls",
    ),
    "dinov2_with_registers": (
        "Dinov2WithRegistersConfig", DINO | {"image_size": 70}, "Dinov2WithRegistersModel",
        "Dinov2WithRegistersModel", "BitImageProcessorPil",
        CROP_70 | {"image_processor_type": "BitImageProcessor", "resample": 3}, "embeddings.register_tokens", "cls",
    ),
    "clip": (
        "CLIPConfig", TWO_TOWERS, "CLIPModel", "CLIPModel", "CLIPImageProcessorPil",
        PUBMEDCLIP | {"size": 64, "crop_size": 64}, "vision_model.pre_layrnorm.weight", "projected",
    ),
    "clip_vision_model": (
        "CLIPVisionConfig", VIT, "CLIPVisionModel", "CLIPVisionModel", "CLIPImageProcessorPil",
        PUBMEDCLIP | {"size": 64, "crop_size": 64, "image_processor_type": "CLIPImageProcessor"},
        "vision_model.pre_layrnorm.weight", "pooled",
    ),
    "siglip": (
        "SiglipConfig", {"vision_config": VIT, "text_config": TEXT}, "SiglipModel", "SiglipModel",
        "SiglipImageProcessorPil", MEDSIGLIP | {"size": {"height": 64, "width": 64}},
        "vision_model.head.probe", "projected",
    ),
    "siglip2 of a fixed size": (
        "SiglipConfig", {"vision_config": VIT, "text_config": TEXT | {"projection_size": 32}}, "SiglipModel",
        "SiglipModel", "SiglipImageProcessorPil",
        MEDSIGLIP | {"do_convert_rgb": None, "resample": 2, "size": {"height": 64, "width": 64}},
        "text_model.head.weight", "projected",
    ),
    "resnet": (
        "ResNetConfig", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
        "ResNetForImageClassification", "ResNetModel", "ConvNextImageProcessorPil",
        CONVNEXT | {"size": 64}, "resnet.encoder.stages.1.layers.0.layer.2.normalization.running_var", "pooled",
    ),
    "bit": (
        "BitConfig", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4}, "BitModel",
        "BitModel", "BitImageProcessorPil",
        ON | CROP | RESCALE | HALF | {"size": {"shortest_edge": 75}, "crop_size": {"height": 64, "width": 64},
        "resample": 2, "image_processor_type": "BitImageProcessor"}, "norm.weight", "pooled",
    ),
    "convnext": (
        "ConvNextConfig", {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}, "ConvNextModel",
        "ConvNextModel", "ConvNextImageProcessorPil", CONVNEXT | {"size": 64, "crop_pct": 0.95}, "layernorm.weight",
        "pooled",
    ),
    "convnext of 384": (
        "ConvNextConfig", {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}, "ConvNextModel",
        "ConvNextModel", "ConvNextImageProcessorPil", CONVNEXT | {"size": {"shortest_edge": 384}},
        "encoder.stages.0.layers.0.layer_scale_parameter", "pooled",
    ),
    "swin": (
        "SwinConfig", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": 64, "window_size": 4},
        "SwinModel", "SwinModel", "ViTImageProcessorPil",
        SQUASH_64 | IMAGENET | {"resample": 3, "image_processor_type": "ViTImageProcessor"},
        "encoder.layers.0.blocks.0.attention.self.relative_position_bias_table", "pooled",
    ),
    "beit": (
        "BeitConfig", VIT | {"use_relative_position_bias": True, "layer_scale_init_value": 0.1},
        "BeitModel", "BeitModel", "BeitImageProcessorPil",
        SQUASH_64 | {"image_processor_type": "BeitImageProcessor", "do_center_crop": False},
        "encoder.layer.0.lambda_1", "pooled",
    ),
}  # fmt: skip


def _pooled(output: Any, pooling: str) -> Any:
    return output.last_hidden_state[:, 0] if pooling == "cls" else output.pooler_output.flatten(1)


def _reference(folder: Path, reader: str, pooling: str, pixels: np.ndarray) -> np.ndarray:
    model = getattr(transformers, reader).from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        if pooling == "projected":
            return model.get_image_features(pixel_values=torch.tensor(pixels)).pooler_output.numpy()
        return _pooled(model(pixel_values=torch.tensor(pixels)), pooling).numpy()


def _processor(folder: Path, name: str) -> Any:
    return getattr(transformers, name).from_pretrained(folder)


def _prepared(processor: Any, pictures: list[Image.Image]) -> np.ndarray:
    return np.concatenate([processor(images=picture, return_tensors="np")["pixel_values"] for picture in pictures])


def _ours(encoder: Encoder, pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([preprocess(picture, encoder.preprocessing) for picture in pictures])


def _in_grey_levels(encoder: Encoder, prepared: np.ndarray) -> np.ndarray:
    """(n, height, width, 3) values of 0 to 255 from normalised (n, 3, height, width) ones."""
    how = encoder.preprocessing
    return 255 * (prepared.transpose(0, 2, 3, 1) * np.array(how.std) + np.array(how.mean))


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    left, right = (item / np.linalg.norm(item, axis=-1, keepdims=True) for item in (one, other))
    return (left.astype(np.float64) * right).sum(-1)


def _most_alike(vectors: np.ndarray) -> float:
    """The highest cosine between two made pictures, which are less alike than the real ones."""
    made = vectors[: len(MADE)]
    cosines = _cosines(made[:, None], made[None])
    return float(cosines[~np.eye(len(made), dtype=bool)].max())


def _same_pixels(encoder: Encoder, processor: Any) -> tuple[np.ndarray, np.ndarray]:
    theirs = _prepared(processor, PICTURES)
    pixels = _ours(encoder, PICTURES)
    assert np.abs(_in_grey_levels(encoder, theirs) - pixels).max() < 0.001
    return pixels, theirs


def _same(encoder: Encoder, folder: Path, case: tuple, which: slice = slice(None)) -> None:
    _, _, _, reader, processor, _, _, pooling = case
    pixels, theirs = _same_pixels(encoder, _processor(folder, processor))
    vectors = encoder.embed(pixels[which])
    assert _most_alike(vectors) < 0.99
    assert _cosines(vectors, _reference(folder, reader, pooling, theirs[which])).min() >= 0.99999


def _build(case: tuple, folder: Path) -> Path:
    config, options, writer, _, _, processor, key, _ = case
    _save(getattr(transformers, writer)(getattr(transformers, config)(**options)), folder, processor)
    assert key in _keys(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_load__as_transformers_does(name, tmp_path):
    folder = _build(CASES[name], tmp_path)
    _same(get("hf:any/name", _fp32(folder)), folder, CASES[name])


def test_load__dinov3_within_one_grey_level_of_its_only_processor(tmp_path):
    """It scales in floating point, and what is read as 8-bit pixels here keeps its fractions there."""
    config = transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4)
    processor = SQUASH_64 | IMAGENET | {"image_processor_type": "DINOv3ViTImageProcessorFast"}
    folder = _save(transformers.DINOv3ViTModel(config), tmp_path, processor)
    assert "layer.1.layer_scale1.lambda1" in _keys(folder)
    encoder = get("hf:any/name", _fp32(folder))
    theirs = _prepared(_processor(folder, "DINOv3ViTImageProcessor"), PICTURES)
    pixels = _ours(encoder, PICTURES)
    assert 0.01 < np.abs(_in_grey_levels(encoder, theirs) - pixels).max() <= 1.01
    vectors = encoder.embed(pixels)
    assert _most_alike(vectors) < 0.99
    assert _cosines(vectors, _reference(folder, "DINOv3ViTModel", "cls", theirs)).min() >= 0.9998


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip", "siglip", "convnext"])
def test_load__processors_on_torchvision_are_not_far(name, tmp_path):
    """They are what transformers takes unless told otherwise: the difference is bounded here."""
    folder = _build(CASES[name], tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert processor.backend == "torchvision"
    encoder = get("hf:any/name", _fp32(folder))
    theirs = _prepared(processor, PICTURES)
    pixels = _ours(encoder, PICTURES)
    apart = np.abs(_in_grey_levels(encoder, theirs) - pixels)
    assert apart.max() < 2.01
    assert apart.mean() < 0.3
    other = _reference(folder, CASES[name][3], CASES[name][7], theirs)
    assert _cosines(encoder.embed(pixels), other).min() >= 0.9999


def test_load__mae_sees_the_whole_picture_and_the_same_at_each_call(tmp_path):
    folder = _build(CASES["vit_mae"], tmp_path)
    masked = transformers.ViTMAEModel.from_pretrained(folder).eval()
    assert masked.config.mask_ratio == 0.75
    encoder = get("hf:any/name", _fp32(folder))
    pixels = _ours(encoder, PICTURES)
    vectors = encoder.embed(pixels)
    assert np.array_equal(vectors, encoder.embed(pixels))
    assert np.array_equal(vectors[3], encoder.embed(pixels[3:4])[0])
    with torch.inference_mode():
        images = torch.tensor(_prepared(_processor(folder, "ViTImageProcessorPil"), PICTURES))
        assert _cosines(vectors, masked(pixel_values=images).last_hidden_state[:, 0].numpy()).max() < 0.999


# the encoders with a name, in small, with the files of their repositories


def _named(name: str, folder: Path) -> tuple[Path, tuple]:
    towers = {"text_config": TEXT, "vision_config": VIT | {"hidden_size": 768, "image_size": 224, "patch_size": 32}}
    config, model, case = {
        "rad-dino": (
            transformers.Dinov2Config(num_hidden_layers=1, mlp_ratio=1, image_size=518, patch_size=14),
            transformers.Dinov2Model,
            (None, None, None, "Dinov2Model", "BitImageProcessorPil", RAD_DINO, None, "cls"),
        ),
        "medsiglip": (
            transformers.SiglipConfig(
                vision_config=VIT | {"hidden_size": 1152, "image_size": 448, "patch_size": 14, "num_hidden_layers": 1},
                text_config=TEXT | {"projection_size": 1152},
            ),
            transformers.SiglipModel,
            (None, None, None, "SiglipModel", "SiglipImageProcessorPil", MEDSIGLIP, None, "projected"),
        ),
        "pubmedclip": (
            transformers.CLIPConfig(**towers, projection_dim=512),
            transformers.CLIPModel,
            (None, None, None, "CLIPModel", "CLIPImageProcessorPil", PUBMEDCLIP, None, "projected"),
        ),
    }[name]
    return _save(model(config), folder, case[5]), case


@pytest.mark.parametrize(
    ("name", "dim", "how"),
    [
        ("rad-dino", 768, ("shortest", 518, (518, 518), "bicubic", (0.5307,) * 3, (0.2583,) * 3)),
        ("medsiglip", 1152, ("squash", 448, (448, 448), "bicubic", (0.5,) * 3, (0.5,) * 3)),
        ("pubmedclip", 512, ("shortest", 224, (224, 224), "bicubic", *map(tuple, CLIP_STATS.values()))),
    ],
)
def test_load__the_encoders_with_a_name(name, dim, how, tmp_path):
    folder, case = _named(name, tmp_path)
    encoder = get(name, _fp32(folder))
    _same(encoder, folder, case, slice(0, 2))
    assert encoder.card.dim == dim
    found = encoder.preprocessing
    assert (found.resize, found.resize_px, found.input_px, found.interpolation, found.mean, found.std) == how
    _, spec = find(name)
    assert (spec.text, spec.dim) == (name != "rad-dino", dim)


@pytest.mark.parametrize(
    ("name", "case", "reason"),
    [
        ("rad-dino", "clip", "holds clip, not dinov2 as rad-dino is"),
        ("medsiglip", "clip", "holds clip, not siglip as medsiglip is"),
        ("rad-dino", "dinov2", "gives vectors of length 32, not 768 as rad-dino has"),
    ],
)
def test_load__another_model_than_the_named_one_is_refused(name, case, reason, tmp_path):
    with pytest.raises(WeightsError, match=reason):
        get(name, _fp32(_build(CASES[case], tmp_path)))


# text towers

TEXTS = [
    "Chest X-ray with pneumonia.",
    "brain MRI: a glioma",
    "heart",
    "no finding in the left lung of this patient, " * 9,
    "no finding in the left lung of this patient, " * 9 + "and one in the right",
]


def _clip_tokenizer(folder: Path) -> dict[str, int]:
    """CLIP's own kind: pairs of bytes, merged in order, with an end of word."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    merges = [("l", "u"), ("lu", "n"), ("lun", "g</w>"), ("h", "e"), ("r", "t</w>"), ("i", "n</w>")]
    letters = list(bytes_to_unicode().values())
    words = letters + [f"{letter}</w>" for letter in letters] + ["".join(pair) for pair in merges]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    ends = {"unk_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    tokens = {
        name: {"content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
        | {"__type": "AddedToken"}
        for name, text in ends.items()
    }
    more = {"pad_token": "<|endoftext|>", "add_prefix_space": False, "errors": "replace", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | more))
    return vocabulary


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory) -> Path:
    """A CLIP with tokenizer; its end token is told by the highest number, as in repositories of old."""
    folder = tmp_path_factory.mktemp("clip")
    words = len(_clip_tokenizer(folder))
    text = TEXT | {"vocab_size": words, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 77}
    config = transformers.CLIPConfig(vision_config=VIT, text_config=text, projection_dim=24)
    return _save(transformers.CLIPModel(config), folder, CASES["clip"][5])


def _reference_text(folder: Path, reader: str, texts: list[str], **padding: Any) -> np.ndarray:
    """One text at a time, by the processor that the authors use."""
    model = getattr(transformers, reader).from_pretrained(folder, attn_implementation="eager").eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    vectors = []
    for text in texts:
        with torch.inference_mode():
            tokens = processor(text=[text], return_tensors="pt", truncation=True, **padding)
            vectors.append(model.get_text_features(**tokens).pooler_output.numpy()[0])
    return np.stack(vectors)


def test_embed_text__clip_as_transformers_does(clip_dir):
    encoder = get("hf:any/clip", _fp32(clip_dir))
    vectors = encoder.embed_text(TEXTS)
    assert vectors.shape == (5, 24)
    assert _cosines(vectors, _reference_text(clip_dir, "CLIPModel", TEXTS, max_length=77)).min() >= 0.99999
    assert _most_alike(vectors[:4]) < 0.99
    assert np.allclose(vectors[3], vectors[4], atol=1e-5)  # both are cut off at 77 tokens
    many = encoder.embed_text(TEXTS * 9)
    assert np.allclose(many, np.tile(vectors, (9, 1)), atol=1e-5)


def test_embed_text__siglip_as_transformers_does(tmp_path):
    """Texts are filled up to the full length, as SigLIP was trained: with less filling the vectors are others."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = _build(CASES["siglip"], tmp_path)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in TEXTS] * 5),
        model_prefix=str(folder / "spiece"),
        vocab_size=50,
        add_dummy_prefix=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    _siglip_tokenizer_config(folder)
    encoder = get("hf:any/siglip", _fp32(folder))
    vectors = encoder.embed_text(TEXTS)
    full = _reference_text(folder, "SiglipModel", TEXTS, padding="max_length", max_length=16)
    assert _cosines(vectors, full).min() >= 0.99999
    assert _most_alike(vectors[:4]) < 0.99
    assert np.allclose(vectors[3], vectors[4], atol=1e-5)
    assert _cosines(encoder.embed_text(TEXTS[2:3]), full[2:3]).min() >= 0.99999  # also without a long one beside it
    short = _reference_text(folder, "SiglipModel", TEXTS, padding="longest", max_length=16)
    assert _cosines(vectors, short).min() < 0.99


def _siglip_tokenizer_config(folder: Path) -> None:
    token = {"lstrip": True, "normalized": False, "rstrip": True, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {"1": {"content": "</s>"} | token, "2": {"content": "<unk>"} | token},
        "additional_special_tokens": [],
        "do_lower_case": True,
        "eos_token": "</s>",
        "model_input_names": ["input_ids"],
        "model_max_length": 64,
        "pad_token": "</s>",
        "processor_class": "SiglipProcessor",
        "sp_model_kwargs": {},
        "tokenizer_class": "SiglipTokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_embed_text__siglip_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as if it weren't installed
    folder = _build(CASES["siglip"], tmp_path)
    _siglip_tokenizer_config(folder)
    (folder / "spiece.model").touch()
    encoder = get("hf:any/siglip", _fp32(folder))
    with pytest.raises(WeightsError, match=r"needs sentencepiece: pip install sentencepiece protobuf$"):
        encoder.embed_text(["a"])


def test_embed_text__no_tokenizer_and_no_text_tower(clip_dir, tmp_path):
    folder = shutil.copytree(clip_dir, tmp_path / "clip")
    encoder = get("hf:any/clip", _fp32(folder))
    for name, text in (("vocab.json", "{"), ("merges.txt", None), ("vocab.json", None)):
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
        with pytest.raises(WeightsError, match="no tokenizer for hf:any/clip") as caught:
            encoder.embed_text(["a"])
        assert _one_line(caught.value)
    with pytest.raises(EncoderError, match="has no text tower"):
        get("hf:any/vit", _fp32(_build(CASES["vit"], tmp_path / "vit"))).embed_text(["a"])


# weights that don't fit


def _one_line(error: Exception) -> bool:
    return "\n" not in str(error) and len(str(error)) < 700


def _rewrite(folder: Path, to: Path, change: Any) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    save_file(change(load_file(to / "model.safetensors")), to / "model.safetensors", metadata={"format": "pt"})
    return to


def _without(name: str, state: dict) -> dict:
    assert name in state
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("case", "lost"),
    [
        ("vit", "vit.encoder.layer.1.attention.attention.query.weight"),
        ("vit", "vit.embeddings.position_embeddings"),
        ("vit", "vit.layernorm.bias"),
        ("dinov2", "encoder.layer.0.layer_scale1.lambda1"),
        ("resnet", "resnet.encoder.stages.1.layers.0.layer.2.normalization.running_var"),
        ("swin", "encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"),
        ("beit", "pooler.layernorm.weight"),
        ("clip", "visual_projection.weight"),
        ("clip", "text_model.final_layer_norm.weight"),
        ("siglip", "vision_model.head.probe"),
    ],
)
def test_load__a_weight_less_is_refused(case, lost, tmp_path):
    folder = _rewrite(_build(CASES[case], tmp_path / "full"), tmp_path / "less", partial(_without, lost))
    get("hf:any/name", _fp32(tmp_path / "full"))
    with pytest.raises(WeightsError, match="they lack ") as caught:
        get("hf:any/name", _fp32(folder))
    assert _one_line(caught.value)


def test_load__weights_too_many_or_of_other_shapes_are_refused(tmp_path):
    full = _build(CASES["vit"], tmp_path / "full")
    some = {"vit.encoder.layer.2.layernorm_before.weight": torch.ones(32)}
    for label, change in {
        "hold, unlike the network,": lambda state: state | some,
        "cls_token": lambda state: state | {"vit.embeddings.cls_token": torch.ones(1, 1, 16)},
        "lack": lambda state: {f"other.{name}": value for name, value in state.items()},
    }.items():
        with pytest.raises(WeightsError, match=label) as caught:
            get("hf:any/vit", _fp32(_rewrite(full, tmp_path / label, change)))
        assert _one_line(caught.value)


def test_load__what_is_not_used_may_be_missing_and_makes_no_difference(tmp_path):
    """transformers fills a missing pooler with random values: they must not get into the fingerprint."""
    transformers.ViTModel(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path / "full")
    (tmp_path / "full" / "preprocessor_config.json").write_text(json.dumps(SQUASH_64))
    full = tmp_path / "full"
    bare = _rewrite(full, tmp_path / "bare", lambda state: _without("pooler.dense.weight", state))
    mask_token = {"embeddings.mask_token": torch.ones(1, 1, 32)}  # of training by masked patches
    more = _rewrite(full, tmp_path / "more", lambda state: state | mask_token)
    encoders = [get("hf:any/vit", _fp32(folder)) for folder in (full, bare, bare, more)]
    assert len({encoder.card.fingerprint for encoder in encoders}) == 1
    vectors = [encoder.embed(_ours(encoder, PICTURES)) for encoder in encoders]
    assert np.array_equal(vectors[0], vectors[1])


def test_load__the_text_tower_is_in_no_fingerprint_of_pictures(clip_dir, tmp_path):
    other = _rewrite(
        clip_dir,
        tmp_path / "other",
        lambda state: state | {"text_projection.weight": -state["text_projection.weight"]},
    )
    one, two = (get("hf:any/clip", _fp32(folder)) for folder in (clip_dir, other))
    assert one.card == two.card
    assert np.allclose(one.embed_text(TEXTS[:1]), -two.embed_text(TEXTS[:1]))


def test_load__in_float32_whatever_the_repository_says(tmp_path):
    model = transformers.Dinov2Model(transformers.Dinov2Config(**DINO, image_size=70))
    processor = CASES["dinov2"][5]
    _save(model, tmp_path / "half", processor)
    half = transformers.Dinov2Model.from_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    half.float().save_pretrained(tmp_path / "full")
    (tmp_path / "full" / "preprocessor_config.json").write_text(json.dumps(processor))
    cards = {get("hf:any/dinov2", _fp32(tmp_path / name)).card.fingerprint for name in ("half", "full")}
    assert len(cards) == 1


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_load__from_a_pickle_without_running_it(tmp_path):
    from safetensors.torch import load_file

    safe = _build(CASES["vit"], tmp_path / "safe")
    folder = shutil.copytree(safe, tmp_path / "pickle")
    (folder / "model.safetensors").unlink()
    state = load_file(safe / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    cards = [get("hf:any/vit", _fp32(item)).card.fingerprint for item in (safe, folder)]
    assert cards[0] == cards[1]
    ran = tmp_path / "ran"
    for dump in (torch.save, lambda data, file: file.write_bytes(pickle.dumps(data))):
        dump(state | {"x": Evil(ran)}, folder / "pytorch_model.bin")
        with pytest.raises(WeightsError, match="no weights for hf:any/vit from") as caught:
            get("hf:any/vit", _fp32(folder))
        assert _one_line(caught.value)
        assert not ran.exists()


# from the hub: a small one of our own, asked by another process


class Hub(BaseHTTPRequestHandler):
    """The parts of the hub's interface that a download needs, for any repository and revision.

    Attributes:
        repository: Directory that is served under every name.
        asked: The paths that were asked for.
    """

    repository: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = urlparse(self.path).path
        names = sorted(item.name for item in self.repository.iterdir())
        if path.startswith("/api/models/acme/gone"):
            self._answer(b"{}", 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif "/tree/" in path:
            sizes = {name: (self.repository / name).stat().st_size for name in names}
            rows = [{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes.items()]
            self._answer(json.dumps(rows).encode())
        elif path.startswith("/api/models/"):
            info = {"id": "acme/clip", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._answer(json.dumps(info | {"private": False, "downloads": 0, "tags": []}).encode())
        else:
            data = (self.repository / path.rpartition("/")[2]).read_bytes()
            tag = hashlib.sha1(data).hexdigest()
            self._answer(data, headers={"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_load_and_pull__from_a_hub(clip_dir, tmp_path):
    """The same encoder from the hub, from the cache without it, and from a pulled directory, each with its texts."""
    hub = type("OwnHub", (Hub,), {"repository": clip_dir, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = """
import sys
from pathlib import Path
import click
from cbmir.encoders import EncoderSettings, get
from cbmir.encoders.registry import pull
from cbmir.options import run

def show(name, weights=None):
    encoder = get(name, EncoderSettings(weights=weights, device="cpu", precision="fp32"))
    click.echo(f"{encoder.card.fingerprint} {encoder.embed_text(['lung'])[0, 0]:.4f}")

to, online = Path(sys.argv[1]), len(sys.argv) > 2
del sys.argv[1:]

def work():
    if online:
        show("hf:acme/clip@v1")
        pull("hf:acme/clip@v1", to)
        get("hf:acme/gone")
    show("hf:acme/clip@v1")
    show("hf:acme/clip@v1", to)
    get("medsiglip")

run(click.Command("work", callback=work), "work")
"""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    } | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    def work(*arguments: str, **more: str) -> tuple[list[str], str]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "pulled"), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment | more,
            cwd=Path(__file__).parent.parent,
        )
        assert done.returncode == 1, done.stderr
        return done.stdout.splitlines(), done.stderr.splitlines()[-1]

    try:
        online, gone = work("online")
    finally:
        server.shutdown()
        server.server_close()
    assert any("/v1" in path for path in hub.asked)
    assert not any("/main" in path and "gone" not in path for path in hub.asked)
    offline, unreachable = work(HF_HUB_OFFLINE="1")
    encoder = get("hf:acme/clip@v1", EncoderSettings(clip_dir, device="cpu", precision="fp32"))
    expected = f"{encoder.card.fingerprint} {encoder.embed_text(['lung'])[0, 0]:.4f}"
    assert online == [expected]
    assert offline == [expected] * 2
    assert gone.startswith("error: no weights for acme/gone: give --weights FILE|DIR; from the model hub: ")
    assert unreachable.startswith(
        "error: no weights for google/medsiglip-448: give --weights FILE|DIR; from the model hub: "
    )
    assert {"config.json", "preprocessor_config.json", "vocab.json", "merges.txt", "tokenizer_config.json"} <= {
        file.name for file in (tmp_path / "pulled").iterdir()
    }


# what else is refused


@pytest.mark.parametrize(
    ("config", "error", "reason"),
    [
        (None, WeightsError, "has no config.json that can be read"),
        ("{", WeightsError, "has no config.json that can be read"),
        ({"architecture": "resnet50"}, WeightsError, "holds no model of transformers: model_type is None"),
        ({"model_type": "mine"}, WeightsError, "holds no model of transformers: model_type is 'mine'"),
        (
            {"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}},
            EncoderError,
            "^hf:any/name needs code that comes with its repository, which is never run here$",
        ),
        ({"model_type": "vit"}, WeightsError, "no weights for hf:any/name from"),
    ],
)
def test_load__a_directory_of_something_else(config, error, reason, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (tmp_path / "mine.py").write_text(f"from pathlib import Path; Path({str(tmp_path / 'ran')!r}).touch()")
    with pytest.raises(error, match=reason) as caught:
        get("hf:any/name", _fp32(tmp_path))
    assert _one_line(caught.value)
    assert not (tmp_path / "ran").exists()


def test_load__a_file_alone_is_refused(clip_dir):
    with pytest.raises(WeightsError, match=r"is not a directory: pubmedclip needs the repository's, with config.json"):
        get("pubmedclip", _fp32(clip_dir / "model.safetensors"))


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (SQUASH_64 | {"size": {"shortest_edge": 64}}, "doesn't bring all pictures to one size"),
        (SQUASH_64 | {"size": {"shortest_edge": 64, "longest_edge": 90}}, "doesn't bring all pictures to one size"),
        (SQUASH_64 | {"do_resize": False}, "do_resize=False"),
        (SQUASH_64 | {"resample": 4}, "resample=4"),
        (SQUASH_64 | {"do_center_crop": True, "crop_size": 56}, "not done here, ViTImageProcessorPil: "),
        (  # it wants blue first, which no setting says
            SQUASH_64 | {"image_processor_type": "MobileViTImageProcessor", "do_center_crop": False},
            "pixels would differ by",
        ),
        (SQUASH_64 | {"image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 3}, "pixels would differ by"),
        (SQUASH_64 | {"size": {"height": 80, "width": 80}}, "makes no vectors of 80 x 80 pixels"),
        (None, "no preprocessing for hf:any/vit from"),
    ],
)
def test_load__a_preprocessing_not_done_here_is_refused(processor, reason, tmp_path):
    """It must not be taken for another one in silence."""
    folder = _build(CASES["vit"], tmp_path)
    if processor:
        named = {"image_processor_type": "ViTImageProcessor"} | processor
        (folder / "preprocessor_config.json").write_text(json.dumps(named))
    else:
        (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match=reason) as caught:
        get("hf:any/vit", _fp32(folder))
    assert _one_line(caught.value)


@pytest.mark.parametrize(
    ("change", "mean", "std"),
    [
        ({"do_rescale": False}, 0.5 / 255, 0.5 / 255),
        ({"rescale_factor": 1 / 127.5}, 0.25, 0.25),
        ({"do_normalize": False}, 0.0, 1.0),
        ({"rescale_factor": 0.00392156862}, 0.5, 0.5),
    ],
)
def test_load__scaling_of_pixels(change, mean, std, tmp_path):
    folder = _build(CASES["vit"], tmp_path)
    processor = SQUASH_64 | {"image_processor_type": "ViTImageProcessor"} | change
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    encoder = get("hf:any/vit", _fp32(folder))
    assert encoder.preprocessing.mean == pytest.approx((mean,) * 3)
    assert encoder.preprocessing.std == pytest.approx((std,) * 3)
    _same_pixels(encoder, _processor(folder, "ViTImageProcessorPil"))


def test_load__models_without_one_vector_a_picture_are_refused(tmp_path):
    models = {
        "text": transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=50)),
        "any size": transformers.Siglip2Model(
            transformers.Siglip2Config(vision_config=SMALL | {"patch_size": 16, "num_patches": 16}, text_config=TEXT)
        ),
    }
    for name, model in models.items():
        folder = _save(model, tmp_path / name, SQUASH_64 | {"image_processor_type": "ViTImageProcessor"})
        with pytest.raises(EncoderError, match="makes no vectors of 64 x 64 pixels") as caught:
            get("hf:any/name", _fp32(folder))
        assert _one_line(caught.value)
