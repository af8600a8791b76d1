"""The charts of a report, and how they are drawn: as SVG for the page and as PNG beside it."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbmir.units import counted

if TYPE_CHECKING:  # an extra, which other analyses do without
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#999999")
"""Of Okabe and Ito, "Color Universal Design", 2008, without yellow, too light on white, and with grey for black."""

MARKS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")
_REST = "#444444"
_WHISKERS: dict[str, Any] = {"fmt": "none", "ecolor": "#333333", "elinewidth": 0.9, "capsize": 1.5}
_WIDE_IN = 8.0
_NUMBERED = 14
"""Classes up to which a confusion matrix shows its numbers."""
_NAME = 40


@dataclass(frozen=True, slots=True)
class Series:
    """Figures with 95% intervals, one a place.

    Attributes:
        name: In the legend.
        values: (n,) figures, NaN where there is none.
        low: (n,) lower ends, NaN without an interval.
        high: (n,) upper ends.
    """

    name: str
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def curves(series: Sequence[Series], ylabel: str) -> "Figure":
    """A line a series over 1, 2, ... places, with a band for its interval."""
    figure = _figure((_WIDE_IN, 4.2))
    axes = _axes(figure)
    handles = []
    for number, item in enumerate(series):
        places = np.arange(1, len(item.values) + 1)
        colour = COLOURS[number % len(COLOURS)]
        line = _LINES[number % len(_LINES)]
        handles += axes.plot(places, item.values, line, color=colour, linewidth=1.6)
        axes.fill_between(places, item.low, item.high, color=colour, alpha=0.12, linewidth=0)
        for ends in (item.low, item.high):
            axes.plot(places, ends, line, color=colour, linewidth=0.5)
    axes.set_xlabel("k, places")
    axes.set_ylabel(ylabel)
    axes.set_xlim(1, max(2, *(len(item.values) for item in series)))
    axes.set_ylim(_lowest(series), 1.005)
    axes.grid(color="#dddddd", linewidth=0.6)
    _legend(figure, handles, [item.name for item in series])
    return figure


def bars(groups: Sequence[str], series: Sequence[Series], xlabel: str) -> "Figure":
    """A group a row, the first on top, and in it a bar a series with its interval."""
    rows = len(groups) * (len(series) + 0.8)
    figure = _figure((_WIDE_IN, 1.3 + 0.17 * rows))
    axes = _axes(figure)
    handles = []
    centres = np.arange(len(groups), dtype=float)
    height = 0.8 / len(series)
    for number, item in enumerate(series):
        places = centres + (number - (len(series) - 1) / 2) * height
        colour, hatch = COLOURS[number % len(COLOURS)], "" if number < len(COLOURS) else "//"
        handles.append(axes.barh(places, np.nan_to_num(item.values), height * 0.92, color=colour, hatch=hatch))
        there = ~np.isnan(item.low)
        reach = np.stack([item.values - item.low, item.high - item.values]).clip(0)[:, there]
        axes.errorbar(item.values[there], places[there], xerr=reach, **_WHISKERS)
        for value, place in zip(item.values, places, strict=True):
            text = "–" if math.isnan(value) else f"{value:.2f}"
            axes.text(1.01, place, text, va="center", fontsize=7, clip_on=False)
    axes.set_yticks(centres, [_short(name) for name in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    _legend(figure, handles, [item.name for item in series])
    return figure


def heatmap(counts: NDArray[np.int64], names: Sequence[str]) -> "Figure":
    """Counts as a table of colours, each row by its share of the row's sum; few classes show their numbers.

    Args:
        counts: (classes, classes) rows the true class, columns what was said.
        names: Of the classes.
    """
    side = max(3.2, (0.34 if len(names) <= _NUMBERED else 0.27) * len(names) + 1.0)
    widest = max(len(_short(name)) for name in names) * 0.075
    figure = _figure((side + widest + 0.8, side + widest))
    axes = _axes(figure)
    sums = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, sums, out=np.zeros(counts.shape), where=sums > 0)
    image = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.4)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    centres = np.arange(len(names)) + 0.5
    axes.set_xticks(centres, [_short(name) for name in names], rotation=90)
    axes.set_yticks(centres, [_short(name) for name in names])
    axes.set_xlabel("said")
    axes.set_ylabel("true")
    if len(names) <= _NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.55 else "#222222"
                axes.text(column + 0.5, row + 0.5, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.6)
    return figure


def scatter(points: NDArray[np.float64], groups: Sequence[str], labels: tuple[str, str]) -> "Figure":
    """Points in the plane, coloured and marked by group; groups beyond the colours share a last one.

    Args:
        points: (n, 2) coordinates.
        groups: (n,) of each point.
        labels: Of the axes.
    """
    figure = _figure((_WIDE_IN, 5.2))
    axes = _axes(figure)
    handles: list[Any] = []
    texts: list[str] = []
    names, which, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    order = np.lexsort((names, -sizes))
    for number, code in enumerate(order[: len(COLOURS)]):
        handles.append(_dots(axes, points[which == code], COLOURS[number], MARKS[number]))
        texts.append(f"{_short(names[code])} ({sizes[code]:,})")
    if len(rest := order[len(COLOURS) :]):
        handles.append(_dots(axes, points[np.isin(which, rest)], _REST, "."))
        texts.append(f"{len(rest)} more ({sizes[rest].sum():,})")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.margins(0.05)
    _legend(figure, handles, texts)
    return figure


def condensed(counts: NDArray[np.int64], names: Sequence[str], most: int) -> tuple[NDArray[np.int64], list[str]]:
    """A confusion matrix of the most frequent true classes, the others gathered in a last row and column.

    Classes that are neither true nor said of any query are left out; equally frequent ones stay in their order.

    Args:
        counts: (classes, classes) rows the true class, columns what was said.
        names: Of the classes.
        most: Classes to keep, if there are more.
    """
    used = np.flatnonzero(counts.sum(axis=1) + counts.sum(axis=0))
    order = used[np.lexsort((-counts.sum(axis=0)[used], -counts.sum(axis=1)[used]))]
    kept, rest = (order, order[:0]) if len(order) <= most else (order[:most], order[most:])
    kept = np.sort(kept)  # the order of the names: modalities and regions side by side
    groups = [np.array([code]) for code in kept] + ([rest] if len(rest) else [])
    sums = [counts[np.ix_(row, column)].sum() for row in groups for column in groups]
    texts = [names[code] for code in kept] + ([counted(len(rest), "other")] if len(rest) else [])
    return np.array(sums, np.int64).reshape(len(groups), len(groups)), texts


def _figure(size_in: tuple[float, float]) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=size_in, layout="constrained")


def _axes(figure: "Figure") -> "Axes":
    axes: Axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _dots(axes: "Axes", points: NDArray[np.float64], colour: str, mark: str) -> Any:
    return axes.scatter(
        points[:, 0], points[:, 1], s=16, c=colour, marker=mark, alpha=0.65, linewidths=0.3, edgecolors="white"
    )


def _lowest(series: Sequence[Series]) -> float:
    """Where an axis of shares begins: at 0, unless all is far above."""
    ends = [value for item in series for values in (item.values, item.low) for value in values if not math.isnan(value)]
    lowest = min(ends, default=0.0)
    return math.floor((lowest - 0.05) * 10) / 10 if lowest > 0.5 else 0.0


def _legend(figure: "Figure", handles: Sequence[Any], texts: Sequence[str]) -> None:
    names = [_short(text) for text in texts]
    columns = 2 if max(map(len, names)) > 24 else 4
    figure.legend(handles, names, loc="outside upper left", ncols=min(columns, len(names)), frameon=False)


def _short(name: str) -> str:
    """A name that fits beside a chart; a ``$`` is a dollar, not mathematics, and signs that XML can't hold are gone."""
    text = "".join(sign if sign.isprintable() else "\ufffd" for sign in name)
    text = text if len(text) <= _NAME else f"{text[: _NAME - 13]}…{text[-12:]}"
    return text.replace("$", r"\$")


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
    def of(cls, figure: "Figure", name: str, title: str, caption: str) -> "Drawing":
        """Draw a chart."""
        vector, pixels = io.BytesIO(), io.BytesIO()
        import matplotlib as mpl

        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cbmir"}):  # none: texts stay texts
            figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
            figure.savefig(pixels, format="png", dpi=DPI, metadata={"Software": None})
        encoded = base64.b64encode(vector.getvalue()).decode()
        return cls(name, title, caption, f"data:image/svg+xml;base64,{encoded}", pixels.getvalue())
