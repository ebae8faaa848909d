"""Plots of the report, as matplotlib figures: inline SVG for the page, PNG and PDF for papers.

Colours are those of Okabe and Ito (jfly.uni-koeln.de/color), told apart with any colour vision; lines differ
by their dashes, too. Matplotlib is imported where it is used, since it takes half a second.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from results.cells import visible
from results.webpage import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

Series = Mapping[str, tuple[Sequence[float], Sequence[float | None]]]  # {label: (x, y)}

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")
INK = "#1a1a1b"  # of text and axes; becomes the page's own colour, light or dark
POINTS = 200  # at most, of a line
SIZE = (3.6, 2.5)  # inches; small: letters must be readable on a phone
RC = {"font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8,
      "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK,
      "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.4,
      "svg.fonttype": "none", "legend.frameon": False, "axes.formatter.limits": (-3, 5)}


def curves(series: Series, x_label: str, y_label: str, log: bool = False) -> "Figure":
    """Return a figure of lines. series: {label: (x, y)}, None or nan in y is a gap. log: of the y axis.

    A line of many points is thinned to at most about 200.
    """
    with _style():
        columns = 1 if max(map(len, series)) > 24 else 2
        rows = len(series) // columns
        # A longer legend takes nothing of the plot.
        figure, axes = _axes((SIZE[0], SIZE[1] + 0.17 * max(0, rows - 1)))
        for number, (label, (x, y)) in enumerate(series.items()):
            step = math.ceil(len(x) / POINTS)
            kept = sorted({*range(0, len(x), step), len(x) - 1})
            axes.plot([x[index] for index in kept],
                      [math.nan if y[index] is None else y[index] for index in kept], label=_words(label),
                      color=OKABE_ITO[number % len(OKABE_ITO)],
                      linestyle=DASHES[number % len(DASHES)],
                      marker="o" if len(kept) < 15 else "", markersize=3)
        axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log else "linear")
        if len({place for x, _ in series.values() for place in x}) == 1:
            axes.set_xlim(left=0)  # around a single place matplotlib shows 5 % of it on both sides
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=columns)
        return figure


def sweep(series: Series, x_label: str, y_label: str, log: bool) -> "Figure":
    """Return a figure with a panel for each line, one above the other over the same numbers: what is measured
    on different data has no common axis. series: {title: (x, y)}. log: of the x axis."""
    with _style():
        figure, panels = _panels((SIZE[0], SIZE[1] * (0.4 + 0.6 * len(series))), len(series))
        for number, (axes, (title, (x, y))) in enumerate(zip(panels, series.items())):
            axes.plot(x, y, color=OKABE_ITO[number], marker="o", markersize=4)
            axes.set(ylabel=y_label, xscale="log" if log else "linear")
            axes.set_title(_words(title), loc="left", fontsize=9)
            axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        panels[-1].set_xlabel(x_label)
        places = sorted({place for x, _ in series.values() for place in x})
        panels[-1].set_xticks(places, [f"{place:g}" for place in places], rotation=45)
        panels[-1].minorticks_off()
        return figure


def stacked(parts: Mapping[str, Series], x_label: str, log: Sequence[str] = ()) -> "Figure":
    """Return a figure with a panel for each entry, one above the other over the same x. parts: {label of the
    y axis: lines}. log: of these y axes. A label has one colour in all panels, and stands in the legend
    once."""
    with _style():
        labels = list(dict.fromkeys(label for series in parts.values() for label in series))
        figure, panels = _panels((SIZE[0], SIZE[1] * 0.75 * len(parts) + 0.17 * (len(labels) // 2)),
                                 len(parts))
        drawn = {}
        for axes, (y_label, series) in zip(panels, parts.items()):
            for label, (x, y) in series.items():
                number = labels.index(label)
                drawn[label], = axes.plot(x, [math.nan if value is None else value for value in y],
                                          color=OKABE_ITO[number % len(OKABE_ITO)], marker="o", markersize=2,
                                          linestyle=DASHES[number // len(OKABE_ITO) % len(DASHES)])
            axes.set(ylabel=y_label, yscale="log" if y_label in log else "linear")
            axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        panels[-1].set_xlabel(x_label)
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
        figure.legend(drawn.values(), map(_words, drawn), loc="outside upper left", ncols=2)
        return figure


def matrix(values: "ArrayLike", x_label: str, y_label: str, bar_label: str, signed: bool) -> "Figure":
    """Return a picture of a matrix (rows, columns) with its colour bar. signed: from -1 to 1, else from 0."""
    with _style():
        figure, axes = _axes((3.6, 3.1))
        limits = {"vmin": -1, "vmax": 1, "cmap": "PuOr"} if signed else {"vmin": 0, "cmap": "cividis"}
        image = axes.imshow(values, interpolation="none", **limits)
        axes.set(xlabel=x_label, ylabel=y_label)
        bar = figure.colorbar(image, ax=axes, label=bar_label, shrink=0.8)
        bar.solids.set_rasterized(True)  # one small picture and not 256 stripes
        return figure


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> "Figure":
    """Return a picture of a confusion matrix, each row divided by its sum; names where they fit."""
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    figure = matrix(shares, "predicted class", "true class", "share of the true class (%)", signed=False)
    if len(classes) <= 25:
        axes = figure.axes[0]
        with _style():
            axes.set_xticks(range(len(classes)), [_short(name) for name in classes], rotation=90, fontsize=7)
            axes.set_yticks(range(len(classes)), [_short(name) for name in classes], fontsize=7)
    return figure


def bars(values: dict[str, float], x_label: str) -> "Figure":
    """Return horizontal bars, the largest first. values: {name: percent}."""
    with _style():
        figure, axes = _axes((3.6, 0.5 + 0.17 * len(values)))
        ranked = sorted(values.items(), key=lambda pair: (pair[1], pair[0]))
        axes.barh([_short(name) for name, _ in ranked], [value for _, value in ranked], color=OKABE_ITO[0])
        axes.set(xlabel=x_label, xlim=(0, 100), ylim=(-0.6, len(ranked) - 0.4))
        axes.tick_params(axis="y", length=0, labelsize=7)
        axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
        return figure


def svg(figure: "Figure", name: str, description: str) -> str:
    """Return a figure as inline SVG that follows the page's text colour and scales to its column.

    name: unique in the page, since ids are made from it. description: for readers who cannot see the figure.
    """
    text = io.StringIO()
    with _style({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg"):].replace(INK, "currentColor")
    drawing = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(?<=<g) id="[^"]*"|font-family: [^;]*; ', "", drawing)
    view = re.findall(r'viewBox="[^"]*"', drawing)[0]
    head = f'<svg {view} role="img" aria-label="{escape(description)}">'
    drawing = re.sub(r"<svg[^>]*>", lambda _: head, drawing, count=1)
    return re.sub(r"\s+", " ", re.sub(r"(?<=>)\s+(?=<)", "", drawing)).strip()


def save(figure: "Figure", folder: Path, name: str) -> None:
    """Write folder/name.png (200 dots per inch) and folder/name.pdf, on white."""
    folder.mkdir(parents=True, exist_ok=True)
    with _style():
        figure.savefig(folder / f"{name}.png", dpi=200, facecolor="white")
        figure.savefig(folder / f"{name}.pdf", facecolor="white", metadata={"CreationDate": None})


def _axes(size):
    figure, (axes,) = _panels(size, 1)
    return figure, axes


def _panels(size, count):
    """Return a figure and its panels, one above the other over the same x axis."""
    from matplotlib.figure import Figure

    figure = Figure(size, layout="constrained")
    return figure, figure.subplots(count, sharex=True, squeeze=False)[:, 0]


def _style(more=()):
    import matplotlib

    return matplotlib.rc_context({**RC, **dict(more)})


def _short(name):
    return _words(name if len(name) <= 18 else name[:16] + "...")


def _words(text):
    """Return text that Matplotlib takes as it is, not as a formula between signs of dollar."""
    return visible(text).replace("$", r"\$")
