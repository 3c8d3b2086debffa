"""Whatever a file or a parameter holds: a result or one sentence, never a traceback of ours, a hang or foreign code."""

import io
import json
import os
import pickle
import random
import resource
import tarfile
import zipfile

import pytest
import torch
import yaml
from conftest import fuzzed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ganseg import arguments, checkpoints, config, segment
from ganseg.datasets import decode, folder, table
from ganseg.datasets.loading import load_pictures
from ganseg.datasets.source import Source
from ganseg.errors import UserError
from ganseg.experiments import compare, trials
from ganseg.figures import report
from ganseg.viewer import progress

N = 200
FUZZ = settings(max_examples=N, derandomize=True, database=None, deadline=None,
                suppress_health_check=list(HealthCheck))
FIELDS = [*config.Config.model_fields, "n_prats", "lambda", "", "__class__"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 300), st.floats(), st.text(max_size=20),
    st.sampled_from(["1e-4", "on", "cuda", "creatures", "../../etc", "gan", "none", "-1", ".inf", "9" * 400]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner,
                                                                                          max_size=3), max_leaves=8)


@pytest.fixture(autouse=True)
def no_more_than_8_gb():
    """Memory that grows without bound ends in a MemoryError here, which no test expects."""
    if not os.path.exists("/proc/self/statm"):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 8 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def one_sentence(kind, function, *args, **kwargs):
    """Count a case; what the function returns, or None after a UserError, whose message is one line."""
    fuzzed[kind] += 1
    try:
        return function(*args, **kwargs)
    except UserError as error:
        assert "\n" not in str(error) and 5 < len(str(error)) < 2000, str(error)[:300]


