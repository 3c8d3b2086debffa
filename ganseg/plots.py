"""Data -> plotly Figure, nothing else."""

import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ganseg import pictures

QUANTITIES = ("loss", "penalty", "accuracy")  # how the names of what training logs end
N_COLUMNS = 3
ROW_PX = 200  # height of one row of curves
CURVE, BACKGROUND = "#0072B2", "#DDDDDD"


def training_curves(records, title):
    """What a stage logged over its steps: one small plot per loss, penalty and accuracy.

    records  dicts {stage, step, name: value, ...} of metrics.jsonl; a name may be missing from some
    Returns a Figure, with nothing but the title where there are no records.
    """
    names = list(dict.fromkeys(name for record in records for name in record if name.endswith(QUANTITIES)))
    if not names:
        return _styled(go.Figure(), title)
    n_rows, n_columns = -(-len(names) // N_COLUMNS), min(len(names), N_COLUMNS)
    figure = make_subplots(
        n_rows, n_columns, shared_xaxes="all", subplot_titles=names, vertical_spacing=0.24 / n_rows
    )
    for i, name in enumerate(names):
        cell = {"row": i // N_COLUMNS + 1, "col": i % N_COLUMNS + 1}
        figure.add_trace(_line([r for r in records if name in r], name, name=name, line_color=CURVE), **cell)
        if i + N_COLUMNS >= len(names):  # nothing below it
            figure.update_xaxes(title_text="step", showticklabels=True, **cell)
    figure.update_layout(showlegend=False, height=110 + ROW_PX * n_rows)
    return _styled(figure, title)


def part_shares(records, title="Share of the generated pixels that each part holds"):
    """Mean share of background and parts over the steps, stacked, in the parts' colours.

    records  dicts {step, background_share, part_1_share, ..., part_K_share}
    Returns a Figure, with nothing but the title where there are no records.
    """
    figure = go.Figure()
    n_parts = sum(name.startswith("part_") for name in (records[0] if records else ()))
    colors = [f"rgb({r}, {g}, {b})" for r, g, b in pictures.part_colors(n_parts)]
    for k in reversed(range(n_parts + 1)):  # the background on top, where it hides no part
        name, color = (f"part_{k}", colors[k - 1]) if k else ("background", BACKGROUND)
        style = {"stackgroup": "shares", "fillcolor": color, "line_color": color, "line_width": 1}
        figure.add_trace(_line(records, f"{name}_share", name=name, **style))
    if records:
        figure.update_xaxes(title_text="step")
        figure.update_yaxes(title_text="share of pixels", range=[0, 1])
    return _styled(figure.update_layout(height=380), title)


def picture(sheet, title):
    """A picture without axes: uint8 (H, W, 3) -> Figure that holds it as PNG."""
    figure = px.imshow(sheet, binary_string=True)  # as numbers it would be ten times as large
    figure.update_traces(hoverinfo="skip", hovertemplate=None)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return _styled(figure, title).update_layout(margin={"l": 0, "r": 0, "b": 0})


def _line(records, quantity, **style):
    """One quantity over the steps; a single record shows as a dot."""
    x, y = [r["step"] for r in records], [r[quantity] for r in records]
    return go.Scatter(x=x, y=y, mode="lines" if len(records) > 1 else "markers", **style)


def _styled(figure, title):
    figure.update_layout(title=title, template="plotly_white", margin={"l": 50, "r": 20, "t": 70, "b": 50})
    return figure
