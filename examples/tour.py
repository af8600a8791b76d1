"""``python -m examples.tour``: the images of the docs, made from what `make demo` has left.

Charts hold no pixels of images. The one sheet shows scans of The Cancer Imaging Archive (CC BY 3.0), which the
texts name.
"""

from pathlib import Path

import click
from PIL import Image

IMAGES = {
    "similar-CT.png": "similar-CT.png",
    "report/png/curves.png": "images/curves.png",
    "report/png/map_efficientnet-lite0.png": "images/map.png",
}
"""File of the demo, file of the docs."""

LONGEST_PX = 1000
COLOURS = 128
"""Enough for charts, and a third of the size."""


@click.command()
@click.option("--demo", type=click.Path(path_type=Path, exists=True), default=Path("data/demo"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def tour(demo: Path, out: Path) -> None:
    """Make the images of the docs smaller copies of the demo's."""
    for source, target in IMAGES.items():
        to = out / target
        to.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(demo / source) as image:
            small = image.convert("RGB")
            if target.startswith("images/"):
                small.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
            small.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(to, optimize=True)
        click.echo(f"{to}: {to.stat().st_size:,} bytes")


if __name__ == "__main__":
    tour()
