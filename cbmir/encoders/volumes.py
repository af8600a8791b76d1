"""A torch network as an encoder of volumes."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbmir.device import Placement, cores, keep_memory
from cbmir.encoders.forward import Forward, exact, fastest
from cbmir.encoders.probes import probe_vectors
from cbmir.encoders.weights import weights_hash
from cbmir.errors import EncoderError
from cbmir.fingerprint import EncoderCard
from cbmir.media import OwnPreprocessing, VolumePreprocessing, Voxels
from cbmir.schema import Vectors, normalise
from cbmir.units import counted

if TYPE_CHECKING:
    import torch

BATCH_SIZE = {"cpu": 1, "cuda": 4, "mps": 1}
"""Volumes a step. One takes 2 GB within the network."""


class VolumeEncoder:
    """A frozen network that maps volumes to features, a few at a time: a step has every core, or the GPU, to itself.

    Attributes:
        card: Name, weights, preprocessing and their fingerprint.
        preprocessing: What comes before `embed`.
        batch_size: Volumes a step.
    """

    def __init__(
        self,
        name: str,
        network: "torch.nn.Module",
        preprocessing: VolumePreprocessing | OwnPreprocessing,
        placement: Placement,
        batch_size: int | None,
        dim: int,
    ) -> None:
        self.preprocessing = preprocessing
        self.batch_size = batch_size or BATCH_SIZE[placement.kind]
        self._placement = placement
        probes = probe_vectors(preprocessing, self.embed_exact)
        self.card = EncoderCard(name, dim, weights_hash(network), preprocessing.as_json(), probes=probes)
        self._network = network.eval().float().to(placement.device)
        if placement.kind == "cpu":
            keep_memory()
        self._one_at_a_time = threading.Lock()
        self._forward: Forward | None = None

    @property
    def running_on(self) -> str:
        """Device and precision; only the device until the first inputs have settled the precision."""
        placement = self._placement
        unsettled = placement.auto and placement.precision != "fp32" and self._forward is None
        return placement.device if unsettled else str(placement)

    def embed(self, pixels: Voxels) -> Vectors:
        """(n, dim) rows of unit length, see `Encoder`.

        Raises:
            EncoderError: the device ran out of memory.
        """
        starts = range(0, len(pixels), self.batch_size)
        with self._one_at_a_time:
            features = [self._step(pixels[start : start + self.batch_size]) for start in starts]
        return normalise(np.concatenate(features))

    def embed_exact(self, pixels: Voxels) -> Vectors:
        """(n, dim) rows of unit length by torch in float32, a volume a step, whatever `embed` runs in.

        Raises:
            EncoderError: the device ran out of memory.
        """
        with self._one_at_a_time, exact(self._network, self._placement) as forward:
            features = [self._features(forward, volume) for volume in np.split(pixels, len(pixels))]
        return normalise(np.concatenate(features))

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """It has no text tower.

        Raises:
            EncoderError: always.
        """
        raise EncoderError(f"{self.card.name} has no text tower: it can't be asked by text")

    def _step(self, voxels: Voxels) -> Vectors:
        """(n, dim) features; a step that isn't full is filled up, so that no vector depends on its neighbours."""
        filled = np.zeros((self.batch_size, *voxels.shape[1:]), np.float32)
        filled[: len(voxels)] = voxels
        return self._features(self._chosen(len(voxels)), filled)[: len(voxels)]

    def _chosen(self, count: int) -> Forward:
        """The way to run the network; it is chosen by the first step, of which `count` volumes are no filling."""

        def forward(batch: "torch.Tensor") -> "torch.Tensor":
            if self._forward is None:
                self._forward, self._placement = fastest(
                    self.card.name, self._network, batch, count, self._placement, at_once=1
                )
            return self._forward(batch)

        return forward

    def _features(self, forward: Forward, voxels: NDArray[Any]) -> Vectors:
        import torch

        placement = self._placement
        if placement.kind == "cpu":
            torch.set_num_threads(cores())  # encoders of images leave it at one
        batch = torch.from_numpy(voxels.astype(np.float32)).to(placement.device)
        try:
            with torch.inference_mode():
                features: Vectors = forward(batch).float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise EncoderError(
                f"{placement.device} ran out of memory at {counted(len(voxels), 'volume')} a step; "
                "give a smaller --batch-size"
            ) from error
        return features
