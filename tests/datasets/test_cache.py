"""The cache of decoded pictures: what it is keyed by, and what happens when it is not as written."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from ganseg import config, runs
from ganseg.datasets import cache, decode
from ganseg.datasets.loading import load_pictures
from ganseg.devices import rng
from ganseg.errors import UserError
from ganseg.training.batches import Batches

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A config of twelve pictures in a folder, each of one grey value of its own, with caches in tmp_path."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.new("L", (40, 30), 20 * i).save(tmp_path / "photos" / f"{i:02}.png")
    return config.load("folder", source=str(tmp_path / "photos"), image_size=32, batch_size=4, flip=False)


@pytest.fixture
def built(photos, monkeypatch):
    """How often pictures were decoded anew, as a list that grows."""
    calls, write = [], cache._write
    monkeypatch.setattr(cache, "_write", lambda *args: (calls.append(1), write(*args)))
    return calls


def folders():
    return [path for path in runs.cache_folder("folder").iterdir() if path.is_dir()]


def values(pictures):
    return (pictures.images[:, 0, 16, 16] // 20).tolist()


def test_pictures_are_decoded_once_and_mapped_ever_after(photos, built):
    first, again = load_pictures(photos, "train"), load_pictures(photos, "train")
    assert len(built) == 1 and values(again) == list(range(12)) and torch.equal(first.images, again.images)
    assert list(again.names) == [f"{i:02}.png" for i in range(12)]


@pytest.mark.parametrize("change", [{"image_size": 64}, {"crop": "center"}, {"max_train_pictures": 5}])
def test_another_size_crop_or_number_has_a_cache_of_its_own(photos, built, change):
    load_pictures(photos, "train")
    load_pictures(photos.model_copy(update=change), "train")
    load_pictures(photos, "train")
    assert len(built) == 2


def test_a_picture_added_or_changed_in_the_source_is_noticed(photos, built, tmp_path):
    load_pictures(photos, "train")
    Image.new("L", (40, 30), 240).save(tmp_path / "photos" / "12.png")
    assert values(load_pictures(photos, "train"))[-1] == 12 and len(built) == 2
    Image.new("L", (40, 30), 100).save(tmp_path / "photos" / "00.png")
    os.utime(tmp_path / "photos" / "00.png", (1, 1))
    assert values(load_pictures(photos, "train"))[0] == 5 and len(built) == 3


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def flip_the_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)


def another_shape(path):
    path.write_bytes(path.read_bytes().replace(b"(12, 3,", b"(10, 3,", 1))


def flip_an_early_byte(path):
    data = bytearray(path.read_bytes())
    data[25] ^= 255
    path.write_bytes(data)


def flip_a_byte_in_the_middle(path):
    data = bytearray(path.read_bytes())
    data[data.index("03.png".encode("utf-32-le")) if path.suffix == ".npz" else len(data) // 2] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(("name", "damage"), [
    ("images.npy", truncate), ("images.npy", flip_the_last_byte), ("images.npy", flip_an_early_byte),
    ("images.npy", os.remove), ("images.npy", another_shape), ("images.npy", flip_a_byte_in_the_middle),
    ("index.npz", truncate), ("index.npz", flip_a_byte_in_the_middle), ("index.npz", os.remove),
])
def test_a_damaged_cache_is_noticed_and_built_again(photos, built, name, damage, capsys):
    load_pictures(photos, "train")
    damage(folders()[0] / name)
    assert values(load_pictures(photos, "train")) == list(range(12)) and len(built) == 2
    assert ("is damaged" in capsys.readouterr().out) == ((name, damage) != ("index.npz", os.remove))
    load_pictures(photos, "train")
    assert len(built) == 2


def test_all_pictures_are_compared_with_their_checksums_when_asked(photos, built, monkeypatch):
    monkeypatch.setattr(cache, "CHECKED_ROWS", 2)
    load_pictures(photos, "train")
    images = np.load(folders()[0] / "images.npy", mmap_mode="r+")
    images[5] = 0
    images.flush()
    load_pictures(photos, "train")
    assert len(built) == 1  # the sixth of twelve is not among two
    load_pictures(photos, "train", check_all=True)
    assert len(built) == 2


def test_a_build_that_breaks_off_leaves_nothing_and_the_next_one_succeeds(photos, monkeypatch):
    def breaks_off(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache.zlib, "crc32", breaks_off)
        load_pictures(photos, "train")
    assert folders() == []
    assert len(load_pictures(photos, "train")) == 12


def test_a_disk_without_room_is_named_before_anything_is_decoded(photos, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"12 pictures at 32 pixels need 0.0 GB in .*set GANSEG_OUTPUTS"):
        load_pictures(photos, "train")
    assert folders() == []


def _count(photos, barrier, queue):
    barrier.wait()
    queue.put(values(load_pictures(photos, "train")))


def test_two_processes_building_the_same_cache_do_no_harm(photos):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_count, args=(photos, barrier, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=300) for _ in workers] == [list(range(12))] * 2
    for worker in workers:
        worker.join()
    assert len(folders()) == 1


def test_a_picture_that_cannot_be_read_leaves_the_others_in_their_places(photos, tmp_path):
    (tmp_path / "photos" / "03.png").write_bytes(b"")
    pictures = load_pictures(photos, "train")
    assert values(pictures) == [0, 1, 2, *range(4, 12)] and pictures.skipped == [("03.png", "the file is empty")]
    assert load_pictures(photos, "train").skipped == pictures.skipped  # also from the cache


def test_an_even_spread_is_gathered_where_fewer_are_asked_for(photos):
    assert values(load_pictures(photos, "train", limit=3)) == [0, 4, 8]


@pytest.mark.parametrize(("rows", "is_mapped"), [(range(3, 9), True), (range(12), True), ([], True), ([5, 3], False)])
def test_a_slice_of_the_pictures_stays_mapped(photos, rows, is_mapped):
    pictures = load_pictures(photos, "train")
    taken = pictures.take(rows)
    assert values(taken) == list(rows) and list(taken.names) == [f"{i:02}.png" for i in rows]
    same_memory = taken.images.untyped_storage().data_ptr() == pictures.images.untyped_storage().data_ptr()
    assert same_memory == is_mapped


# --- batches ---


def test_each_epoch_shows_every_picture_once_in_an_order_of_its_own(photos):
    batches = Batches(load_pictures(photos, "train").images, photos, CPU)
    seen = [((batches(step, rng(step))[:, 0, 0, 0] + 1) * 127.5 / 20).round().int().tolist() for step in range(6)]
    assert sorted(sum(seen[:3], [])) == sorted(sum(seen[3:], [])) == list(range(12))
    assert seen[:3] != seen[3:]


def test_a_step_shows_the_same_pictures_whatever_came_before(photos):
    images = load_pictures(photos, "train").images
    in_order = Batches(images, photos, CPU)
    batches = [in_order(step, rng(step)) for step in range(5)]
    for step in (4, 1, 3):
        assert torch.equal(Batches(images, photos, CPU)(step, rng(step)), batches[step])


def test_pictures_on_the_device_and_streamed_ones_give_the_same_batches(photos):
    images = load_pictures(photos, "train").images
    plain, ahead, resident = (Batches(images, photos, CPU) for _ in range(3))
    ahead.ahead, resident.resident = True, True
    for step in (0, 1, 2, 3, 1):  # back, too
        batch = plain(step, rng(step))
        assert torch.equal(ahead(step, rng(step)), batch) and torch.equal(resident(step, rng(step)), batch)


def test_a_random_window_that_does_not_fit_is_drawn_again(photos):
    """On images that show their own coordinates, so that the windows can be read off."""
    S, n = 128, 2000
    ramp = torch.arange(S, dtype=torch.uint8)
    images = torch.stack([ramp.expand(S, S), ramp[:, None].expand(S, S), ramp.expand(S, S)]).expand(n, 3, S, S)
    cfg = photos.model_copy(update={"batch_size": n, "random_resized_crop": True})
    shown = (Batches(images, cfg, CPU)(0, rng("windows")) + 1) * 127.5
    width, height = ((shown[:, c, 96, 96] - shown[:, c, 32, 32]) / 64 * S for c in (0, 1))
    assert width.max() < S + 0.5 and height.max() < S + 0.5
    area, ratio = width * height / S**2, width / height
    assert 0.89 < area.min() < 0.905 and 0.99 < area.max() and abs(area.mean() - 0.936) < 0.004
    assert 0.89 < ratio.min() < 0.909 and 1.08 < ratio.max() < 1.11
    clamped = (width > S - 0.5) | (height > S - 0.5)
    assert clamped.float().mean() < 0.3  # a quarter do once rounded to pixels; nearly half would be clamped


def test_a_million_pictures_open_at_once(tmp_path, monkeypatch):
    """A sparse file of the size they would have, and a generated index."""
    n, S = 1_000_000, 32
    images = np.lib.format.open_memmap(tmp_path / "images.npy", mode="w+", dtype=np.uint8, shape=(n, 3, S, S))
    crc = cache.zlib.crc32(images[0])
    names = np.char.mod("folder/%07d.jpg", np.arange(n))
    facts = json.dumps({"maps": ["images"], "skipped": [], **dict.fromkeys(cache.FACTS)})
    np.savez(tmp_path / "index.npz", crc=np.full(n, crc, np.uint32), names=names, facts=facts)
    del names
    looked_at, crc32 = [], cache.zlib.crc32
    monkeypatch.setattr(cache.zlib, "crc32", lambda data: looked_at.append(len(data)) or crc32(data))
    memory = psutil.Process().memory_info().rss
    pictures = cache.open_cache(tmp_path)
    assert len(pictures) == n and pictures.names[-1] == "folder/0999999.jpg"
    assert 0 < len(looked_at) <= 1000  # rows whose bytes are checked
    assert psutil.Process().memory_info().rss - memory < 500e6


@pytest.mark.parametrize("as_zip", [False, True])
def test_many_pictures_are_decoded_in_processes_to_the_same_rows(as_zip, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(40):
        Image.new("RGB", (40, 30), (i, 2 * i, 255 - i)).save(photos / f"{i:02d}.png")
    (photos / "07.png").write_bytes(b"no picture")
    source = photos
    if as_zip:
        source = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "threads"))
    cfg = config.load("folder", source=str(source), image_size=32)
    in_threads = load_pictures(cfg, "train")
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "processes"))
    monkeypatch.setattr(decode, "MANY", 10)
    monkeypatch.setattr(decode, "AHEAD", 16)
    monkeypatch.setattr(decode.joblib, "cpu_count", lambda: 2)
    in_processes = load_pictures(cfg, "train")
    assert torch.equal(in_threads.images, in_processes.images) and len(in_processes) == 39
    assert list(in_threads.names) == list(in_processes.names) and in_processes.skipped == in_threads.skipped


@pytest.mark.skipif(sys.platform != "linux", reason="only there pictures are decoded in processes")
def test_no_more_processes_decode_than_cores_are_allotted(monkeypatch):
    monkeypatch.setattr(decode, "MANY", 10)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # as joblib counts cores, whatever the machine has
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert set(decode.in_parallel(lambda i: os.getpid(), 40)) == {os.getpid()}


def test_an_error_in_a_process_reaches_the_user(monkeypatch):
    monkeypatch.setattr(decode, "MANY", 10)
    monkeypatch.setattr(decode.joblib, "cpu_count", lambda: 2)

    def work(i):
        if i == 30:
            raise UserError("picture 30 is wrong")
        return os.getpid()

    pids = decode.in_parallel(lambda i: os.getpid(), 40)
    assert len(pids) == 40 and (os.getpid() not in pids or sys.platform != "linux")
    with pytest.raises(UserError, match="picture 30"):
        decode.in_parallel(work, 40)


@pytest.mark.skipif(sys.platform != "linux", reason="only there pictures are decoded in processes")
def test_a_process_that_is_killed_is_a_sentence(monkeypatch):
    monkeypatch.setattr(decode, "MANY", 10)
    monkeypatch.setattr(decode.joblib, "cpu_count", lambda: 2)
    with pytest.raises(UserError, match="was killed, for want of memory or of room"):
        decode.in_parallel(lambda i: os.kill(os.getpid(), signal.SIGKILL), 40)
