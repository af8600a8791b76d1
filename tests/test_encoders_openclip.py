"""open_clip's encoders against open_clip itself, from directories, files and a hub that is a folder of the cache."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import real_pictures
from PIL import Image

from cbmir.encoders import Encoder, EncoderSettings, get, specs
from cbmir.encoders.cards.openclip import OpenClipSpec
from cbmir.encoders.openclip import load
from cbmir.encoders.probes import TEXTS as PROBE_TEXTS
from cbmir.encoders.registry import pull
from cbmir.errors import CbmirError, EncoderError, WeightsError
from cbmir.media import Preprocessing, preprocess

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZES = ((301, 227), (227, 301), (640, 480), (100, 80), (1024, 700))
TEXTS = ("a chest x-ray with pneumonia", "brain MRI, glioma!", "normal heart", "an  Ultrasound of the_liver " * 60)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "chest", "x", "-", "ray", "brain", "mri", "heart", "##s", ",", "!", "_"]
Hub = Callable[..., Path]

NATIVE_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
VIT = {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16}
CLIP = {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": NATIVE_TEXT}
MODELS: dict[str, dict[str, Any]] = {
    "clip": CLIP,
    "clip-quickgelu": CLIP | {"quick_gelu": True},
    "siglip": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": True}
        | {"timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {
            "context_length": 12,
            "vocab_size": 100,
            "hf_tokenizer_name": "acme/siglip",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 64,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    },
    "pe": {
        "embed_dim": 512,
        "custom_text": True,
        "vision_cfg": {"image_size": 384, "timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_pool": "map"}
        | {"timm_proj": None},
        "text_cfg": NATIVE_TEXT | {"context_length": 32},
    },
    "biomedclip": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "timm_model_name": "test_vit", "timm_model_pretrained": False}
        | {"timm_pool": "", "timm_proj": "linear"},
        "text_cfg": {
            "hf_model_name": "acme/bert",
            "hf_tokenizer_name": "acme/bert",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    },
}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
PREPROCESSING = {"siglip": HALF | {"interpolation": "bicubic"}, "pe": HALF | {"interpolation": "bilinear"}}


# what the tests are made of


def _picture(size: tuple[int, int], seed: int) -> Image.Image:
    """A smooth random field with some noise; every second one is grey."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse) + rng.normal(0, 12, (size[1], size[0], 3))
    picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    return picture.convert("L").convert("RGB") if seed % 2 else picture


PICTURES = [*(_picture(size, seed) for seed, size in enumerate(SIZES)), *real_pictures()]


def _shaken(model: "torch.nn.Module") -> "torch.nn.Module":
    """With values that make every parameter count, and pictures differ: fresh ones are zero, one or tiny.

    The activations of open_clip's own transformers work around -2 and count for much, so that GELU and QuickGELU
    differ as visibly as in trained networks.
    """
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim < 2:
                value.add_(torch.randn_like(value) * 0.2 - 2 * name.endswith("c_fc.bias"))
            else:
                size = 0.3 if "embed" in name or "latent" in name else 1.4 / (value[0].numel() ** 0.5)
                value.copy_(torch.randn_like(value) * size * (8 if name.endswith("c_proj.weight") else 1))
    return model.eval()


