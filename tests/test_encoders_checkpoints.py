"""Bare checkpoints in the names their authors publish: read by their authors' code or its libraries, and by ours.

The weights are random, in the real layout. Every tensor has values that matter, norms and buffers too.
"""

import argparse
import functools
import http.server
import io
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pictures import real_pictures
from PIL import Image

from cbmir.encoders import Encoder, EncoderSettings, get
from cbmir.encoders.cards.checkpoints import SPECS, CheckpointSpec
from cbmir.encoders.checkpoints import load, pull
from cbmir.encoders.registry import find
from cbmir.errors import ImageError, WeightsError
from cbmir.media import Preprocessing, decode, preprocess

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow
functional = torch.nn.functional

MEDCLIP_MEAN, MEDCLIP_STD = 0.5862785803043838, 0.27950088968644304
SIZES = [(301, 227), (227, 301), (640, 480), (100, 80), (1024, 700), (224, 224)]
CELLS = [3, 30, 8, 20, 45, 100]
MEANS = [150, 240, 100, 50, 190, 130]
SPREADS = [50, 30, 80, 60, 70, 110]
State = dict[str, Any]


def _picture(number: int, mode: str) -> Image.Image:
    """Smooth fields of another coarseness, brightness and contrast for every number, with some noise."""
    rng = np.random.default_rng(number)
    width, height = SIZES[number]
    cells = CELLS[number]
    layers = []
    for _ in mode:
        coarse = Image.fromarray(rng.standard_normal((cells, cells + 1), np.float32))
        field = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        noisy = field * SPREADS[number] + MEANS[number] + rng.normal(0, 3, field.shape)
        layers.append(noisy.clip(0, 255).astype(np.uint8))
    return Image.fromarray(layers[0] if mode == "L" else np.dstack(layers))


REAL = real_pictures()
GREY = [*(_picture(number, "L") for number in range(len(SIZES))), *(picture.convert("L") for picture in REAL)]
BOTH = [*GREY[:3], *(_picture(number, "RGB") for number in range(3, len(SIZES))), *REAL]
MADE = (0, 3, 4)
FEW = [*MADE, len(SIZES)]
"""Places of the pictures that go through networks: made ones that differ most, and a real one."""


def _few(pictures: "list[Any] | torch.Tensor") -> list[Any]:
    return [pictures[place] for place in FEW]


def _pixels(picture: Image.Image, how: Preprocessing) -> np.ndarray:
    """As the program gets them: from the bytes of a file."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return preprocess(decode(data.getvalue()), how)


def _normalised(picture: Image.Image, how: Preprocessing) -> "torch.Tensor":
    """(channels, height, width) as it reaches our network."""
    pixels = torch.from_numpy(_pixels(picture, how).copy()).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(how.mean).view(-1, 1, 1)) / torch.tensor(how.std).view(-1, 1, 1)


def _settings(weights: Path) -> EncoderSettings:
    return EncoderSettings(weights=weights, device="cpu", precision="fp32", batch_size=len(FEW))


def _how(name: str) -> Preprocessing:
    how = find(name)[1].preprocessing
    assert isinstance(how, Preprocessing)
    return how


def _stirred(network: "torch.nn.Module", seed: int) -> "torch.nn.Module":
    """Random values everywhere, as after training: no norm that does nothing, no bias of zero, no small signal."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.normal_(0, 0.2, generator=generator)
        elif tensor.ndim in (2, 4):
            tensor.normal_(0, math.sqrt(2 / tensor[0].numel()), generator=generator)
        else:
            tensor.normal_(0, 0.5, generator=generator)
    return network.eval()


