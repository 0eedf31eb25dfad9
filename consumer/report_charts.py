"""The pictures of the report: inline SVG whose colours follow the page's light or dark theme."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

from consumer.errors import ConfigError
from consumer.report_words import ACTION_MARK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

INK, GRID, MARK, ACTED, CARD = "#010100", "#010101", "#010102", "#010103", "#010104"
"""Stand-ins that matplotlib draws with; in the page they become the theme's variables."""
_VARIABLES = {INK: "var(--ink-soft)", GRID: "var(--grid)"}
_VARIABLES |= {MARK: "var(--mark)", ACTED: "var(--acted)", CARD: "var(--card)"}
COLOURS = 8
_SERIES = [f"#0200{index:02x}" for index in range(COLOURS)]
_VARIABLES |= {colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES)}

MARK_STYLES = {
    "drift detected": {"ls": (0, (4, 3)), "lw": 1.4, "color": MARK},
    "drift of one part": {"ls": "-", "lw": 0.6, "alpha": 0.45, "color": MARK},
    "policy acted": {"ls": "-", "lw": 2.2, "color": ACTED, "zorder": 2.5},
    "recovered": {"ls": ":", "lw": 1.4, "color": MARK},
    "not recovered": {"ls": "-.", "lw": 1.4, "color": MARK},
}
"""How the kinds of vertical marks are drawn."""
LEAST_GAP = 0.02
"""Of the width, from one mark with words to the next: where there is less, the table beside the picture tells."""
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_MAX_POINTS = 600
_RC = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be read aloud
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
}


class Mark(NamedTuple):
    """A vertical mark; its words stand beside it where there is room for them."""

    place: float
    kind: str
    words: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """One chart: per name its points (x, y), the axes' titles, and vertical marks."""

    x_title: str
    y_title: str
    points: Mapping[str, Sequence[tuple[float, float]]]
    marks: Sequence[Mark] = ()
    from_zero: bool = True
    markers: bool = True
    shares: bool = False
    """Whether x is a share, not a number of events."""


def colour_index(names: Sequence[str]) -> dict[str, int]:
    """Give every name its colour, the model the first, so that a method looks alike in all pictures."""
    ordered = sorted(names, key=lambda name: name != "tidemill")
    return {name: index % COLOURS for index, name in enumerate(ordered)}


def line_chart(chart: Lines, colours: Mapping[str, int], name: str) -> str:
    """Return the chart as an SVG element; `name` tells its ids from those of other pictures of the page."""
    figure, axes = _figure()
    for method, points in chart.points.items():
        _draw_line(axes, method, _thin(points), colours.get(method, 0), markers=chart.markers)
    ends = [x for points in chart.points.values() if points for x in (points[0][0], points[-1][0])]
    _draw_marks(axes, chart.marks, max(ends, default=0.0) - min(ends, default=0.0))
    if chart.from_zero:
        axes.set_ylim(bottom=0)
    return _finish(figure, axes, chart.x_title, chart.y_title, name, shares=chart.shares)


def share_chart(points: Sequence[tuple[int, Mapping[str, float]]], x_title: str, y_title: str, name: str) -> str:
    """Return stacked shares over the stream as an SVG element."""
    figure, axes = _figure()
    thinned = _thin(points)
    components = list(dict.fromkeys(component for _, shares in thinned for component in shares))
    layers = [[shares.get(component, 0.0) for _, shares in thinned] for component in components]
    colours = [_SERIES[index % COLOURS] for index in range(len(components))]
    axes.stackplot([x for x, _ in thinned], layers, labels=components, colors=colours, alpha=0.85, linewidth=0)
    axes.set_ylim(0, 1)
    return _finish(figure, axes, x_title, y_title, name)


def _draw_marks(axes: Any, marks: Sequence[Mark], width: float) -> None:
    """Draw each place once per kind, the kinds told apart by dashes and width; beside it, once, what it is about."""
    for kind in dict.fromkeys(mark.kind for mark in marks):
        for number, place in enumerate(sorted({mark.place for mark in marks if mark.kind == kind})):
            axes.axvline(place, label=kind if number == 0 else None, **MARK_STYLES[kind])
    written: list[float] = []
    acted = {mark.place for mark in marks if mark.kind == ACTION_MARK}
    for place in sorted({mark.place for mark in marks if mark.words}, key=lambda place: (place not in acted, place)):
        if any(abs(place - other) < LEAST_GAP * width for other in written):
            continue
        words = ", ".join(dict.fromkeys(mark.words for mark in marks if mark.place == place and mark.words))
        axes.annotate(
            words,
            (place, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(2, 0),
            textcoords="offset points",
            rotation=90,
            va="bottom",
            fontsize=8,
            color=MARK,
            zorder=4,
            bbox={"facecolor": CARD, "alpha": 0.8, "pad": 0.5, "edgecolor": "none"},
        )
        written.append(place)


def _draw_line(axes: Any, method: str, points: Sequence[tuple[float, float]], colour: int, *, markers: bool) -> None:
    main = method == "tidemill"
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        label=method,
        color=_SERIES[colour],
        lw=3.0 if main else 1.6,
        ls="-" if main else _STYLES[colour % len(_STYLES)],
        marker=_MARKERS[colour] if markers else None,
        ms=5,
        zorder=3 if main else 2,
    )


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - an extra that only reports need
        from matplotlib.figure import Figure  # noqa: PLC0415 - the same
    except ImportError as error:
        raise ConfigError("a report needs matplotlib: install tidemill with the extra `report`") from error
    with rc_context(_RC):
        figure = Figure(figsize=(8.2, 3.6), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        axes.set_axisbelow(True)
    return figure, axes


def _finish(figure: Any, axes: Any, x_title: str, y_title: str, name: str, *, shares: bool = False) -> str:
    from matplotlib import rc_context  # noqa: PLC0415 - an extra that only reports need
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415 - the same

    with rc_context(_RC | {"svg.hashsalt": name}):
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        if not shares:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.margins(x=0.01)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper left", ncols=4)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _for_page(text.getvalue(), f"{y_title} over {x_title}", name)


def _for_page(svg: str, label: str, name: str) -> str:
    """Cut the SVG out of its file, give it the page's colours and font, and ids that no other picture has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    svg = re.sub(r"font: [^;\"]*?(\d+px)[^;\"]*", r"font: \1 var(--font)", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def _thin(points: Sequence[Any]) -> Sequence[Any]:
    """Return at most _MAX_POINTS of them, evenly spread, the last one always there."""
    step = -(-len(points) // _MAX_POINTS) or 1
    return list(_backwards(points, step))[::-1]


def _backwards(points: Sequence[Any], step: int) -> Iterator[Any]:
    for index in range(len(points) - 1, -1, -step):
        yield points[index]