def _tokenizer(folder: Path) -> Path:
    """A small real WordPiece tokenizer, as transformers writes it."""
    from transformers import BertTokenizerFast

    letters = [f"{mark}{letter}" for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.txt").write_text("\n".join(dict.fromkeys([*WORDS, *letters])))
    BertTokenizerFast(str(folder / "words.txt")).save_pretrained(folder)
    (folder / "words.txt").unlink()
    return folder


def _bert(folder: Path) -> Path:
    from transformers import BertConfig

    _tokenizer(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertConfig(vocab_size=100, max_position_embeddings=512, **sizes).save_pretrained(folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The standard cache of the hub, empty; the function puts a folder into it as a repository."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def add(repository: str, folder: Path, commit: str = COMMIT) -> Path:
        place = cache / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        if commit == COMMIT:
            (place / "refs" / "main").write_text(commit)
        return shutil.copytree(folder, place / "snapshots" / commit)

    return add


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories as in open_clip's hub repositories, with shaken random weights; a BERT's files in ``bert``."""
    root = tmp_path_factory.mktemp("models")
    made = {"bert": _bert(root / "bert")}
    for name, config in MODELS.items():
        folder = made[name] = root / name
        folder.mkdir()
        text = config["text_cfg"]
        if name == "siglip":
            _tokenizer(folder)
        local = text | ({"hf_model_name": str(made["bert"])} if "hf_model_name" in text else {})
        model = _create(config | {"text_cfg": local})
        _save(model.state_dict(), folder)
        full = {"model_cfg": config, "preprocess_cfg": PREPROCESSING.get(name, {})}
        (folder / "open_clip_config.json").write_text(json.dumps(full))
    return made


def _create(config: dict[str, Any]) -> "torch.nn.Module":
    own = config.get("custom_text") or "hf_model_name" in config["text_cfg"]
    made = {name: value for name, value in config.items() if name != "custom_text"}
    for tower, option in (("vision_cfg", "timm_model_pretrained"), ("text_cfg", "hf_model_pretrained")):
        made[tower] = made[tower] | {option: False}
    torch.manual_seed(2)
    return _shaken((open_clip.CustomTextCLIP if own else open_clip.CLIP)(**made))


def _save(state: dict[str, Any], folder: Path, name: str = "open_clip_model.safetensors") -> Path:
    from safetensors.torch import save_file

    save_file({key: value.clone().contiguous() for key, value in state.items()}, folder / name)
    return folder / name


def _settings(weights: Path | None = None) -> EncoderSettings:
    return EncoderSettings(weights=weights, device="cpu", precision="fp32", batch_size=1)


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    left, right = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other))
    return np.sum(left * right, axis=1)


def _apart(rows: np.ndarray) -> float:
    """The largest cosine between two rows."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return float((unit @ unit.T - 2 * np.eye(len(unit))).max())


def _vectors(encoder: Encoder, count: int = len(PICTURES)) -> np.ndarray:
    return np.concatenate([encoder.embed(preprocess(item, encoder.preprocessing)[None]) for item in PICTURES[:count]])


def _same_images(
    encoder: Encoder, model: Any, transform: Callable[[Image.Image], Any], count: int = len(PICTURES)
) -> None:
    """Pixel for pixel the same preprocessing, and the same vectors, of `count` pictures, which tell them apart."""
    how = encoder.preprocessing
    assert isinstance(how, Preprocessing)
    theirs = torch.stack([transform(item) for item in PICTURES])
    for picture, tensor in zip(PICTURES, theirs, strict=True):
        back = tensor.numpy().transpose(1, 2, 0) * np.float32(how.std) + np.float32(how.mean)
        assert np.array_equal(preprocess(picture, how), np.rint(back * 255).astype(np.uint8)), picture.size
        assert np.abs(back * 255 - np.rint(back * 255)).max() < 1e-2  # so mean and std are theirs
    with torch.inference_mode():
        expected = model.eval().encode_image(theirs[:count]).numpy()
    ours = _vectors(encoder, count)
    assert ours.shape == expected.shape
    assert _cosines(ours, expected).min() >= 0.9999
    assert _apart(expected) < 0.99


def _same_texts(encoder: Encoder, model: Any, tokenizer: Any) -> None:
    with torch.inference_mode():
        expected = model.eval().encode_text(tokenizer(list(TEXTS))).numpy()
    assert _cosines(encoder.embed_text(TEXTS), expected).min() >= 0.9999
    assert _apart(expected) < 0.99


def _refused(caught: pytest.ExceptionInfo[CbmirError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


# from a directory


@pytest.mark.parametrize("name", ["clip", "clip-quickgelu", "siglip", "pe"])
def test_load__a_directory_as_open_clip_does(name, folders):
    encoder = get("open_clip:my-own", _settings(folders[name]))
    source = f"local-dir:{folders[name]}"
    model, transform = open_clip.create_model_from_pretrained(source)
    _same_images(encoder, model, transform, count=2 if name == "pe" else len(PICTURES))  # the smallest PE is slow
    _same_texts(encoder, model, open_clip.get_tokenizer(source))


# by tag, from the hub; the activation that the tag was trained with


@pytest.fixture
def tiny(folders: dict[str, Path], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network ``tiny`` that open_clip knows by name, with one tag for QuickGELU and one for GELU, as ViT-L-14 has."""
    from open_clip import factory, pretrained

    (tmp_path / "tiny.json").write_text(json.dumps(CLIP))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", {})
    open_clip.add_model_config(tmp_path / "tiny.json")
    how = {"mean": (0.1, 0.2, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear", "resize_mode": "squash"}
    tags = {
        "quick": how | {"hf_hub": "acme/quick/", "quick_gelu": True},
        "plain": how | {"hf_hub": "acme/plain/special.bin"},
        "nowhere": how | {"url": "https://example.org/x.pt"},
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", tags)
    plain = tmp_path / "plain"
    plain.mkdir()
    state = open_clip.factory.load_state_dict(str(folders["clip"] / "open_clip_model.safetensors"))
    torch.save(state, plain / "special.bin")
    torch.save(state, plain / "open_clip_pytorch_model.bin")
    hub("acme/plain", plain)
    hub("acme/quick", folders["clip"])
    return folders["clip"] / "open_clip_model.safetensors"


@pytest.mark.parametrize(("tag", "gelu"), [("quick", "clip-quickgelu"), ("plain", "clip")])
def test_load__a_tag_with_its_own_activation_and_preprocessing(tiny, folders, tag, gelu):
    """From the hub and from a file; the folder at the hub says GELU and CLIP's preprocessing, the tag knows better."""
    state = open_clip.factory.load_state_dict(str(tiny))
    model = open_clip.CLIP(**MODELS[gelu])
    model.load_state_dict(state, strict=True)
    _, _, transform = open_clip.create_model_and_transforms("tiny", pretrained=tag)
    for encoder in (get(f"open_clip:tiny/{tag}", _settings()), get(f"open_clip:tiny/{tag}", _settings(tiny))):
        _same_images(encoder, model, transform)
        assert (encoder.preprocessing.mean, encoder.preprocessing.resize) == ((0.1, 0.2, 0.3), "squash")
        _same_texts(encoder, model, open_clip.get_tokenizer("tiny"))


def test_load__open_clip_itself_takes_gelu_for_a_quickgelu_tag(tiny):
    """What would go wrong without our care: it warns, and the vectors are others."""
    with pytest.warns(UserWarning, match="QuickGELU mismatch"):
        theirs, _, transform = open_clip.create_model_and_transforms("tiny", pretrained="quick")
    images = torch.stack([transform(item) for item in PICTURES])
    with torch.inference_mode():
        wrong = theirs.eval().encode_image(images).numpy()
    cosines = _cosines(_vectors(get("open_clip:tiny/quick", _settings())), wrong)
    assert cosines.max() < 0.9995


def test_pull__of_clip_under_either_name_is_quickgelu(hub, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "open_clip_model.safetensors").write_bytes(b"not read")
    hub("timm/vit_large_patch14_clip_224.openai", source)
    for name in ("clip-l14", "open_clip:ViT-L-14/openai", "open_clip:ViT-L-14-quickgelu/openai"):
        folder = tmp_path / name.replace("/", "-")
        pull(name, folder)
        config = json.loads((folder / "open_clip_config.json").read_text())
        assert config["model_cfg"] == open_clip.get_model_config("ViT-L-14-quickgelu")
        assert config["preprocess_cfg"]["resize_mode"] == "shortest"
        assert (folder / "open_clip_model.safetensors").read_bytes() == b"not read"


@pytest.mark.parametrize("name", ["clip-l14", "siglip2-so400m", "pe-core-l14", "dfn-h14"])
def test_specs__are_what_open_clip_says_of_the_tag(name):
    from open_clip.pretrained import get_pretrained_cfg

    spec = next(item for item in specs() if item.name == name)
    architecture, tag = spec.architecture.split("/")
    theirs, model = get_pretrained_cfg(architecture, tag), open_clip.get_model_config(architecture)
    how = spec.preprocessing
    assert isinstance(how, Preprocessing)
    assert (how.mean, how.std) == (theirs["mean"], theirs["std"])
    assert (how.interpolation, how.resize) == (theirs["interpolation"], theirs["resize_mode"])
    assert how.input_px == (model["vision_cfg"]["image_size"],) * 2
    assert how.resize_px == how.input_px[0]
    assert (spec.dim, f"{spec.source}/") == (model["embed_dim"], theirs["hf_hub"])
    assert bool(theirs.get("quick_gelu")) == bool(model.get("quick_gelu"))


@pytest.mark.soak
@pytest.mark.parametrize("name", ["clip-l14", "siglip2-so400m", "pe-core-l14", "dfn-h14"])
def test_load__at_full_size_as_open_clip_does(name, tmp_path):
    """Random weights; the largest has a billion, so the reference is gone before ours comes."""
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.transform import PreprocessCfg, image_transform_v2

    architecture, tag = next(item for item in specs() if item.name == name).architecture.split("/")
    torch.manual_seed(0)
    model = open_clip.create_model(architecture).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    said = get_pretrained_cfg(architecture, tag)
    keys = ("mean", "std", "interpolation", "resize_mode")
    how = PreprocessCfg(size=model.visual.image_size, **{key: said[key] for key in keys})
    batch = torch.stack([image_transform_v2(how, is_train=False)(item) for item in PICTURES[:3]])
    with torch.inference_mode():
        expected = model.encode_image(batch).numpy()
    del model
    ours = _vectors(get(name, _settings(tmp_path / "weights.pt")), 3)
    assert _cosines(ours, expected).min() >= 0.9999
    assert _apart(expected) < 0.999


# repositories that say all themselves, and directories pulled from them


def test_load__a_repository_by_its_name(folders, hub):
    hub("acme/siglip", folders["siglip"])
    encoder = get(f"open_clip:hf-hub:acme/siglip@{COMMIT}", _settings())
    model, transform = open_clip.create_model_from_pretrained("hf-hub:acme/siglip")
    _same_images(encoder, model, transform)
    _same_texts(encoder, model, open_clip.get_tokenizer(f"local-dir:{folders['siglip']}"))


def test_pull__a_repository_that_then_works_with_the_hub_gone(folders, hub, tmp_path):
    cached = hub("acme/siglip", folders["siglip"])
    before = get("open_clip:hf-hub:acme/siglip", _settings()).card
    pull("open_clip:hf-hub:acme/siglip", tmp_path / "pulled")
    shutil.rmtree(cached.parents[1])
    encoder = get("open_clip:hf-hub:acme/siglip", _settings(tmp_path / "pulled"))
    assert encoder.card == before
    source = f"local-dir:{tmp_path / 'pulled'}"
    _same_texts(encoder, open_clip.create_model(source), open_clip.get_tokenizer(source))


def test_biomedclip__pulled_with_what_its_text_tower_asks_the_hub_for(folders, hub, tmp_path):
    """open_clip needs the BERT at the hub; ours has it in the directory, and keeps the names in its configuration."""
    spec = next(item for item in specs() if item.name == "biomedclip")
    source = shutil.copytree(folders["biomedclip"], tmp_path / "source")
    state = open_clip.factory.load_state_dict(str(source / "open_clip_model.safetensors"))
    state["text.transformer.embeddings.position_ids"] = torch.arange(512)[None]  # as its real file may have
    torch.save(state, source / "open_clip_pytorch_model.bin")
    (source / "open_clip_model.safetensors").unlink()
    assert spec.revision != "main"
    cache = hub(spec.source, source, spec.revision).parents[2]
    hub("acme/bert", folders["bert"])
    pull("biomedclip", tmp_path / "pulled")
    (cache / f"models--{spec.source.replace('/', '--')}" / "refs" / "main").write_text(spec.revision)
    model, transform = open_clip.create_model_from_pretrained(f"hf-hub:{spec.source}")
    tokenizer = open_clip.get_tokenizer(f"hf-hub:{spec.source}")
    _same_texts(get("biomedclip", _settings()), model, tokenizer)
    shutil.rmtree(cache)
    config = (tmp_path / "pulled" / "open_clip_config.json").read_text()
    assert json.loads(config) == json.loads((source / "open_clip_config.json").read_text())
    encoder = get("biomedclip", _settings(tmp_path / "pulled"))
    _same_images(encoder, model, transform)
    _same_texts(encoder, model, tokenizer)


def test_load_text__only_when_a_text_comes(folders, hub, tmp_path):
    """The pictures need no hub; the text tower says in one line that it does, unless it is there."""
    raw = shutil.copytree(folders["biomedclip"], tmp_path / "raw")
    encoder = get("biomedclip", _settings(raw))
    assert encoder.card.dim == 512
    with pytest.raises(WeightsError, match=r"no weights for biomedclip from .*raw") as caught:
        encoder.embed_text(TEXTS)
    _refused(caught)
    assert encoder.card.probes.texts is None
    shutil.copytree(folders["bert"], raw / "text")
    assert encoder.embed_text(TEXTS).shape == (4, 512)
    probes = get("biomedclip", _settings(raw)).card.probes
    assert np.array_equal(probes.texts, encoder.embed_text(PROBE_TEXTS))
    assert len(probes.texts) == 4


def test_load__a_file_of_a_repository_beside_its_configuration(folders, tmp_path):
    """With the preprocessing of the named encoder, whatever the configuration says."""
    source = shutil.copytree(folders["biomedclip"], tmp_path / "source")
    config = json.loads((source / "open_clip_config.json").read_text())
    (source / "open_clip_config.json").write_text(json.dumps(config | {"preprocess_cfg": HALF}))
    encoder = get("biomedclip", _settings(source / "open_clip_model.safetensors"))
    assert encoder.preprocessing == next(item for item in specs() if item.name == "biomedclip").preprocessing
    other = get("open_clip:hf-hub:acme/x", _settings(source / "open_clip_model.safetensors"))
    assert (other.preprocessing.resize, other.preprocessing.mean) == ("squash", (0.5, 0.5, 0.5))
    assert other.card.weights == encoder.card.weights


# weights without a configuration: BMC-CLIP's and UniMed-CLIP's


def _stated(architecture: str, bert: str | None, resize: Any) -> OpenClipSpec:
    return OpenClipSpec(
        name="mine",
        architecture=architecture,
        source="acme/mine",
        file="mine.pt",
        bert=bert,
        licence="none needed",
        trained_on="nothing",
        dim=48,
        preprocessing=Preprocessing((64, 64), resize, 64, "bilinear", (0.2,) * 3, (0.4,) * 3),
    )


def test_load__a_training_checkpoint_as_bmc_clips(tiny, hub, tmp_path):
    """Under state_dict, each name with module. before; from the hub, as it lies there, as a file, and pulled."""
    from cbmir.encoders import openclip

    state = open_clip.factory.load_state_dict(str(tiny))
    source = tmp_path / "mine"
    source.mkdir()
    torch.save(
        {"epoch": 9, "state_dict": {f"module.{name}": value for name, value in state.items()}}, source / "mine.pt"
    )
    hub("acme/mine", source)
    spec = _stated("tiny", None, "squash")
    (tmp_path / "pulled").mkdir()
    openclip.pull(spec, tmp_path / "pulled")
    places = (None, source, source / "mine.pt", tmp_path / "pulled")
    encoders = [load(spec, _settings(place)) for place in places]
    assert len({encoder.card.fingerprint for encoder in encoders}) == 1
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'pulled'}")
    _same_images(encoders[0], model, transform)
    _same_texts(encoders[0], model, open_clip.get_tokenizer("tiny"))


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda state: {"model": {f"module.{name}": value for name, value in state.items()}}, "prefix module., "),
        (lambda state: {f"clip.{name}": value for name, value in state.items()}, "removed the prefix clip., "),
        (lambda state: {name: value for name, value in state.items() if name.startswith("visual.")}, "took mine.pt, "),
        (lambda state: {name[7:]: value for name, value in state.items() if name.startswith("visual.")}, "took mine"),
        (lambda state: {"teacher": state, "student": {name: value + 1 for name, value in state.items()}}, "teacher"),
    ],
    ids=["parallel", "a model of it", "image tower", "image tower without a prefix", "chosen"],
)
def test_load__a_file_of_another_training_program(tiny, tmp_path, caplog, form, said):
    state = open_clip.factory.load_state_dict(str(tiny))
    torch.save(form(state), tmp_path / "mine.pt")
    file = tmp_path / ("mine.pt#teacher" if said == "teacher" else "mine.pt")
    encoder = get("open_clip:tiny/quick", _settings(file))
    assert encoder.card.fingerprint == get("open_clip:tiny/quick", _settings(tiny)).card.fingerprint
    assert said in caplog.messages[0]
    if len(torch.load(tmp_path / "mine.pt", weights_only=True)) == len(state):
        assert encoder.embed_text(TEXTS).shape == (len(TEXTS), encoder.card.dim)


def test_load__a_text_tower_as_unimed_clips(tiny, folders, hub, tmp_path):
    """Its BERT lies under text_encoder. ; the reference are open_clip's two towers of the same kind."""
    from cbmir.encoders import openclip

    text = MODELS["biomedclip"]["text_cfg"] | {"hf_model_name": str(folders["bert"])}
    model = _create(CLIP | {"quick_gelu": True, "text_cfg": text})
    names = {name: name.replace("text.", "text_encoder.", 1) for name in model.state_dict()}
    source = tmp_path / "mine"
    source.mkdir()
    torch.save({"state_dict": {names[name]: value for name, value in model.state_dict().items()}}, source / "mine.pt")
    hub("acme/mine", source)
    hub("acme/bert", folders["bert"])
    (tmp_path / "pulled").mkdir()
    config = json.loads((tmp_path / "tiny.json").read_text()) | {"quick_gelu": True}
    (tmp_path / "tiny-quickgelu.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-quickgelu.json")
    spec = _stated("tiny-quickgelu", "acme/bert", "shortest")
    openclip.pull(spec, tmp_path / "pulled")
    shutil.rmtree(tmp_path / "hub")
    how = spec.preprocessing
    transform = open_clip.image_transform(64, False, how.mean, how.std, "shortest", "bilinear")
    encoder = load(spec, _settings(tmp_path / "pulled"))
    _same_images(encoder, model, transform)
    _same_texts(encoder, model, open_clip.tokenizer.HFTokenizer(str(folders["bert"]), context_length=256))


# what is refused


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("visual.ln_post.bias"),
        lambda state: state.update({"visual.transformer.resblocks.9.ln_1.bias": torch.zeros(64)}),
        lambda state: state.update({"visual.proj": torch.zeros(64, 47)}),
        lambda state: [state.pop(name) for name in list(state) if name.startswith("visual.")],
    ],
    ids=["one less", "one more", "another shape", "no image tower"],
)
def test_load__an_image_tower_that_does_not_fit(folders, tmp_path, change):
    folder = shutil.copytree(folders["clip"], tmp_path / "clip")
    state = open_clip.factory.load_state_dict(str(folder / "open_clip_model.safetensors"))
    change(state)
    _save(state, folder)
    with pytest.raises(WeightsError, match="no weights for open_clip:mine from") as caught:
        get("open_clip:mine", _settings(folder))
    _refused(caught)