def _settled(network: "torch.nn.Module", images: "torch.Tensor") -> "torch.nn.Module":
    """With the statistics of these images in its norms; otherwise a deep network gives nearly one vector for all."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.inference_mode():
        network.train()(images)
    return network.eval()


def _cosines(one: "np.ndarray | torch.Tensor", other: "np.ndarray | torch.Tensor") -> "torch.Tensor":
    """Of each row with its counterpart."""
    left, right = (torch.as_tensor(item).double() for item in (one, other))
    return functional.cosine_similarity(left, right)


def _are_told_apart(vectors: np.ndarray) -> bool:
    """Otherwise a cosine of one proves nothing; the made pictures, which are less alike than the real ones."""
    made = vectors[: len(MADE)].astype(float)
    return bool((made @ made.T - np.eye(len(made)) < 0.99).all())


def _same(encoder: Encoder, pictures: list[Image.Image], *theirs: "torch.Tensor") -> float:
    """The lowest cosine of our vectors of a few pictures with each of theirs."""
    assert isinstance(encoder.preprocessing, Preprocessing)
    vectors = encoder.embed(np.stack([_pixels(picture, encoder.preprocessing) for picture in _few(pictures)]))
    assert all(vectors.shape == item.shape == (len(FEW), encoder.card.dim) for item in theirs)
    assert _are_told_apart(vectors)
    return min(float(_cosines(vectors, item).min()) for item in theirs)


# MedCLIP


@pytest.fixture(scope="module")
def medclip(tmp_path_factory: pytest.TempPathFactory) -> tuple["torch.nn.Module", "torch.nn.Module", Path]:
    """transformers' Swin, the projection, and the directory of both as `pytorch_model.bin` has them.

    `save_pretrained` writes Swin's tensors under the names they had when MedCLIP was saved.
    """
    from safetensors.torch import load_file

    swin = _stirred(transformers.SwinModel(transformers.SwinConfig()), 1)
    projection = _stirred(torch.nn.Linear(768, 512, bias=False), 2)
    folder = tmp_path_factory.mktemp("medclip")
    swin.save_pretrained(folder)
    (folder / "config.json").unlink()
    saved = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state = {f"vision_model.model.{name}": tensor for name, tensor in saved.items()}
    tables = [name for name in state if name.endswith("relative_position_bias_table")]
    assert len(tables) == 12
    for name in tables:
        state[name.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.long)
    state["vision_model.projection_head.weight"] = projection.weight.detach()
    state["text_model.model.embeddings.position_ids"] = torch.arange(512)[None]
    state["text_model.model.embeddings.word_embeddings.weight"] = torch.zeros(5, 768)
    state["text_model.projection_head.weight"] = torch.zeros(512, 768)
    state["logit_scale"] = torch.tensor(2.0)
    torch.save(state, folder / "pytorch_model.bin")
    return swin, projection, folder


def _medclip_processor(picture: Image.Image) -> "torch.Tensor":
    """The steps of MedCLIPProcessor 0.0.3: a black square of grey, scaled, one channel that the network repeats."""
    side = max(224, *picture.size)
    square = Image.new("L", (side, side), 0)
    square.paste(picture, (int((side - picture.width) / 2), int((side - picture.height) / 2)))
    grey = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), np.float32) / 255
    return torch.tensor((grey - MEDCLIP_MEAN) / MEDCLIP_STD, dtype=torch.float32)[None]


def _clip_processor(picture: Image.Image) -> "torch.Tensor":
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 224},
        crop_size=224,
        image_mean=[MEDCLIP_MEAN] * 3,
        image_std=[MEDCLIP_STD] * 3,
        do_convert_rgb=False,
    )
    return processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize(("name", "processor"), [("medclip", _medclip_processor), ("medclip-cropped", _clip_processor)])
def test_medclip__as_transformers_swin_and_a_projection(medclip, name, processor: Callable[..., "torch.Tensor"]):
    swin, projection, folder = medclip
    images = torch.stack([processor(picture) for picture in BOTH])
    for picture, image in zip(BOTH, images, strict=True):
        assert torch.allclose(_normalised(picture, _how(name)), image, atol=1e-5), picture.size
    with torch.inference_mode():
        theirs = projection(swin(images[FEW].expand(-1, 3, -1, -1)).pooler_output)
    encoder = get(name, _settings(folder if name == "medclip" else folder / "pytorch_model.bin"))
    assert _same(encoder, BOTH, theirs) >= 0.9999


def test_preprocess__a_picture_too_large_for_its_square_is_refused():
    with pytest.raises(ImageError, match="12000 x 12000 when squared"):
        preprocess(Image.new("L", (12000, 3)), _how("medclip"))


# RadImageNet


@pytest.fixture(scope="module")
def radimagenet(tmp_path_factory: pytest.TempPathFactory) -> tuple["torch.nn.Module", Path]:
    """torchvision's ResNet-50 up to its pool, wrapped and saved as RadImageNet's notebook loads it."""
    layers = list(torchvision.models.resnet50().children())[:9]
    network = torch.nn.Module()
    network.backbone = torch.nn.Sequential(*layers)
    file = tmp_path_factory.mktemp("radimagenet") / "ResNet50.pt"
    _stirred(network, 3)
    images = [_normalised(picture, _how("radimagenet-resnet50")) for picture in _few(GREY)]
    _settled(network.backbone, torch.stack(images))
    torch.save(network.state_dict(), file)
    return network.backbone, file


def test_radimagenet__as_torchvision(radimagenet):
    backbone, file = radimagenet
    encoder = get("radimagenet-resnet50", _settings(file))
    images = torch.stack([_normalised(picture, _how("radimagenet-resnet50")) for picture in _few(GREY)])
    with torch.inference_mode():
        theirs = backbone(images).flatten(1)
    assert _same(encoder, GREY, theirs) >= 0.9999


def _radimagenet_notebook(picture: Image.Image) -> "torch.Tensor":
    """-1..1, then OpenCV's `INTER_LINEAR`, which is torch's bilinear interpolation without anti-aliasing."""
    values = torch.tensor((np.asarray(picture, np.float32) - 127.5) * 2 / 255)
    image = functional.interpolate(values[None, None], (224, 224), mode="bilinear", align_corners=False)
    return image[0].expand(3, -1, -1)


def test_radimagenet__preprocessing_is_its_notebooks_but_for_anti_aliasing(radimagenet):
    """Where a picture is enlarged, rounding to 8 bits twice is the only difference; else ours averages the noise."""
    backbone, _ = radimagenet
    images = [(_normalised(picture, _how("radimagenet-resnet50")), _radimagenet_notebook(picture)) for picture in GREY]
    for picture, (ours, theirs) in zip(GREY, images, strict=True):
        difference = (ours - theirs).abs()
        enlarged = max(picture.size) <= 224
        assert difference.max() <= (2.1 / 255 if enlarged else 0.55), picture.size
        assert difference.mean() <= 0.03, picture.size
    with torch.inference_mode():
        left, right = (backbone(torch.stack(side)).flatten(1) for side in zip(*_few(images), strict=True))
    assert _cosines(left, right).min() >= 0.97


# TorchXRayVision


@pytest.fixture(scope="module")
def xrv_images() -> "torch.Tensor":
    return torch.stack([_normalised(picture, _how("xrv-densenet121")) for picture in GREY])


@pytest.fixture(scope="module")
def densenet(xrv_images, tmp_path_factory: pytest.TempPathFactory) -> tuple["torch.nn.Module", Path]:
    """TorchXRayVision's has torchvision's names, one channel, eighteen classes and a table of thresholds."""
    network = torchvision.models.densenet121(num_classes=18)
    network.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    _settled(_stirred(network, 4), xrv_images[FEW])
    file = tmp_path_factory.mktemp("xrv") / "densenet121-res224-all.pt"
    torch.save(network.state_dict() | {"op_threshs": torch.rand(18)}, file)
    return network, file


def test_xrv__as_torchvisions_densenet(densenet, xrv_images):
    network, file = densenet
    with torch.inference_mode():
        theirs = functional.relu(network.features(xrv_images[FEW])).mean((2, 3))
    assert _same(get("xrv-densenet121", _settings(file)), GREY, theirs) >= 0.9999


def _xrv_pixels(picture: Image.Image) -> "torch.Tensor":
    """XRayCenterCrop and XRayResizer, which is scikit-image's `resize`: blur by the scale, then interpolate."""
    from scipy import ndimage

    values = (2 * (np.asarray(picture, np.float32) / 255) - 1) * 1024
    side, (height, width) = min(values.shape), values.shape
    left, top = width // 2 - side // 2, height // 2 - side // 2
    square = values[top : top + side, left : left + side]
    blurred = ndimage.gaussian_filter(square, max(0, (side / 224 - 1) / 2), mode="constant")
    scaled = ndimage.zoom(blurred, 224 / side, order=1, mode="grid-constant", grid_mode=True)
    return torch.tensor(scaled.clip(square.min(), square.max()))[None]


