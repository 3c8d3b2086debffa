"""The GAN loop: resuming, stopping on bad losses, batches, warm start, precision."""

import json

import pytest
import torch

from ganseg import devices, runs, train
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError
from ganseg.model.discriminator import Discriminator
from ganseg.model.generator import Generator
from ganseg.training import loop, losses, memory
from ganseg.training.batches import Batches

TIMES = ("time_s", "steps_per_s", "left_s")


def run_through(run, stop_at=None):
    """Train, or stop where the line of a step was logged."""
    for record in train.train(run):
        if record["step"] == stop_at:
            break
    return run


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def without_times(run):
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def test_two_steps_run_log_sample_and_save(tiny_run, quick):
    run = run_through(tiny_run(log_every_steps=1))
    records = run.records("train")
    assert [record["step"] for record in records] == [1, 2]
    assert {"discriminator_loss", "gradient_penalty", "generator_loss", "concentration_loss",
            "area_loss"} <= set(records[0])
    assert "gradient_penalty" not in records[1] and "area_loss" not in records[1]  # every 16th and 2nd step
    assert run.load_state("gan")["step"] == 2 and (run.folder / "samples" / "00000002.png").exists()
    assert "step 2/2" in loop.progress(records[1], 2) and "discriminator loss" in loop.progress(records[1], 2)
    before = run.newest("gan").read_bytes()
    run_through(run)  # nothing left to do
    assert run.newest("gan").read_bytes() == before and run.records("train") == records


@pytest.mark.parametrize("share_fakes", [False, True])
def test_stopped_and_resumed_equals_straight_through(tiny_run, quick, share_fakes):
    """The save at step 3 lies within the log window of steps 3 and 4; what step 4 left behind is repeated."""
    fields = {"share_fakes": share_fakes, "log_every_steps": 2, "save_every_steps": 3, "sample_every_steps": 4,
              "gradient_penalty_every_steps": 3, "max_steps": 6, "keep_checkpoints": 9, "random_resized_crop": True}
    straight = run_through(tiny_run("straight", **fields))
    stopped = run_through(tiny_run("stopped", **fields), stop_at=4)
    assert stopped.newest("gan").name == "gan-00000003.pt"
    torch.manual_seed(99)  # the global random state has no part in it
    resumed = run_through(tiny_run("stopped", **fields))
    assert without_times(resumed) == without_times(straight)
    assert equal(resumed.load_state("gan"), straight.load_state("gan"))
    for sample in (straight.folder / "samples").iterdir():
        assert (resumed.folder / "samples" / sample.name).read_bytes() == sample.read_bytes()
    assert resumed.records("train")[-1]["time_s"] > resumed.records("train")[0]["time_s"]


def test_raising_max_steps_goes_on_to_the_same_weights(tiny_run, quick):
    straight = run_through(tiny_run("straight", max_steps=3))
    run_through(tiny_run("longer", max_steps=2))
    longer = run_through(tiny_run("longer", max_steps=3))
    a, b = straight.load_state("gan"), longer.load_state("gan")
    assert all(equal(a[name], b[name]) for name in ("generator", "discriminator", "ema", "optimizer_generator"))


def test_a_run_stopped_by_the_clock_goes_on_to_the_same_end(tiny_run, quick):
    straight = run_through(tiny_run("straight", max_steps=3))
    for step in (1, 2, 3):
        pieces = run_through(tiny_run("pieces", max_steps=3, max_minutes=1e-9))
        assert pieces.load_state("gan")["step"] == step
    a, b = straight.load_state("gan"), pieces.load_state("gan")
    assert all(equal(a[name], b[name]) for name in ("generator", "discriminator", "ema", "optimizer_discriminator"))
    assert without_times(pieces) == without_times(straight)


def test_a_training_does_not_go_on_from_networks_without_their_rival(trained, tiny_run):
    """As those that ship with the package. Only optimisers may be missing."""
    path, state = trained.intact("gan")
    released = {name: part for name, part in state.items() if not name.startswith(("discriminator", "optimizer"))}
    torch.save(released, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="gan-00000002.pt holds no discriminator, so its training cannot go on; train"):
        list(train.train(tiny_run("trained", max_steps=9)))
    assert path.read_bytes() == before and trained.checkpoints("gan") == [path]
    torch.save({name: part for name, part in state.items() if not name.startswith("optimizer")}, path)
    list(train.train(tiny_run("trained", max_steps=3)))


@pytest.mark.parametrize("share_fakes, graphs", [(False, [False, True]), (True, [True])])
def test_the_generators_graph_is_built_only_where_it_is_used(tiny_run, quick, monkeypatch, share_fakes, graphs):
    made, judged = [], []
    G_forward, D_forward = Generator.forward, Discriminator.forward

    def spy_G(self, latents):
        out = G_forward(self, latents)
        if self.w_const.requires_grad:  # not the averaged one
            made.append(out.image.requires_grad)
        return out

    def spy_D(self, images):
        judged.append((len(images), images.requires_grad, self.head[1].weight.requires_grad))
        return D_forward(self, images)

    monkeypatch.setattr(memory, "check", lambda *_: None)  # it builds networks too, without numbers
    monkeypatch.setattr(Generator, "forward", spy_G)
    monkeypatch.setattr(Discriminator, "forward", spy_D)
    run_through(tiny_run(share_fakes=share_fakes, max_steps=1))
    assert made == graphs
    # real and fake, the gradient penalty of the real ones, the generator's step through a frozen D
    assert judged == [(8, False, True), (4, True, True), (4, True, False)]


