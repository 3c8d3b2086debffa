"""What an evaluation says it was computed from, and what it leaves out where that does not belong together."""

import pytest
import torch
from PIL import Image

from ganseg import config, distill, evaluate, prepare, records, train
from ganseg.figures import report
from ganseg.model import prediction
from ganseg.training import health

SMALL = {"segmenter": "unet", "segmenter_width": 4, "distill_steps": 2, "distill_batch_size": 4, "fit_pictures": 8}


@pytest.fixture
def segmented(trained, tiny_run):
    """A tiny run of two GAN steps with a segmenter."""
    run = tiny_run("trained", max_test_pictures=6, **SMALL)
    list(distill.distill(run))
    return run


def test_samples_are_of_the_step_that_the_segmenter_learned_from(segmented, tiny_run):
    before = evaluate.evaluate(segmented)
    list(train.train(tiny_run("trained", max_steps=4)))
    after = evaluate.evaluate(segmented)
    assert [p.name for p in segmented.checkpoints("gan")] == ["gan-00000002.pt", "gan-00000004.pt"]
    assert {name: after[name] for name in evaluate.OF_SAMPLES} == {name: before[name] for name in evaluate.OF_SAMPLES}
    steps = ("GAN steps", "GAN steps of the generated samples", "distillation steps")
    assert [after["notes"][name] for name in steps] == [2, 2, 2]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PK")])
def test_without_the_generator_that_it_learned_from_what_looks_at_samples_is_left_out(
        segmented, tiny_run, capsys, damage):
    evaluate.evaluate(segmented)
    list(train.train(tiny_run("trained", max_steps=4)))
    damage(segmented.checkpoints("gan")[0])
    capsys.readouterr()
    record = evaluate.evaluate(segmented)
    assert not set(evaluate.OF_SAMPLES) & record.keys() and "foreground_iou" in record
    reason = "the GAN's step 2, which the segmenter learned from, is no longer kept"
    assert {record["left_out"][name] for name in evaluate.OF_SAMPLES} == {reason}
    (said,) = capsys.readouterr().out.splitlines()
    assert reason in said and said.endswith("distil anew with: ganseg distill -p dataset creatures --run trained")
    assert record["notes"]["GAN steps"] == 2 and "GAN steps of the generated samples" not in record["notes"]
    assert not (segmented.folder / "figures" / "samples.png").exists()


@pytest.fixture
def rolled_back(tiny_run, quick, monkeypatch):
    """Makes a segmented run whose GAN of 4 steps was then trained to 6, rolled back from step 5 to `to`."""

    def make(name, to):
        often = {"save_every_steps": 1, "log_every_steps": 1, "keep_checkpoints": 9, "on_trouble": "rollback"}
        run = tiny_run(name, max_steps=4, max_test_pictures=6, **SMALL, **often)
        list(train.train(run))
        list(distill.distill(run))
        evaluate.evaluate(run)
        found = [health.Trouble("Collapsed, for a test.", to + 1)]

        def troubles(cfg, records, shares):
            return {"collapsed": found.pop()} if found and records[-1]["step"] == 5 else {}

        monkeypatch.setattr(health, "troubles", troubles)
        list(train.train(tiny_run(name, max_steps=6, **often)))
        assert not found
        return run

    return make


def test_a_step_trained_again_after_a_roll_back_is_another_gan(rolled_back, tiny_run, capsys):
    """The checkpoint has the step that the segmenter learned from in its name, and other weights."""
    run = rolled_back("again", to=2)
    assert "gan-00000004.pt" in [path.name for path in run.checkpoints("gan")]
    assert run.records("evaluate") == []  # of the GAN of the first attempt, which is gone
    record = evaluate.evaluate(run)
    assert not set(evaluate.OF_SAMPLES) & record.keys()
    assert record["left_out"]["extent_px"] == "the GAN's step 4, which the segmenter learned from, is no longer kept"
    for path in run.checkpoints("gan")[4:]:
        path.unlink()
    list(distill.distill(run))
    assert "distilled anew" in capsys.readouterr().out
    assert set(evaluate.OF_SAMPLES) <= evaluate.evaluate(run).keys()


def test_the_step_that_a_roll_back_goes_back_to_is_the_same_gan(rolled_back):
    run = rolled_back("before", to=4)
    assert len(run.records("evaluate")) == 1
    record = evaluate.evaluate(run)
    assert set(evaluate.OF_SAMPLES) <= record.keys() and record["notes"]["GAN steps of the generated samples"] == 4


def test_the_control_says_how_long_it_learned(segmented, tiny_run):
    list(distill.distill(tiny_run("trained", distill_steps=1), control=True))
    notes = evaluate.evaluate(segmented)["notes"]
    assert (notes["distillation steps"], notes["distillation steps of the control"]) == (2, 1)


@pytest.mark.parametrize("masked_split", ["train", "test"])
def test_masks_in_one_split_only_are_evaluated_as_far_as_they_go(masked_split, tmp_path, tiny_run, quick):
    (tmp_path / "photos" / "masks").mkdir(parents=True)
    mask, rows = Image.new("L", (32, 32)), ["file,split,nose_x,nose_y"]
    mask.paste(3, (8, 8, 24, 24))
    for i in range(16):
        split = ("train", "test")[i % 2]
        Image.new("RGB", (32, 32), (10 * i, 90, 0)).save(tmp_path / "photos" / f"{i}.png")
        rows.append(f"{i}.png,{split},16,{i}")
        if split == masked_split:
            mask.save(tmp_path / "photos" / "masks" / f"{i}.png")
    (tmp_path / "photos" / "landmarks.csv").write_text("\n".join(rows))
    fields = {"reader": "folder", "source": str(tmp_path / "photos"), "max_train_pictures": None, **SMALL}
    run = tiny_run(**fields)
    list(train.train(run))
    list(distill.distill(run))
    record = evaluate.evaluate(run)
    assert {"nmi_keypoints", "keypoint_error_percent", "parts_used"} <= record.keys()
    assert ("foreground_iou" in record, "part_miou" in record) == (masked_split == "test", False)
    whose = "training" if masked_split == "test" else "test"
    assert record["left_out"]["part_miou"] == f"the {whose} pictures have no true part labels"


