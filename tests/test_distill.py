"""The pairs that a segmenter learns from, and going on where distillation stopped."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ganseg import distill, evaluate, part_names, runs, train
from ganseg.checkpoints import load_checkpoint
from ganseg.datasets.base import Pictures
from ganseg.devices import rng
from ganseg.errors import UserError
from ganseg.figures import exports
from ganseg.model import loading
from ganseg.training import losses, trained_on


def squares():
    """Pairs whose picture is white where the label is 1."""
    labels = torch.zeros(8, 32, 32, dtype=torch.long)
    labels[:, 8:20, 10:26] = 1
    return (2.0 * labels - 1)[:, None].expand(8, 3, 32, 32), labels


def test_labels_move_with_their_pictures():
    images, labels = squares()
    moved, moved_labels = distill.augment(images, labels, rng(1))
    assert moved.shape == images.shape and moved_labels.dtype == torch.long and moved.abs().max() <= 1
    for image, label, before in zip(moved, moved_labels, labels, strict=True):
        grey = image.mean(0)
        assert np.corrcoef(grey.flatten(), label.flatten())[0, 1] > 0.9
        assert set(label.unique().tolist()) == {0, 1} and not torch.equal(label, before)
    assert not torch.equal(moved_labels[0], moved_labels[1])  # each by amounts of its own


def test_moves_are_as_long_as_asked():
    images, labels = squares()
    center = [np.argwhere(distill.augment(images, labels, rng(1), moves)[1].numpy()[0] == 1).mean(axis=0)
              for moves in (0.0, 0.5, 1.0)]
    start = np.argwhere(labels[0].numpy() == 1).mean(axis=0)
    still, half, whole = (np.linalg.norm(c - start) for c in center)
    assert still == 0 and 0 < half < whole


def test_augmentation_is_drawn_from_the_step_alone():
    once, again = (distill.augment(*squares(), rng(1)) for _ in range(2))
    other = distill.augment(*squares(), rng(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True)) and not torch.equal(once[0], other[0])


def test_pairs_are_augmented_only_where_the_config_asks_for_it(tiny):
    G = loading.build_generator(tiny()).eval()
    plain, changed = (distill.generate_pairs(G, tiny(distill_augment=wish), 0) for wish in (False, True))
    assert torch.equal(distill.generate_pairs(G, tiny(), 0)[0], plain[0]) and not torch.equal(plain[0], changed[0])


def test_a_finished_distillation_goes_on_with_more_steps(trained, tiny_run):
    wishes = {"segmenter": "unet", "segmenter_width": 4, "distill_batch_size": 2}
    list(distill.distill(tiny_run("trained", **wishes, distill_steps=2)))
    list(distill.distill(tiny_run("trained", distill_steps=4)))
    assert runs.find(trained.folder).load_state("segmenter")["step"] == 4
    assert loading.load_segmenter(tiny_run("trained")) is not None


def test_a_gan_that_was_trained_on_gets_a_new_segmenter(trained, tiny_run, capsys):
    wishes = {"segmenter": "unet", "segmenter_width": 4, "distill_batch_size": 2, "distill_steps": 2}
    run = tiny_run("trained", **wishes)
    list(distill.distill(run))
    old = run.load_state("segmenter")
    list(distill.distill(run))  # nothing left to do
    assert run.load_state("segmenter")["gan_step"] == old["gan_step"] == 2
    loading.load_segmenter(run)
    assert "Note" not in capsys.readouterr().out
    list(train.train(tiny_run("trained", max_steps=3)))
    loading.load_segmenter(run)  # as segment, the inspector and samples do, beside pictures of the newer GAN
    assert "learned from step 2 of the GAN, which is at 3 now; learn from that with:" in capsys.readouterr().out
    list(distill.distill(run))
    new = run.load_state("segmenter")
    assert (new["step"], new["gan_step"]) == (2, 3) and "from step 2 to 3" in capsys.readouterr().out
    assert not torch.equal(new["segmenter"]["head.weight"], old["segmenter"]["head.weight"])
    assert [record["step"] for record in run.records("distill")] == [2]


def test_a_gan_that_was_rolled_back_and_came_to_the_same_step_again_gets_a_new_segmenter(trained, tiny_run):
    wishes = {"segmenter": "unet", "segmenter_width": 4, "distill_batch_size": 2, "distill_steps": 2}
    run = tiny_run("trained", **wishes)
    list(distill.distill(run))
    old, gan = run.load_state("segmenter"), run.load_state("gan")
    again = loading.build_generator(run.cfg.model_copy(update={"seed": 5})).state_dict()
    run.save("gan", 2, {**gan, "ema": again, "attempt": 1})
    assert evaluate.evaluate(run)["notes"].get("GAN steps of the generated samples") is None
    list(distill.distill(run))
    new = run.load_state("segmenter")
    assert (old["gan_attempt"], new["gan_attempt"]) == (0, 1) and new["gan_step"] == 2
    assert not all(torch.equal(new["segmenter"][name], value) for name, value in old["segmenter"].items())
    assert evaluate.evaluate(run)["notes"]["GAN steps of the generated samples"] == 2


def test_the_old_segmenter_stays_until_the_new_one_is_saved(trained, tiny_run, monkeypatch):
    wishes = {"segmenter": "unet", "segmenter_width": 4, "distill_batch_size": 2, "distill_steps": 4}
    run = tiny_run("trained", **wishes, save_every_steps=2)
    list(distill.distill(run))
    list(train.train(tiny_run("trained", max_steps=3)))
    step, reached = distill.distill_step, []

    def break_off(*args):
        if len(reached) == 1:
            raise RuntimeError("power cut")
        reached.append(step(*args))
        return reached[-1]

    monkeypatch.setattr(distill, "distill_step", break_off)
    with pytest.raises(RuntimeError):
        list(distill.distill(run))
    assert run.load_state("segmenter")["gan_step"] == 2 and run.load_state("segmenter")["step"] == 4
    monkeypatch.setattr(distill, "distill_step", step)
    list(distill.distill(run))
    assert {load_checkpoint(path)["gan_step"] for path in run.checkpoints("segmenter")} == {3}
    assert run.load_state("segmenter")["step"] == 4


def test_the_step_that_a_segmenter_names_is_the_one_it_learned_from(tiny_run, quick):
    wishes = {"segmenter": "unet", "segmenter_width": 4, "distill_batch_size": 2, "distill_steps": 2}
    run = tiny_run("two", max_steps=4, save_every_steps=2, **wishes)
    list(train.train(run))
    newest = run.newest("gan")
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    list(distill.distill(run))
    assert run.load_state("segmenter")["gan_step"] == 2  # what the intact checkpoint holds
    newest.write_bytes(whole)
    list(distill.distill(run))
    assert run.load_state("segmenter")["gan_step"] == 4  # distilled anew from the mended one


def corrections(folder, n=3, label=2, size=32):
    """n photos to train on and one to test on, of one colour each, whose masks hold a part on the left."""
    for i in range(n + 1):
        split = "train" if i < n else "test"
        for kind, array in (("images", np.full((size, size, 3), 40 * i, np.uint8)),
                            ("masks", np.repeat(np.uint8([[label, 0]]), size, 0).repeat(size // 2, 1))):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / split / f"{i}.png")
    return str(folder)


WISHES = {"segmenter": "unet", "segmenter_width": 4, "distill_batch_size": 4, "distill_steps": 2}


def test_corrected_masks_are_half_of_each_batch(tiny, tmp_path, monkeypatch):
    cfg, seen = tiny(distill_batch_size=6), []
    photos = Pictures(torch.full((3, 3, 32, 32), 255, dtype=torch.uint8), ["a", "b", "c"],
                      torch.tensor([0, 1, -2]).view(3, 1, 1).expand(3, 32, 32))
    monkeypatch.setattr(losses, "segmentation_loss", lambda logits, labels: seen.append(labels) or logits.sum())
    inputs = []

    class Network(torch.nn.Conv2d):
        def forward(self, images):
            inputs.append(images)
            return super().forward(images)

    S, G = Network(3, 4, 1), loading.build_generator(cfg).eval()
    for corrected in (photos, None):
        distill.distill_step(G, S, torch.optim.SGD(S.parameters(), lr=0.1), cfg, 0, corrected)
    assert torch.equal(inputs[0][3:], inputs[1][3:]) and torch.equal(seen[0][3:], seen[1][3:])
    assert inputs[0][:3].mean() > 0.7 and all(labels.unique().tolist() in ([0], [1], [-1]) for labels in seen[0][:3])


def test_corrections_continue_a_finished_segmenter_and_new_ones_continue_it_again(trained, tiny_run, tmp_path, capsys):
    wishes = {**WISHES, "finetune_on": corrections(tmp_path / "c"), "finetune_steps": 3}
    assert [r["step"] for r in distill.distill_all(tiny_run("trained", **wishes))] == [2, 5]
    state = runs.find(trained.folder).load_state("segmenter")
    assert state["league"] == "supervised part masks" and "Fine-tuning on 3 corrected photos" in capsys.readouterr().out
    assert list(distill.distill_all(tiny_run("trained"))) == []  # all is done
    corrections(tmp_path / "c", 4)
    assert [r["step"] for r in distill.distill_all(tiny_run("trained"))] == [8]
    assert [r["step"] for r in distill.distill_all(tiny_run("trained", finetune_on="none", distill_steps=9))] == [9]
    assert runs.find(trained.folder).load_state("segmenter")["league"] == "supervised part masks"


def test_corrections_come_back_from_label_studio(trained, tiny_run, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    part_names.change_parts(trained, {1: {"name": "head"}, 2: {"merge": 1}})
    tasks = []
    for i in range(8):
        Image.new("RGB", (40, 32), (30 * i, 0, 90)).save(tmp_path / "photos" / f"{i}.png")
        mask = np.zeros((32, 40), bool)
        mask[:, 20:] = True
        value = {"format": "rle", "rle": exports.brush(mask), "brushlabels": ["head" if i % 2 else "part 3"]}
        region = {"type": "brushlabels", "original_width": 40, "original_height": 32, "value": value}
        tasks.append({"data": {"image": f"/data/local-files/?d={i}.png"}, "annotations": [{"result": [region]}]})
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    wishes = {**WISHES, "source": str(tmp_path / "photos"), "finetune_on": str(tmp_path / "tasks.json")}
    assert [r["step"] for r in distill.distill_all(tiny_run("trained", **wishes, finetune_steps=3))] == [2, 5]
    assert re.search(r"Fine-tuning on [1-7] corrected photos; held out are others by a hash", capsys.readouterr().out)
    masks = {int(p.stem): np.asarray(Image.open(p)) for p in (trained.folder / "corrections" / "masks").glob("*.png")}
    assert len(masks) == 8
    for i, mask in masks.items():
        assert set(mask[:, 20:].ravel()) == {1 if i % 2 else 3} and not mask[:, :20].any()
    tasks[0]["annotations"][0]["result"][0]["value"]["brushlabels"] = ["part 2"]  # which became part 1
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    with pytest.raises(UserError, match="has the label 'part 2'; the run's parts are head, part 3"):
        list(distill.distill_all(tiny_run("trained", **wishes)))


def test_a_stopped_fine_tuning_goes_on_to_the_same_weights(trained, tiny_run, tmp_path, monkeypatch):
    wishes = {**WISHES, "finetune_on": corrections(tmp_path / "c"), "finetune_steps": 3, "save_every_steps": 3}
    list(distill.distill_all(tiny_run("trained", **wishes)))
    whole = trained.load_state("segmenter")
    for path in trained.checkpoints("segmenter")[-1:]:
        path.unlink()
    assert trained.load_state("segmenter")["step"] == 3
    list(distill.distill_all(tiny_run("trained")))
    again = trained.load_state("segmenter")
    assert again["step"] == whole["step"] == 5
    assert all(torch.equal(value, again["segmenter"][name]) for name, value in whole["segmenter"].items())


def test_corrected_photos_count_as_trained_on(trained, tiny_run, tmp_path):
    photos = distill.read_corrected(tiny_run("trained", **WISHES, finetune_on=corrections(tmp_path / "c")))
    trained_on.add_corrected(trained, photos)  # creatures are drawn: there is no table
    assert not (trained.folder / trained_on.TABLE).exists()
    trained_on.keep(trained, photos.take([0]))
    trained_on.add_corrected(trained, photos)
    trained_on.add_corrected(trained, photos)
    assert trained_on.count(trained, photos) == {trained_on.NOTE: 3}
    assert len((trained.folder / trained_on.TABLE).read_text().splitlines()) == 1 + 1 + 3


@pytest.mark.parametrize("change, said", [
    (lambda c: corrections(c, label=9), "finetune_on: the mask of .*0.png holds label 9; creatures/trained has"),
    (lambda c: shutil.rmtree(c / "masks"), "finetune_on: .*c holds no masks to learn from"),
    (lambda c: shutil.rmtree(c), "finetune_on: there is no .*c"),
    (lambda c: Image.new("L", (8, 8)).save(c / "masks/train/1.png"),
     "finetune_on: the mask .*1.png cannot be used"),
])
def test_corrections_that_cannot_be_are_one_sentence_before_any_training(trained, tiny_run, tmp_path, change, said):
    corrections(tmp_path / "c")
    change(tmp_path / "c")
    with pytest.raises(UserError, match=said):
        list(distill.distill_all(tiny_run("trained", **WISHES, finetune_on=str(tmp_path / "c"))))
    assert trained.newest("segmenter") is None
