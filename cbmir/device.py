"""Which device and which precision, chosen from what the machine has and never by silent fallback."""

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cbmir.errors import EncoderError, one_line

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_ONE_GIB = 1 << 30
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a network runs.

    Attributes:
        device: As torch names it.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        auto: Whether the precision was left to choose, so that another one may be taken where it moves the vectors.
        torch_compile: Whether torch.compile makes the network, instead of what is usual on the device.
    """

    device: str
    precision: str
    auto: bool = False
    torch_compile: bool = False

    @property
    def dtype(self) -> "torch.dtype":
        """The type of autocast; float32 means none."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    @property
    def kind(self) -> str:
        """``cpu``, ``cuda`` or ``mps``."""
        return self.device.partition(":")[0]

    def __str__(self) -> str:
        """For people."""
        return f"{self.device}, {self.precision}" + ", torch.compile" * self.torch_compile


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let the C library keep what arrays free, where it can be told (glibc).

    It gives large blocks back otherwise, and the kernel clears every page of them again when the next one is made: a
    third of the time of EfficientNet-Lite0 on a CPU. The setting holds for the whole process.
    """
    if hasattr(ctypes.CDLL(None), "mallopt"):
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, _ONE_GIB)


def place(device: str, precision: str, torch_compile: bool = False) -> Placement:
    """Choose what was left to choose, check what was asked for.

    Raises:
        EncoderError: the device isn't here, or the precision is unknown or not for it.
    """
    chosen = _device(device)
    auto = precision == "auto"
    if auto:
        precision = "bf16" if has_bf16(chosen) else "fp32"
    if precision == "fp16" and chosen.startswith("cpu"):
        raise EncoderError("fp16 needs a GPU; on a CPU use fp32 or bf16")
    return Placement(chosen, precision, auto, torch_compile)


def has_bf16(device: str) -> bool:
    """Whether bfloat16 is done in hardware; in software it is several times slower than float32."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.startswith("cpu"):
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


def _device(name: str) -> str:
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.partition(":")[0]
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in here:
        raise EncoderError(f"no device {name!r}; there are auto, {', '.join(here)}")
    if not here[kind]:
        raise EncoderError(f"device {name!r} is not on this machine; leave --device at auto or use cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(f"device {name!r} can't be used: {one_line(error)}") from error
    return name
