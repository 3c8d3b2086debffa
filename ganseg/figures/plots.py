"""Data in, a plotly Figure out, and nothing else."""

import html

import numpy as np
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ganseg.figures import pictures

N_COLUMNS = 3
ROW_PX = 200  # height of one row of curves
CURVE, BACKGROUND = "#0072B2", "#DDDDDD"


def picture(sheet, title):
    """A picture without axes: uint8 (H, W, 3) -> Figure that holds it as PNG."""
    figure = px.imshow(sheet, binary_string=True)  # as numbers it would be ten times as large
    figure.update_traces(hoverinfo="skip", hovertemplate=None)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return _styled(figure, title).update_layout(margin={"l": 0, "r": 0, "b": 0})


def strips(of_rows, title):
    """Rows of pictures, named at the left: name -> uint8 (H, W, 3), all of one size."""
    names, rows = list(of_rows), list(of_rows.values())
    if not rows:
        return _styled(go.Figure(), title)
    height = len(rows[0])
    figure = px.imshow(np.concatenate(rows), binary_string=True)
    figure.update_traces(hoverinfo="skip", hovertemplate=None).update_xaxes(visible=False)
    figure.update_yaxes(tickvals=[(i + 0.5) * height for i in range(len(rows))], ticktext=names)
    return _styled(figure, title).update_layout(height=110 + 60 * len(rows))