def test_an_evaluation_says_with_which_settings_it_measured(segmented):
    settings = evaluate.evaluate(segmented)["settings"]
    assert set(settings) == set(records.SETTINGS)
    few = {"max_train_pictures": 16, "max_test_pictures": 6, "fit_pictures": 8, "distill_generator": "ema"}
    assert few.items() <= settings.items()


def test_a_record_whose_settings_are_damaged_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for settings in ({"fit_pictures": 8}, "none", None, [1]):
        records.append(path, {"stage": "evaluate", "step": 1, "settings": settings})
    assert [record["settings"] for record in records.read(path)] == [{"fit_pictures": 8}]


def test_a_void_border_that_counts_as_a_part_is_said_in_the_evaluation(tmp_path, tiny_run, quick, capsys):
    (tmp_path / "masks").mkdir()
    mask = Image.new("L", (32, 32))
    mask.paste(255, (6, 6, 26, 26))
    mask.paste(3, (8, 8, 24, 24))
    for i in range(16):
        Image.new("RGB", (32, 32), (10 * i, 90, 0)).save(tmp_path / f"{i}.png")
        mask.save(tmp_path / "masks" / f"{i}.png")
    fields = {"reader": "folder", "source": str(tmp_path), "max_train_pictures": None, **SMALL}
    run = tiny_run(**fields)
    list(train.train(run))
    list(distill.distill(run))
    border = (20 * 20 - 16 * 16) / 32**2
    said = (f"Label 255 covers {border:.1%} of the masks of the test pictures and counts as a part; if it means void, "
            "leave it out with -p ignore_label 255.")
    assert evaluate.evaluate(run)["notes"]["doubts about the masks"] == said and said in capsys.readouterr().out
    box = {ignored: evaluate.evaluate(tiny_run(**fields, ignore_label=ignored)) for ignored in ("none", 255)}
    assert box["none"]["foreground_iou_center_box"] == 1 == box[255]["foreground_iou_center_box"]
    assert box[255]["notes"]["doubts about the masks"] == "none" and box[255]["settings"]["ignore_label"] == 255
    splits = prepare.build_cache(tiny_run(**fields, ignore_label=255))
    assert prepare.list_labels(splits) == [
        {"label": "left out", "fit": border, "test": border},
        {"label": 0, "fit": 1 - 400 / 1024, "test": 1 - 400 / 1024},
        {"label": 3, "fit": 1 / 4, "test": 1 / 4}]


@pytest.mark.parametrize(("settings", "state", "league"), [
    ({}, {"backbone_weights": "none"}, "nothing"),
    ({"backbone_weights": "imagenet"}, None, "ImageNet labels"),
    ({"backbone_weights": "imagenet"}, {"backbone_weights": "none"}, "nothing"),  # as it was distilled, or no segmenter
    ({"backbone_weights": "imagenet", "segmenter": "unet"}, None, "nothing"),  # which has no backbone
    ({}, {}, "ImageNet labels"),  # a released segmenter
    ({"features": "efficientnet_lite0"}, None, "ImageNet labels"),
    ({"self_training": 0.4}, None, "ImageNet labels"),
    ({"self_training": 0.4}, {"backbone_weights": "none"}, "nothing"),  # as long as no photo has taught it
    ({}, {"backbone_weights": "none", "self_training": 0}, "ImageNet labels"),
    ({"features": "efficientnet_lite0", "features_weights": "none"}, None, "nothing"),
    ({"features": "efficientnet_lite0", "features_weights": "mine.pt"}, None, "not known"),
    ({"features": "efficientnet_lite0", "warm_start": "gan.pt"}, None, "ImageNet labels, not known"),
    ({}, {"league": "self-supervised features"}, "self-supervised features"),
])  # fmt: skip
def test_the_league_is_what_settings_and_checkpoint_say(settings, state, league):
    assert records.league(config.load("celeba", **settings), state) == league


def test_leagues_are_joined_in_one_order_and_nothing_adds_nothing():
    assert records.joined(["not known", "nothing", "class labels, ImageNet labels", "ImageNet labels"]) == (
        "ImageNet labels, class labels, not known")
    assert records.joined(["nothing", "nothing"]) == "nothing"


def test_the_league_of_an_evaluation_stands_in_its_notes_and_its_report(segmented):
    record = evaluate.evaluate(segmented)
    assert record["notes"]["league"] == "nothing"
    assert "<li>league: nothing</li>" in report.write_report(segmented).read_text()


def test_the_parts_without_background_are_those_that_a_segmenter_finds_next():
    class Network(torch.nn.Module):
        """Logits that grow with the label in the left half and shrink in the right one."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, images):
            slope = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(len(images), 1, 4, 4)
            return slope * torch.arange(4.0).view(1, 4, 1, 1)

    found = prediction.predict(Network(), torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert found.labels[1, 0].tolist() == [3, 3, 0, 0] and found.part_labels[1, 0].tolist() == [3, 3, 1, 1]
    assert found.part_labels.dtype == torch.uint8
    photos = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert prediction.predict(Network(), photos, keep_labels=False).part_labels is None