@pytest.mark.parametrize("log_every_steps", [1, 4])
def test_a_loss_that_is_not_finite_stops_naming_step_and_last_good_checkpoint(
    tiny_run, quick, monkeypatch, log_every_steps
):
    run = tiny_run(max_steps=8, save_every_steps=4, log_every_steps=log_every_steps)
    calls, loss = [], losses.generator_loss

    def breaks_at_step_six(scores):
        calls.append(1)
        return loss(scores) * (float("nan") if len(calls) == 6 else 1)

    monkeypatch.setattr(losses, "generator_loss", breaks_at_step_six)
    with pytest.raises(UserError, match="generator_loss at step 6 is not finite.*gan-00000004.pt"):
        run_through(run)
    assert [path.name for path in run.checkpoints("gan")] == ["gan-00000004.pt"]
    assert all(p.isfinite().all() for p in run.load_state("gan")["generator"].values())


def test_fewer_pictures_than_a_batch_are_refused_and_nothing_is_written(tiny_run, tmp_path):
    with pytest.raises(UserError, match="3 pictures can be read, fewer than batch_size = 4"):
        run_through(tiny_run(max_train_pictures=3))
    assert list(tmp_path.iterdir()) == []


def test_a_warm_start_takes_over_the_weights(trained, tiny_run, quick, tmp_path):
    path = trained.newest("gan")
    still = {"lr_generator": 1e-30, "lr_discriminator": 1e-30, "seed": 5, "max_steps": 1}
    warm = run_through(tiny_run("warm", warm_start=str(path), **still)).load_state("gan")
    cold = run_through(tiny_run("cold", **still)).load_state("gan")
    weights = {name: trained.load_state("gan")[name] for name in ("generator", "discriminator")}
    for name, state in weights.items():
        learned = [key for key in state if key.endswith(("weight", "w_const"))]
        assert all(torch.allclose(warm[name][key], state[key], atol=1e-20) for key in learned)
        assert not any(torch.allclose(cold[name][key], state[key], atol=1e-20) for key in learned)
    torch.save({"generator": weights["generator"]}, tmp_path / "half.pt")
    with pytest.raises(UserError, match="warm_start: .*half.pt has no discriminator"):
        run_through(tiny_run("half", warm_start=str(tmp_path / "half.pt"), **still))
    with pytest.raises(UserError, match="do not fit"):
        run_through(tiny_run("other", warm_start=str(path), n_parts=2, **still))


def test_the_first_steps_weigh_concentration_by_its_start(tiny_run, quick, monkeypatch):
    monkeypatch.setattr(losses, "START_STEPS", 2)
    falling, held, low = (
        {step: run_through(tiny_run(f"{name}{step}", max_steps=step, **fields)).load_state("gan")["generator"]
         for step in (2, 6)}
        for name, fields in {"falling": {"lambda_con": 1.0, "lambda_con_start": 50.0}, "held": {"lambda_con": 50.0},
                             "low": {"lambda_con": 1.0}}.items())
    assert equal(falling[2], held[2]) and not equal(falling[2], low[2])
    assert not equal(falling[6], held[6])


def test_bfloat16_stays_finite_and_keeps_the_weights_in_float32(tiny_run, quick):
    run = run_through(tiny_run(precision="bf16", max_steps=3))
    state = run.load_state("gan")
    assert all(value.isfinite().all() for name in ("generator", "ema") for value in state[name].values())
    assert {value.dtype for value in state["generator"].values()} <= {torch.float32, torch.int64}
    exact = run_through(tiny_run("exact", max_steps=3)).records("train")[-1]
    rounded = run.records("train")[-1]
    assert rounded["generator_loss"] != exact["generator_loss"]
    assert rounded["discriminator_loss"] == pytest.approx(exact["discriminator_loss"], rel=0.2)


@pytest.mark.parametrize("fields", [{"flip": True}, {"flip": False, "random_resized_crop": True}])
def test_augmentation_changes_the_batch_and_keeps_its_shape_and_range(tiny, fields):
    images = load_pictures(tiny(), "train").images
    cfgs = tiny(flip=False), tiny(**fields)
    plain, batch = (Batches(images, cfg, torch.device("cpu"))(0, devices.rng(1)) for cfg in cfgs)
    assert batch.shape == plain.shape == (4, 3, 32, 32) and batch.abs().max() <= 1
    assert not torch.equal(batch, plain)
    assert (batch - plain).abs().mean() < 0.5  # still the same pictures
    if fields["flip"]:
        unchanged = (batch == plain).flatten(1).all(1)
        assert (unchanged | (batch.flip(-1) == plain).flatten(1).all(1)).all()


def test_a_device_that_is_not_there_is_refused(tiny_run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device: cuda is not available"):
        run_through(tiny_run(device="cuda"))
    assert not runs.outputs_root().exists()


def test_a_mistyped_warm_start_leaves_neither_a_folder_nor_a_lock(tiny_run, quick):
    with pytest.raises(UserError, match="there is no such checkpoint"):
        list(train.train(tiny_run("warm", warm_start="gan-typo.pt", max_steps=2)))
    assert not tiny_run("warm").folder.exists()
    assert [record["step"] for record in train.train(tiny_run("warm", max_steps=2))] == [2]
