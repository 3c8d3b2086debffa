"""A plotly Figure as a PNG, for pages that run no plotly: nbconvert's HTML, a printed notebook, a preview."""

import base64
import html
import io

from PIL import Image

WIDTH_PX, HEIGHT_PX, DPI = 900, 450, 100  # height where the figure names none
LEFT, RIGHT, TOP, BOTTOM = 0.08, 0.76, 0.82, 0.13  # what the panels take; the legend stands at the right


def draw(figure):
    """A Figure of plots.py as a matplotlib Figure: its lines, dots, pictures and heat maps, in the same panels."""
    import matplotlib  # takes a second, and training needs no figures
    from matplotlib.figure import Figure

    layout, panels, legend = figure.layout, {}, {}
    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}):  # a name may hold a $
        drawn = Figure((WIDTH_PX / DPI, (layout.height or HEIGHT_PX) / DPI), DPI)
        drawn.suptitle(_text(layout.title.text))
        for trace in figure.data:
            place = trace.xaxis or "x"
            if place not in panels:
                panels[place] = _panel(drawn, layout, trace, panels)
            handle = _draw_trace(panels[place], trace)
            if trace.type.startswith("scatter") and trace.name and trace.showlegend is not False:
                legend.setdefault(_text(trace.name), handle)
        for place, axes in panels.items():
            if layout[f"yaxis{place[1:]}"].rangemode == "tozero":
                axes.set_ylim(bottom=0)
        for line in layout.shapes:
            panels[line.xref].axvline(line.x0, color="black")
        for note in layout.annotations:
            drawn.text(*_place(note.x, note.y), _text(note.text), ha=note.xanchor, va=note.yanchor)
        if legend:
            drawn.legend(legend.values(), legend.keys(), loc="center right", frameon=False)
    return drawn


def png(figure):
    """The same as the bytes of a PNG."""
    import matplotlib  # see draw

    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):
        draw(figure).savefig(buffer, format="png")
    return buffer.getvalue()


def _panel(drawn, layout, trace, others):
    """Axes where plotly has the subplot of a trace."""
    x, y = (layout[name.replace(name[0], f"{name[0]}axis")] for name in (trace.xaxis or "x", trace.yaxis or "y"))
    (x0, x1), (y0, y1) = x.domain or (0, 1), y.domain or (0, 1)
    left, bottom = _place(x0 + 0.04 * (x0 > 0), y0)  # room for the numbers at the axis
    right, top = _place(x1, y1)
    axes = drawn.add_axes((left, bottom, right - left, top - bottom))
    if y.matches and others:
        axes.sharey(next(iter(others.values())))
    axes.set(xlabel=_text(x.title.text), ylabel=_text(y.title.text))
    if y.scaleanchor:
        axes.set_aspect("equal", "datalim")
    if y.tickvals is not None:
        axes.set_yticks(y.tickvals, list(map(_text, y.ticktext)))
    for axis, of_plotly in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_visible(of_plotly.visible is not False and of_plotly.showticklabels is not False)
    return axes


def _draw_trace(axes, trace):
    """Draw a trace; returns what stands for it in a legend."""
    if trace.type == "image":
        return axes.imshow(Image.open(io.BytesIO(base64.b64decode(trace.source.partition(",")[2]))), aspect="auto")
    if trace.type == "heatmap":
        most, half = abs(trace.z).max() or 1, 0.5
        extent = (trace.x[0] - half, trace.x[-1] + half, len(trace.z) - half, -half)
        return axes.imshow(trace.z, cmap="RdBu", vmin=-most, vmax=most, aspect="auto", extent=extent)
    mode, color = trace.mode or "lines+markers", trace.line.color or trace.marker.color
    style = {"linestyle": ("--" if trace.line.dash == "dash" else "-") if "lines" in mode else "",
             "marker": "o" if "markers" in mode else "", "markersize": (trace.marker.size or 6) * 72 / DPI}
    if color.startswith("rgb"):
        color = tuple(int(v) / 255 for v in color[4:-1].split(","))
    xy = [[_text(v) if isinstance(v, str) else v for v in values] for values in (trace.x, trace.y)]
    for *place, name in zip(*xy, () if trace.hovertext is None else trace.hovertext, strict=False):
        axes.annotate(_text(name), place, (4, 4), textcoords="offset points", fontsize=7)
    return axes.errorbar(*xy, yerr=trace.error_y.array, color=color, capsize=3, **style)


def _place(x, y):
    """Plotly's place in [0, 1] between the margins as matplotlib's place in the figure."""
    return LEFT + x * (RIGHT - LEFT), BOTTOM + y * (TOP - BOTTOM)


def _text(text):
    return html.unescape(text or "")
