"""The fastest way to run a network that gives what torch gives in float32."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cbmir.device import Placement
from cbmir.encoders.compiled import Graph
from cbmir.errors import EncoderError, one_line

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
    """Choose by running the first batch: in the wanted precision, compiled, else by torch in float32.

    OpenVINO compiles on a CPU, torch.compile where the placement says so.

    A precision that was asked for is obeyed, and where it moves vectors a warning says how far.

    Args:
        name: Of the encoder, for the log.
        network: On the placement's device.
        batch: Inputs on the device. What is compiled is for its shape: OpenVINO takes no other.
        count: So many of its rows are inputs, the others only fill it.
        placement: Device and wanted precision.
        at_once: Batches that will run at the same time, from as many threads.

    Returns:
        The way, and the placement with the precision it has.

    Raises:
        EncoderError: torch.compile can't do it here.
    """
    import torch

    plain = replace(placement, precision="fp32", torch_compile=False)
    exact = partial(_torch, network, plain)
    halves = () if placement.precision == "fp32" else (placement.precision, *_OTHERS[placement.kind])
    with torch.inference_mode():
        compiled_in = _compiler(network, batch, placement, at_once)
        expected: torch.Tensor | None = None
        for precision in halves:
            settled = replace(placement, precision=precision)
            compiled = compiled_in(precision)
            half = compiled or partial(_torch, network, settled)
            expected = exact(batch) if expected is None else expected
            cosine = _lowest_cosine(half(batch), expected, count)
            if not cosine >= _SAME_IN_HALF:  # nor where it isn't a number
                then = f", so {precision} is not used" if placement.auto else ""
                _log.warning("%s in %s: lowest cosine to float32 %.4f%s", name, precision, cosine, then)
            faster = compiled or placement.kind != "cpu" or _seconds(half, batch) < _seconds(exact, batch)
            if (cosine >= _SAME_IN_HALF and faster) or not placement.auto:
                return half, settled
        compiled = compiled_in("fp32")
        if not compiled:
            return exact, plain
        cosine = _lowest_cosine(compiled(batch), exact(batch) if expected is None else expected, count)
    if not cosine >= _SAME_COMPILED:
        _log.warning("%s compiled: lowest cosine to torch %.6f, so torch runs it", name, cosine)
        return exact, plain
    return compiled, replace(placement, precision="fp32")


@contextmanager
def exact(network: "torch.nn.Module", placement: Placement) -> Iterator[Forward]:
    """The network by torch in true float32, whatever it runs in otherwise; on CUDA all of torch runs without TF32."""
    import torch

    flags: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul) if placement.kind == "cuda" else ()
    before = [item.allow_tf32 for item in flags]
    for item in flags:
        item.allow_tf32 = False
    try:
        yield partial(_torch, network, replace(placement, precision="fp32", torch_compile=False))
    finally:
        for item, value in zip(flags, before, strict=True):
            item.allow_tf32 = value


def _compiler(
    network: "torch.nn.Module", batch: "torch.Tensor", placement: Placement, at_once: int
) -> Callable[[str], Forward | None]:
    """From a precision to the compiled network, None where there is none."""
    if placement.torch_compile:
        return lambda precision: _compiled_by_torch(network, batch, replace(placement, precision=precision))
    if placement.kind == "cpu":
        return Graph(network, batch, at_once).compiled
    return lambda _precision: None


def _compiled_by_torch(network: "torch.nn.Module", batch: "torch.Tensor", placement: Placement) -> Forward:
    import torch

    forward = partial(_torch, torch.compile(network, dynamic=False), placement)
    try:
        forward(batch)
    except torch._dynamo.exc.TorchDynamoException as error:
        said = one_line(error)
        raise EncoderError(f"torch.compile can't compile this network here; go on without it: {said}") from error
    return forward


def _torch(network: Forward, placement: Placement, batch: "torch.Tensor") -> "torch.Tensor":
    import torch

    with torch.autocast(placement.kind, dtype=placement.dtype, enabled=placement.precision != "fp32"):
        features: torch.Tensor = network(batch)
    return features


def _seconds(forward: Forward, batch: "torch.Tensor") -> float:
    started = time.perf_counter()
    forward(batch)
    return time.perf_counter() - started


def _lowest_cosine(found: "torch.Tensor", expected: "torch.Tensor", count: int) -> float:
    import torch

    return float(torch.nn.functional.cosine_similarity(found.float(), expected.float())[:count].min())