def test_xrv__preprocessing_is_near_its_own(densenet, xrv_images):
    """Cropped after scaling instead of before, in 8 bits, with another blur.

    scikit-image also mixes a black edge of zeros, the middle of the scale, into the outermost pixels.
    """
    images = torch.stack([_xrv_pixels(picture) for picture in GREY])
    for picture, ours, theirs in zip(GREY, xrv_images, images, strict=True):
        inner = (ours - theirs)[:, 4:-4, 4:-4].abs() / 2048
        assert inner.mean() <= 0.02, picture.size
        assert inner.max() <= 0.25, picture.size
    with torch.inference_mode():
        features = [densenet[0].features(side[FEW]) for side in (xrv_images, images)]
    left, right = (functional.relu(item).mean((2, 3)) for item in features)
    assert _cosines(left, right).min() >= 0.99


def test_xrv__the_stand_ins_are_the_library(densenet, xrv_images):
    reason = "torchxrayvision is not installed; compared here is what stands in for it above"
    xrv = pytest.importorskip("torchxrayvision", reason=reason)
    network = xrv.models.DenseNet(op_threshs=torch.zeros(18))
    network.load_state_dict(torch.load(densenet[1], weights_only=True), strict=True)
    steps = [xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224)]
    for picture in GREY:
        values = xrv.utils.normalize(np.asarray(picture), 255, reshape=True)
        theirs = functools.reduce(lambda image, step: step(image), steps, values)
        assert np.allclose(_xrv_pixels(picture).numpy(), theirs, atol=0.05), picture.size
    with torch.inference_mode():
        theirs = network.eval().features2(xrv_images[FEW])
        stand_in = functional.relu(densenet[0].features(xrv_images[FEW])).mean((2, 3))
    assert _cosines(theirs, stand_in).min() >= 0.999999


