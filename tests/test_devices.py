"""Threads that leave busy cores to other programs."""

from types import SimpleNamespace

import pytest
import torch

from ganseg import devices, train
from ganseg.training import loop

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Two cores and a clock of their own: others(n) says that other programs use n cores from now on."""
    now = SimpleNamespace(s=0.0, used=0.0, others=0.0)

    def passed(s):
        now.s, now.used = now.s + s, now.used + s * (now.others + 1)

    monkeypatch.setattr(devices.time, "monotonic", lambda: now.s)
    monkeypatch.setattr(devices.time, "process_time", lambda: now.s)  # this program uses one core
    monkeypatch.setattr(devices.time, "sleep", passed)
    monkeypatch.setattr(devices.psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(devices.psutil, "cpu_times", lambda: SimpleNamespace(user=now.used, system=0.0))
    torch.set_num_threads(2)  # the fixture one_thread takes it back
    return SimpleNamespace(passed=passed, others=lambda n: setattr(now, "others", n))


@pytest.mark.parametrize(("most", "cores", "others", "threads"), [
    (2, 2, 0.0, 2), (2, 2, 0.2, 2), (2, 2, 0.5, 1), (2, 2, 2.0, 1), (1, 2, 0.0, 1), (8, 16, 4.0, 8), (8, 16, 13.1, 3),
])
def test_a_thread_has_a_core_of_its_own(most, cores, others, threads):
    assert devices.free_threads(most, cores, others) == threads


def test_threads_give_way_to_a_busy_program_and_come_back(machine, capsys):
    machine.others(1.0)
    with devices.SharedCores(None, CPU) as cores:
        assert torch.get_num_threads() == 1
        assert "Other programs use 1.0 of 2 cores; threads: 1 instead of 2." in capsys.readouterr().out
        machine.others(0.0)
        machine.passed(0.9)
        cores.look()  # too soon to tell
        assert torch.get_num_threads() == 1
        machine.passed(0.2)
        cores.look()
        assert torch.get_num_threads() == 2
        machine.others(1.0)
        machine.passed(20)
        cores.look()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_given_number_of_threads_stays(machine):
    machine.others(2.0)
    with devices.SharedCores(2, CPU) as cores:
        machine.passed(20)
        cores.look()
        assert torch.get_num_threads() == 2


def test_a_training_leaves_a_busy_core_alone(machine, tiny_run, quick, monkeypatch):
    seen, step = [], train.gan_step
    monkeypatch.setattr(train, "gan_step", lambda *a: (seen.append(torch.get_num_threads()), step(*a))[1])
    machine.others(1.0)
    list(train.train(tiny_run("busy")))
    machine.others(0.0)
    list(train.train(tiny_run("idle")))
    list(train.train(tiny_run("fixed", threads=1)))
    assert seen == [1, 1, 2, 2, 1, 1]


@pytest.mark.parametrize("there, precision, said", [
    (False, "bf16", True), (True, "bf16", False), (False, "float32", False),
])  # fmt: skip
def test_a_cpu_that_is_slow_in_bf16_says_so(there, precision, said, tiny_run, quick, monkeypatch, capsys):
    monkeypatch.setattr(loop, "has_bf16", lambda device: there)
    next(train.train(tiny_run("x", precision=precision, max_steps=1, log_every_steps=1)))
    assert ("this CPU has no instructions for precision bf16" in capsys.readouterr().out) is said
