"""Measures how fast a GAN step is, what each way of saving work brings, and how the cost grows."""

import gc
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ganseg import arguments, config, devices, distill, runs, segment, train
from ganseg.datasets import creatures
from ganseg.devices import rng
from ganseg.experiments.reference import conclusion, matrix_rate, now, reference_step, seconds, spread
from ganseg.figures import pictures
from ganseg.model import averaging, loading, prediction
from ganseg.model.discriminator import Discriminator
from ganseg.training.batches import Batches


class Way(NamedTuple):
    """A way to make a GAN step; the defaults are how ganseg trains."""

    keep_graph: bool = False  # the discriminator's step goes back through the generator for nothing
    give_back: bool = False  # freed memory goes back to the operating system (CPU)
    tf32: bool = True  # convolutions round their inputs to TF32 (CUDA)
    settings: tuple = ()  # pairs of config field and value


PLAIN = (("fast", False),)  # SPADE on D channels of the whole map, including what a crop throws away
REFERENCE = Way(keep_graph=True, give_back=True, tf32=False, settings=PLAIN)
BF16 = (("precision", "bf16"),)
DTYPES = (torch.float32, torch.bfloat16)
SHARED = (("share_fakes", True),)
COMPILED = (("compile", True),)
ON_CUDA = (("channels_last", True),)
# Spreads the points of untrained networks as far as those of a trained creatures model. Less is computed where no part
# is, and without this all parts would lie in the middle.
POINT_DIVISOR = 4.0
WARM_UP = 3  # steps until no more memory is asked for
MEASURED = 4  # steps that memory and operations of a way take


def changes(device, compiled):
    """Name -> (Way with the change, Way without it), in the order of the table; compiled: torch.compile too."""
    cuda = device.type == "cuda"
    exact = Way(tf32=False)
    fast = SHARED + BF16 + (ON_CUDA if cuda else ())
    rows = {
        "discriminator's fakes without their graph": (exact, exact._replace(keep_graph=True)),
        "SPADE on K channels, lines left out, work in place": (exact, exact._replace(settings=PLAIN)),
    }
    if cuda:
        rows["TF32 convolutions"] = (Way(), exact)
        rows["channels_last, in bf16"] = (Way(settings=BF16 + ON_CUDA), Way(settings=BF16))
    else:
        rows["freed memory kept"] = (exact, exact._replace(give_back=True))
    rows |= {
        "share_fakes": (exact._replace(settings=SHARED), exact),
        "precision bf16": (exact._replace(settings=BF16), exact),
        "equal mathematics, against the reference": (exact, REFERENCE),
        "and share_fakes, against the reference": (exact._replace(settings=SHARED), REFERENCE),
        "and bf16, against the reference": (Way(settings=fast), REFERENCE),
    }
    if compiled:
        rows["compile, after bf16 and share_fakes"] = (Way(settings=fast + COMPILED), Way(settings=fast))
        rows["and compile, against the reference"] = (Way(settings=fast + COMPILED), REFERENCE)
    return rows


class Trainer:
    """The networks of a config, trained one way on a batch of noise."""

    def __init__(self, cfg, way, device):
        self.cfg, self.way = _as_trained(cfg).model_copy(update=dict(way.settings)), way
        cfg, layout = self.cfg, devices.memory_format(self.cfg, device)
        G, D = (net.to(device, memory_format=layout) for net in (loading.build_generator(cfg), Discriminator(cfg)))
        if self.cfg.compile:
            train.compile_networks(G, D)
        self.average, self.nets = averaging.averaged_copy(G), (G.train(), D.train())
        self.optimizers = train.optimizers(G, D, self.cfg)
        noise = torch.rand(cfg.batch_size, 3, cfg.image_size, cfg.image_size, generator=rng("real"))
        self.real = (2 * noise - 1).to(device, memory_format=layout)

    def seconds(self, step):
        """Make a step. Returns its time, the work on the device included."""
        devices.keep_freed_memory(not self.way.give_back)
        torch.backends.cudnn.allow_tf32 = self.way.tf32
        make = reference_step if self.way.keep_graph else train.gan_step
        start = now(self.real.device)
        make(*self.nets, *self.optimizers, self.real, rng("benchmark", step), self.cfg, step)
        averaging.update_ema(self.average, self.nets[0], self.cfg.ema_decay, step)
        return now(self.real.device) - start