# EVA-X


def _rotary(positions: int = 14) -> "torch.Tensor":
    """(196, 64) angles of EVA-02: half of a head's 64 channels for the row, half for the column, in pairs."""
    frequencies = 10000.0 ** (-torch.arange(0, 32, 2).float() / 32)
    angles = (torch.arange(14.0) / 14 * positions)[:, None] * frequencies
    pairs = angles.repeat_interleave(2, dim=1)
    return torch.cat([pairs[:, None].expand(14, 14, 32), pairs[None].expand(14, 14, 32)], dim=2).reshape(196, 64)


@functools.cache
def _eva_x_state(depth: int) -> State:
    """The names EVA-02's code gives a network under masked training, in half precision as DeepSpeed saves it."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 768),
        "pos_embed": (1, 197, 768),
        "mask_token": (1, 1, 768),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,),
        "norm.weight": (768,),
        "norm.bias": (768,),
        "lm_head.weight": (512, 768),
        "lm_head.bias": (512,),
    }
    for block in range(depth):
        parts: dict[str, tuple[int, ...]] = {f"attn.{part}_proj.weight": (768, 768) for part in "qkv"}
        parts |= {
            "attn.q_bias": (768,),
            "attn.v_bias": (768,),
            "attn.proj.weight": (768, 768),
            "attn.proj.bias": (768,),
        }
        parts |= {f"{norm}.{kind}": (768,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        parts |= {f"mlp.{part}.weight": (2048, 768) for part in ("w1", "w2")}
        parts |= {f"mlp.{part}.{kind}": (2048,) for part, kind in (("w1", "bias"), ("w2", "bias"))}
        parts |= {"mlp.ffn_ln.weight": (2048,), "mlp.ffn_ln.bias": (2048,)}
        parts |= {"mlp.w3.weight": (768, 2048), "mlp.w3.bias": (768,)}
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in parts.items()}
    holder = torch.nn.Module()
    for name, shape in shapes.items():
        holder.register_buffer(name.replace(".", "/"), torch.empty(shape))
    _stirred(holder, 5)
    state = {name.replace("/", "."): tensor.half() for name, tensor in holder.state_dict().items()}
    for name in ("rope", *(f"blocks.{block}.attn.rope" for block in range(depth))):
        state |= {f"{name}.freqs_cos": _rotary().cos().half(), f"{name}.freqs_sin": _rotary().sin().half()}
    return state


def _eva_x_features(half: State, images: "torch.Tensor", depth: int) -> "torch.Tensor":
    """EVA-02's forward pass, written down anew from its published code and its own names."""
    state = {name: tensor.float() for name, tensor in half.items()}

    def linear(x: "torch.Tensor", name: str, bias: str | None = None) -> "torch.Tensor":
        return functional.linear(x, state[f"{name}.weight"], state.get(bias or f"{name}.bias"))

    def norm(x: "torch.Tensor", name: str) -> "torch.Tensor":
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def turned(x: "torch.Tensor") -> "torch.Tensor":
        first, rest = x[:, :, :1], x[:, :, 1:]
        crossed = torch.stack([-rest[..., 1::2], rest[..., ::2]], dim=-1).flatten(-2)
        return torch.cat([first, rest * _rotary().cos() + crossed * _rotary().sin()], dim=2)

    patches = functional.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    tokens = patches.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(images), -1, -1), tokens], dim=1) + state["pos_embed"]
    for block in range(depth):
        at = f"blocks.{block}."
        y = norm(x, f"{at}norm1")
        q, k, v = (linear(y, f"{at}attn.{part}_proj", f"{at}attn.{part}_bias") for part in "qkv")
        q, k, v = (item.unflatten(2, (12, 64)).transpose(1, 2) for item in (q, k, v))
        weights = (turned(q) @ turned(k).transpose(2, 3) / 8).softmax(dim=-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{at}attn.proj")
        y = norm(x, f"{at}norm2")
        gated = functional.silu(linear(y, f"{at}mlp.w1")) * linear(y, f"{at}mlp.w2")
        x = x + linear(norm(gated, f"{at}mlp.ffn_ln"), f"{at}mlp.w3")
    return norm(x[:, 1:].mean(1), "norm")


def _eva_x_transform(picture: Image.Image) -> "torch.Tensor":
    from torchvision import transforms

    steps = [
        transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.49185243,) * 3, (0.28509309,) * 3),
    ]
    return transforms.Compose(steps)(picture.convert("RGB"))


