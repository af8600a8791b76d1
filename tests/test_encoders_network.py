"""A torch network as an encoder: what goes in, how it is run, and what comes out."""

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import pixels as grey
from PIL import Image

from cbmir.device import Placement
from cbmir.encoders import EncoderSettings, EncoderSpec, get
from cbmir.encoders.forward import fastest
from cbmir.encoders.network import encoder
from cbmir.errors import EncoderError
from cbmir.media import Preprocessing, preprocess

pytestmark = pytest.mark.slow

HOW = Preprocessing((16, 16), "squash", 16, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
SPEC = EncoderSpec(name="made", architecture="made", source="none", licence="none", trained_on="nothing")
CPU = EncoderSettings(device="cpu", precision="fp32")


class Flat(torch.nn.Module):
    """The normalised pictures themselves, as features."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def picture_of(number: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.stack([grey(3 * number + channel, size[1], size[0]) for channel in range(3)], axis=2))


def _pixels(count: int, how: Preprocessing = HOW, size: tuple[int, int] = (40, 30)) -> np.ndarray:
    return np.stack([preprocess(picture_of(number, size), how) for number in range(count)])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_embed__normalises_by_mean_and_std():
    pixels = _pixels(3)
    expected = ((pixels / 255.0 - HOW.mean) / HOW.std).transpose(0, 3, 1, 2).reshape(3, -1)
    np.testing.assert_allclose(encoder(SPEC, Flat(), HOW, CPU).embed(pixels), _unit(expected), atol=1e-6)


def test_embed__minmax_scales_each_picture_by_its_own_range():
    how = replace(HOW, scaling="minmax", mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels = _pixels(3) // 2 + 20
    low, high = pixels.min((1, 2, 3), keepdims=True), pixels.max((1, 2, 3), keepdims=True)
    expected = ((pixels - low) / (high - low)).transpose(0, 3, 1, 2).reshape(3, -1)
    np.testing.assert_allclose(encoder(SPEC, Flat(), how, CPU).embed(pixels), _unit(expected), atol=1e-6)


def test_embed__padding_is_zero_after_normalisation():
    how = replace(HOW, resize="pad")
    pixels = _pixels(2, how)
    assert pixels.shape == (2, 16, 16, 4)
    assert (pixels[:, :12, :, 3] == 255).all()  # 40 x 30 becomes 16 x 12
    assert (pixels[:, 12:] == 0).all()
    features = encoder(SPEC, Flat(), how, CPU).embed(pixels).reshape(2, 3, 16, 16)
    assert (features[:, :, 12:] == 0).all()
    expected = ((pixels[..., :3] / 255.0 - how.mean) / how.std * (pixels[..., 3:] > 0)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(features.reshape(2, -1), _unit(expected.reshape(2, -1)), atol=1e-6)


class Small(torch.nn.Module):
    """Runs out of memory with more than so many images at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        self.seen.append(len(images))
        return images.flatten(1)


def test_embed__out_of_memory_halves_the_batch(caplog):
    network = Small(most=10_000)
    made = encoder(SPEC, network, HOW, replace(CPU, batch_size=16))
    network.most = 3
    pixels = _pixels(21)
    np.testing.assert_allclose(made.embed(pixels), encoder(SPEC, Flat(), HOW, CPU).embed(pixels), atol=1e-6)
    assert made.batch_size == 2
    assert [record.message for record in caplog.records] == [
        "cpu ran out of memory at 16 images a step; it goes on with 8",
        "cpu ran out of memory at 8 images a step; it goes on with 4",
        "cpu ran out of memory at 4 images a step; it goes on with 2",
    ]


def test_embed__no_memory_for_one_image_is_an_error():
    network = Small(most=10_000)
    made = encoder(SPEC, network, HOW, CPU)
    network.most = 0
    with pytest.raises(EncoderError, match="not enough memory for one image"):
        made.embed(_pixels(5))


def test_embed__from_several_threads_gives_the_same():
    made = get("efficientnet-lite0-untrained", CPU)
    pixels = _pixels(24, made.preprocessing)
    alone = made.embed(pixels)
    fresh, found = get("efficientnet-lite0-untrained", CPU), {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: fresh.embed(pixels[n * 8 : n * 8 + 8])})) for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.concatenate([found[n] for n in range(3)]), alone)


