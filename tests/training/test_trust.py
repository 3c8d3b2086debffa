"""Killed, interrupted, opened twice, on a full or read-only disk, in trouble: nothing is lost, and it is said."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import kills
import numpy as np
import pytest
import torch
from conftest import LOGGED

from ganseg import arguments, checkpoints, config, records, runs, train
from ganseg.errors import UserError
from ganseg.metrics import masks
from ganseg.model import averaging
from ganseg.training import health, loop, losses

LONG = ["-p", "dataset", "tiny", "-p", "max_steps", "5000", "-p", "log_every_steps", "1", "-p", "save_every_steps",
        "5000", "-p", "sample_every_steps", "5000", "--run", "x"]
SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "outputs"


def started(command):
    def hear_signals():
        for number in (signal.SIGINT, signal.SIGHUP):  # a shell and nohup start jobs deaf to them, and tests with them
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            preexec_fn=hear_signals)


def papermill(folder):
    given = "{run: x, max_steps: 5000, overrides: {log_every_steps: 1, save_every_steps: 5000}}"
    notebook = runs.config.ROOT / "notebooks" / "train.ipynb"
    patient = ("from jupyter_client.manager import KernelManager\nfrom papermill.cli import papermill\n"
               "KernelManager.shutdown_wait_time = 300\n"  # not 5 seconds, too few for a save if all is busy
               "papermill()")
    return [sys.executable, "-c", patient, notebook, folder / "out.ipynb", "-y", given]


def wait_for_steps(folder, process, seconds=300):
    """Until a process has logged its first steps."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
        if len(lines) >= 3:
            return
        time.sleep(0.05)
    pytest.fail(f"no steps were logged: {process.stdout.read() if process.poll() is not None else 'still waiting'}")


def test_a_run_killed_five_times_equals_an_undisturbed_one(tmp_path):
    reached, differences = kills.kill_and_compare(tmp_path, n_kills=5)
    assert sum(map(len, reached.values())) == 5 and max(reached["train"]) > 0 < max(reached["distill"]), reached
    assert differences == []


@pytest.mark.parametrize(
    "start, number",
    [(start, number) for start in ("module", "command") for number in (signal.SIGINT, signal.SIGTERM)]
    + [("module", signal.SIGHUP), ("command", signal.SIGHUP)]  # the terminal is closed
    + [("papermill", signal.SIGINT)],  # SIGTERM ends papermill at once and its notebook's process with it
)
def test_an_interrupted_training_saves_the_step_it_was_in_and_goes_on(outputs, tmp_path, capsys, start, number):
    folder = outputs / "tiny" / "x"
    command = {
        "module": [sys.executable, "-m", "ganseg.train", *LONG],
        "command": [SCRIPTS / "ganseg", "train", *LONG],
        "papermill": papermill(tmp_path),
    }[start]
    process = started(command)
    wait_for_steps(folder, process)
    process.send_signal(number)
    said = process.communicate(timeout=300)[0]
    assert process.returncode != 0
    saved = checkpoints.step_of(next(iter((folder / "checkpoints").glob("gan-*.pt"))))
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert 3 <= saved < 5000 and saved == max(line["step"] for line in logged)
    if start != "papermill":  # whose own report of an interrupted cell this is
        assert process.returncode == 130 and "Traceback" not in said and f"Stopped at step {saved}" in said
    on = [*LONG]
    on[on.index("max_steps") + 1] = str(saved + 1)
    train.main(on)
    assert f"step {saved + 1}/{saved + 1}" in capsys.readouterr().out