def _eva_x(file: Path, depth: int = 1) -> Encoder:
    """The encoder as it is registered, but for the number of its layers: twelve take long."""
    spec = find("eva-x-b")[1]
    assert isinstance(spec, CheckpointSpec)
    return load(replace(spec, options=(*spec.options, ("depth", depth))), _settings(file))


def test_eva_x__as_eva02_and_as_its_authors_loader(tmp_path, caplog):
    """Its authors load it into timm's Eva through timm's own filter of names."""
    from timm.models.eva import Eva, checkpoint_filter_fn

    state = _eva_x_state(2)
    torch.save({"module": state, "epoch": 600, "ds_version": "0.6.5"}, tmp_path / "eva_x.pt")
    images = torch.stack([_eva_x_transform(picture) for picture in BOTH])
    for picture, image in zip(BOTH, images, strict=True):
        assert torch.allclose(_normalised(picture, _how("eva-x-b")), image, atol=1e-5), picture.size
    shape = {"embed_dim": 768, "depth": 2, "num_heads": 12, "mlp_ratio": 4 * 2 / 3, "ref_feat_shape": (14, 14)}
    kind = {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "use_rot_pos_emb": True}
    network = Eva(img_size=224, patch_size=16, num_classes=0, **shape, **kind).eval()
    network.load_state_dict(checkpoint_filter_fn({"module": state}, network), strict=True)
    with torch.inference_mode():
        theirs, written = network(images[FEW]), _eva_x_features(state, images[FEW], 2)
    assert _same(_eva_x(tmp_path / "eva_x.pt", depth=2), BOTH, theirs, written) >= 0.9999
    assert [record.message.partition(",")[0] for record in caplog.records] == ["weights: took module"] * len(
        caplog.records
    )


