"""What goes wrong in a training, judged by its log. The training and its viewers use the same rules."""

import math
from typing import NamedTuple

from ganseg.metrics.masks import USED_SHARE

FEW, MUCH = 0.05, 0.95  # shares of the background: it has vanished below, it covers everything above
WON = 0.1  # a discriminator loss; 2 log 2 = 1.39 means that it cannot tell fakes from photos
SCATTERED = 0.2  # a concentration loss: it starts near 0.7 and falls under 0.05 where training goes well
N_LAST = 5  # log lines that must agree
ADVICE = ("scattered", "unused")  # troubles that are said and never stop a training


class Trouble(NamedTuple):
    sentence: str  # what goes wrong and what to change
    step: int  # since when, as far as the log tells


def troubles(cfg, records, shares):
    """Kind of trouble -> Trouble; {} where nothing goes wrong.

    records  log lines of a stage, oldest first
    shares   log lines of its samples: background_share, part_1_share, ...
    """
    found = {kind: Trouble(sentence, records[-N_LAST:][0]["step"])
             for kind, sentence in _of_records(cfg, records).items()}
    if shares:
        found |= {kind: Trouble(sentence, shares[-1]["step"]) for kind, sentence in _of_shares(cfg, shares[-1]).items()}
    return found


def _of_records(cfg, records):
    found = {}
    if any(isinstance(v, float) and not math.isfinite(v) for line in records[-1:] for v in line.values()):
        found["not finite"] = (
            "A loss is not finite: lower lr_generator and lr_discriminator "
            f"(now {cfg.lr_generator:g} and {cfg.lr_discriminator:g}), or take another seed (now {cfg.seed})."
        )
    last = {name: [line[name] for line in records[-N_LAST:] if name in line]
            for name in ("discriminator_loss", "concentration_loss")}
    if len(last["discriminator_loss"]) == N_LAST and max(last["discriminator_loss"]) < WON:
        found["discriminator winning"] = (
            f"The discriminator is winning (its loss stays under {WON}), the generator learns little: lower "
            f"lr_discriminator (now {cfg.lr_discriminator:g}) or lambda_con (now {cfg.lambda_con:g}), or take "
            f"another seed (now {cfg.seed})."
        )
    concentration = last["concentration_loss"]
    if len(concentration) == N_LAST and min(concentration) > SCATTERED and concentration[-1] > 0.9 * concentration[0]:
        found["scattered"] = (
            f"The parts are scattered (their concentration loss stays above {SCATTERED} and no longer falls): "
            f"raise lambda_con (now {cfg.lambda_con:g})."
        )
    return found


def _of_shares(cfg, shares):
    background, step = shares["background_share"], shares["step"]
    if background > MUCH:
        return {"only background": f"The background takes {background:.0%} of the pictures at step {step}: raise "
                f"lambda_area (now {cfg.lambda_area:g}) or take another seed (now {cfg.seed})."}
    if background < FEW:
        return {"no background": f"The background has vanished ({background:.1%} of the pictures at step {step}): "
                f"raise lambda_con (now {cfg.lambda_con:g}), which draws the parts together, or take another seed "
                f"(now {cfg.seed})."}
    parts = {k: shares.get(f"part_{k}_share", 1.0) / (1 - background) for k in range(1, cfg.n_parts + 1)}
    unused = [f"{k} ({share:.1%})" for k, share in parts.items() if share < USED_SHARE]
    if not unused:
        return {}
    which = f"under {USED_SHARE:.0%} of the foreground: part {', '.join(unused)}"
    advice = f"Lower lambda_con (now {cfg.lambda_con:g}), or take another seed (now {cfg.seed})."
    if cfg.n_parts - len(unused) < cfg.n_parts / 2:  # as the metric collapse
        return {"collapsed": f"Collapsed at step {step}, {which}. {advice}"}
    return {"unused": f"Some parts are not used at step {step}, {which}. {advice}"}