@pytest.mark.parametrize("name", ["ln_final.bias", "transformer.resblocks.1.mlp.c_fc.weight", "text_projection"])
def test_load_text__a_text_tower_that_does_not_fit(folders, tmp_path, name):
    folder = shutil.copytree(folders["clip"], tmp_path / "clip")
    state = open_clip.factory.load_state_dict(str(folder / "open_clip_model.safetensors"))
    del state[name]
    _save(state, folder)
    encoder = get("open_clip:mine", _settings(folder))
    with pytest.raises(WeightsError, match="no weights for open_clip:mine from") as caught:
        encoder.embed_text(TEXTS)
    _refused(caught)


def test_load__a_directory_of_another_network_than_asked_for(tiny, folders):
    get("open_clip:tiny/plain", _settings(folders["clip"]))
    for name, folder, reason in (
        ("open_clip:tiny/plain", "clip-quickgelu", "holds another network than tiny/plain"),
        ("open_clip:tiny/quick", "clip", "holds another network than tiny/quick"),
        ("open_clip:tiny/plain", "siglip", "holds another network"),
        ("clip-l14", "clip-quickgelu", "holds another network than ViT-L-14-quickgelu/openai"),
        ("biomedclip", "siglip", "holds a network of 64 dimensions, biomedclip has 512"),
        ("biomedclip", "pe", r"takes \(384, 384\) pixels, which biomedclip doesn't"),
    ):
        with pytest.raises(WeightsError, match=reason) as caught:
            get(name, _settings(folders[folder]))
        _refused(caught)


