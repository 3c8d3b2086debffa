"""One self-contained HTML page about a run, and its metrics as text."""

import base64
import textwrap
from html import escape

from ganseg import files, metrics, part_names, records
from ganseg.figures import captions, curves, pictures

CONTROL = "untrained_"  # prefix of the control's metrics
NO_METRICS = {"stage", "step", "time_s", "left_out", "notes"}  # the other keys of an evaluation's record
SUMMARY = ("image_size", "crop", "n_parts", "n_per", "heatmap", "lambda_con", "lambda_area", "batch_size",
           "max_steps", "seed", "segmenter", "backbone_weights", "distill_generator", "distill_steps")
OF_CLUSTERS = ("image_size", "crop", "n_parts", "seed")  # those of SUMMARY that mean something without training
SAMPLES = ("Each generated picture stands beside itself with its points and part masks: a colour should "
           "cover the same part in every picture, and the masks should follow the object's outline.")
DETECTIONS = ("Test pictures with the parts that were found in them, and the truth where the data set has "
              "it: the colours need not be those of the truth, but each should stay on one true part.")
PICTURES = ("Training pictures (those that regressions and matching are fitted on), then test pictures, with the "
            "annotations there are: landmarks should sit where their names say, masks on their objects.")
CURVES = ("Losses are means since the log line before. Neither adversarial loss should stay at 0, and no "
          "part's share should vanish.")
WITH_CONTROL = ("The control is the same segmenter distilled from a generator that was never trained: what "
                "the metric gives without learning.")
# Metric, its control, what the control is, whether more is better
BASELINES = (
    ("foreground_iou", "foreground_iou_center_box", "the best box in the middle", True),
    ("landmark_error_with_bias", "landmark_error_mean_landmarks", "the mean training landmarks", False),
    ("keypoint_error_percent", "keypoint_error_percent_mean_keypoints", "the mean training keypoints", False),
)
# Label-free metric, from where on it is high and below where it is low, and what each of the three means
LIGHTS = (
    ("equivariance", 0.7, 0.5, ("Parts are stable", "Parts are fairly stable", "Parts are NOT stable"),
     "when a photo is mirrored, turned, scaled or recoloured, {:.0%} of the foreground keeps its part"),
    ("border_clear", 0.9, 0.7, ("The photos' edges are background", "Parts reach the edges of some photos",
                                "Parts lie ALONG THE EDGES of the photos"),
     "{:.0%} of the pixels there are background, as most should be where the object is in the middle"),
    ("certainty_gap", -0.05, -0.1, ("Photos look like what it learned from", "Photos look somewhat unlike what it "
     "learned from", "Photos look UNLIKE what it learned from"),
     "it is {:.1%} surer of generated pictures than of photos"),
)
RARE = 0.1  # of the photos; a part that fewer show is named
SHOWN = "share of the test pictures that show each part"  # a note of evaluations
CSS = """body{font:16px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 4vw;color:#222;
overflow-wrap:break-word} h1{font-size:1.6em} .verdict{font-weight:600}
h2{margin-top:2em;border-bottom:1px solid #ddd} table{border-collapse:collapse;width:100%}
tr:first-child{font-weight:600}
th,td{text-align:left;vertical-align:top;padding:.3em .9em .3em 0;border-bottom:1px solid #eee}
.number{text-align:right;font-variant-numeric:tabular-nums} .small{color:#555;font-size:.85em}
img{max-width:100%} code,pre{font-size:.85em;overflow-x:auto} .fields{columns:15em;padding-left:1.2em}
@media(max-width:600px){tr{display:grid;grid-template-columns:minmax(0,1fr) 5em 5em;overflow-wrap:anywhere}
td{border:0;padding-right:.5em} .number{overflow-wrap:normal} .small{grid-column:1/-1;border-bottom:1px solid #eee}}"""


def write_report(run):
    """Write report.html into the folder of a runs.Run, with whatever there is by now. Returns its Path.

    The page needs no network, because the pictures are inside.
    """
    record = _evaluation(run)
    sections = {
        "Settings": _settings(run),
        "Metrics": _metrics(record),
        "Metrics left out": _list(_left_out(record)),
        "Generated samples": _picture(run, "samples", SAMPLES),
        "Detections": _picture(run, "detections", DETECTIONS, _legend(run)),
        "Training": _curves(run),
        "The pictures": _picture(run, "prepare", PICTURES),
    }
    path = run.folder / "report.html"
    files.write_text(path, page(f"GANSeg: {captions.caption(run, 'segmenter')}", verdict(run), sections))
    return path


def page(title, said, sections):
    """An HTML page as text: a title, sentences that stand first, and heading -> HTML of each section, if it has any."""
    title = escape(title)
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "".join(f"<h2>{escape(name)}</h2>\n{content}\n" for name, content in sections.items() if content)
    head += f"<style>{CSS}</style></head><body><h1>{title}</h1>\n"
    return head + _list(said, ' class="verdict"') + f"{body}</body></html>\n"


