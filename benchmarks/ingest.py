"""``python -m benchmarks.ingest``: images per second of the pipeline, beside what the cores allow and the usual way.

In one run, on the same images and the same network, in turns:

- decode and model: core-seconds an image, each alone; together they bound what any pipeline can do on these cores;
- ours: `ingest.ingest_images` from files to a Qdrant Edge collection, everything counted;
- the reference's way: float32, one DataLoader, one HDF5 dataset an image, no store.
"""

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import h5py
import numpy as np
from PIL import Image

from cbmir.device import cores
from cbmir.encoders import Encoder, EncoderSettings, get
from cbmir.ingest import SourceOptions, ingest_images, open_source
from cbmir.ingest.loading import Wanted, load_image
from cbmir.ingest.sources import Source, SourceImage
from cbmir.schema import Vectors, normalise
from cbmir.store import open_store

if TYPE_CHECKING:
    import torch  # imported where it is used: each decoding process imports this file anew


@dataclass(frozen=True, slots=True)
class Some:
    """The first images of a source, as a source."""

    items: list[SourceImage]
    ignored: dict[str, int]
    root: Path = Path()

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.items)

    def __iter__(self) -> Any:
        """All of them, in order."""
        return iter(self.items)


class _Pictures:
    """The reference's data set: open, RGB, timm's transform, float32."""

    def __init__(self, images: list[SourceImage], transform: "Callable[[Image.Image], torch.Tensor]") -> None:
        self._images = images
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> "tuple[str, torch.Tensor]":
        item = self._images[index]
        with item.asset.open() as file, Image.open(file) as picture:
            return item.record.filepath, self._transform(picture.convert("RGB"))


@click.command()
@click.option("--images", "source", type=click.Path(path_type=Path, exists=True), default="data/demo/samples/table.csv")
@click.option("--encoder", default="efficientnet-lite0", show_default=True)
@click.option("--count", default=1000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(source: Path, encoder: str, count: int, rounds: int, as_json: bool) -> None:
    """Measure ingest on a table or folder of images (`make demo` assembles the default one)."""
    items = [item for item in open_source(source, SourceOptions()) if isinstance(item, SourceImage)][:count]
    network = get(encoder)
    plain = plain_timm(encoder)
    figures: dict[str, list[float]] = {"decode_s": [], "model_s": [], "ours": [], "reference": []}
    ours: dict[str, Vectors] = {}
    theirs: dict[str, Vectors] = {}
    for _ in range(rounds):
        decode_s, model_s = core_seconds(items, network)
        figures["decode_s"].append(decode_s)
        figures["model_s"].append(model_s)
        figures["ours"].append(ours_figures(Some(items, {}), network, ours)[0])
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            rate, theirs = alone.submit(reference_images_per_s, items, *plain).result()
        figures["reference"].append(rate)
    median = {name: statistics.median(values) for name, values in figures.items()}
    available = cores()
    allowed = available / (median["decode_s"] + median["model_s"])
    cosines = [float(ours[key] @ theirs[key]) for key in ours]
    result = {
        "encoder": encoder,
        "fingerprint": network.card.fingerprint,
        "running_on": network.running_on,
        "images": len(items),
        "cores": available,
        "rounds": rounds,
        "decode_core_ms": median["decode_s"] * 1e3,
        "model_core_ms": median["model_s"] * 1e3,
        "allowed_images_per_s": allowed,
        "ours_images_per_s": median["ours"],
        "reference_images_per_s": median["reference"],
        "ours_to_allowed": median["ours"] / allowed,
        "ours_to_reference": statistics.median(
            a / b for a, b in zip(figures["ours"], figures["reference"], strict=True)
        ),
        "lowest_cosine_to_reference": min(cosines),
    }
    click.echo(
        json.dumps(result, indent=2) if as_json else "\n".join(f"{key:28} {_text(v)}" for key, v in result.items())
    )


def core_seconds(items: list[SourceImage], network: Encoder) -> tuple[float, float]:
    """Core-seconds an image to decode and to run the model, each alone."""
    started = time.process_time()
    loaded = [load_image(Wanted(item.asset, None), network.preprocessing) for item in items]
    decode_s = (time.process_time() - started) / len(items)
    pixels = np.stack([item.pixels for item in loaded if item.pixels is not None])
    network.embed(pixels[: 2 * network.batch_size])
    started = time.process_time()
    network.embed(pixels)
    model_s = (time.process_time() - started) / len(items)
    return decode_s, model_s


def ours_figures(source: Source, network: Encoder, vectors: dict[str, Vectors]) -> tuple[float, float]:
    """Images a second through the whole pipeline, the workers' start included; its own core-seconds an image."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(folder) as store,
        store.create("bench", network.card) as collection,
    ):
        started, core_started = time.perf_counter(), time.process_time()
        report = ingest_images(source, network, collection)
        seconds, core_s = time.perf_counter() - started, time.process_time() - core_started
        for page in collection.scroll(vectors=True):
            vectors.update({p.payload["filepath"]: p.vector for p in page if p.vector is not None})
    return report.stored / seconds, core_s / report.stored


def reference_images_per_s(
    items: list[SourceImage], model: "torch.nn.Module", transform: "Callable[[Image.Image], torch.Tensor]"
) -> tuple[float, dict[str, Vectors]]:
    """Images a second the usual way, the workers' start included; and the vectors.

    Runs in a process of its own, which has none of what ours sets for torch.
    """
    import torch
    from torch.utils.data import DataLoader

    pictures: Any = _Pictures(items, transform)
    loader: DataLoader[Any] = DataLoader(pictures, batch_size=32, num_workers=cores())
    with tempfile.TemporaryDirectory() as folder, h5py.File(Path(folder, "out.h5"), "w") as file:
        started = time.perf_counter()
        with torch.inference_mode():
            for keys, batch in loader:
                features = torch.nn.functional.normalize(model(batch)).numpy()
                for key, vector in zip(keys, features, strict=True):
                    file.create_dataset(key, data=vector)
        seconds = time.perf_counter() - started
        keys = [item.record.filepath for item in items]
        return len(items) / seconds, {key: normalise(file[key][()][None])[0] for key in keys}


def plain_timm(encoder: str) -> "tuple[torch.nn.Module, Callable[[Image.Image], torch.Tensor]]":
    """The same weights in timm's own network, with timm's own transform, as a user of timm would have it."""
    import torch
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    network: Any = get(encoder, EncoderSettings(device="cpu", precision="fp32"))
    model = network._network.to(memory_format=torch.contiguous_format)
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]  # timm is only partly typed
    config.update(mean=network.preprocessing.mean, std=network.preprocessing.std)
    return model, create_transform(**config, is_training=False)


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