def test_jupyterlabs_interrupt_stops_the_cell_after_a_saved_step(outputs, tmp_path):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        sent = client.execute("from ganseg import runs, train\n"
                       "run = runs.open_run('tiny', 'x', max_steps=5000, log_every_steps=1, save_every_steps=5000)\n"
                       "for record in train.train(run): pass")
        folder = outputs / "tiny" / "x"
        end = time.monotonic() + 300
        while time.monotonic() < end and not (folder / "metrics.jsonl").exists():
            time.sleep(0.1)
        time.sleep(0.5)
        manager.interrupt_kernel()  # what Lab's stop button does
        message = client.get_shell_msg(timeout=300)
        while message["parent_header"].get("msg_id") != sent:  # late answers to whether the kernel is there
            message = client.get_shell_msg(timeout=300)
        reply = message["content"]
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert len(list((folder / "checkpoints").glob("gan-*.pt"))) == 1
        client.execute("run.cfg.max_steps", reply=True, timeout=300)  # the kernel is alive
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_run_held_by_a_living_process_is_refused_and_one_of_a_dead_process_is_not(outputs):
    process = started([sys.executable, "-m", "ganseg.train", *LONG])
    folder = outputs / "tiny" / "x"
    wait_for_steps(folder, process)
    before = (folder / "config.yaml").read_bytes()
    run = runs.open_run("tiny", "x", max_steps=7)
    with pytest.raises(UserError, match=f"tiny/x is being written by process {process.pid} on .*--run"):
        next(train.train(run))
    with pytest.raises(UserError, match="tiny/x is being written by process"):
        next(train.train(runs.open_run("tiny", "x", max_steps=7, devices=2)))
    assert (folder / "config.yaml").read_bytes() == before and not (folder / "workers.log").exists()
    process.kill()
    process.communicate()
    assert [record["step"] for record in train.train(run)][-1] == 7
    with run.held():  # a finished training holds nothing
        pass


def test_a_mistake_leaves_the_run_free_and_an_abandoned_training_is_taken_over(tiny_run, quick):
    run = tiny_run(max_steps=3, log_every_steps=1)
    kept = train.train(run)  # as a notebook's last error keeps it
    next(kept)
    ours = signal.getsignal(signal.SIGINT)
    assert [r["step"] for r in train.train(run)][-1] == 3
    before = signal.getsignal(signal.SIGINT)
    assert before is not ours
    with run.held():
        kept.close()
        other = subprocess.run([sys.executable, "-c", HOLD, run.folder], capture_output=True, text=True)
        assert "is being written by process" in other.stderr, other.stderr  # the old one's end did not free the new one
    assert signal.getsignal(signal.SIGINT) is before
    subprocess.run([sys.executable, "-c", HOLD, run.folder], check=True)


HOLD = "import sys; from ganseg import runs\nwith runs.Run(sys.argv[1], None).held(): pass"


def test_after_a_mistake_in_a_kernel_another_process_may_train(tiny_run, quick, tmp_path, monkeypatch):
    run = tiny_run(warm_start=str(tmp_path / "none.pt"))
    with pytest.raises(UserError, match="no such checkpoint") as kept:
        list(train.train(run))
    assert not run.folder.exists()
    run = tiny_run()
    monkeypatch.setattr(train, "optimizers", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as kept:
        list(train.train(run))
    assert kept.tb  # it keeps the training's frames alive, as a kernel does
    subprocess.run([sys.executable, "-c", HOLD, run.folder], check=True)


# Damaged files


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tiny_run, quick, capsys, damage):
    fields = {"save_every_steps": 1, "max_steps": 3, "keep_checkpoints": 3}
    straight = tiny_run("straight", **fields)
    list(train.train(straight))
    run = tiny_run("hurt", **fields)
    list(train.train(run))
    newest = run.newest("gan")
    content = bytearray(newest.read_bytes())
    middle = len(content) // 2
    flipped = slice(middle, middle + 256)  # more than the gaps between records, which hold nothing
    content[flipped] = bytes(255 - b for b in content[flipped])
    newest.write_bytes({"truncated": content[:middle], "flipped": content, "empty": b""}[damage])
    assert run.load_state("gan")["step"] == 2
    list(train.train(run))
    said = capsys.readouterr().out
    assert f"{newest}: cannot be loaded" in said and "gan-00000002.pt is used instead" in said
    assert kills.equal(checkpoints.load_checkpoint(newest), straight.load_state("gan"))
    for path in run.checkpoints("gan"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="gan-00000001.pt: cannot be loaded"):
        next(train.train(run))


def test_a_line_after_one_that_was_cut_short_stands_alone(tiny_run):
    run = tiny_run()
    run.start("cpu")
    run.log("train", 1, loss=1.0, **LOGGED)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"stage": "train", "st')
    run.log("train", 2, loss=2.0, **LOGGED)
    assert [record["step"] for record in run.records("train")] == [1, 2]