def test_embed__a_precision_that_moves_vectors_is_used_only_if_asked_for(caplog, monkeypatch):
    """EfficientNet-Lite0 in bfloat16 is at .995 of itself in float32."""
    full = get("efficientnet-lite0", CPU)
    pixels = _pixels(8, full.preprocessing, (300, 260))
    asked = get("efficientnet-lite0", replace(CPU, precision="bf16"))
    assert 0.99 < (asked.embed(pixels) * full.embed(pixels)).sum(axis=1).min() < 0.9995
    assert asked.running_on == "cpu, bf16"
    monkeypatch.setattr("cbmir.device.has_bf16", lambda device: True)  # as on a newer processor
    left_to_choose = get("efficientnet-lite0", replace(CPU, precision="auto"))
    assert left_to_choose.running_on == "cpu"  # not settled yet
    np.testing.assert_array_equal(left_to_choose.embed(pixels), full.embed(pixels))
    assert left_to_choose.running_on == "cpu, fp32"
    assert [record.message[:45] for record in caplog.records] == ["efficientnet-lite0 in bf16: lowest cosine to "] * 2


def test_embed__a_precision_that_moves_nothing_is_kept(monkeypatch):
    """One layer: no order of the sums, and so no processor, moves its vectors by more than .0001."""
    monkeypatch.setattr("cbmir.device.has_bf16", lambda device: True)
    seconds = iter([0.5, 1.0])  # where torch runs it: in bfloat16, and in float32
    monkeypatch.setattr("cbmir.encoders.forward._seconds", lambda _forward, _batch: next(seconds))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 4, 4), torch.nn.ReLU(), torch.nn.Flatten())
    made, full = (encoder(SPEC, network, HOW, replace(CPU, precision=name)) for name in ("auto", "fp32"))
    pixels = _pixels(8)
    assert (made.embed(pixels) * full.embed(pixels)).sum(axis=1).min() >= 0.999
    assert made.running_on == "cpu, bf16"
    assert not np.array_equal(made.embed(pixels), full.embed(pixels))


class Attention(torch.nn.Module):
    """A layer as transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(48, 4, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.permute(0, 2, 3, 1).flatten(2)
        return (rows + self.attention(rows, rows, rows, need_weights=False)[0]).mean(dim=1)


class Counted(Attention):
    """How often it ran in torch, a trace included."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return super().forward(images)


class Uncompiled(Counted):
    """Goes by Python's own values, which no trace can follow."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.from_numpy(images.numpy()) if not torch.jit.is_tracing() else images.to("meta"))


class Fickle(Counted):
    """Gives something else the second time, so that it isn't what was compiled."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images if self.runs == 1 else images.flip(3) ** 2)


def _alone(network: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    images = torch.from_numpy((pixels / 255.0 - HOW.mean) / HOW.std).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        return _unit(network(images).numpy())


def test_embed__on_a_cpu_a_compiled_network_gives_what_torch_gives():
    torch.manual_seed(0)
    network = Counted()
    made = encoder(SPEC, network, HOW, CPU)
    pixels = _pixels(21)
    first = made.embed(pixels)
    runs = network.runs
    np.testing.assert_array_equal(made.embed(pixels), first)
    assert network.runs == runs
    np.testing.assert_allclose(first, _alone(network, pixels), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "told"), [(Uncompiled, "the network can't be compiled"), (Fickle, "made compiled: lowest cosine to torch")]
)
def test_embed__torch_runs_what_cannot_be_compiled(kind, told, caplog):
    caplog.set_level("INFO", "cbmir")
    torch.manual_seed(0)
    network = kind()
    made = encoder(SPEC, network, HOW, CPU)
    pixels = _pixels(6)
    np.testing.assert_allclose(made.embed(pixels), _alone(network, pixels), atol=1e-5)
    assert any(record.message.startswith(told) for record in caplog.records)