def mutated(content, chance):
    """Bytes with some of them changed, cut out, doubled or added."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        at, n = chance.randrange(len(content) + 1), chance.choice([1, 4, 64, 1024])
        what = chance.randrange(5)
        if what == 0:
            content[at : at + n] = chance.randbytes(n)
        elif what == 1:
            del content[at : at + n]
        elif what == 2:
            content[at:at] = content[at : at + n]
        elif what == 3:
            content = content[:at] or bytearray(b"\0")
        else:
            content[at:at] = chance.choice([b"\xff" * n, b"\0" * n, b"NaN", b"1e999", b"-", b"\n", b"{", b"[" * n])
    return bytes(content)


@FUZZ
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5))
def test_parameter_sets(values):
    values.pop("dataset", None)
    made = one_sentence("parameter sets", config.load, "tiny", **values)
    assert made is None or isinstance(made, config.Config)


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(FIELDS), st.text(max_size=30) | SCALARS.map(str)), max_size=4))
def test_parameters_of_the_command(pairs):
    given_ = {name: arguments._value(name, text) for name, text in pairs}
    given_.pop("dataset", None)
    one_sentence("command parameters", config.load, "tiny", **given_)


SWEEP = (config.ROOT / "params" / "ablations.yaml").read_text()
SAVED = yaml.safe_dump(config.load("tiny").model_dump())


@pytest.mark.parametrize("seed", range(0, 220, 20))
def test_yaml_files(tmp_path, seed):
    for chance in map(random.Random, range(seed, seed + 20)):
        path = tmp_path / "x.yaml"
        path.write_bytes(mutated((SAVED if chance.random() < 0.5 else SWEEP).encode(), chance))
        one_sentence("YAML files", config.read, path)
        one_sentence("YAML files", trials.load_sweep, "n_per", path)


def test_a_yaml_file_that_unfolds_to_billions_is_one_sentence(tmp_path):
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{','.join(['*' + a] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join([*lines, "reader: *j", "dataset: tiny"]))
    assert one_sentence("YAML files", config.read, path) is None
    assert one_sentence("YAML files", trials.load_sweep, "a", path) is None


def pictures():
    """Small pictures of each format and mode, as bytes."""
    for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I;16", "1", "LA"):
        for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
            file = io.BytesIO()
            try:
                picture = Image.effect_noise((23, 17), 90).convert(mode)
                extra = {"save_all": True, "append_images": [picture]} if kind == "GIF" else {}
                picture.save(file, kind, **extra)
                yield file.getvalue()
            except (OSError, ValueError):
                pass  # that format has no such mode


PICTURES = list(pictures())


@pytest.mark.parametrize("seed", range(0, 400, 50))
def test_pictures(seed):
    for chance in map(random.Random, range(seed, seed + 50)):
        content = mutated(chance.choice(PICTURES), chance) if chance.random() < 0.9 else chance.randbytes(500)
        fuzzed["pictures"] += 1
        for read in (decode.open_upright, lambda c: decode.read_square(c, 32, "squeeze")):
            try:
                read(content)
            except ValueError as error:
                assert "\n" not in str(error)


def archives(chance, canary):
    """A zip or tar of pictures with something hostile in it, as (name, bytes)."""
    file, names = io.BytesIO(), [f"{i}.png" for i in range(3)]
    evil = chance.choice(["../out.png", "/abs.png", "a/../../out.png", str(canary), "0.png", "\udcff.png", "x" * 300])
    if chance.random() < 0.5:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in [*names, evil]:
                archive.writestr(name.encode("utf-8", "replace").decode(), chance.choice(PICTURES))
            if chance.random() < 0.1:
                archive.writestr("bomb.png", bytes(2**24))
        return "a.zip", file.getvalue()
    with tarfile.open(fileobj=file, mode=f"w:{chance.choice(['', 'gz'])}") as archive:
        for name in [*names, evil]:
            content = chance.choice(PICTURES)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if chance.random() < 0.2:
                member.type, member.linkname = chance.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]), "/etc/passwd"
            archive.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return "a.tar", file.getvalue()


def read_all(path, scratch):
    with Source(path, scratch=scratch) as source:
        for name in source.pictures():
            try:  # as those who read pictures do: one that cannot be read is passed over
                content = source.read(name)
            except MemoryError:
                raise
            except Exception:
                continue
            assert b"root:" not in content[:2000]  # no link leads out


@pytest.mark.parametrize("seed", range(0, 220, 20))
def test_archives(tmp_path, seed):
    inside, scratch = tmp_path / "inside", tmp_path / "scratch"
    inside.mkdir()
    scratch.mkdir()
    canary = tmp_path / "canary.png"
    for chance in map(random.Random, range(seed, seed + 20)):
        name, content = archives(chance, canary)
        if chance.random() < 0.6:
            content = mutated(content, chance)
        (inside / name).write_bytes(content)
        one_sentence("archives", read_all, inside / name, scratch)
        (inside / name).unlink()
    assert {p.name for p in tmp_path.iterdir()} == {"inside", "scratch"}  # nothing was unpacked elsewhere


FOLDERS = ["", "", "images/", "JPEGImages/", "masks/", "Masks/", "SegmentationClass/", "SegmentationObject/", "labels/",
           "train/", "Test/", "val2017/", "train_masks/", "a/", "with_mask/", "\u00e9/", "e\u0301/"]
FILES = ["a.jpg", "b.jpg", "c.JPG", "a.png", "b.png", "a_mask.png", "b-seg.PNG", "mask_c.png", "a_image.jpg",
         "a_mask.jpg", "new\nline.jpg", "new\nline_mask.png", "landmarks.csv", "Landmarks.CSV", "a.heic", "d", "e.zip",
         "notes.txt", "\u00e9.jpg", "e\u0301.png"]
MASK_OF = ["{split}masks/{stem}.png", "Masks/{split}{stem}.png", "{split}{stem}_mask.png", "Labels/{split}{stem}.png",
           "{split}SegmentationClass/{stem}.PNG", "masks/mask_{stem}.png"]
COLOURED, LABELS = io.BytesIO(), io.BytesIO()
Image.effect_noise((9, 8), 90).convert("RGB").save(COLOURED, "JPEG")
Image.new("L", (9, 8), 3).save(LABELS, "PNG")


def layout(chance):
    """{name: content} of pictures, masks, tables and more, in folders that mean something."""
    files, top, mask_of, names = {}, chance.choice(["", "a/", "\u00e9/"]), chance.choice(MASK_OF), []
    for stem in "abcd"[: chance.randint(1, 4)]:
        split = chance.choice(["", "train/", "Test/", "val2017/"])
        names.append(f"{top}{split}{chance.choice(['', 'images/'])}{stem}.jpg")
        if chance.random() < 0.6:
            names.append(top + mask_of.format(split=split, stem=stem))
    for _ in range(chance.choice([0, 0, 1, 2, 5])):  # and what does not fit
        names.append("".join(chance.choices(FOLDERS, k=chance.randint(1, 3))) + chance.choice(FILES))
    for name in names:
        content = {"png": LABELS.getvalue(), "txt": b"words", "zip": b"PK\3\4"}.get(name[-3:].lower())
        if name.lower().endswith("csv"):
            content = b"file,nose_x,nose_y\n" + chance.choice([b"", b"a.jpg,1,2\n", b"images/a.jpg,1,2\n"])
        files[name] = content or COLOURED.getvalue()
    return files


def read_layout(path):
    with Source(path) as source:
        return [folder.list_split(source, split, config.load("folder")) for split in ("train", "test")]


@pytest.mark.parametrize("seed", range(0, 400, 50))
def test_folder_layouts(tmp_path, seed):
    for chance in map(random.Random, range(seed, seed + 50)):
        files = layout(chance)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        listings = one_sentence("folder layouts", read_layout, tmp_path / "a.zip")
        if listings is None:
            continue
        train, test = listings
        masks = {name for name in files if name.lower().endswith(".png")}
        if any(name.lower().endswith(".jpg") for name in files):  # else these pngs may be the pictures
            assert not masks & {*train.names, *test.names}, (sorted(files), train.names, test.names)
        for listing in listings:
            assert not {*(listing.masks or [])} - masks - {None}
        if not {"nothing: test pictures are training pictures too"} & {train.split_by, test.split_by}:
            assert not {*train.names} & {*test.names}


@pytest.mark.parametrize("seed", range(0, 220, 20))
def test_file_names(tmp_path, seed, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    parts = ["=1+1", "-p", "~", " ", "\n", "\t", "\x1b[31m", "\\", "'", '"', "%s", "{0}", "$HOME", "..", "#", "é",
             "e\u0301", "日本", "\U0001f600", "\u202e", "\udcff", "x" * 60, "a,b", ";", "CON", "*", "?", ":", "|", "&"]
    for number in range(seed, seed + 20):
        chance, root = random.Random(number), tmp_path / str(number)
        (root / "sub").mkdir(parents=True)
        names = {chance.choice(["", "sub/"]) + "a" + "".join(chance.choices(parts, k=chance.randint(1, 4))) + ".jpg"
                 for _ in range(3)}
        for name in names:
            (root / name).write_bytes(COLOURED.getvalue())
        fuzzed["file names"] += 1
        found = load_pictures(config.load("folder", source=str(root), image_size=32), "train").names
        assert sorted(found) == sorted(name.encode("utf-8", "replace").decode() for name in names)
        stems = segment._output_names(list(found))
        assert len({*stems}) == len(names) and not any(".." in stem.split("/") for stem in stems)


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("seed", range(0, 220, 20))
def test_checkpoints(tmp_path, seed):
    file = io.BytesIO()
    torch.save({"step": 3, "generator": {"a": torch.ones(20, 20)}, "window": {"x": {1: torch.ones(())}}}, file)
    canary = tmp_path / "canary"
    hostile = [pickle.dumps(Touch(canary)), pickle.dumps({"step": Touch(canary)}), b"", b"PK\3\4", pickle.dumps([1])]
    evil = io.BytesIO()
    torch.save({"step": 1, "generator": Touch(canary)}, evil)
    for chance in map(random.Random, range(seed, seed + 20)):
        kind = chance.random()
        content = mutated(file.getvalue(), chance) if kind < 0.7 else chance.choice([*hostile, evil.getvalue()])
        path = tmp_path / "gan-00000001.pt"
        path.write_bytes(content)
        state = one_sentence("checkpoints", checkpoints.load_checkpoint, path)
        assert state is None or isinstance(state, dict)
    assert not canary.exists()


LINES = [
    {"stage": "train", "step": 50, "generator_loss": 1.0, "discriminator_loss": 0.9, "concentration_loss": 0.1,
     "time_s": 5.0, "steps_per_s": 10.0, "left_s": 9.0},
    {"stage": "train_samples", "step": 50, "background_share": 0.5,
     **{f"part_{k}_share": 0.1 for k in range(1, 6)}},
    {"stage": "train", "step": 100, "generator_loss": 1.1, "discriminator_loss": 0.8, "concentration_loss": 0.1,
     "time_s": 10.0, "steps_per_s": 10.0, "left_s": 4.0},
    {"stage": "distill", "step": 20, "segmentation_loss": 0.4, "time_s": 2.0, "steps_per_s": 10.0, "left_s": 0.0},
    {"stage": "evaluate", "step": 20, "foreground_iou": 0.7, "left_out": {"x": "y"}, "notes": {"GAN steps": 50},
     "settings": {"max_test_pictures": 5, "split_list": "a.txt"}},
    {"stage": "fidelity", "step": 50, "fid_50k": 9.0, "protocols": {"fid_50k": "a sentence"}},
]


def read_metrics(run):
    for stage in ("train", "distill", "evaluate"):
        run.records(stage)
    progress.warnings(progress.read_progress(run))
    compare.runs_table([run])
    compare.beside_published([run])
    report.metrics_table(run)
    run.rewind({"train"}, 60)


@pytest.mark.parametrize("seed", range(0, 220, 20))
def test_metrics_files(tiny_run, seed, monkeypatch):
    run = tiny_run()
    run.start("cpu")
    for chance in map(random.Random, range(seed, seed + 20)):
        lines = json.loads(json.dumps(LINES))
        for line in chance.sample(lines, 2):  # a wrong value, or one that is missing
            name = chance.choice(list(line))
            line[name] = chance.choice([None, "text", [1], {}, float("nan"), 10**400, -1, True])
            if chance.random() < 0.2:
                del line[name]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        if chance.random() < 0.6:
            content = mutated(content, chance)
        (run.folder / "metrics.jsonl").write_bytes(content)
        one_sentence("metrics files", read_metrics, run)


HEADERS = ["file", "split", "nose_x", "nose_y", " Ear_X", "ear_y", "ear_z", "", "Split", '"nose_x"', "_x"]
CELLS = ["a.png", "images/a.png", "./b.png", "c\\d.png", "A", "cafe\u0301", "12", "3.5", "3,5", '"3,5"', "-1", "",
         "NaN", "inf", "1e999", "train", " Test", '"a\nb.png"', '"', "\0", "9" * 400, "\u0663", "\ud800"]
NAMES = ["images/a.png", "b.png", "c/d.png", "images/caf\u00e9.png", "x/a.PNG", "a\nb.png"]


@pytest.mark.parametrize("seed", range(0, 220, 20))
def test_csv_tables(tmp_path, seed):
    for chance in map(random.Random, range(seed, seed + 20)):
        separator, end = chance.choice([",", ", ", ";", "\t"]), chance.choice(["\n", "\r\n", "\r"])
        header = ["file", "nose_x", "nose_y", *chance.sample(HEADERS, chance.choice([0, 0, 0, 2]))]
        rows = [[name, *chance.choices(["4", "", "5.5"], k=2), *chance.choices(CELLS, k=len(header) - 3)]
                for name in chance.sample(NAMES[:5], chance.randrange(5))]
        for row in rows if chance.random() < 0.4 else []:
            row[chance.randrange(len(row))] = chance.choice(CELLS)
        text = end.join(separator.join(cells) for cells in [header, *rows])
        content = text.encode(chance.choice(["utf-8", "utf-16", "cp1252", "utf-16-be"]), "replace")
        path = tmp_path / "landmarks.csv"
        path.write_bytes(mutated(content, chance) if chance.random() < 0.2 else content)
        with Source(tmp_path) as source:
            made = one_sentence("csv tables", table.read_table, source, path.name, NAMES)
        if made:
            names, points, splits = made
            assert points.keys() <= set(NAMES) and set(splits.values()) <= {"train", "test"}
            assert all(len(flat) == 2 * len(names) for flat in points.values())


def test_every_kind_was_tried_often_enough():
    if len(fuzzed) < 10:
        pytest.skip("not all of this file ran")
    assert all(n >= N for n in fuzzed.values()), fuzzed
