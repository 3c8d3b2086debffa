"""One self-contained HTML page about a run, and its metrics as text."""

import base64
import textwrap
from html import escape

from ganseg import files, metrics
from ganseg.figures import curves, pictures

CONTROL = "untrained_"  # prefix of the control's metrics
NO_METRICS = {"stage", "step", "time_s", "left_out", "notes"}  # the other keys of an evaluation's record
SUMMARY = ("image_size", "crop", "n_parts", "n_per", "heatmap", "lambda_con", "lambda_area", "batch_size",
           "max_steps", "seed", "segmenter", "backbone_weights", "distill_generator", "distill_steps")
SAMPLES = ("Each generated picture stands beside itself with its points and part masks: a colour should "
           "cover the same part in every picture, and the masks should follow the object's outline.")
DETECTIONS = ("Test pictures with the parts that the segmenter detects, and the truth where the data set has "
              "it: the colours need not be those of the truth, but each should stay on one true part.")
PICTURES = ("Training pictures (those that regressions and matching are fitted on), then test pictures, with the "
            "annotations there are: landmarks should sit where their names say, masks on their objects.")
CURVES = ("Losses are means since the log line before. Neither adversarial loss should stay at 0, and no "
          "part's share should vanish.")
WITH_CONTROL = ("The control is the same segmenter distilled from a generator that was never trained: what "
                "the metric gives without learning.")
CSS = """body{font:16px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1.5em;color:#222}
h2{margin-top:2em;border-bottom:1px solid #ddd} table{border-collapse:collapse;width:100%}
tr:first-child{font-weight:600}
th,td{text-align:left;vertical-align:top;padding:.3em .9em .3em 0;border-bottom:1px solid #eee}
.number{text-align:right;font-variant-numeric:tabular-nums} .small{color:#555;font-size:.85em}
img{max-width:100%} code,pre{font-size:.85em;overflow-x:auto} .fields{columns:3;padding-left:1.2em}"""


def write_report(run):
    """Write report.html into the folder of a runs.Run, with whatever there is by now. Returns its Path.

    The page needs no network, because the pictures are inside.
    """
    record = _evaluation(run)
    sections = {
        "Settings": _settings(run),
        "Metrics": _metrics(record),
        "Metrics left out": _list(f"{name}: {reason}" for name, reason in record.get("left_out", {}).items()),
        "Generated samples": _picture(run, "samples", SAMPLES),
        "Detections": _picture(run, "detections", DETECTIONS),
        "Training": _curves(run),
        "The pictures": _picture(run, "prepare", PICTURES),
    }
    title = escape(f"GANSeg: {run.label}")
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    body = "".join(f"<h2>{name}</h2>\n{content}\n" for name, content in sections.items() if content)
    page = f"{head}<style>{CSS}</style></head><body><h1>{title}</h1>\n{body}</body></html>\n"
    path = run.folder / "report.html"
    files.write_text(path, page)
    return path


def metrics_table(run):
    """The metrics of the newest evaluation as text: name, value, the control's value and the protocol."""
    record = _evaluation(run)
    if not record:
        return f"No metrics yet; make them with: {run.command('evaluate')}"
    rows = [(name, *numbers, textwrap.shorten(protocol, 60, placeholder=" ..."))
            for name, *numbers, protocol in _rows(record)]
    rows.insert(0, ("metric", "value", "untrained", "protocol"))
    name, value, control, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    if not any(row[2] for row in rows[1:]):  # no control, no column
        rows, control = [(a, b, "", d) for a, b, _, d in rows], 0
    lines = [f"{a:{name}}  {b:>{value}}  {c:>{control}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join(lines + [f"left out: {k} ({why})" for k, why in record.get("left_out", {}).items()])


def _evaluation(run):
    return next(reversed(run.records("evaluate")), {})


def _rows(record):
    """(name, value, control's value or "", protocol) of each metric in a record, as text."""
    protocols = metrics.protocols()
    values = {name: f"{value:.4g}" for name, value in record.items()
              if name not in NO_METRICS and isinstance(value, int | float)}
    return [(name, value, values.get(CONTROL + name, ""), protocols.get(name, ""))
            for name, value in values.items() if not name.startswith(CONTROL)]


def _settings(run):
    path = run.folder / "config.yaml"
    whole = path.read_text(encoding="utf-8") if path.exists() else ""
    details = f"<details><summary>All of config.yaml</summary><pre>{escape(whole)}</pre></details>" if whole else ""
    return _list((f"{name}: {getattr(run.cfg, name)}" for name in SUMMARY), ' class="fields"') + details


def _metrics(record):
    rows = _rows(record)
    has_control = any(control for _, _, control, _ in rows)
    styles = ("", ' class="number"', ' class="number"', ' class="small"')
    lines = [("metric", "value", "control" if has_control else "", "protocol"), *rows]
    cells = ["".join(f"<td{style}>{escape(text)}</td>" for style, text in zip(styles, line, strict=True))
             for line in lines]
    notes = _list(f"{name.replace('_', ' ')}: {note}" for name, note in record.get("notes", {}).items())
    below = (f"<p>{WITH_CONTROL}</p>" if has_control else "") + notes
    return f"<table><tr>{'</tr><tr>'.join(cells)}</tr></table>{below}" if rows else ""


def _list(texts, style=""):
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul{style}>{items}</ul>" if items else ""


def _picture(run, name, sentence):
    path = run.folder / "figures" / f"{name}.png"
    if not path.exists():
        return ""
    return f"<p>{escape(sentence)}</p>{_embedded(path.read_bytes(), name)}"


def _curves(run):
    stages = [stage for stage in ("train", "distill") if run.records(stage)]
    images = "".join(_embedded(pictures.png(curves.stage_curves(run, stage)), stage) for stage in stages)
    return f"<p>{escape(CURVES)}</p>{images}" if stages else ""


def _embedded(png, name):
    """The bytes of a PNG as a picture inside the page."""
    return f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
