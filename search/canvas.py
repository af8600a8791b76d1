"""Pages as a file: PNG and JPEG in pixels, SVG and PDF with texts as texts and images inside."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from cbmir.search.layout import FAINT, FONT_PX, GAP_PX, RULE, TILE_PX, WIDTH_PX, Page

_DPI = 96
_A4_IN = 11.69
_VECTOR_TILE_PX = 2 * TILE_PX
"""Longest side of an image inside a PDF or SVG, which people enlarge and print."""
_FRAME_PX = 4
_EMPTY = "#f4f4f4"
_FAMILIES = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Thai")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "cbmir",  # the same sheet gives the same bytes
    "pdf.fonttype": 42,
    "image.composite_image": False,  # each image by itself, in its own size
    "text.parse_math": False,  # a file name may have dollars
}


def drawn(pages: Sequence[Page], form: str) -> bytes:
    """The content of a file; within `fonts`.

    Args:
        pages: One, unless it is a PDF.
        form: ``png``, ``jpg``, ``svg`` or ``pdf``.
    """
    file = io.BytesIO()
    if form == "pdf":
        with PdfPages(file, metadata={"Creator": "cbmir", "CreationDate": None}) as pdf:
            for page in pages:
                pdf.savefig(_figure(page, WIDTH_PX / _A4_IN, vector=True))
        return file.getvalue()
    (page,) = pages
    figure = _figure(page, _DPI, vector=form == "svg")
    if form == "svg":
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    else:
        metadata: dict[str, Any] = (
            {"metadata": {"Software": None}} if form == "png" else {"pil_kwargs": {"quality": 90}}
        )
        figure.savefig(file, format=form, **metadata)
    return file.getvalue()


@contextmanager
def fonts(form: str) -> Iterator[None]:
    """The style that texts are measured and drawn with; signs that no font here has are a warning, but for an SVG."""
    from matplotlib.font_manager import fontManager

    there = set(fontManager.get_font_names())
    families = [name for name in _FAMILIES if name in there]
    with mpl.rc_context({**_STYLE, "font.family": families}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    others = [warning for warning in caught if "Glyph" not in str(warning.message)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if len(others) < len(caught) and form != "svg":
        warnings.warn("no font here has some signs of the sheet's texts: they are empty boxes", stacklevel=3)


def _figure(page: Page, dpi: float, *, vector: bool) -> Figure:
    figure = Figure((page.width / dpi, page.height / dpi), dpi=dpi)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for box in page.boxes:
        frame = box.frame or ("" if box.image else FAINT)
        if frame:
            edge = _FRAME_PX / 2 if box.frame else 0
            axes.add_patch(_square(box.left, box.top, edge, frame, _FRAME_PX if box.frame else 1, dpi))
        axes.add_patch(Rectangle((box.left, box.top), TILE_PX, TILE_PX, color="black" if box.image else _EMPTY, lw=0))
        if box.image:
            _place(axes, box.image, box.left, box.top, vector=vector)
    points = 72 / dpi
    for words in page.words:
        size = FONT_PX * points
        axes.text(words.left, words.top, words.text, color=words.colour, fontsize=size, va="top", ha="left")
    for top in page.rules:
        axes.plot([GAP_PX, page.width - GAP_PX], [top, top], color=RULE, linewidth=points)
    axes.set_xlim(0, page.width)
    axes.set_ylim(page.height, 0)
    return figure


def _square(left: float, top: float, edge: float, colour: str, width_px: float, dpi: float) -> Rectangle:
    side = TILE_PX + 2 * edge
    return Rectangle((left - edge, top - edge), side, side, fill=False, edgecolor=colour, linewidth=width_px * 72 / dpi)


def _place(axes: Axes, image: Image.Image, left: float, top: float, *, vector: bool) -> None:
    """In the middle of its black square."""
    small = ImageOps.contain(image, (TILE_PX, TILE_PX))
    width, height = small.size
    x, y = left + (TILE_PX - width) // 2, top + (TILE_PX - height) // 2
    if vector:
        small = image.copy()
        small.thumbnail((_VECTOR_TILE_PX, _VECTOR_TILE_PX))
    pixels = np.asarray(small.convert("RGB"))
    axes.imshow(pixels, extent=(x, x + width, y + height, y), interpolation="none", aspect="auto", zorder=2)
