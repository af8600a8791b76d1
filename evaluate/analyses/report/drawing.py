"""A chart as SVG for the page, and as PNG beside it; the same chart gives the same bytes."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

DPI = 150
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_FOR_FILES = ("metadata", "style")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with what it shows.

    Attributes:
        name: File name without suffix, and start of the ids of its SVG; letters, digits, - and _.
        title: In a few words.
        caption: Encoders, n, filters, exclusion.
        svg: An ``<svg>`` element for an HTML page, without ids or styles that could meet those of another.
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
        return cls(name, title, caption, inline(vector.getvalue(), name, title), pixels.getvalue())


def inline(svg: bytes, name: str, text: str) -> str:
    """An SVG file as an element of an HTML page.

    Ids that nothing refers to are taken away and the others start with the name, so that several charts share a page.
    Namespaces, metadata and styles for the whole page go; sizes scale with the page.

    Args:
        svg: Of matplotlib.
        name: Of the chart.
        text: What it shows, for readers who can't see it.
    """
    root = ElementTree.fromstring(svg)  # noqa: S314  matplotlib has just made it
    for parent in list(root.iter()):
        for child in [item for item in parent if _local(item.tag) in _FOR_FILES]:
            parent.remove(child)
    referred = {target for element in root.iter() for target in _referred(element)}
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): _renamed(key, value, name) for key, value in element.items()}
        if (own := attributes.pop("id", None)) in referred:
            attributes["id"] = f"{name}-{own}"
        if "d" in attributes:
            attributes["d"] = _NUMBER.sub(lambda number: f"{float(number[0]):.2f}", attributes["d"])
        element.attrib = attributes
    root.set("style", f"max-width: {root.attrib.pop('width')}")
    del root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", text)
    return ElementTree.tostring(root, encoding="unicode")


def _referred(element: ElementTree.Element) -> Iterator[str]:
    """The ids that an element refers to."""
    for key, value in element.items():
        if _local(key) == "href" and value.startswith("#"):
            yield value[1:]
        yield from _REFERENCE.findall(value)


def _renamed(key: str, value: str, name: str) -> str:
    """An attribute with its references to ids changed."""
    if _local(key) == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return _REFERENCE.sub(rf"url(#{name}-\1)", value)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