def sweep_curves(table, names, title):
    """One small plot per metric over the settings of a sweep, with standard deviations over seeds.

    table  DataFrame of ganseg.experiments.findings
    names  metrics; those that the table has are drawn
    """
    names = [name for name in names if name in table]
    if not names:
        return _styled(go.Figure(), title)
    n_rows, n_columns = -(-len(names) // N_COLUMNS), min(len(names), N_COLUMNS)
    figure = make_subplots(n_rows, n_columns, subplot_titles=names, vertical_spacing=0.4 / n_rows)
    for i, name in enumerate(names):
        line = go.Scatter(x=list(table.index), y=table[name], mode="lines+markers", line_color=CURVE,
                          error_y={"array": table[f"{name}_std"]})
        figure.add_trace(line, row=i // N_COLUMNS + 1, col=i % N_COLUMNS + 1)
    figure.update_layout(showlegend=False, height=150 + ROW_PX * n_rows)
    return _styled(figure, title)


def scatter(table, x, y, title):
    """Runs as points, coloured by data set and named on hover: a DataFrame of ganseg.experiments.compare."""
    shown = table.dropna(subset=[x, y]) if {x, y} <= set(table) else table.iloc[:0]
    if shown.empty:
        return _styled(go.Figure(), title)
    return _styled(px.scatter(shown, x=x, y=y, color="dataset", hover_name=shown.index), title)


def growth(records, title):
    """Seconds as settings grow, one small plot each. The dashed line is the first point scaled by the operations.

    records  dicts {field, value, seconds} of ganseg.experiments.benchmark, with gflop where operations are counted
    """
    fields = list(dict.fromkeys(record["field"] for record in records))
    if not fields:
        return _styled(go.Figure(), title)
    figure = make_subplots(1, len(fields), subplot_titles=fields)
    for column, field in enumerate(fields, start=1):
        points = [record for record in records if record["field"] == field]
        x = [record["value"] for record in points]
        expected = [points[0]["seconds"] * p.get("gflop", 1) / points[0].get("gflop", 1) for p in points]
        figure.add_scatter(x=x, y=expected, name="expected", mode="lines", line={"color": "#888888", "dash": "dash"},
                           showlegend=column == 1, row=1, col=column)
        figure.add_scatter(x=x, y=[p["seconds"] for p in points], name="measured", mode="lines+markers",
                           line_color=CURVE, showlegend=column == 1, row=1, col=column)
    figure.update_yaxes(rangemode="tozero").update_yaxes(title_text="s", col=1)
    return _styled(figure.update_layout(height=320), title)


def _line(records, quantity, **style):
    """One quantity over the steps. A single record shows as a dot."""
    x, y = [r["step"] for r in records], [r[quantity] for r in records]
    return go.Scatter(x=x, y=y, mode="lines" if len(records) > 1 else "markers", **style)


def _styled(figure, title):
    figure.update_layout(title=title, template="plotly_white", margin={"l": 50, "r": 20, "t": 70, "b": 50})
    return figure


def over_steps(records, quantity, title):
    """One quantity of a run's checkpoints, its lowest value marked.

    records  dicts {step, quantity: value}; the quantity may be missing from some
    Returns a Figure, with nothing but the title where no record holds it.
    """
    records = [record for record in records if quantity in record]
    figure = go.Figure(_line(records, quantity, name=quantity, line_color=CURVE) if records else None)
    if records:
        lowest = min(records, key=lambda record: record[quantity])
        marker = {"size": 11, "color": CURVE}
        figure.add_trace(_line([lowest], quantity, name=f"lowest: step {lowest['step']}", marker=marker))
        figure.update_xaxes(title_text="step").update_yaxes(title_text=quantity, rangemode="tozero")
    return _styled(figure.update_layout(height=360), title)


# Equivariance


def equivariance(records, title):
    """PSNR of masks and foreground by offset: solid against old maps moved alike, dashed against old maps left there.

    records  dicts of ganseg.experiments.equivariance, of which the experiment `all points` is drawn
    Returns a Figure with a row per weights; nothing but the title where there are no such records.
    """
    records = [r for r in records if r["experiment"] == "all points"]
    rows = list(dict.fromkeys(r["weights"] for r in records))
    if not rows:
        return _styled(go.Figure(), title)
    colors = dict(zip(dict.fromkeys(r["variant"] for r in records), pictures.FIRST[4:], strict=False))
    cells = [(weights, kind) for weights in rows for kind in ("masks", "foreground")]
    titles = [f"{weights}: {kind}" for weights, kind in cells]
    figure = make_subplots(len(rows), 2, shared_yaxes=True, subplot_titles=titles, vertical_spacing=0.3 / len(rows))
    for i, (weights, kind) in enumerate(cells):
        for variant, color in colors.items():
            chosen = [r for r in records if (r["weights"], r["variant"]) == (weights, variant)]
            for key, dash, note in ((f"{kind}_db", "solid", ""), (f"{kind}_still_db", "dash", ", left there")):
                x, y = [r["offset_px"] for r in chosen], [r[key] for r in chosen]
                style = {"mode": "lines+markers", "line": {"color": color, "dash": dash}, "showlegend": i == 0}
                figure.add_trace(go.Scatter(x=x, y=y, name=variant + note, **style), row=i // 2 + 1, col=i % 2 + 1)
    figure.update_xaxes(title_text="offset in pixels", row=len(rows)).update_yaxes(title_text="PSNR in dB", col=1)
    return _styled(figure, title).update_layout(height=150 + 300 * len(rows))


def start_rows(rows, margin, title):
    """One row of pixels of start tensors, channels downwards.

    rows  dict name -> (channels, W) in [-1, 1], margins on both sides included
    """
    figure = make_subplots(len(rows), 1, shared_xaxes=True, subplot_titles=list(rows), vertical_spacing=0.09)
    for i, values in enumerate(rows.values(), 1):
        x = list(range(-margin, values.shape[1] - margin))
        style = {"colorscale": "RdBu", "zmid": 0, "showscale": False}
        figure.add_trace(go.Heatmap(x=x, z=values.tolist(), **style), row=i, col=1)
        for edge in (-0.5, values.shape[1] - 2 * margin - 0.5):
            figure.add_vline(x=edge, line_color="black", row=i, col=1)
    figure.update_yaxes(showticklabels=False).update_xaxes(title_text="pixel", row=len(rows))
    return _styled(figure, title).update_layout(height=110 + 110 * len(rows))


def embedding(xy, parts, samples, title, labels=None):
    """Projected vectors coloured by part; pointing at one names its sample.

    xy              (N, 2)
    parts, samples  (N,) integers: part, with 0 background, and number of the sample
    labels          K texts, as of part_names.part_labels; None: part_1 to part_K
    Returns a Figure with one trace per part, the background first. customdata is the sample's number.
    """
    figure, n_parts = go.Figure(), int(max(parts))
    colors = [BACKGROUND, *(f"rgb({r}, {g}, {b})" for r, g, b in pictures.part_colors(n_parts))]
    for k in range(n_parts + 1):
        chosen, name = parts == k, "background"
        if k:
            name = html.escape(labels[k - 1]) if labels else f"part_{k}"
        x, y = xy[chosen].T.astype(float).round(3).tolist()  # three digits make a smaller file
        marker = {"color": colors[k], "size": 6, "line": {"width": 0.5, "color": "#444444"}}
        hover = f"sample %{{customdata}}, {name}<extra></extra>"
        style = {"mode": "markers", "marker": marker, "hovertemplate": hover, "name": name}
        figure.add_trace(go.Scatter(x=x, y=y, customdata=samples[chosen].tolist(), **style))
    figure.update_xaxes(visible=False).update_yaxes(visible=False, scaleanchor="x")  # only distances mean something
    return _styled(figure, title).update_layout(height=600, legend_itemsizing="constant")