def test_what_another_process_adds_meanwhile_is_not_taken_back(tiny_run, monkeypatch):
    """An evaluation may end while a resumed training deletes the lines that it repeats."""
    run = tiny_run()
    run.start("cpu")
    for step in range(1, 6):
        run.log("train", step, **LOGGED)
    add = "import sys; from ganseg import runs; runs.Run(sys.argv[1], None).log('evaluate', 1, x=1.0); print('added')"
    write, adding = records.files.write_text, []

    def slow(path, text):  # between its reading and its writing the other one begins
        process = started([sys.executable, "-c", add, run.folder])
        with pytest.raises(subprocess.TimeoutExpired):  # it waits
            process.wait(6)
        adding.append(process)
        write(path, text)

    monkeypatch.setattr(records.files, "write_text", slow)
    run.rewind({"train"}, 3)
    assert "added" in adding[0].communicate(timeout=300)[0]
    assert [r["step"] for r in run.records("train")] == [1, 2, 3] and len(run.records("evaluate")) == 1


def test_only_what_a_dead_process_was_writing_is_deleted(tiny_run):
    run = tiny_run()
    run.start("cpu")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    figures = {pid: run.folder / "figures" / f"samples.png.{pid}.partial" for pid in (dead.pid, os.getpid())}
    for path in figures.values():
        path.touch()
    with run.held():
        assert [path.exists() for path in figures.values()] == [False, True]


# Disks


@pytest.fixture
def small_disk(tmp_path):
    """Makes a folder on a disk of its own; options as for mount."""
    mounted = []

    def mount(options):
        folder = tmp_path / "disk"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_a_sentence_and_the_checkpoint_before_stays(tiny_run, quick, small_disk, monkeypatch):
    disk = small_disk("size=3m")
    monkeypatch.setenv("GANSEG_OUTPUTS", str(disk))
    run = tiny_run(max_steps=4, save_every_steps=1, keep_checkpoints=2)
    steps = train.train(run)
    run.cfg.log_every_steps = 1
    assert next(steps)["step"] == 1
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "other").write_bytes(bytes(free - 20_000))
    with pytest.raises(UserError, match="gan-00000002.pt: cannot be written, no room is left; make room"):
        list(steps)
    assert run.load_state("gan")["step"] == 1 and not list(run.folder.glob("checkpoints/*.partial"))
    (disk / "other").unlink()
    assert list(train.train(run))[-1]["step"] == 4


def test_a_read_only_folder_is_a_sentence(tiny_run, small_disk, monkeypatch):
    disk = small_disk("size=3m,ro")
    monkeypatch.setenv("GANSEG_OUTPUTS", str(disk))
    monkeypatch.setattr(train, "_load_photos", lambda run: train.load_pictures(run.cfg, "train"))
    with pytest.raises(UserError, match="creatures/run: cannot be written, it is read-only; make room"):
        next(train.train(tiny_run()))


# Health


def trouble_at(steps, monkeypatch):
    """Let the rules find a collapse at the log lines of these steps, the first time each is reached."""
    left = list(steps)

    def troubles(cfg, records, shares):
        if left and records and records[-1]["step"] == left[0]:
            left.pop(0)
            return {f"collapsed {len(left)}": health.Trouble("Collapsed, for a test.", records[-1]["step"])}
        return {}

    monkeypatch.setattr(health, "troubles", troubles)


def test_trouble_is_said_and_logged_and_by_config_stops(tiny_run, quick, monkeypatch, capsys):
    trouble_at([2], monkeypatch)
    run = tiny_run("warned", log_every_steps=1, max_steps=3)
    list(train.train(run))
    said = capsys.readouterr().out
    assert "Warning: Collapsed, for a test." in said
    words = shlex.split(said.partition("Add it to: ")[2].splitlines()[0])
    assert words[:6] == ["ganseg", "train", "-p", "dataset", "creatures", "--run"] and words[6] == "warned-2"
    args = arguments.add_parameters(argparse.ArgumentParser()).parse_args(words[2:])
    another = arguments.open_run(arguments.parameters(args, config.Config.model_fields.keys() | {"run"}), None).cfg
    differing = {name for name, value in another if value != getattr(run.cfg, name)}
    assert differing <= {"log_every_steps", "sample_every_steps", "save_every_steps", "device"}  # a resumed run's too
    assert [(r["step"], r["trouble"]) for r in run.records("train_health")] == [(2, "collapsed 0")]
    trouble_at([2], monkeypatch)
    run = tiny_run("stopped", log_every_steps=1, max_steps=3, on_trouble="stop")
    with pytest.raises(UserError, match="creatures/stopped: stopped at step 2, as on_trouble asks. Collapsed"):
        list(train.train(run))
    assert run.load_state("gan")["step"] == 2


