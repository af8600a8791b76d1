"""``python -m benchmarks.encode``: images a second from files to vectors, beside the usual ways, for one network.

In one run, in turns, on the same images and the same weights:

- model: the network alone on pictures that lie decoded in memory;
- ours: `ingest.ingest_images` from files to a Qdrant Edge collection;
- without a model: the same with an encoder that takes no time, and what this process takes an image then, which bounds
  one process beside a GPU;
- reference: the way of the paper's programs: float32, one DataLoader, one HDF5 dataset an image;
- clip-retrieval: its own `clip_inference`, where ``--clip-retrieval`` names the Python of an environment that has it.
  Its versions of NumPy and open_clip exclude ours, and it needs an older setuptools than torch asks for:
  ``python -m venv V && V/bin/pip install clip-retrieval && V/bin/pip install 'setuptools<70'``.

Vision transformers get random weights, which take as long as trained ones. With ``--torch-compile`` the network is also
run as it is without, and it is said from how many images on the seconds pay that compiling takes.
"""

import json
import multiprocessing
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.ingest import Some, core_seconds, ours_figures, plain_timm, reference_images_per_s
from cbmir.device import cores
from cbmir.encoders import Encoder, EncoderSettings, get
from cbmir.ingest import SourceOptions, open_source
from cbmir.ingest.loading import Wanted, load_image
from cbmir.ingest.sources import SourceImage
from cbmir.schema import Vectors, normalise

if TYPE_CHECKING:
    import torch  # imported where it is used: each decoding process imports this file anew

NETWORKS = {"efficientnet-lite0": "", "vit-b16": "ViT-B-16/laion2b_s34b_b88k", "vit-l14": "ViT-L-14/laion2b_s32b_b82k"}


@dataclass(frozen=True, slots=True)
class Network:
    """One set of weights, as ours and as others load it.

    Attributes:
        encoder: Ours.
        uncompiled: Ours without torch.compile, where that was asked for.
        plain: Network and transform of its library.
        clip_model: What clip-retrieval calls it; None where it doesn't know the network.
    """

    encoder: Encoder
    uncompiled: Encoder | None
    plain: "tuple[torch.nn.Module, Callable[[Any], torch.Tensor]]"
    clip_model: str | None