def compare_ways(cfg, device, n_steps=4, compiled=False):
    """Compare each change of `changes` with the same training without it, in one process, step by step in turn.

    The plain networks are those of `fast: false`.
    n_steps  timed steps of each of the two, after WARM_UP that are not timed. One in cfg.gradient_penalty_every_steps
             has the gradient penalty. Where only one of the two gives memory back, an untimed step comes before each,
             because the memory that the other gave back has to be fetched again.
    Yields dicts: change, steps_per_s, without (steps a second), ratio (the median over the pairs), its quartiles
    ratio_low and ratio_high, the number of pairs, peak_gb and peak_without_gb (GB of 1e9 bytes: of the process on the
    CPU, of PyTorch's tensors on CUDA), matrix_share (of matrix_rate, by the operations that the step really makes).
    """
    pairs, rate = changes(device, compiled), {}
    ways = dict.fromkeys(way for pair in pairs.values() for way in pair)
    n_all = len(ways) * MEASURED + sum(2 * (WARM_UP + n_steps * _steps_each(pair)) for pair in pairs.values())
    memory, work, start = {}, {}, time.monotonic()
    for i, way in enumerate(ways, start=1):  # before the timed steps, which leave memory behind
        memory[way], work[way] = peak_gb(cfg, way, device), flops(cfg, way, device)
        s = (time.monotonic() - start) / i / MEASURED * n_all
        print(f"memory and operations of {i} of {len(ways)} ways; at this speed the table takes {s:.0f} s", flush=True)
    for name, pair in pairs.items():
        dtype = torch.bfloat16 if BF16[0] in pair[0].settings else torch.float32
        if dtype not in rate:
            rate[dtype] = matrix_rate(device, dtype)
        times = _paired_seconds(cfg, pair, device, n_steps)
        new, old = (statistics.median(column) for column in zip(*times, strict=True))
        yield {
            "change": name, "steps_per_s": 1 / new, "without": 1 / old,
            **spread([without / made for made, without in times]),
            "peak_gb": memory[pair[0]], "peak_without_gb": memory[pair[1]],
            "matrix_share": work[pair[0]] / new / rate[dtype],
        }


def logged(run, stage, records):
    """Log each record of a measurement in a run, print it with the seconds so far, and yield it."""
    start = time.monotonic()
    for record in records:
        run.log(stage, 0, **record)
        words = (f"{value}:" if isinstance(value, str) else f"{name} {value:.3g}" for name, value in record.items())
        print(f"{time.monotonic() - start:4.0f} s", *words, sep="  ", flush=True)
        yield record


def _steps_each(pair):
    """How many steps are made for each that is timed; see compare_ways."""
    return 1 if pair[0].give_back == pair[1].give_back else 2


def _paired_seconds(cfg, pair, device, n_steps):
    """The seconds of n_steps steps in both ways of a pair, in turn: [with it, without it] for each step."""
    trainers = [Trainer(cfg, way, device) for way in pair]
    for trainer in trainers:
        for _ in range(WARM_UP):
            trainer.seconds(2)
    return [[[trainer.seconds(step) for _ in range(_steps_each(pair))][-1] for trainer in trainers]
            for step in range(1, n_steps + 1)]


def sustained(cfg, device, n_steps=500):
    """Make many steps of the fastest way in a row, penalties included. Yields n_steps, steps_per_s, minutes_30000."""
    fast = SHARED + BF16 + (ON_CUDA + COMPILED if device.type == "cuda" else ())
    trainer = Trainer(cfg, Way(settings=fast), device)
    for step in range(20):
        trainer.seconds(step)
    start = now(device)
    for step in range(20, 20 + n_steps):
        trainer.seconds(step)
    rate = n_steps / (now(device) - start)
    yield {"n_steps": n_steps, "steps_per_s": rate, "minutes_30000": 30_000 / rate / 60}