def test_eva_x__other_rotary_positions_are_not_passed_over(tmp_path, caplog):
    torch.save(_eva_x_state(1) | {"rope.freqs_cos": _rotary(positions=16).cos()}, tmp_path / "eva_x.pt")
    _eva_x(tmp_path / "eva_x.pt")
    assert [record.message for record in caplog.records if not record.message.startswith("weights: took ")] == [
        "eva-x-b: its weights hold other rotary positions than its authors' code, which is followed"
    ]


# what is refused


def _one_line(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error)) < 700


@pytest.fixture(scope="module")
def checkpoints(medclip, radimagenet, densenet) -> dict[str, State]:
    files = {
        "medclip": medclip[2] / "pytorch_model.bin",
        "radimagenet-resnet50": radimagenet[1],
        "xrv-densenet121": densenet[1],
    }
    states = {name: torch.load(file, weights_only=True) for name, file in files.items()} | {"eva-x-b": _eva_x_state(1)}
    return {name: {part: _thin(tensor) for part, tensor in state.items()} for name, state in states.items()}


def _thin(tensor: "torch.Tensor") -> "torch.Tensor":
    """Of the same shape, its first value everywhere: a file keeps that value only."""
    return tensor.flatten()[:1].clone().expand(tensor.shape) if tensor.ndim else tensor


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "medclip",
            (
                "vision_model.projection_head.weight",
                "vision_model.model.encoder.layers.1.blocks.0.attention.self.key.bias",
                "vision_model.model.encoder.layers.2.downsample.norm.weight",
            ),
        ),
        ("radimagenet-resnet50", ("backbone.7.2.conv3.weight", "backbone.1.running_var")),
        ("xrv-densenet121", ("features.norm5.bias",)),
        ("eva-x-b", ("norm.weight", "blocks.0.attn.v_bias")),
    ],
)
def test_load__one_tensor_less_one_more_or_of_another_shape_is_refused(name, parts, checkpoints, tmp_path):
    state, file = checkpoints[name], tmp_path / "wrong.pt"
    read = _eva_x if name == "eva-x-b" else lambda file: get(name, _settings(file))
    wrong = [{key: value for key, value in state.items() if key != part} for part in parts]
    assert all(len(less) == len(state) - 1 for less in wrong)
    tensor = state[parts[0]]
    wrong += [state | {f"{parts[0]}2": tensor}, state | {parts[0]: torch.cat([tensor, tensor])}]
    wrong += [wrong[0] | {parts[0].upper(): tensor}]
    for another in wrong:
        torch.save(another, file)
        with pytest.raises(WeightsError, match=f"^no weights for {name} from {file}: ") as caught:
            read(file)
        assert _one_line(caught.value)


def test_load__two_tensors_of_one_name_are_refused(checkpoints, tmp_path):
    state = checkpoints["radimagenet-resnet50"]
    torch.save(state | {"conv1.weight": state["backbone.0.weight"]}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"two tensors would be conv1\.weight"):
        get("radimagenet-resnet50", _settings(tmp_path / "a.pt"))


def test_load__a_pickled_network_is_not_run_and_the_message_says_how_to_export(tmp_path):
    """What TorchXRayVision publishes is a whole network in a pickle; EVA-X may hold what DeepSpeed left there."""
    whole = tmp_path / "whole.pt"
    torch.save({"module": torch.nn.ReLU()}, whole)
    for name, command in {
        "xrv-densenet121": "xrv.models.DenseNet(weights='densenet121-res224-all')",
        "eva-x-b": f"torch.load('{whole}', 'cpu', weights_only=False)",
    }.items():
        with pytest.raises(
            WeightsError, match="can't be read without running what is in it; if you trust it"
        ) as caught:
            get(name, _settings(whole))
        assert command in str(caught.value)
        assert _one_line(caught.value)