@click.command()
@click.option("--images", "source", type=click.Path(path_type=Path, exists=True), default="data/demo/samples/table.csv")
@click.option("--network", type=click.Choice(list(NETWORKS)), default="vit-b16", show_default=True)
@click.option("--count", default=200, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--torch-compile", is_flag=True)
@click.option("--clip-retrieval", "python", type=click.Path(path_type=Path, exists=True), help="A Python that has it.")
@click.option("--peak", type=float, help="TFLOP/s that the device can do in this precision, to print a share.")
@click.option("--json", "as_json", is_flag=True)
def main(source: Path, network: str, count: int, rounds: int, as_json: bool, **options: Any) -> None:
    """Measure encoding on a table or folder of images (`make demo` assembles the default one)."""
    there = [item for item in open_source(source, SourceOptions()) if isinstance(item, SourceImage)]
    items = there[:: max(1, len(there) // count)][:count]  # of all sources, so that P@1 says something
    with tempfile.TemporaryDirectory() as folder:
        how = {name: options[name] for name in ("device", "precision", "torch_compile")}
        made = _network(network, Path(folder), EncoderSettings(**how))
        result = _measure(made, items, rounds, options["python"], Path(folder))
    if options["peak"]:
        result["share_of_peak"] = result["model_tflops"] / options["peak"]
    result = {"network": network, "images": len(items), "cores": cores(), "rounds": rounds, **result}
    click.echo(
        json.dumps(result, indent=2) if as_json else "\n".join(f"{key:32} {_text(v)}" for key, v in result.items())
    )


def _network(name: str, folder: Path, settings: EncoderSettings) -> Network:
    if not NETWORKS[name]:
        return Network(*_ours(name, settings), plain_timm(name), None)
    import open_clip
    import torch

    architecture = NETWORKS[name].partition("/")[0]
    weights = folder / "weights.pt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model(architecture).state_dict(), weights)
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=str(weights))
    ours = _ours(f"open_clip:{NETWORKS[name]}", replace(settings, weights=weights))
    return Network(*ours, (model.visual.eval(), transform), f"open_clip:{architecture}/{weights}")


def _ours(name: str, settings: EncoderSettings) -> tuple[Encoder, Encoder | None]:
    encoder = get(name, settings)
    return encoder, get(name, replace(settings, torch_compile=False)) if settings.torch_compile else None


def _measure(network: Network, items: list[SourceImage], rounds: int, python: Path | None, folder: Path) -> Any:
    encoder = network.encoder
    pixels = _pixels(items, encoder)
    settling_s = _settle(encoder, pixels)
    uncompiled_s = _settle(network.uncompiled, pixels) if network.uncompiled else 0.0
    free = _Free(encoder)
    rates: dict[str, list[float]] = {"model": [], "ours": [], "without_a_model": [], "reference": []}
    seconds: dict[str, list[float]] = {"decode": [], "model": [], "around": []}
    ours: dict[str, Vectors] = {}
    theirs: dict[str, Vectors] = {}
    for number in range(rounds):
        without, around_s = ours_figures(Some(items, {}), free, {})
        rates["without_a_model"].append(without)
        for name, value in zip(seconds, (*core_seconds(items, encoder), around_s), strict=True):
            seconds[name].append(value)
        rates["model"].append(_images_per_s(encoder, pixels))
        if network.uncompiled:
            rates.setdefault("uncompiled_model", []).append(_images_per_s(network.uncompiled, pixels))
        rates["ours"].append(ours_figures(Some(items, {}), encoder, ours)[0])
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            rate, theirs = alone.submit(reference_images_per_s, items, *network.plain).result()
        rates["reference"].append(rate)
        if python and network.clip_model:
            rate = _clip_retrieval(python, network.clip_model, items, folder / f"clip-{number}")
            rates.setdefault("clip_retrieval", []).append(rate)
    median = {name: statistics.median(values) for name, values in rates.items()}
    decode_s, model_s, around_s = (statistics.median(values) for values in seconds.values())
    gained_s = 1 / median.get("uncompiled_model", median["model"]) - 1 / median["model"]  # an image
    pays_from = round((settling_s - uncompiled_s) / gained_s) if gained_s > 0 else None
    on_cpu = encoder.running_on.startswith("cpu")
    allowed = cores() / (decode_s + model_s) if on_cpu else min(median["model"], cores() / decode_s)
    return {
        "fingerprint": encoder.card.fingerprint,
        "running_on": encoder.running_on,
        "batch_size": encoder.batch_size,
        "decode_images_per_s_a_core": 1 / decode_s,
        "model_core_ms": model_s * 1e3,
        "around_the_model_core_ms": around_s * 1e3,
        "settling_s": settling_s,
        **{f"{name}_images_per_s": value for name, value in median.items()},
        "allowed_images_per_s": allowed,
        "ours_to_allowed": median["ours"] / allowed,
        **{
            f"ours_to_{name}": statistics.median(a / b for a, b in zip(rates["ours"], values, strict=True))
            for name, values in rates.items()
            if name in ("reference", "clip_retrieval")
        },
        **({"torch_compile_pays_from_images": pays_from} if network.uncompiled else {}),
        "model_tflops": _flops(network.plain[0], encoder) * median["model"] / 1e12,
        "lowest_cosine_to_reference": min(float(ours[key] @ theirs[key]) for key in ours),
        "p_at_1_ours": _precision_at_1(items, ours),
        "p_at_1_reference": _precision_at_1(items, theirs),
    }


class _Free:
    """An encoder that takes no time."""

    def __init__(self, of: Encoder) -> None:
        self.card, self.preprocessing, self.batch_size = of.card, of.preprocessing, of.batch_size
        self.running_on = "nothing"

    def embed(self, pixels: Any) -> Vectors:
        return np.full((len(pixels), self.card.dim), self.card.dim**-0.5, np.float32)

    def embed_text(self, texts: Any) -> Vectors:
        return self.embed(texts)


def _settle(encoder: Encoder, pixels: Any) -> float:
    """Seconds until the batch, the precision and the graph are settled, beyond those of the same work later."""
    first = _images_per_s(encoder, pixels)
    return len(pixels) / first - len(pixels) / _images_per_s(encoder, pixels)


def _pixels(items: list[SourceImage], encoder: Encoder) -> Any:
    loaded = [load_image(Wanted(item.asset, None), encoder.preprocessing) for item in items]
    return np.stack([item.pixels for item in loaded if item.pixels is not None])


def _images_per_s(encoder: Encoder, pixels: Any) -> float:
    started = time.perf_counter()
    encoder.embed(pixels)
    return len(pixels) / (time.perf_counter() - started)


def _clip_retrieval(python: Path, clip_model: str, items: list[SourceImage], out: Path) -> float:
    """Images a second of clip-retrieval's own program, by its own clock, the loading of the network left out."""
    images = out / "images"
    images.mkdir(parents=True)
    for number, item in enumerate(items):
        assert item.asset.path is not None
        (images / f"{number:07}{item.asset.path.suffix}").symlink_to(item.asset.path.absolute())
    code = f"""
import time
from clip_retrieval.clip_inference import mapper, runner
times = []
call = runner.Runner.__call__
init = mapper.ClipMapper.__init__
def started(self, *a, **k):
    init(self, *a, **k)
    times.append(time.perf_counter())
mapper.ClipMapper.__init__ = started
from clip_retrieval.clip_inference.main import main
main({str(images)!r}, {str(out / "vectors")!r}, clip_model={clip_model!r}, enable_text=False,
     num_prepro_workers={cores()}, batch_size=32)
print("seconds", time.perf_counter() - times[-1])
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=out, check=False)
    if done.returncode or "seconds" not in done.stdout:
        raise click.ClickException(f"clip-retrieval failed: {done.stderr.strip().splitlines()[-1:]}")
    return len(items) / float(done.stdout.rpartition("seconds")[2])


def _flops(model: "torch.nn.Module", encoder: Encoder) -> float:
    """Floating point operations an image, counted by torch; a multiplication and its addition are two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    how: Any = encoder.preprocessing
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, how.channels, *how.input_px))
    return float(counter.get_total_flops())


def _precision_at_1(items: list[SourceImage], vectors: dict[str, Vectors]) -> float:
    """Share of the images whose nearest one of another patient has the same first label."""
    kept = [item.record for item in items if item.record.filepath in vectors and item.record.labels]
    rows = normalise(np.stack([vectors[record.filepath] for record in kept]))
    patients, labels = (np.array(values) for values in zip(*((r.patient_id, r.labels[0]) for r in kept), strict=True))
    scores = np.where(patients[:, None] == patients[None, :], -np.inf, rows @ rows.T)
    return float((labels[scores.argmax(axis=1)] == labels).mean())


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