def growth(cfg, device, field, values, n_steps=3):
    """Seconds a step as one config field grows: dicts of field, value, seconds (median) and gflop of the step."""
    for value in values:
        changed = {field: value}
        if field == "image_size":
            changed["resolutions"] = [r * value // cfg.image_size for r in cfg.resolutions]
            changed["discriminator_channels"] = None
        grown = config.check({**cfg.model_dump(), **changed})
        trainer = Trainer(grown, Way(), device)
        trainer.seconds(0)
        median = statistics.median(trainer.seconds(step) for step in range(1, n_steps + 1))
        yield {"field": field, "value": value, "seconds": median, "gflop": flops(grown, Way(), device) / 1e9}


def data_loading(cfg, device, counts, n_batches=50):
    """Seconds a batch as the number of training pictures grows: dicts like those of growth, without gflop."""
    for n in counts:
        images = torch.zeros(n, 3, cfg.image_size, cfg.image_size, dtype=torch.uint8)
        batches = Batches(images, cfg, device)
        batches(0, rng(0))
        start = now(device)
        for step in range(1, n_batches + 1):
            batches(step, rng(step))
        yield {"field": "pictures", "value": n, "seconds": (now(device) - start) / n_batches}


def processes(run, counts, n_steps=40):
    """Seconds a step as the number of processes grows, from runs of their own: dicts like those of growth.

    The operations are those of one process. Needs the data set's pictures.
    """
    cfg = run.cfg
    shared = {**cfg.model_dump(), "max_steps": n_steps, "log_every_steps": n_steps // 2, "save_every_steps": n_steps,
              "sample_every_steps": n_steps}
    work = flops(cfg, Way(), devices.choose_device(cfg.device)) / 1e9
    for n in counts:
        name = f"{run.folder.name}-{n}-processes"
        trained = runs.Run(run.folder.parent / name, config.check({**shared, "devices": n}))
        *_, last = train.train(trained)  # the second half of the steps, without what starting costs
        yield {"field": "processes", "value": n, "seconds": 1 / last["steps_per_s"], "gflop": work / n}


def other_stages(cfg, device, n_steps=3, n_photos=64):
    """Pictures a second of what follows the GAN, with untrained networks: dicts of what and pictures_per_s.

    Distillation also makes its pairs (without_saving: by the plain generator, `fast: false`). Evaluation reads squares
    from memory. Segmentation reads JPEG files of 512 x 384 pixels and writes what `ganseg segment` writes.
    """
    cfg = _as_trained(cfg)
    S = loading.build_segmenter(cfg).to(device)
    optimizer = torch.optim.Adam(S.parameters(), lr=cfg.lr_segmenter)

    def distilled_per_s(cfg):
        G = loading.build_generator(cfg).to(device).eval().requires_grad_(False)
        distill.distill_step(G, S.train(), optimizer, cfg, 0)
        steps = range(1, n_steps + 1)
        times = [seconds(device, distill.distill_step, G, S, optimizer, cfg, step) for step in steps]
        return cfg.distill_batch_size / statistics.median(times)

    plain = distilled_per_s(cfg.model_copy(update=dict(PLAIN)))
    yield {"what": "distillation", "pictures_per_s": distilled_per_s(cfg), "without_saving": plain}
    squares = torch.randint(0, 256, (n_photos, 3, cfg.image_size, cfg.image_size), dtype=torch.uint8)
    yield {"what": "evaluation", "pictures_per_s": n_photos / seconds(device, prediction.predict, S.eval(), squares)}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i}.jpg") for i in range(n_photos)]
        photos = pictures.to_uint8(creatures.draw(range(8), "test", 0, 512).images[:, :, 64:448])
        for i, path in enumerate(paths):
            pictures.save(photos[i % 8], path, "JPEG")
        model = segment.PhotoSegmenter(cfg, S, device)
        taken = seconds(device, segment.segment_photos, paths, model, Path(folder, "parts"))
    yield {"what": "segmentation of photos", "pictures_per_s": n_photos / taken}


def flops(cfg, way, device):
    """Floating-point operations of a step without the gradient penalty, counted by PyTorch without torch.compile.

    Those of the networks that the way really has: plain ones (`fast: false`) make more.
    """
    trainer = Trainer(cfg, way._replace(settings=tuple(s for s in way.settings if s != COMPILED[0])), device)
    with FlopCounterMode(display=False) as counter:
        trainer.seconds(2)
    return counter.get_total_flops()


def peak_gb(cfg, way, device):
    """The most memory during one step in GB (1e9 bytes): tensors on CUDA, the whole process on Linux, else NaN."""
    gc.collect()
    trainer = Trainer(cfg, way, device)
    trainer.seconds(0)
    clear = Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif clear.exists():
        devices.keep_freed_memory(False)
        clear.write_text("5", encoding="utf-8")  # the peak so far is forgotten
    trainer.seconds(2)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text("utf-8")) if clear.exists() else None
    return int(peak[1]) * 1024 / 1e9 if peak else float("nan")


def _measure_run(run):
    """Compare all changes, time the other stages and many steps in a row. Logs each record and prints it."""
    device = devices.choose_device(run.cfg.device)
    run.start(device)
    for record in logged(run, "benchmark", compare_ways(run.cfg, device, n_steps=20, compiled=True)):
        print(f"  {conclusion(record)}", flush=True)
    list(logged(run, "benchmark_stages", other_stages(run.cfg, device)))
    list(logged(run, "sustained", sustained(run.cfg, device)))


def _as_trained(cfg):
    return cfg.model_copy(update={"point_divisor": min(cfg.point_divisor, POINT_DIVISOR)})


if __name__ == "__main__":  # python -m ganseg.experiments.benchmark
    arguments.main("experiments.benchmark", _measure_run)
