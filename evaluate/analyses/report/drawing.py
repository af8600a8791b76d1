"""A chart as SVG for the page, and as PNG beside it; the same chart gives the same bytes."""

import base64
import io
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

DPI = 150


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with what it shows.

    Attributes:
        name: File name without suffix; letters, digits, - and _.
        title: In a few words.
        caption: Encoders, n, filters, exclusion.
        svg: ``data:`` URI of an SVG image for an HTML page.
        png: The same as a file.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes

    @classmethod
    def of(cls, figure: Figure, name: str, title: str, caption: str) -> "Drawing":
        """Draw a chart."""
        vector, pixels = io.BytesIO(), io.BytesIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cbmir"}):  # none: texts stay texts
            figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
            figure.savefig(pixels, format="png", dpi=DPI, metadata={"Software": None})
        encoded = base64.b64encode(vector.getvalue()).decode()
        return cls(name, title, caption, f"data:image/svg+xml;base64,{encoded}", pixels.getvalue())