def test_load__the_export_of_the_message_works(tmp_path):
    """EVA-X's command, as a user would copy it."""
    full, plain = tmp_path / "full.pt", tmp_path / "eva_x_base.pt"
    torch.save({"module": _eva_x_state(1), "args": argparse.Namespace(lr=1)}, full)
    with pytest.raises(WeightsError) as caught:
        _eva_x(full)
    command = str(caught.value).partition("run python")[2].partition("; then give")[0]
    subprocess.run(f"{sys.executable}{command}", shell=True, check=True, cwd=tmp_path)
    torch.save(_eva_x_state(1), full)
    assert _eva_x(plain).card == _eva_x(full).card


@pytest.mark.parametrize("name", ["medclip", "medclip-cropped", "xrv-densenet121"])
def test_load__weights_that_are_not_at_the_hub(name, tmp_path):
    where = {"xrv-densenet121": "pip install torchxrayvision"}.get(name, "https://storage.googleapis.com/")
    spec = find(name)[1]
    for call in (lambda: load(spec, EncoderSettings()), lambda: pull(spec, tmp_path)):
        with pytest.raises(WeightsError, match=f"^the weights of {name} are not at the model hub: ") as caught:
            call()
        assert where in str(caught.value)
        assert str(caught.value).endswith("; then give --weights FILE|DIR")
        assert _one_line(caught.value)
    with pytest.raises(WeightsError, match=f"no weights file {tmp_path}"):
        get(name, _settings(tmp_path))


def test_specs__say_what_they_are():
    assert len({spec.name for spec in SPECS}) == len(SPECS) == 5
    for spec in SPECS:
        assert all((spec.source, spec.licence, spec.trained_on, spec.citation, spec.pooling, spec.file))


# the hub: a server that answers as it does


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository with one file; asked for another, it fails the test that did."""

    content = b""
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()
        self.wfile.write(self.content)

    def _answer(self) -> None:
        self.asked.append(self.path)
        found = self.path == "/Lab-Rasool/RadImageNet/resolve/main/ResNet50.pt"
        self.send_response(200 if found else 404)
        for name, value in {"ETag": '"abc"', "X-Repo-Commit": "0" * 40, "Content-Length": len(self.content)}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(radimagenet) -> Iterator[str]:
    Hub.content = radimagenet[1].read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_pull__a_directory_and_the_cache_work_without_the_hub(hub, radimagenet, tmp_path):
    """Two processes, since huggingface_hub reads its environment when it is imported."""
    online = """
import sys
from pathlib import Path
from cbmir.encoders import EncoderSettings, get
from cbmir.encoders.registry import pull

pull("radimagenet-resnet50", Path(sys.argv[1]))
print(get("radimagenet-resnet50").card.fingerprint)
"""
    offline = """
import sys
from pathlib import Path
from cbmir.encoders import EncoderSettings, get

for weights in (None, Path(sys.argv[1])):
    print(get("radimagenet-resnet50", EncoderSettings(weights=weights)).card.fingerprint)
get("eva-x-b")
"""
    here = get("radimagenet-resnet50", _settings(radimagenet[1])).card.fingerprint
    place = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for code, setting, printed in ((online, "0", 1), (offline, "1", 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "pulled")],
            capture_output=True,
            text=True,
            check=False,
            env=place | {"HF_HUB_OFFLINE": setting},
        )
        assert done.stdout.split() == [here] * printed, done.stderr
    assert "WeightsError: no weights for eva-x-b: give --weights FILE|DIR; from the model hub: " in done.stderr
    assert {path.rpartition("/")[2] for path in Hub.asked if "/resolve/" in path} == {"ResNet50.pt"}
    assert (tmp_path / "pulled" / "ResNet50.pt").is_file()
