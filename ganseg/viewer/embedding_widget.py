"""Notebook widget: an embedding whose vectors show their sample when they are clicked."""

import html

import ipywidgets
import plotly.graph_objects as go

from ganseg.figures import pictures


def embedding_explorer(figure, images, labels):
    """An embedding whose vectors can be clicked: the sample appears with the part outlined.

    figure  from plots.embedding
    images  (N, H, W, 3) uint8, the samples by number
    labels  (N, H, W) integers, 0 background
    Returns a VBox: the FigureWidget, the picture, and fields `sample` and `part` that choose without a mouse.
    """
    names = [html.unescape(trace.name) for trace in figure.data]
    colors = [(221, 221, 221), *pictures.part_colors(len(names) - 1)]
    sample = ipywidgets.BoundedIntText(description="sample", max=len(images) - 1)
    part = ipywidgets.Dropdown(description="part", options=list(zip(names, range(len(names)), strict=True)))
    view, note = ipywidgets.Image(format="png"), ipywidgets.Label()

    def show(_=None):
        i, k = sample.value, part.value
        mask = labels[i] == k
        picture, mask_px = pictures.enlarge(images[i][None], 256)[0], pictures.enlarge(mask[None], 256)[0]
        picture = pictures.outline(picture, mask_px, (0, 0, 0), width=4)  # the colour then shows on any picture
        view.value = pictures.png(pictures.outline(picture, mask_px, colors[k]))
        note.value = f"{names[k]}: {mask.sum()} of {mask.size} pixels"

    def clicked(trace, points, _):
        if points.point_inds:  # every trace hears of every click; one that was missed gets no points
            part.value, sample.value = points.trace_index, trace.customdata[points.point_inds[0]]

    chart = go.FigureWidget(figure)
    for trace in chart.data:
        trace.on_click(clicked)
    for field in (sample, part):
        field.observe(show, "value")
    show()
    return ipywidgets.VBox([chart, ipywidgets.HBox([view, ipywidgets.VBox([sample, part, note])])])
