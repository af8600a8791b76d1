"""A torch network as an encoder: normalise on the device, run, scale to unit length."""

import logging
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cbmir.encoders.device import Placement, cores, keep_memory
from cbmir.errors import EncoderError
from cbmir.fingerprint import EncoderCard
from cbmir.images import Pixels, Preprocessing
from cbmir.schema import Vectors, normalise

if TYPE_CHECKING:
    import torch

BATCH_SIZE = {"cpu": 8, "cuda": 256, "mps": 64}
"""Images a step. On a CPU small batches stay in the cache."""

_SAME_COSINE = 0.99999
_log = logging.getLogger(__name__)


class TorchEncoder:
    """A frozen network that maps normalised pictures to features.

    Every step runs with the same batch size, the last one filled up with black pictures: so the vector of an image
    doesn't depend on which images came with it, bit for bit.

    Attributes:
        card: Name, weights, preprocessing and their fingerprint.
        preprocessing: What comes before `embed`.
        batch_size: Images a step.
    """

    def __init__(
        self,
        features: "torch.nn.Module",
        card: EncoderCard,
        preprocessing: Preprocessing,
        placement: Placement,
        batch_size: int | None,
    ) -> None:
        import torch

        self.card = card
        self.preprocessing = preprocessing
        self.batch_size = batch_size or BATCH_SIZE[placement.kind]
        self._placement = placement
        self._network = features.eval().to(placement.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks device + memory_format
        shape = (1, preprocessing.channels, 1, 1)
        self._mean = torch.tensor(preprocessing.mean).mul(255.0).reshape(shape).to(placement.device)
        self._std = torch.tensor(preprocessing.std).mul(255.0).reshape(shape).to(placement.device)
        self._forward: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._choosing = threading.Lock()
        on_cpu = placement.kind == "cpu"
        if on_cpu:
            keep_memory()
        self._threads = ThreadPoolExecutor(cores() if on_cpu else 1, "encoder", _one_core if on_cpu else None)

    @property
    def running_on(self) -> str:
        """Device and precision."""
        return str(self._placement)

    def embed(self, pixels: Pixels) -> Vectors:
        """(n, dim) rows of unit length, see `Encoder`.

        Raises:
            EncoderError: the device ran out of memory.
        """
        starts = range(0, len(pixels), self.batch_size)
        steps = [self._filled(pixels[start : start + self.batch_size]) for start in starts]
        with self._choosing:
            if self._forward is None:
                self._forward = self._fastest(steps[0])
        features = self._threads.map(partial(self._step, self._forward), steps)
        return normalise(np.concatenate(list(features))[: len(pixels)])

    def _filled(self, pixels: Pixels) -> Pixels:
        missing = self.batch_size - len(pixels)
        return np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)]) if missing else pixels

    def _step(self, forward: "Callable[[torch.Tensor], torch.Tensor]", pixels: Pixels) -> Vectors:
        import torch

        try:
            with torch.inference_mode():
                features: Vectors = forward(self._images(pixels)).float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise EncoderError(
                f"{self._placement.device} ran out of memory at {self.batch_size} images a step; "
                "give a smaller --batch-size"
            ) from error
        return features

    def _images(self, pixels: Pixels) -> "torch.Tensor":
        """(n, channels, height, width) float32 on the device, normalised."""
        import torch

        writable = np.require(pixels, requirements=["C", "W"])  # torch warns of arrays that aren't
        batch = torch.from_numpy(writable).to(self._placement.device, non_blocking=True)
        return batch.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)

    def _autocast(self, images: "torch.Tensor") -> "torch.Tensor":
        import torch

        on = self._placement.precision != "fp32"
        with torch.autocast(self._placement.kind, dtype=self._placement.dtype if on else None, enabled=on):
            features: torch.Tensor = self._network(images)
        return features

    def _fastest(self, pixels: Pixels) -> "Callable[[torch.Tensor], torch.Tensor]":
        """A frozen graph on a CPU in float32, 4 x on EfficientNet-Lite0, if it gives the same vectors."""
        import torch

        if (self._placement.kind, self._placement.precision) != ("cpu", "fp32"):
            return self._autocast
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")
                images = self._images(pixels)
                frozen = torch.jit.freeze(torch.jit.trace(self._network, images, check_trace=False))  # type: ignore[no-untyped-call]
                cosines = torch.nn.functional.cosine_similarity(frozen(images), self._network(images))
        except Exception as error:
            _log.info("the network can't be frozen (%s), it runs as it is", error)
            return self._autocast
        if not bool((cosines >= _SAME_COSINE).all()):
            _log.info("the frozen network differs (cosine %.6f), it runs as it is", float(cosines.min()))
            return self._autocast
        return frozen  # type: ignore[no-any-return]


def _one_core() -> None:
    """One core a step, and a step on every core: threads that share a step wait for each other.

    On two busy cores EfficientNet-Lite0 took 90 core-ms an image with shared steps and 33 with its own. The setting
    holds for all of torch in this process.
    """
    import torch

    torch.set_num_threads(1)


def output_dim(name: str, network: "torch.nn.Module", how: Preprocessing) -> int:
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
