"""A torch network as an encoder: normalise on the device, run, scale to unit length."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cbmir.device import Placement, cores, keep_memory, place
from cbmir.encoders.base import EncoderSettings, EncoderSpec
from cbmir.encoders.forward import Forward, exact, fastest
from cbmir.encoders.probes import probe_vectors
from cbmir.encoders.weights import origin, weights_hash
from cbmir.errors import EncoderError
from cbmir.fingerprint import EncoderCard
from cbmir.media import OwnPreprocessing, Pixels, Preprocessing
from cbmir.schema import Vectors, normalise

if TYPE_CHECKING:
    import torch

BATCH_SIZE = {"cpu": 4, "cuda": 256, "mps": 64}
"""Pictures of 224 x 224 a step, of larger ones fewer. On a CPU small batches stay in the cache; on CUDA the most."""

_TRIED_FIRST, _TRIES, _NEARLY = 32, 3, 0.97
_CHECKED = 16
_log = logging.getLogger(__name__)


TextTower = Callable[[Sequence[str]], Vectors]
"""From n texts to (n, dim) features of any length, each text cut off where it is too long."""


def encoder(
    spec: EncoderSpec,
    network: "torch.nn.Module",
    how: Preprocessing | OwnPreprocessing,
    settings: EncoderSettings,
    load_text: Callable[[], TextTower] | None = None,
) -> "TorchEncoder":
    """A network that a loader has built, as an encoder.

    Args:
        spec: What it was asked for by.
        network: From (n, channels, height, width) normalised pictures to (n, dim) features.
        how: Its preprocessing.
        settings: Device, precision and batch size.
        load_text: Loads its text tower, once it is asked for.

    Raises:
        EncoderError: the device or precision is not to be had, or the network gives something else than features.
    """
    placement = place(settings.device, settings.precision, settings.torch_compile)
    made_of = origin(spec.source, spec.revision, settings.weights)
    card = EncoderCard(spec.name, output_dim(spec.name, network, how), weights_hash(network), how.as_json(), made_of)
    made = TorchEncoder(network, card, how, placement, settings.batch_size, load_text)
    made.card = replace(card, probes=probe_vectors(how, made.embed_exact, load_text))
    return made


class TorchEncoder:
    """A frozen network that maps normalised pictures to features.

    Every step runs with the same batch size, the last one filled up with black pictures: so the vector of an image
    doesn't depend on which images came with it, bit for bit.

    Attributes:
        card: Name, weights, preprocessing and their fingerprint.
        preprocessing: What comes before `embed`.
        batch_size: Images a step; on CUDA, unless it was given or torch compiles, the smallest of the fast ones found
            by trying.
    """

    def __init__(
        self,
        features: "torch.nn.Module",
        card: EncoderCard,
        preprocessing: Preprocessing | OwnPreprocessing,
        placement: Placement,
        batch_size: int | None,
        load_text: Callable[[], TextTower] | None = None,
    ) -> None:
        import torch

        self.card = card
        self.preprocessing = preprocessing
        self.batch_size = batch_size or _batch_size(placement.kind, preprocessing.input_px)
        self._one_shape = placement.kind == "cpu" or placement.torch_compile  # each shape would be compiled anew
        self._to_try = batch_size is None and not self._one_shape and placement.kind == "cuda"
        self._placement = placement
        self._load_text = load_text
        self._text: TextTower | None = None
        self._network = features.eval().to(placement.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks device + memory_format
        white = preprocessing.white
        mean, std = (
            torch.tensor(values).mul(white).reshape(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std)
        )
        self._mean, self._std = mean.to(placement.device), std.to(placement.device)
        self._min_max = isinstance(preprocessing, Preprocessing) and preprocessing.scaling == "minmax"
        self._forward: Forward | None = None
        self._choosing = threading.Lock()
        on_cpu = placement.kind == "cpu"
        if on_cpu:
            keep_memory()
        self._threads = ThreadPoolExecutor(cores() if on_cpu else 2, "encoder", _one_core if on_cpu else None)
        self._own = threading.local()
        if placement.kind == "cuda":
            torch.cuda.synchronize(placement.device)  # the weights are there before another stream reads them

    @property
    def running_on(self) -> str:
        """Device and precision; only the device until the first inputs have settled the precision."""
        placement = self._placement
        unsettled = placement.auto and placement.precision != "fp32" and self._forward is None
        return placement.device if unsettled else str(placement)

    def embed(self, pixels: Pixels) -> Vectors:
        """(n, dim) rows of unit length, see `Encoder`.

        Where the device runs out of memory, the batch is halved.

        Raises:
            EncoderError: the device has not enough memory for one image.
        """
        import torch

        while True:
            size = self.batch_size
            try:
                with self._choosing:
                    if self._forward is None:
                        self._forward = self._threads.submit(self._fastest, pixels).result()  # as later steps run
                    if self._to_try and len(pixels) >= self.batch_size:
                        self._to_try = False
                        self.batch_size = self._found_by_trying(self._forward, pixels)
                    size = self.batch_size
                steps = [_filled(pixels[start : start + size], size) for start in range(0, len(pixels), size)]
                features = list(self._threads.map(partial(self._step, self._forward), steps))
                return normalise(np.concatenate(features)[: len(pixels)])
            except torch.OutOfMemoryError as error:
                self._halve(size, error)

    def embed_exact(self, pixels: Pixels) -> Vectors:
        """(n, dim) rows of unit length by torch in float32, an image a step, whatever `embed` runs in.

        Raises:
            EncoderError: the device has not enough memory for one image.
        """
        import torch

        try:
            with exact(self._network, self._placement) as forward:
                features = list(self._threads.map(partial(self._step, forward), np.split(pixels, len(pixels))))
        except torch.OutOfMemoryError as error:
            raise EncoderError(f"{self._placement.device} has not enough memory for one image in float32") from error
        return normalise(np.concatenate(features))

    def _halve(self, size: int, error: Exception) -> None:
        import torch

        if size == 1:
            raise EncoderError(f"{self._placement.device} has not enough memory for one image") from error
        with self._choosing:  # another thread may have halved it already
            if self.batch_size == size:
                self.batch_size = size // 2
                _log.warning(
                    "%s ran out of memory at %d images a step; it goes on with %d",
                    *(self._placement.device, size, self.batch_size),
                )
        if self._placement.kind == "cuda":
            torch.cuda.empty_cache()

    def _found_by_trying(self, forward: Forward, pixels: Pixels) -> int:
        """The smallest batch that is nearly as fast as the fastest, in powers of two up to the most."""
        import torch

        rates: dict[int, float] = {}
        size = min(_TRIED_FIRST, self.batch_size)
        while size <= self.batch_size:
            try:
                self._step(forward, pixels[:size])
                started = time.perf_counter()
                for _ in range(_TRIES):
                    self._step(forward, pixels[:size])
                rates[size] = _TRIES * size / (time.perf_counter() - started)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            size *= 2
        if not rates:
            return size
        found = min(size for size, rate in rates.items() if rate >= _NEARLY * max(rates.values()))
        _log.info("%d images a step: %s images/s", found, {size: round(rate) for size, rate in rates.items()})
        return found

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """(n, dim) rows of unit length, see `Encoder`.

        Raises:
            EncoderError: it has no text tower.
            WeightsError: its text tower can't be loaded.
        """
        if self._load_text is None:
            raise EncoderError(f"{self.card.name} has no text tower: it can't be asked by text")
        with self._choosing:
            self._text = self._text or self._load_text()
        return normalise(self._text(texts))

    def _step(self, forward: Forward, pixels: Pixels) -> Vectors:
        import torch

        with torch.inference_mode(), self._stream():
            features: Vectors = forward(self._images(pixels)).float().cpu().numpy()
        return features

    def _stream(self) -> AbstractContextManager[Any]:
        """On CUDA each thread has a stream, so that one copies pictures while the other computes."""
        import torch

        if self._placement.kind != "cuda":
            return nullcontext()
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self._placement.device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._own.stream)

    def _images(self, pixels: Pixels) -> "torch.Tensor":
        """(n, channels, height, width) float32 on the device, normalised."""
        import torch

        writable = np.require(pixels, requirements=["C", "W"])  # torch warns of arrays that aren't
        batch = torch.from_numpy(writable)
        if self._placement.kind == "cuda":
            batch = batch.pin_memory().to(self._placement.device, non_blocking=True)
        else:
            batch = batch.to(self._placement.device)
        channels = self.preprocessing.channels
        images = batch[..., :channels].permute(0, 3, 1, 2).float()
        if self._min_max:
            low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
            images = (images - low) / (high - low).clamp_(min=1e-8)
        images = images.sub_(self._mean).div_(self._std)
        return images.mul_(batch[..., channels:].permute(0, 3, 1, 2) > 0) if batch.shape[3] > channels else images

    def _fastest(self, pixels: Pixels) -> Forward:
        """The way to run the network, chosen on the first pictures."""
        import torch

        placement = self._placement
        first = pixels[: min(_CHECKED, self.batch_size)]
        with torch.inference_mode():
            images = self._images(_filled(first, self.batch_size) if self._one_shape else first)
        forward, self._placement = fastest(self.card.name, self._network, images, len(first), placement, cores())
        return forward


def _batch_size(kind: str, input_px: tuple[int, int]) -> int:
    """A power of two, so many times fewer as the pictures are larger than 224 x 224."""
    wanted = BATCH_SIZE[kind] * 224 * 224 / (input_px[0] * input_px[1])
    return min(BATCH_SIZE[kind], 1 << max(0, int(math.log2(max(wanted, 1.0)))))


def _filled(pixels: Pixels, size: int) -> Pixels:
    missing = size - len(pixels)
    return np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), pixels.dtype)]) if missing else pixels


def _one_core() -> None:
    """One core a step, and a step on every core: threads that share a step wait for each other.

    On two busy cores EfficientNet-Lite0 took 90 core-ms an image with shared steps and 33 with its own. The setting
    holds for all of torch in this process.
    """
    import torch

    torch.set_num_threads(1)


def output_dim(name: str, network: "torch.nn.Module", how: Preprocessing | OwnPreprocessing) -> int:
    """Length of a network's vectors, found by running it once: libraries keep it under different names, or not at all.

    Raises:
        EncoderError: the network gives something else than one vector a picture.
    """
    import torch

    with torch.inference_mode():
        features = network.eval()(torch.zeros(1, how.channels, *how.input_px))
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise EncoderError(f"{name} doesn't give one vector a picture, so it can't be used as an encoder here")
    return features.shape[1]