def test_load__a_file_needs_a_tag_for_its_preprocessing(tiny):
    for name in ("open_clip:tiny", "open_clip:tiny/mine"):
        with pytest.raises(
            EncoderError, match=r"tiny has no weights '(mine)?'; there are quick, plain, nowhere"
        ) as caught:
            get(name, _settings(tiny))
        _refused(caught)


def test_load__a_hub_that_has_it_not(tiny, tmp_path, hub):
    (tmp_path / "empty").mkdir()
    hub("acme/empty", tmp_path / "empty")
    for name, reason in (
        (
            "open_clip:hf-hub:acme/none",
            "no weights for open_clip:hf-hub:acme/none: give --weights .* from the model hub: ",
        ),
        ("open_clip:hf-hub:acme/empty", "acme/empty has no open_clip_model.safetensors or open_clip_pytorch_model.bin"),
        ("open_clip:tiny/nowhere", "the weights of open_clip:tiny/nowhere are not at the model hub"),
        ("biomedclip", "no weights for biomedclip: give --weights .* from the model hub: "),
    ):
        with pytest.raises(WeightsError, match=reason) as caught:
            get(name, _settings())
        _refused(caught)


def test_load__a_directory_without_a_configuration(folders, tmp_path):
    (tmp_path / "bare").mkdir()
    shutil.copy(folders["clip"] / "open_clip_model.safetensors", tmp_path / "bare")
    with pytest.raises(WeightsError, match=r"has no open_clip_config.json") as caught:
        get("open_clip:mine", _settings(tmp_path / "bare"))
    _refused(caught)


def test_load_text__code_in_a_directory_is_not_run(folders, tmp_path, monkeypatch):
    """Even where its configuration asks for it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = shutil.copytree(folders["siglip"], tmp_path / "evil")
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()\nfrom transformers import BertTokenizerFast as Evil\n"
    (folder / "evil.py").write_text(code)
    evil = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    words = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(words | evil))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    encoder = get("open_clip:mine", _settings(folder))
    with pytest.raises(WeightsError) as caught:
        encoder.embed_text(TEXTS)
    _refused(caught)
    assert not ran.exists()
    open_clip.get_tokenizer(f"local-dir:{folder}")  # the trap works
    assert ran.exists()
