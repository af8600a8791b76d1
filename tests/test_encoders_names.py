"""Names as people copy them from model pages: which loader they mean, by the configuration in the hub's own layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbmir.encoders import EncoderSettings, get
from cbmir.encoders.names import canonical
from cbmir.encoders.registry import find
from cbmir.errors import EncoderError, WeightsError

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow
pytest.importorskip("open_clip")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OPEN_CLIP = {"open_clip_config.json": {"model_cfg": {}}, "config.json": {"architecture": "vit_tiny_patch16_224"}}
TIMM = {"config.json": {"architecture": "test_resnet", "num_features": 64}}
TRANSFORMERS = {"config.json": {"model_type": "vit", "architectures": ["ViTModel"]}}
Hub = Callable[..., Path]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The standard cache of the hub, empty; the function makes a repository of some files in it."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def add(repository: str, files: dict[str, object] | Path) -> Path:
        place = cache / f"models--{repository.replace('/', '--')}"
        snapshot = place / "snapshots" / COMMIT
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        return shutil.copytree(files, snapshot) if isinstance(files, Path) else _folder(snapshot, files)

    return add


def _folder(folder: Path, files: dict[str, object]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("timm/resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("hf-hub:timm/resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("hf_hub:timm/resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("timm:hf-hub:timm/resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("timm:timm/resnet50.a1_in1k@v1", "timm:resnet50.a1_in1k@v1"),
        ("https://huggingface.co/timm/resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("timm:hf-hub:acme/net", "timm:hf-hub:acme/net"),
        ("timm:acme/net", "timm:hf-hub:acme/net"),
        ("ViT-B-32/laion2b_s34b_b79k", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
        ("open_clip:hf-hub:acme/clip", "open_clip:hf-hub:acme/clip"),
        ("hf:acme/vit", "hf:acme/vit"),
        ("resnet50", "resnet50"),
        ("", ""),
    ],
)
def test_canonical__what_needs_no_configuration(name, meant, hub):
    assert canonical(name) == meant


@pytest.mark.parametrize(
    ("files", "meant"),
    [
        (OPEN_CLIP, "open_clip:hf-hub:acme/net"),
        (TIMM, "timm:hf-hub:acme/net"),
        (TRANSFORMERS, "hf:acme/net"),
    ],
    ids=["open_clip", "timm", "transformers"],
)
def test_canonical__by_the_configuration(files, meant, hub, tmp_path):
    hub("acme/net", files)
    for name in ("acme/net", "hf-hub:acme/net", "https://huggingface.co/acme/net/"):
        assert canonical(name) == meant
    folder = _folder(tmp_path / "pulled", files)
    assert canonical("hf-hub:nobody/knows", folder) == meant.replace("acme/net", "nobody/knows")
    assert find("acme/net")[1].name == meant


def test_canonical__what_no_library_is_named_for(hub, tmp_path):
    hub("acme/data", {"config.json": {"anything": 1}})
    for name, weights, words in (
        ("acme/none", None, "acme/none at the model hub"),
        ("acme/data", None, "neither model_type nor architecture"),
        ("acme/data", _folder(tmp_path / "empty", {}), "no open_clip_config.json and no config.json"),
    ):
        with pytest.raises(EncoderError, match="which library loads acme/") as caught:
            canonical(name, weights)
        text = str(caught.value)
        assert words in text
        assert text.index("give --weights DIR") < text.index("timm:hf-hub:acme/") < text.index("hf:acme/")
        assert "\n" not in text


def test_get__a_timm_repository_of_anyone(hub, tmp_path, caplog):
    """Its configuration says which network, how many channels it has, and the preprocessing."""
    from timm.models import save_for_hf

    model = timm.create_model("test_resnet", pretrained=False, num_classes=3)
    own = {"mean": (0.1, 0.2, 0.3), "num_classes": 3, "input_size": (3, 96, 96)}
    folder = tmp_path / "saved"
    config = {"pretrained_cfg": model.pretrained_cfg | own}
    save_for_hf(model, str(folder), model_config=config, safe_serialization=True)
    hub("acme/net", folder)
    cards = [
        get(name, EncoderSettings(weights, device="cpu", precision="fp32")).card
        for name in ("acme/net", "hf-hub:acme/net", "timm:hf-hub:acme/net", "timm:acme/net")
        for weights in (None, folder)
    ]
    assert {card.name for card in cards} == {"timm:hf-hub:acme/net"}
    assert len({card.fingerprint for card in cards}) == 1
    assert cards[0].preprocessing["mean"] == [0.1, 0.2, 0.3]
    assert "hf-hub:acme/net is timm:hf-hub:acme/net here" in caplog.messages
    with pytest.raises(WeightsError, match=r"is not a directory: timm:hf-hub:acme/net needs the repository's"):
        get("timm:acme/net", EncoderSettings(folder / "model.safetensors"))


def test_search__without_the_weights_of_the_collection_says_so(cbmir, tmp_path):
    """Where the encoder can be had with other weights, and where it can't be had."""
    file, other = tmp_path / "mine.pt", tmp_path / "other.pt"
    for path in (file, other):
        torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(images / "a.png")
    store = ("--store", tmp_path / "store", "--collection", "c")
    made = cbmir(
        *("ingest", "images", images, "--labels", "none", "--encoder", "timm:test_resnet", "--weights", file, *store)
    )
    assert made.returncode == 0, made.stderr
    done = cbmir("search", "image", images / "a.png", *store)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: collection c needs the weights of timm:test_resnet that it was made with (sha256:"
    )
    assert "give --weights FILE|DIR" in done.stderr
    done = cbmir("search", "image", images / "a.png", *store, "--weights", other)
    assert "they differ in weights: give --weights FILE|DIR" in done.stderr
    assert cbmir("search", "image", images / "a.png", *store, "--weights", file).returncode == 0
