"""Terminals that cannot show what is printed, and those that go away: the work is done all the same."""

import csv
import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_segment import make_run, photo

from ganseg import arguments, segment, signals
from ganseg.errors import UserError

SCRIPTS = Path(sys.executable).parent
FEW = ["-p", "dataset", "tiny", "-p", "max_steps", "3", "-p", "log_every_steps", "1", "--run", "x"]


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


class Unwritable(io.RawIOBase):
    """A stream that can be written no more, as a pipe without a reader, a closed terminal or a log on a full disk."""

    def __init__(self, number):
        self.number, self.file = number, open(os.devnull, "wb")

    def writable(self):
        return True

    def fileno(self):
        return self.file.fileno()

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("encoding, said", [("ascii", r"caf\xe9 \u732b \udcff"), ("latin-1", r"café \u732b \udcff"),
                                            ("utf-8", r"café 猫 \udcff")])
def test_what_a_terminal_cannot_show_is_escaped(encoding, said, monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding))
        arguments.exit_on_user_error(lambda stream: print("café 猫 \udcff", file=getattr(sys, stream)), stream)
        assert getattr(sys, stream).buffer.getvalue() == f"{said}\n".encode(encoding)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_where_nothing_can_be_printed_any_more_the_work_is_done_in_silence(number, monkeypatch):
    done = []

    def work():
        for i in range(3):
            print("x" * 100_000)
            print("y", file=sys.stderr, flush=True)
            done.append(i)
        raise UserError("as it should")

    for stream in ("stdout", "stderr"):
        raw = Unwritable(number)
        monkeypatch.setattr(raw, "write", raw.write)
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BufferedWriter(raw), "utf-8"))
    monkeypatch.setattr(arguments.os, "dup2", lambda new, old: monkeypatch.setattr(Unwritable, "write", len))
    with pytest.raises(SystemExit, match="ganseg: as it should"):
        arguments.exit_on_user_error(work)
    assert done == [0, 1, 2]


def test_without_any_output_the_work_is_done(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    arguments.exit_on_user_error(print, "nobody hears it")
    assert sys.stdout is None


@pytest.mark.parametrize("command", [[sys.executable, "-m", "ganseg.train"], [SCRIPTS / "ganseg", "train"]])
def test_a_training_whose_reader_has_gone_away_goes_on_to_its_end(command, outputs):
    process = subprocess.Popen([*command, *FEW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "tiny/x" in process.stdout.readline()  # as | head -1
    process.stdout.close()
    assert process.wait(timeout=300) == 0 and process.stderr.read() == ""
    assert [path.name for path in (outputs / "tiny" / "x" / "checkpoints").iterdir()] == ["gan-00000003.pt"]


def test_segmenting_is_done_in_a_terminal_of_ascii_and_without_a_reader(outputs, tmp_path, monkeypatch):
    make_run("x")
    (tmp_path / "é").mkdir()
    photo().save(tmp_path / "é" / "café.png")
    (tmp_path / "é" / "猫.png").write_bytes(b"no picture")
    read, write = os.pipe()
    os.close(read)
    for name, stdout, env in (("ascii", subprocess.PIPE, {"PYTHONIOENCODING": "ascii"}), ("pipe", write, {}),
                              ("C", subprocess.PIPE, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})):
        given = [tmp_path / "é", "--run", "x", "--out", tmp_path / name, "--device", "cpu"]
        done = subprocess.run([SCRIPTS / "ganseg", "segment", *given], stdout=stdout, stderr=subprocess.PIPE,
                              env=os.environ | env)
        assert done.returncode == 0 and done.stderr == b"", done.stderr
        assert name == "pipe" or b"cannot be read: " in done.stdout
        with open(tmp_path / name / "parts.csv", encoding="utf-8", newline="") as file:
            assert len(list(csv.DictReader(file))) == 3
    os.close(write)


def test_names_that_are_no_text_are_in_the_table_in_a_form_that_is(outputs, tmp_path):
    make_run("x")
    folders = [tmp_path / os.fsdecode(name) for name in (b"caf\xe9", b"b")]
    for folder in folders:
        folder.mkdir()
        photo().save(folder / "a.png")
    segment.segment_photos(folders, "x", tmp_path / "out", device="cpu")
    with open(tmp_path / "out" / "parts.csv", encoding="utf-8", newline="") as file:
        masks = {row["mask"] for row in csv.DictReader(file)}
    assert masks == {"caf?/a_parts.png", "b/a_parts.png"} and all((tmp_path / "out" / mask).exists() for mask in masks)


def test_a_closed_terminal_is_one_signal_however_often_it_is_sent_unless_nohup_says_no():
    came = []
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with signals.taken(lambda: came.append("asked")) as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)  # a shell and the system may both send it
            assert asked == [signal.SIGHUP] and came == ["asked"]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.taken(lambda: came.append("asked")) as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
