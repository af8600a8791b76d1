"""An image processor of transformers as our preprocessing.

Pictures are prepared as by the library's processors that run on Pillow, pixel for pixel: the repository's processor and
our own preprocess some pictures, and what differs is refused. Its processors that run on torchvision, the default since
transformers 5, round otherwise: measured on photographs and noise, pixels were up to 2 grey levels away, 0.25 in the
mean, and vectors had a cosine above .9999. DINOv3 has only such a processor, which scales before it rounds; its pixels
are up to 1 grey level away from ours.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cbmir.encoders.base import EncoderSpec
from cbmir.errors import EncoderError, WeightsError, one_line
from cbmir.media import Preprocessing, preprocess

_INTERPOLATION = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_PROBES_PX = ((97, 62), (61, 98), (613, 1037))
_GREY_LEVELS = {"pil": 0.01, "torchvision": 1.01}


def preprocessing_of(spec: EncoderSpec, folder: Path) -> Preprocessing:
    """What the processor in a repository's folder does, proven on some pictures.

    Raises:
        EncoderError: it does what is not done here.
        WeightsError: there is none.
    """
    from transformers import AutoImageProcessor

    try:
        with quiet():
            processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]  # its own stub lacks types
                folder, backend="pil", trust_remote_code=False, local_files_only=True
            )
    except Exception as error:
        raise WeightsError(f"no preprocessing for {spec.name} from {folder}: {one_line(error)}") from error
    try:
        how = _as_data(processor)
        apart = max(_grey_levels_apart(processor, how, size) for size in _PROBES_PX)
    except Exception as error:  # each processor raises its own
        raise EncoderError(f"{_not_here(spec, processor)}: {one_line(error)}") from error
    if not apart <= _GREY_LEVELS[processor.backend]:
        raise EncoderError(f"{_not_here(spec, processor)}: pixels would differ by {apart:.1f} grey levels")
    return how


def _not_here(spec: EncoderSpec, processor: Any) -> str:
    return f"{spec.name} wants a preprocessing that is not done here, {type(processor).__name__}"


def _as_data(processor: Any) -> Preprocessing:
    """A processor's settings; where they say nothing or another thing than it does, the pixels will differ.

    Raises:
        ValueError: they can't be said as `Preprocessing`.
    """
    size = processor.size
    share = getattr(processor, "crop_pct", None)
    if not processor.do_resize or processor.resample not in _INTERPOLATION:
        raise ValueError(f"do_resize={processor.do_resize}, resample={processor.resample}")
    crop = processor.crop_size if processor.do_center_crop else None
    if size.height and size.width:
        squashed, short, input_px = True, 0, (size.height, size.width)
    elif share and size.shortest_edge:  # ConvNeXt's, which crops only below 384
        short = size.shortest_edge
        squashed, input_px = short >= 384, (short, short)
        short = int(short / share)
    elif size.shortest_edge and not size.longest_edge and crop:
        squashed, short, input_px = False, size.shortest_edge, (crop.height, crop.width)
    else:
        raise ValueError(f"size={dict(size)} doesn't bring all pictures to one size")
    factor = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    if abs(factor - 1) < 1e-6:  # repositories write 1/255 with more or fewer digits
        factor = 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return Preprocessing(
        input_px=input_px,
        resize="squash" if squashed else "shortest",
        resize_px=short or input_px[0],
        interpolation=_INTERPOLATION[int(processor.resample)],
        mean=tuple(value / factor for value in mean),
        std=tuple(value / factor for value in std),
        crop="round" if squashed else "floor",
    )


def _grey_levels_apart(processor: Any, how: Preprocessing, size: tuple[int, int]) -> float:
    """The largest difference between both ways to prepare a picture of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    theirs = np.asarray(processor(images=picture, return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
    theirs = 255 * (theirs * np.array(how.std) + np.array(how.mean))
    return float(np.abs(theirs - preprocess(picture, how)).max())


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, warnings or reports of what was missing: what matters comes back as an error."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