@pytest.mark.parametrize(("half_s", "used"), [(2.0, "fp32"), (0.5, "bf16")])
def test_fastest__half_precision_by_torch_only_where_it_is_faster(half_s, used, monkeypatch):
    seconds = iter([half_s, 1.0])
    monkeypatch.setattr("cbmir.encoders.forward._seconds", lambda _forward, _batch: next(seconds))
    torch.manual_seed(0)
    network, batch = Uncompiled().eval(), torch.rand(4, 3, 16, 16)
    forward, placement = fastest("made", network, batch, 4, Placement("cpu", "bf16", auto=True), 2)
    assert str(placement) == f"cpu, {used}"
    assert forward(batch).shape == (4, 48)


def test_embed__by_torch_compile_as_by_torch():
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    torch.manual_seed(0)
    network = Attention()
    made = encoder(SPEC, network, HOW, replace(CPU, torch_compile=True))
    pixels = _pixels(21)
    first = made.embed(pixels)
    np.testing.assert_array_equal(made.embed(pixels), first)
    np.testing.assert_allclose(first, _alone(network, pixels), atol=1e-5)
    assert made.running_on == "cpu, fp32, torch.compile"


def test_compiled__reports_nothing_to_its_makers(tmp_path):
    """OpenVINO's telemetry would open a connection and leave a number of its own in the home directory."""
    code = """
import socket
def connect(*_):
    raise SystemExit("asked for the network")
socket.socket.connect = socket.getaddrinfo = connect
import torch
from cbmir.encoders.compiled import Graph
batch = torch.zeros(1, 3, 8, 8)
Graph(torch.nn.Conv2d(3, 4, 3), batch, 1).compiled("fp32")(batch)
import sys
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name]]
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "intel").exists()


def test_compiled__ctrl_c_finds_a_stack_when_encoders_are_gone():
    """OpenVINO's plugin gives the thread that loads it a stack for signals, and takes it away when it is unloaded."""
    code = """
import gc, signal
import torch
from cbmir.encoders.compiled import Graph
kept, batch = [], torch.zeros(4, 3, 32, 32)
for _ in range(3):
    kept.append(Graph(torch.nn.Conv2d(3, 64, 3), batch, 2).compiled("fp32"))
    kept[-1](batch)
while kept:
    del kept[0]
    gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("asked"))
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "asked\n"), done.stderr


@pytest.mark.parametrize(("px", "size"), [(224, 4), (112, 4), (384, 1), (1024, 1)])
def test_batch_size__is_smaller_for_larger_pictures(px, size):
    how = replace(HOW, input_px=(px, px), resize_px=px)
    assert encoder(SPEC, Flat(), how, CPU).batch_size == size


def test_embed_text__without_a_text_tower():
    with pytest.raises(EncoderError, match="has no text tower"):
        encoder(SPEC, Flat(), HOW, CPU).embed_text(["a chest X-ray"])
    with pytest.raises(EncoderError, match="has no text tower"):
        get("pixels").embed_text(["a chest X-ray"])


def test_embed_text__loads_the_tower_once_and_normalises():
    loads = []

    def load_text():
        loads.append(1)
        return lambda texts: np.array([[len(text), 1.0] for text in texts], np.float32)

    made = encoder(SPEC, Flat(), HOW, CPU, load_text)
    assert loads == []
    np.testing.assert_allclose(np.linalg.norm(made.embed_text(["a", "bb"]), axis=1), 1.0, atol=1e-6)
    made.embed_text(["c"])
    assert loads == [1]


@pytest.mark.gpu
def test_embed__on_a_gpu_as_on_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    full = get("efficientnet-lite0", CPU)
    pixels = _pixels(300, full.preprocessing, (300, 260))
    expected = full.embed(pixels)
    for precision, least, compiled in (("fp32", 0.9999, False), ("bf16", 0.999, False), ("fp32", 0.9999, True)):
        made = get("efficientnet-lite0", EncoderSettings(device="cuda", precision=precision, torch_compile=compiled))
        assert (made.embed(pixels) * expected).sum(axis=1).min() >= least
        assert made.batch_size in (32, 64, 128, 256)