def test_a_roll_back_goes_on_from_the_checkpoint_before_with_other_numbers(tiny_run, quick, monkeypatch, capsys):
    fields = {"log_every_steps": 1, "save_every_steps": 2, "max_steps": 6, "keep_checkpoints": 9}
    straight = tiny_run("straight", **fields)
    list(train.train(straight))
    results = []
    for name, stop_after in (("one", None), ("two", 2)):  # the second is left right after its roll-back
        trouble_at([3], monkeypatch)
        run = tiny_run(name, **fields, on_trouble="rollback")
        seen = 0
        for record in train.train(run):
            seen += record["step"] >= 3
            if seen == stop_after:
                break
        if stop_after:
            list(train.train(run))
        results.append(run)
    assert "Back to step 2, attempt 1 of 3." in capsys.readouterr().out
    one, two = (run.load_state("gan") for run in results)
    assert one["attempt"] == 1 and kills.equal(one, two)
    assert not kills.equal(one["generator"], straight.load_state("gan")["generator"])
    assert [r["step"] for r in results[0].records("train")] == [1, 2, 3, 4, 5, 6]
    early = [checkpoints.load_checkpoint(run.checkpoints("gan")[0]) for run in (results[0], straight)]
    assert kills.equal(early[0]["generator"], early[1]["generator"])


def test_rolling_back_to_weights_without_optimisers_forgets_what_these_gathered_since(tiny_run, quick, monkeypatch):
    """As after released weights: Adam's moments of the bad step would spoil each attempt."""
    run = tiny_run()
    list(train.train(run))
    state = run.load_state("gan")
    run.save("gan", 2, {name: value for name, value in state.items() if not name.startswith("optimizer")})
    step, moments = train.gan_step, []

    def first_one_spoils(G, D, optimizer_G, *args):
        moments.append(len(optimizer_G.state))
        values = step(G, D, optimizer_G, *args)
        return values if len(moments) > 1 else {**values, "generator_loss": torch.tensor(float("nan"))}

    monkeypatch.setattr(train, "gan_step", first_one_spoils)
    list(train.train(tiny_run(max_steps=3, on_trouble="rollback")))
    assert moments == [0, 0] and run.load_state("gan")["attempt"] == 1


def test_what_was_measured_of_checkpoints_that_a_roll_back_deletes_goes_with_them(tiny_run, quick, monkeypatch):
    trouble_at([3], monkeypatch)
    run = tiny_run(log_every_steps=1, save_every_steps=1, max_steps=4, keep_checkpoints=9, on_trouble="rollback")
    for record in train.train(run):
        run.log("fidelity", record["step"], frechet=float(len(run.records("fidelity"))))
    # 1 and 2 of the first attempt, then 3 and 4 of the second
    assert [(r["step"], r["frechet"]) for r in run.records("fidelity")] == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]


def test_a_training_that_cannot_be_saved_by_rolling_back_ends_with_a_sentence(tiny_run, quick, monkeypatch):
    fields = {"log_every_steps": 1, "save_every_steps": 1, "max_steps": 400, "on_trouble": "rollback"}
    run = tiny_run(**fields, lr_generator=1.0e30, lr_discriminator=1.0e30)
    with pytest.raises(UserError, match="stopped at step .*, no checkpoint to go back to. .* is not finite"):
        list(train.train(run))
    run = tiny_run("thrice", **fields)
    list(train.train(tiny_run("thrice", **{**fields, "max_steps": 1})))
    monkeypatch.setattr(losses, "generator_loss", lambda scores: scores.sum() * float("nan"))
    with pytest.raises(UserError, match="stopped at step 2, rolled back 3 times. the generator_loss at step 2 is not"):
        list(train.train(run))
    assert all(value.isfinite().all() for value in run.load_state("gan")["generator"].values())


def collapse_once(monkeypatch, at):
    """Let every picture of the sample after step `at` be background, the first time only."""
    left, save_samples = [at], loop.Loop.save_samples

    def all_background(self, generated):
        if left and self.done == left[0]:
            left.pop()
            masks = torch.zeros_like(generated.masks)
            masks[:, 0] = 1
            generated = generated._replace(masks=masks)
        save_samples(self, generated)

    monkeypatch.setattr(loop.Loop, "save_samples", all_background)