def verdict(run):
    """What the newest evaluation comes to, in sentences: a collapse, the parts in use, what is no better than chance,
    and what can be told without labels.

    A list of texts, empty where there is no evaluation.
    """
    record, said = _evaluation(run), []
    if "collapse" in record:
        used = f"{record.get('parts_used', 0):.0f} of {run.cfg.n_parts} parts are in use"
        said.append(f"The model has collapsed: {used}, and the other numbers mean little." if record["collapse"]
                    else f"No collapse: {used}.")
    for name, control, what, more in BASELINES:
        if {name, control} <= record.keys():
            ours, theirs = record[name], record[control]
            better = "better" if ours != theirs and (ours > theirs) == more else "NOT better"
            said.append(f"{name} is {better} than that of {what}: {ours:.3g} against {theirs:.3g}.")
    return said + without_labels(run)


def without_labels(run):
    """What the label-free metrics of the newest evaluation come to, in sentences.

    A list of texts, empty where there is no evaluation, or one of a collapsed model, for which they mean nothing.
    """
    record, said = _evaluation(run), []
    if record.get("collapse"):
        return []
    for name, high, low, words, why in LIGHTS:
        if name in record:
            good = -record[name] if name == "certainty_gap" else record[name]
            said.append(f"{words[0 if good >= high else 1 if good >= low else 2]}: {why.format(record[name])}.")
    shown, parts = record.get("notes", {}).get(SHOWN, []), part_names.read_parts(run)
    alone = [k for k in parts.numbers if (parts.lookup == k).sum() == 1]  # of merged parts it is not known
    rare = [f"{parts.labels[k - 1]} in {share:.0%}" for k, share in enumerate(shown, 1) if share < RARE and k in alone]
    return said + ([f"Some parts are rare, {', '.join(rare)} of the photos."] if rare else [])


def metrics_table(run):
    """The metrics of the newest evaluation as text: name, value, the control's value and the protocol."""
    record = _evaluation(run)
    if not record:
        return f"No metrics yet; make them with: {run.command('evaluate')}"
    rows = _rows(record)
    name, value, control, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    below = " " * (name + value + control + 6)  # a long protocol goes on under its beginning
    lines = [textwrap.fill(f"{a:{name}}  {b:>{value}}  {c:>{control}}  {d}", len(below) + 60, subsequent_indent=below)
             for a, b, c, d in rows]
    left_out = textwrap.fill(f"Left out: {'; '.join(_left_out(record))}.", len(below) + 60)
    return "\n".join(lines + ([left_out] if record.get("left_out") else []))


def _left_out(record):
    """The metrics that an evaluation left out, as "NAME, NAME: REASON" for each reason."""
    by_reason = {}
    for name, reason in record.get("left_out", {}).items():
        by_reason.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _evaluation(run):
    return next(reversed(run.records("evaluate")), {})


def _rows(record):
    """The header, then (name, value, control's value or "", protocol) of each metric in a record, as text."""
    protocols = metrics.protocols()
    values = {name: f"{value:.4g}" for name, value in record.items()
              if name not in NO_METRICS and isinstance(value, int | float)}
    rows = [(name, value, values.get(CONTROL + name, ""), protocols.get(name, ""))
            for name, value in values.items() if not name.startswith(CONTROL)]
    return [("metric", "value", "untrained" if any(row[2] for row in rows) else "", "protocol"), *rows]


def _settings(run):
    path = run.folder / "config.yaml"
    whole = path.read_text(encoding="utf-8") if path.exists() else ""
    details = f"<details><summary>All of config.yaml</summary><pre>{escape(whole)}</pre></details>" if whole else ""
    notes = _evaluation(run).get("notes", {})
    shown = records.OF_MASKS if records.MASKS in notes else OF_CLUSTERS if records.CLUSTERED in notes else SUMMARY
    return _list((f"{name}: {getattr(run.cfg, name)}" for name in shown), ' class="fields"') + details


def _metrics(record):
    rows, styles = _rows(record), ("", ' class="number"', ' class="number"', ' class="small"')
    cells = ["".join(f"<td{style}>{escape(text)}</td>" for style, text in zip(styles, row, strict=True))
             for row in rows]
    notes = _list(f"{name.replace('_', ' ')}: {note}" for name, note in record.get("notes", {}).items())
    below = (f"<p>{WITH_CONTROL}</p>" if rows[0][2] else "") + notes
    return f"<table><tr>{'</tr><tr>'.join(cells)}</tr></table>{below}" if len(rows) > 1 else ""


def _list(texts, style=""):
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul{style}>{items}</ul>" if items else ""


def _picture(run, name, sentence, below=""):
    path = run.folder / "figures" / f"{name}.png"
    return f"<p>{escape(sentence)}</p>{embedded(path.read_bytes(), name)}{below}" if path.exists() else ""


def _legend(run):
    """The parts that are left with their colours."""
    parts = part_names.read_parts(run)
    said = ["<span style=\"color:rgb({},{},{})\">&#9632;</span>&nbsp;{}".format(
        *parts.colors[k - 1], escape(parts.labels[k - 1])) for k in parts.numbers]
    return f"<p>{', '.join(said)}</p>"


def _curves(run):
    stages = [stage for stage in ("train", "distill") if run.records(stage)]
    images = "".join(embedded(pictures.png(curves.stage_curves(run, stage)), stage) for stage in stages)
    return f"<p>{escape(CURVES)}</p>{images}" if stages else ""


def embedded(png, name):
    """The bytes of a PNG as a picture inside a page."""
    return f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
