"""Data in, a plotly Figure (or a picture) out, and nothing else."""

import math

import numpy as np
import pandas as pd
import PIL.Image
import plotly.express as px
import plotly.graph_objects as go
import plotly.io as pio
from IPython.display import Image
from PIL import ImageDraw, ImageFont

from ganseg.figures import pictures, static
from ganseg.figures.colors import FIRST

ROW_PX, TITLE_PX = 200, 16  # heights of a row of small plots and of a picture's title, at least
CURVE, GREY, BACKGROUND = "#0072B2", "#888888", "#DDDDDD"
AS_TEXT = {ord(sign): f"&#{ord(sign)};" for sign in "&<>$%"}


class Chart(go.Figure):
    """A Figure that notebooks hold for plotly, which Lab runs, and as PNG, which their copies in HTML show.

    Plotly's own HTML would come first in those, and it needs the network or 5 MB of JavaScript.
    """

    _ipython_display_ = _repr_html_ = None  # notebooks would take plotly's own formats from these

    def _repr_mimebundle_(self, *args, **kwargs):
        return {**pio.renderers["plotly_mimetype"].to_mimebundle(self.to_dict()), "image/png": static.png(self)}


def picture(sheet, title):
    """A picture, uint8 (H, W, 3), as PNG under its title."""
    height, width, _ = sheet.shape
    size = max(TITLE_PX, width // 60)  # a wide picture is shown smaller than it is
    font = ImageFont.load_default(size)
    page = PIL.Image.new("RGB", (max(width, math.ceil(font.getlength(title))), 2 * size + height), "white")
    ImageDraw.Draw(page).text((0, size // 3), title, "black", font)
    page.paste(PIL.Image.fromarray(sheet), (0, 2 * size))
    return Image(pictures.encoded(page, "PNG", optimize=True))


def strips(of_rows, title):
    """Rows of pictures, named at the left: name -> uint8 (H, W, 3), all of one size."""
    if not of_rows:
        return _styled(go.Figure(), title)
    figure = px.imshow(np.concatenate(list(of_rows.values())), binary_string=True)  # far smaller than numbers
    figure.update_traces(hoverinfo="skip", hovertemplate=None).update_xaxes(visible=False)
    middles = (np.arange(len(of_rows)) + 0.5) * len(next(iter(of_rows.values())))
    figure.update_yaxes(visible=True, tickvals=middles.tolist(), ticktext=list(map(plain, of_rows)))
    return _styled(figure, title, height=110 + 60 * len(of_rows))


def sweep_curves(table, names, title):
    """One small plot per metric over the settings of a sweep, with standard deviations over seeds.

    table  DataFrame of ganseg.experiments.findings
    names  metrics; those that the table has are drawn
    """
    rows = [{"panel": name, "setting": setting, "mean": line[name], "std": line[f"{name}_std"]}
            for name in names if name in table for setting, line in table.iterrows()]
    return _small_plots(rows, title, x="setting", y="mean", error_y="std", color_discrete_sequence=[CURVE])


def scatter(table, x, y, title):
    """Runs as points, coloured by data set and named on hover: a DataFrame of ganseg.experiments.compare."""
    shown = table.dropna(subset=[x, y]) if {x, y} <= set(table) else table.iloc[:0]
    if shown.empty:
        return _styled(go.Figure(), title)
    names, labels = shown.index.map(plain), {x: plain(x), y: plain(y)}
    return _styled(px.scatter(shown.map(plain), x=x, y=y, color="dataset", hover_name=names, labels=labels), title)


def growth(records, title):
    """Seconds as settings grow, one small plot each. The dashed line is the first point scaled by the operations.

    records  dicts {field, value, seconds} of ganseg.experiments.benchmark, with gflop where operations are counted
    """
    rows, first = [], {}
    for record in records:
        start = first.setdefault(record["field"], record)
        expected = start["seconds"] * record.get("gflop", 1) / start.get("gflop", 1)
        for line, seconds in (("expected", expected), ("measured", record["seconds"])):
            rows.append({"panel": record["field"], "value": record["value"], "line": line, "s": seconds})
    figure = _small_plots(rows, title, len(first), x="value", y="s", color="line", line_dash="line",
                          color_discrete_sequence=[GREY, CURVE], line_dash_sequence=["dash", "solid"])
    return figure.update_yaxes(rangemode="tozero")


def over_steps(records, quantity, title):
    """One quantity of a run's checkpoints, its lowest value marked.

    records  dicts {step, quantity: value}; the quantity may be missing from some
    Returns a Figure, with nothing but the title where no record holds it.
    """
    known = pd.DataFrame(records, columns=["step", quantity]).dropna()
    if known.empty:
        return _styled(go.Figure(), title)
    labels = {quantity: plain(quantity)}
    figure = px.line(known, x="step", y=quantity, markers=True, labels=labels, color_discrete_sequence=[CURVE])
    step, lowest = known.loc[known[quantity].idxmin()]
    figure.add_scatter(x=[step], y=[lowest], name=f"lowest: step {step:.0f}", marker={"size": 11, "color": CURVE})
    return _styled(figure.update_yaxes(rangemode="tozero"), title, height=360)


def equivariance(records, title):
    """PSNR of masks and foreground by offset: solid against old maps moved alike, dashed against old maps left there.

    records  dicts of ganseg.experiments.equivariance, of which the experiment `all points` is drawn
    Returns a Figure with a row per weights; nothing but the title where there are no such records.
    """
    rows = [{"panel": f"{r['weights']}: {kind}", "variant": r["variant"], "against": against,
             "offset in pixels": r["offset_px"], "PSNR in dB": r[f"{kind}{key}_db"]}
            for r in records if r["experiment"] == "all points" for kind in ("masks", "foreground")
            for against, key in (("moved alike", ""), ("left there", "_still"))]
    return _small_plots(rows, title, 2, x="offset in pixels", y="PSNR in dB", color="variant", line_dash="against",
                        line_dash_sequence=["solid", "dash"], color_discrete_sequence=FIRST[4:],
                        row_px=300).update_yaxes(matches="y")


def start_rows(rows, margin, title):
    """One row of pixels of start tensors, channels downwards.

    rows  dict name -> (channels, W) in [-1, 1], margins on both sides included
    """
    S, titles = next(iter(rows.values())).shape[1], list(map(plain, rows))
    figure = px.imshow(np.stack([np.asarray(values) for values in rows.values()]), x=np.arange(S) - margin,
                       facet_col=0, facet_col_wrap=1, aspect="auto", color_continuous_scale="RdBu",
                       color_continuous_midpoint=0, labels={"x": "pixel"})
    for note in figure.layout.annotations:
        note.text = titles[int(note.text.partition("=")[2])]
    for edge in (-0.5, S - 2 * margin - 0.5):
        figure.add_vline(x=edge, line_color="black")
    figure.update_yaxes(showticklabels=False).update_coloraxes(showscale=False)
    return _styled(figure, title, height=110 + 110 * len(rows))


def embedding(xy, parts, samples, title, labels=None):
    """Projected vectors coloured by part; pointing at one names its sample.

    xy              (N, 2)
    parts, samples  (N,) integers: part, with 0 background, and number of the sample
    labels          K texts, as of part_names.part_labels; None: part_1 to part_K
    Returns a Figure with one trace per part, the background first. customdata is the sample's number.
    """
    figure, n_parts = go.Figure(), int(max(parts))
    names = ["background", *(labels or [f"part_{k}" for k in range(1, n_parts + 1)])]
    colors = [BACKGROUND, *(f"rgb({r}, {g}, {b})" for r, g, b in pictures.part_colors(n_parts))]
    for k, name in enumerate(map(plain, names[: n_parts + 1])):
        x, y = xy[parts == k].T.astype(float).round(3).tolist()  # three digits make a smaller file
        marker = {"color": colors[k], "size": 6, "line": {"width": 0.5, "color": "#444444"}}
        figure.add_scatter(x=x, y=y, customdata=samples[parts == k].tolist(), mode="markers", marker=marker, name=name,
                           hovertemplate=f"sample %{{customdata}}, {name}<extra></extra>")
    figure.update_xaxes(visible=False).update_yaxes(visible=False, scaleanchor="x")  # only distances mean something
    return _styled(figure, title, height=600, legend_itemsizing="constant")


def plain(text):
    """A text that plotly shows as it is: no HTML, no TeX, no field of a hover template; html.unescape undoes it."""
    return text.translate(AS_TEXT) if isinstance(text, str) else text


def _small_plots(rows, title, n_columns=3, row_px=ROW_PX, **axes):
    """Lines with dots, one small plot for each `panel` of rows (dicts), axes as for plotly.express."""
    frame = pd.DataFrame(rows).map(plain)
    if frame.empty:
        return _styled(go.Figure(), title)
    n_panels = frame["panel"].nunique()
    n_rows, n_columns = -(-n_panels // n_columns), min(n_panels, n_columns)
    figure = px.line(frame, facet_col="panel", facet_col_wrap=n_columns, facet_row_spacing=0.3 / n_rows, markers=True,
                     **axes)
    figure.for_each_annotation(lambda note: note.update(text=note.text.removeprefix("panel=")))
    figure.update_xaxes(matches=None, showticklabels=True).update_yaxes(matches=None, showticklabels=True)
    return _styled(figure, title, height=150 + row_px * n_rows)


def _styled(figure, title, **layout):
    margin = {"l": 50, "r": 20, "t": 70, "b": 50}
    figure = Chart(figure).update_layout(title=plain(title), template="plotly_white", margin=margin)
    return figure.update_layout(**layout)
