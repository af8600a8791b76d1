"""A network on a CPU, compiled by OpenVINO: torch runs layer by layer, which takes about twice as long."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from queue import LifoQueue
from typing import TYPE_CHECKING, Any

from cbmir.device import cores
from cbmir.errors import one_line
from cbmir.extras import install, is_installed

if TYPE_CHECKING:
    import torch

_MOST_BYTES = 4 << 30  # for the copies of one network's weights
_log = logging.getLogger(__name__)


class Graph:
    """A network as OpenVINO has read it, for batches of one shape."""

    def __init__(self, network: "torch.nn.Module", example: "torch.Tensor", at_once: int) -> None:
        """Trace the network on a batch.

        What OpenVINO can't read, and that it isn't installed, is told in the log, and `compiled` gives None.

        Args:
            network: On the CPU.
            example: A batch.
            at_once: Steps that are to run at the same time, where there is memory for as many copies of the weights.
        """
        import torch

        weights = sum(tensor.nbytes for tensor in network.state_dict().values())
        self._copies = max(1, min(at_once, cores(), _MOST_BYTES // max(1, weights)))
        self._model: Any = None
        if not is_installed("openvino"):
            _tell_missing()
            return
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")
                traced = torch.jit.trace(network, example.contiguous(), check_trace=False)  # type: ignore[no-untyped-call]
                self._model = _openvino().convert_model(traced, input=[tuple(example.shape)])
        except Exception as error:  # whatever a network does that can't be traced or isn't known there
            _tell(error)

    def compiled(self, precision: str) -> "Callable[[torch.Tensor], torch.Tensor] | None":
        """The network in a precision: a copy of it for each step at a time, which share the cores.

        The copies are made as they are needed. They don't share their weights, as OpenVINO's own streams would: these
        look a layer's weights up by their address, and where an address was used twice the second stream computes with
        those of another layer. It happened in one of 20 starts with ViT-B/16.

        Returns:
            None where it can't be compiled or the processor hasn't the precision. It may be called from any thread;
            a batch of another shape than the example's is an error.
        """
        if self._model is None:
            return None
        try:
            first = self._request(precision)
        except RuntimeError as error:
            _tell(error)
            return None
        if first is None:
            return None
        free: LifoQueue[Any] = LifoQueue()
        for request in (*[None] * (self._copies - 1), first):
            free.put(request)
        compiling = threading.Lock()

        def forward(images: "torch.Tensor") -> "torch.Tensor":
            import torch

            request = free.get()
            try:
                if request is None:
                    with compiling:
                        request = self._request(precision)
                return torch.from_numpy(request.infer([images.contiguous().numpy()])[0])
            finally:
                free.put(request)

        return forward

    def _request(self, precision: str) -> Any:
        """Something that runs one step at a time; None where the processor hasn't the precision."""
        openvino = _openvino()
        wanted = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16}[precision]
        how = {
            "INFERENCE_PRECISION_HINT": wanted,
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": cores() // self._copies,
            "ENABLE_CPU_PINNING": False,  # the cores are shared with those who decode
        }
        network = _core().compile_model(self._model, "CPU", how)
        return network.create_infer_request() if network.get_property("INFERENCE_PRECISION_HINT") == wanted else None


@cache
def _tell_missing() -> None:
    """Say once a process that encoding could be faster."""
    _log.warning(
        "OpenVINO is not installed, so torch runs networks on the CPU, which takes two to four times as long: %s",
        install("cpu"),
    )


def _tell(error: Exception) -> None:
    _log.info("the network can't be compiled, torch runs it: %s", one_line(error))


_loading = threading.Lock()
_loaded: list[Any] = []


def _core() -> Any:
    """OpenVINO's core with its CPU plugin, loaded once a process, in a thread that ends, and never unloaded.

    The plugin gives the thread that loads it a stack for signals, and puts the former one back when it is unloaded, in
    whatever order that happens: with several cores Python's main thread was left with a stack that was gone, and
    Ctrl-C ended the process with SIGSEGV.
    """
    with _loading:
        if not _loaded:
            core = _openvino().Core()
            with ThreadPoolExecutor(1) as thread:
                thread.submit(core.get_property, "CPU", "FULL_DEVICE_NAME").result()
            _loaded.append(core)
        return _loaded[0]


def _openvino() -> Any:
    """OpenVINO without its telemetry, which reports every use to its makers unless it can't be imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how Python spells that
    import openvino

    return openvino
