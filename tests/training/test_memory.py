"""What a training needs is told before and at its start."""

import re
from types import SimpleNamespace

import pytest
import torch

from ganseg import train
from ganseg.checkpoints import step_of
from ganseg.devices import rng
from ganseg.errors import UserError
from ganseg.training import loop, memory

CPU = torch.device("cpu")


def test_a_batch_that_cannot_fit_is_refused_with_one_that_does(tiny, monkeypatch):
    fixed, per_picture = memory.estimate(tiny())
    monkeypatch.setattr(memory, "_room", lambda device: fixed + 10.5 * per_picture)
    memory.check(tiny(batch_size=10), CPU)
    with pytest.raises(UserError, match="batch_size: 11 pictures of 32 pixels need .*choose batch_size 10 or less"):
        memory.check(tiny(batch_size=11), CPU)
    monkeypatch.setattr(memory, "_room", lambda device: fixed)
    with pytest.raises(UserError, match="choose a smaller image_size or channels, or precision bf16"):
        memory.check(tiny(), CPU)


def test_processes_of_one_machine_share_its_memory(tiny, monkeypatch):
    fixed, per_picture = memory.estimate(tiny())
    monkeypatch.setattr(memory, "_room", lambda device: 2 * fixed + 10.5 * per_picture)
    memory.check(tiny(batch_size=10, devices=2), CPU)
    with pytest.raises(UserError, match="choose batch_size 10 or less"):
        memory.check(tiny(batch_size=12, devices=2), CPU)


@pytest.mark.parametrize("groups, limits, least", [
    ("0::/job/task\n", {"memory.max": "max", "job/memory.max": "2000", "job/task/memory.max": "3000"}, 2000),
    ("0::/host/name\n", {"memory.max": "700"}, 700),  # in a container, where the own group is the top
    ("5:cpu:/a\n4:memory:/a\n", {"memory/memory.limit_in_bytes": "9000", "memory/a/memory.limit_in_bytes": "500"}, 500),
    ("0::/\n", {}, None),
])
def test_the_limit_of_a_container_or_job_counts(tmp_path, groups, limits, least):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in limits.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert min(memory._limits(tmp_path), default=None) == least


def test_no_machine_holds_ten_million_pictures_in_a_batch(tiny):
    with pytest.raises(UserError, match="batch_size: 10000000 pictures .* and there are .* GB; choose batch_size"):
        memory.check(tiny(batch_size=10_000_000), CPU)


def test_the_estimate_is_what_a_step_keeps_for_its_way_back(tiny):
    """Counted here from the real tensors, twice the batch at twice the bytes."""
    of_batch = {}
    for n in (16, 32):
        G = train._networks(tiny(), None)[0]
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # alive, so that no address returns
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = G(G.sample_latents(n, rng(0, "latents")))  # what is kept depends on where the parts lie
        of_batch[n] = (sum(storage.nbytes() for storage in kept.values()), out)
    grown = (of_batch[32][0] - of_batch[16][0]) / 16
    _, per_picture = memory.estimate(tiny())
    assert grown < per_picture < 2.5 * grown  # the discriminator's maps come on top


def test_a_long_training_says_how_long_and_how_much_it_will_take(tiny_run, quick, monkeypatch, capsys):
    monkeypatch.setattr(loop, "LONG_S", 0)
    monkeypatch.setattr(loop, "TIMED_STEPS", 2)
    list(train.train(tiny_run(max_steps=5)))
    said = capsys.readouterr().out
    assert said.count("hours:minutes") == 1 and "2 steps of" in said and "memory at most" in said


def test_a_limit_of_time_is_what_the_estimate_and_the_time_left_go_by(tiny_run, quick, monkeypatch, capsys):
    monkeypatch.setattr(loop, "TIMED_STEPS", 2)
    records = train.train(tiny_run(max_steps=10**6, max_minutes=60.0, log_every_steps=4))
    record = next(records)
    records.close()
    said = re.search(r"60 minutes give about ([\d,]+) of 1,000,000 steps; memory", capsys.readouterr().out)
    assert 10 < int(said[1].replace(",", "")) < 999_999
    assert 0 < record["left_s"] < 3600


def test_a_slow_training_speaks_saves_and_shows_samples_in_between(tiny_run, quick, monkeypatch, capsys):
    plain = tiny_run("plain", max_steps=4)
    list(train.train(plain))
    capsys.readouterr()
    for name in ("LONG_S", "SPEAK_EVERY_S", "SAVE_EVERY_S", "DRAW_EVERY_S"):
        monkeypatch.setattr(loop, name, 0)
    run = tiny_run(max_steps=4)
    list(train.train(run))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("step")] == ["step 1/4", "step 2/4", "step 3/4"]
    assert f"Samples: {run.folder / 'samples' / '00000001.png'}" in lines
    assert sorted(path.name for path in (run.folder / "samples").iterdir()) == [f"0000000{i}.png" for i in range(1, 5)]
    assert [step_of(path) for path in run.checkpoints("gan")] == [3, 4]  # the newest two of four
    assert [record["step"] for record in run.records("train_samples")] == [4]
    assert all(a.equal(b) for a, b in zip(*(r.load_state("gan")["ema"].values() for r in (run, plain)), strict=True))


@pytest.mark.parametrize("n, drawn", [(6, [6]), (12, [4, 12])])
def test_no_samples_are_drawn_by_the_clock_shortly_before_the_end(tiny_run, quick, monkeypatch, n, drawn):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    run = tiny_run(max_steps=n, log_every_steps=1)
    for _ in train.train(run):
        clock.now += 25  # after 75 seconds a picture is due
    assert sorted(int(path.stem) for path in (run.folder / "samples").iterdir()) == drawn


def test_a_training_has_samples_of_each_stop(tiny_run, quick):
    run = tiny_run(max_steps=4, max_minutes=1e-9)
    list(train.train(run))
    list(train.train(tiny_run()))
    assert sorted(path.name for path in (run.folder / "samples").iterdir()) == ["00000001.png", "00000002.png"]