FIELDS = {"log_every_steps": 1, "sample_every_steps": 2, "save_every_steps": 2, "max_steps": 6, "keep_checkpoints": 9}


def test_a_collapse_is_rolled_back_behind_it_once(tiny_run, quick, monkeypatch, capsys):
    """The real rules see it before its step is saved, and what was logged before does not count again."""
    collapse_once(monkeypatch, at=4)
    run = tiny_run(**FIELDS, on_trouble="rollback", lambda_area=0.0)
    list(train.train(run))
    said = capsys.readouterr().out
    assert said.count("Back to step") == 1 and "Back to step 2, attempt 1 of 3." in said
    assert [r["trouble"] for r in run.records("train_health")][:1] == ["rolled back (1)"]
    assert run.load_state("gan")["attempt"] == 1 and run.load_state("gan")["since"] == 2
    assert all(r["background_share"] < 1 for r in run.records("train_samples"))


def test_a_training_stopped_for_its_trouble_is_saved_as_ever(tiny_run, quick, monkeypatch):
    """The averaged generator's BatchNorm is measured before."""
    measured = []
    monkeypatch.setattr(averaging, "recalibrate_batchnorm", lambda *_: measured.append(1))
    collapse_once(monkeypatch, at=3)
    run = tiny_run(**{**FIELDS, "sample_every_steps": 3, "save_every_steps": 100}, on_trouble="stop")
    with pytest.raises(UserError, match="stopped at step 3, as on_trouble asks. The background takes 100%"):
        list(train.train(run))
    assert run.load_state("gan")["step"] == 3 and measured


def test_parts_that_still_come_together_are_not_called_scattered(tiny):
    falling = [{"step": i, "concentration_loss": 0.7 - 0.05 * i} for i in range(9)]
    assert health.troubles(tiny(), falling, []) == {}


def test_the_rules_see_what_goes_wrong(tiny):
    cfg = tiny()
    well = [{"step": i, "discriminator_loss": 1.0, "concentration_loss": 0.05} for i in range(9)]
    used = {"step": 9, "background_share": 0.7, "part_1_share": 0.1, "part_2_share": 0.1, "part_3_share": 0.1}
    assert health.troubles(cfg, well, [used]) == {}
    cases = {
        "not finite": ([*well, {"step": 9, "generator_loss": float("nan")}], used),
        "discriminator winning": ([{**line, "discriminator_loss": 0.01} for line in well], used),
        "scattered": ([{**line, "concentration_loss": 0.5} for line in well], used),
        "collapsed": (well, {**used, "part_2_share": 0.0001, "part_3_share": 0.0001}),
        "unused": (well, {**used, "part_3_share": 0.0001}),
        "only background": (well, {**used, "background_share": 0.99}),
        "no background": (well, {**used, "background_share": 0.01}),
    }
    for kind, (lines, shares) in cases.items():
        assert list(health.troubles(cfg, lines, [shares])) == [kind]


def test_a_collapse_is_what_the_metric_calls_so(tiny):
    """Of 8 parts that hold the foreground alike, n are left: the warning and the metric draw the same line."""
    cfg = tiny(n_parts=8)
    for n in range(1, 9):
        labels = np.repeat(np.arange(1, n + 1, dtype=np.uint8), 8 * 3)
        labels = np.concatenate([labels, np.zeros(200, np.uint8)])[None, :, None]
        share = 0.4 / n
        line = {"step": 9, "background_share": 0.6, **{f"part_{k}_share": share * (k <= n) for k in range(1, 9)}}
        assert ("collapsed" in health.troubles(cfg, [], [line])) == bool(masks.collapse(labels, 8)), n


@pytest.mark.parametrize("wish", ["stop", "rollback"])
def test_advice_does_not_stop_a_training(tiny_run, quick, monkeypatch, wish):
    monkeypatch.setattr(health, "troubles", lambda *_: {
        kind: health.Trouble("Some advice.", 1) for kind in health.ADVICE})
    run = tiny_run(max_steps=2, log_every_steps=1, on_trouble=wish)
    assert [record["step"] for record in train.train(run)] == [1, 2]
    assert [r["trouble"] for r in run.records("train_health")] == ["scattered", "unused"]
