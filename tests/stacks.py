"""A kind of file that cbmir doesn't know, and a source of it: what somebody adds who has such files.

A stack is `STACK1`, the numbers of frames, rows and columns, then grey frames of 8 bits, stored as negatives. Each
frame is an image. The worker processes import this module because functions of its file kind are here.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from cbmir.errors import ImageError
from cbmir.ingest.report import Failure
from cbmir.ingest.sources import SourceImage
from cbmir.ingest.sources.base import make_record
from cbmir.media import Asset, Decoded, DecodeOptions, FileKind, frame_key

_START = b"STACK1"
_HEADER = struct.Struct("<6s3H")


def write_stack(path: Path, frames: np.ndarray) -> Path:
    """(frames, rows, columns) of 8 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_HEADER.pack(_START, *frames.shape) + frames.tobytes())
    return path


def is_stack(head: bytes) -> bool:
    return head.startswith(_START)


def decode(file: IO[bytes], options: DecodeOptions) -> Decoded:
    _, frames, rows, columns = _HEADER.unpack(file.read(_HEADER.size))
    if options.frame is None:
        raise ImageError(f"holds {frames} frames; name one, as in {options.name}#1")
    if options.frame > frames:
        raise ImageError(f"holds {frames} frames, none with number {options.frame}")
    options.limits.check_bytes(rows * columns)
    file.seek((options.frame - 1) * rows * columns, 1)
    values = np.frombuffer(file.read(rows * columns), np.uint8).reshape(rows, columns)
    return Decoded(Image.fromarray(values).convert("RGB"))


def show(image: Image.Image, _window: tuple[float, float] | None) -> Image.Image:
    return ImageOps.invert(image)


KIND = FileKind(
    name="stack",
    holds="image",
    suffixes=(".stack",),
    recognises=is_stack,
    decode=decode,
    show=show,
    streamed=True,
    frames=True,
)


class StackSource:
    """The frames of all stacks in a folder; the frames of a file are of one patient, their labels come in turn."""

    def __init__(self, folder: Path, labels: tuple[str, ...] = ("XR/chest/pneumonia", "CT/lung/nodule")) -> None:
        self.root = folder
        self.total: int | None = None
        self.ignored: Mapping[str, int] = {}
        self._labels = labels

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        for path in sorted(self.root.rglob("*.stack")):
            name = path.relative_to(self.root).as_posix()
            with path.open("rb") as file:
                count = _HEADER.unpack(file.read(_HEADER.size))[1]
            split = "train" if path.stem.endswith(("1", "2")) else "test"
            for frame in range(1, count + 1):
                labels = [self._labels[frame % len(self._labels)]]
                record = make_record(
                    frame_key(name, frame), "stacks", labels, {"patient_id": path.stem, "split": split}, {}
                )
                yield SourceImage(record, Asset(path, frame=frame))
