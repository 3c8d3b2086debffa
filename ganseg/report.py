"""One self-contained HTML page about a run, and its metrics as text."""

import base64
import textwrap
from html import escape

from ganseg import metrics, plots

CONTROL = "untrained_"  # prefix of the same metric for the control
NO_METRICS = {"stage", "step", "time_s", "left_out", "notes"}  # other keys of an evaluation's record
SUMMARY = ("image_size", "crop", "n_parts", "n_per", "heatmap", "lambda_con", "lambda_area", "batch_size", "max_steps",
           "seed", "segmenter", "backbone_weights", "distill_generator", "distill_steps", "distill_batch_size")
SAMPLES = ("Each generated picture stands beside itself with its points and part masks: one colour should cover "
           "the same part in every picture, and the masks should follow the object's outline.")
DETECTIONS = ("Test pictures with the parts that the segmenter detects, beside the truth where the data set has it: "
              "the colours need not agree with those of the truth, but each should stay on one true part.")
CURVES = ("Losses are means since the log line before. Neither adversarial loss should stay at 0, and no part's "
          "share should vanish.")
CONTROL_NOTE = ("The control is the same segmenter distilled from a generator that was never trained: what a metric "
                "gives without learning.")
CSS = """body{font:16px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1.5em;color:#222}
h1,h2{line-height:1.2} h2{margin-top:2em;border-bottom:1px solid #ddd} table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3em .8em .3em 0;border-bottom:1px solid #eee}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap} .small{color:#555;font-size:.85em}
img{max-width:100%} code,pre{font-size:.85em;overflow-x:auto} .fields{columns:3;padding-left:1.2em}"""


def write(run):
    """Write report.html into the run's folder, with whatever of the run there is by now.

    run  a runs.Run
    Returns the Path. The page needs no network: plotly's library and the pictures are inside.
    """
    record = _evaluation(run)
    sections = [
        _section("Settings", _settings(run)),
        _section("Metrics", _metrics(record)),
        _section("Metrics left out", _left_out(record)),
        _section("Generated samples", _picture(run, "samples", SAMPLES)),
        _section("Detections", _picture(run, "detections", DETECTIONS)),
        _section("Training", _curves(run)),
    ]
    title = escape(f"GANSeg: {run.label}")
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    path = run.folder / "report.html"
    partial = path.with_suffix(".partial")
    body = f"{head}<style>{CSS}</style></head><body><h1>{title}</h1>{''.join(sections)}</body></html>\n"
    partial.write_text(body, encoding="utf-8")
    partial.replace(path)
    return path


def table(run):
    """The metrics of the newest evaluation as text: name, value, the control's value and the protocol."""
    record = _evaluation(run)
    rows = [(name, _number(value), _number(control), textwrap.shorten(protocol, 60, placeholder=" ..."))
            for name, value, control, protocol in _rows(record)]
    if not rows:
        return f"No metrics yet; make them with: {run.command('evaluate')}"
    rows.insert(0, ("metric", "value", "untrained", "protocol"))
    name, value, control, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    control = control if any(row[2] for row in rows[1:]) else 0  # no column without a control
    lines = [f"{row[0]:{name}}  {row[1]:>{value}}  " + (f"{row[2]:>{control}}  " if control else "") + row[3]
             for row in rows]
    lines += [f"left out: {name} ({reason})" for name, reason in record.get("left_out", {}).items()]
    return "\n".join(lines)


def _evaluation(run):
    return next(reversed(run.records("evaluate")), {})


def _rows(record):
    """(name, value, control's value or None, protocol) of each metric in a record."""
    protocols = metrics.protocols()
    values = {name: value for name, value in record.items() if name not in NO_METRICS}
    names = [name for name in values if not name.startswith(CONTROL)]
    return [(name, values[name], values.get(CONTROL + name), protocols.get(name, "")) for name in names]


def _number(value):
    return "" if value is None else f"{value:.4g}"


def _section(title, content):
    return f"<h2>{escape(title)}</h2>\n{content}\n" if content else ""


def _settings(run):
    fields = "".join(f"<li><code>{name}: {escape(str(getattr(run.cfg, name)))}</code></li>" for name in SUMMARY)
    path = run.folder / "config.yaml"
    whole = escape(path.read_text()) if path.exists() else ""
    details = f"<details><summary>All of config.yaml</summary><pre>{whole}</pre></details>" if whole else ""
    return f'<ul class="fields">{fields}</ul>{details}'


def _metrics(record):
    rows = _rows(record)
    has_control = any(control is not None for _, _, control, _ in rows)
    cells = [f"<tr><td><code>{escape(name)}</code></td>"
             + "".join(f'<td class="number">{_number(n)}</td>' for n in (value, control)[: 1 + has_control])
             + f'<td class="small">{escape(protocol)}</td></tr>' for name, value, control, protocol in rows]
    control = '<th class="number">control</th>' if has_control else ""
    head = f'<tr><th>metric</th><th class="number">value</th>{control}<th>protocol</th></tr>'
    notes = "; ".join(f"{name.replace('_', ' ')}: {note}" for name, note in record.get("notes", {}).items())
    below = [text for text in (CONTROL_NOTE if has_control else "", notes) if text]
    return f"<table>{head}{''.join(cells)}</table>{''.join(map(_paragraph, below))}" if rows else ""


def _left_out(record):
    items = record.get("left_out", {}).items()
    reasons = "".join(f"<li><code>{escape(name)}</code>: {escape(reason)}</li>" for name, reason in items)
    return f"<ul>{reasons}</ul>" if reasons else ""


def _picture(run, name, sentence):
    path = run.folder / "figures" / f"{name}.png"
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'{_paragraph(sentence)}<img alt="{name}" src="data:image/png;base64,{data}">'


def _curves(run):
    stages = {"train": "GAN training", "distill": "Distillation"}
    figures = [plots.training_curves(run.records(s), title) for s, title in stages.items() if run.records(s)]
    if shares := run.records("samples"):
        figures.append(plots.part_shares(shares))
    # The library, some 4 MB, goes into the page once.
    parts = [f.to_html(full_html=False, include_plotlyjs=i == 0) for i, f in enumerate(figures)]
    return _paragraph(CURVES) + "".join(parts) if parts else ""


def _paragraph(text):
    return f"<p>{escape(text)}</p>"
