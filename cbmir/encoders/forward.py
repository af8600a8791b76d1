"""The fastest way to run a network that gives what torch gives in float32."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cbmir.encoders.compiled import Graph
from cbmir.encoders.device import Placement

if TYPE_CHECKING:
    import torch

_OTHERS: dict[str, tuple[str, ...]] = {"cpu": (), "cuda": ("fp16",), "mps": ()}
_SAME_IN_HALF = 0.9995  # on a few inputs, so that .999 holds on all
_SAME_COMPILED = 0.99999
_log = logging.getLogger(__name__)

Forward = Callable[["torch.Tensor"], "torch.Tensor"]
"""From a batch of inputs to (n, dim) features."""


def fastest(
    name: str, network: "torch.nn.Module", batch: "torch.Tensor", count: int, placement: Placement, at_once: int
) -> tuple[Forward, Placement]:
    """Choose by running the first batch: in the wanted precision, on a CPU compiled, else by torch in float32.

    A precision that was asked for is obeyed, and where it moves vectors a warning says how far.

    Args:
        name: Of the encoder, for the log.
        network: On the placement's device.
        batch: Inputs on the device. On a CPU all later batches must have its shape.
        count: So many of its rows are inputs, the others only fill it.
        placement: Device and wanted precision.
        at_once: Batches that will run at the same time, from as many threads.

    Returns:
        The way, and the placement with the precision it has.
    """
    import torch

    exact = partial(_torch, network, placement.kind, None)
    halves = () if placement.precision == "fp32" else (placement.precision, *_OTHERS[placement.kind])
    with torch.inference_mode():
        graph = Graph(network, batch, at_once) if placement.kind == "cpu" else None
        expected: torch.Tensor | None = None
        for precision in halves:
            settled = replace(placement, precision=precision)
            half = (graph and graph.compiled(precision)) or partial(_torch, network, placement.kind, settled.dtype)
            expected = exact(batch) if expected is None else expected
            cosine = _lowest_cosine(half(batch), expected, count)
            if not cosine >= _SAME_IN_HALF:  # nor where it isn't a number
                _log.warning("%s in %s: lowest cosine to float32 %.4f", name, precision, cosine)
            if cosine >= _SAME_IN_HALF or not placement.auto:
                return half, settled
        compiled = graph and graph.compiled("fp32")
        settled = replace(placement, precision="fp32")
        if not compiled:
            return exact, settled
        cosine = _lowest_cosine(compiled(batch), exact(batch) if expected is None else expected, count)
    if not cosine >= _SAME_COMPILED:
        _log.warning("%s compiled: lowest cosine to torch %.6f, so torch runs it", name, cosine)
        return exact, settled
    return compiled, settled


def _torch(network: "torch.nn.Module", kind: str, half: "torch.dtype | None", batch: "torch.Tensor") -> "torch.Tensor":
    import torch

    with torch.autocast(kind, dtype=half, enabled=half is not None):
        features: torch.Tensor = network(batch)
    return features


def _lowest_cosine(found: "torch.Tensor", expected: "torch.Tensor", count: int) -> float:
    import torch

    return float(torch.nn.functional.cosine_similarity(found.float(), expected.float())[:count].min())
