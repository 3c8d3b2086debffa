"""Masks as people save them: void borders, smoothed edges, JPEG in between. What is no label counts nowhere."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from ganseg import config, metrics
from ganseg.datasets import labels
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError

ALL = ("foreground_iou", "nmi", "ari", "nmi_foreground", "ari_foreground", "part_miou", "nmi_keypoints")
SIZE = 96


def drawn(i, values, scale=1):
    """A mask of one large ellipse in two halves and a small one beside it."""
    mask, (a, b, c) = Image.new("L", (SIZE * scale,) * 2), values
    draw = ImageDraw.Draw(mask)
    box = [scale * v for v in (12 + 2 * i, 30, 66 + 2 * i, 70)]
    draw.pieslice(box, 0, 180, fill=a)
    draw.pieslice(box, 180, 360, fill=b)
    draw.ellipse([scale * v for v in (10, 4, 30, 24)], fill=c)
    return mask


def with_void(mask, void=255, width=5):
    """The mask with a border of void around each part, as in PASCAL VOC."""
    found, high, low = (np.array(m) for m in (mask, mask.filter(ImageFilter.MaxFilter(width)),
                                              mask.filter(ImageFilter.MinFilter(width))))
    found[low < high] = void
    return Image.fromarray(found)


def through_jpeg(mask):
    file = io.BytesIO()
    mask.save(file, "JPEG", quality=80)
    return Image.open(file)


def write(root, masks):
    """Pictures with masks, and the middle of the large ellipse and of the small one as landmarks."""
    (root / "masks").mkdir(parents=True)
    rows = ["file,body_x,body_y,small_x,small_y"]
    for i, mask in enumerate(masks):
        Image.new("RGB", mask.size, (10 * i, 90, 0)).save(root / f"{i}.png")
        mask.save(root / "masks" / f"{i}.png")
        rows.append(f"{i}.png,{39 + 2 * i},60,20,14")
    (root / "landmarks.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens the training and test pictures of masks, which are written first."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))

    def opened(name, masks, **fields):
        cfg = config.load("folder", source=str(write(tmp_path / name, masks)), image_size=64, **fields)
        return load_pictures(cfg, "fit"), load_pictures(cfg, "test")

    return opened


def scores(fit, test, found_fit, found):
    """All metrics where parts were predicted as the labels of the same pictures, drawn exactly, have them."""
    numbers = np.unique(found.labels)
    predicted, train_predicted = (np.uint8(np.searchsorted(numbers, p.labels.numpy())) for p in (found, found_fit))
    values, _ = metrics.compute(metrics.Predictions(
        n_parts=len(numbers) - 1, image_size=64, labels=predicted, train_labels=train_predicted,
        true_labels=test.labels.numpy(), train_true_labels=fit.labels.numpy(), landmarks=test.landmarks.numpy()))
    return values


@pytest.mark.parametrize(("values", "change", "fields"), [
    ((1, 2, 3), with_void, {"ignore_label": 255}),
    ((1, 2, 255), lambda mask: with_void(mask, void=7), {"ignore_label": 7}),
    ((255, 255, 255), through_jpeg, {}),
    ((100, 200, 255), through_jpeg, {}),
    ((255, 255, 255), lambda mask: mask.filter(ImageFilter.GaussianBlur(1.5)), {}),
    ((2, 5, 9), None, {}),  # drawn large and shrunk, so that edges are smoothed
    ((80, 160, 240), None, {}),
])
def test_a_perfect_prediction_scores_1_whatever_borders_the_masks_have(opened, values, change, fields):
    large = [drawn(i, values, 4) for i in range(6)]
    exact, borders = ([mask.resize((SIZE, SIZE), how) for mask in large]
                      for how in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC))
    if change is not None:
        borders = [change(mask) for mask in exact]
    fit, test = opened("borders", borders, **fields)
    found = scores(fit, test, *opened("exact", exact))
    found["nmi_keypoints"] = 1 if len(set(values)) == 1 else found["nmi_keypoints"]  # both are under one part there
    assert {name: round(found[name], 9) for name in ALL} == dict.fromkeys(ALL, 1)
    assert (test.labels < 0).any() and set(np.unique(test.labels[test.labels >= 0])) == {0, *values}


def test_without_being_told_a_void_border_is_a_part_and_is_said(opened):
    _, test = opened("void", [with_void(drawn(i, (1, 2, 3))) for i in range(6)])
    assert set(np.unique(test.labels)) == {0, 1, 2, 3, 255}
    said = labels.say_doubts(test, "test pictures")
    share = (test.labels == 255).float().mean()
    assert said.startswith(f"Label 255 covers {share:.1%} of the masks of the test pictures and counts as a part;")
    assert said.endswith("if it means void, leave it out with -p ignore_label 255.")


def test_smoothed_edges_are_said_with_their_share(opened):
    _, test = opened("soft", [drawn(i, (255, 255, 255)).filter(ImageFilter.GaussianBlur(2)) for i in range(6)])
    said = labels.say_doubts(test, "test pictures")
    assert f"smoothed edges: {(test.labels == labels.SOFT).float().mean():.1%} of the pixels" in said
    shares = labels.label_shares(test)
    assert shares.keys() == {labels.SOFT, 0, 255} and sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("masks", [
    [drawn(i, (1, 2, 3)) for i in range(6)],
    [drawn(i, (255, 255, 255)) for i in range(6)],
    [Image.fromarray(np.kron(np.arange(6).reshape(2, 3), np.ones((48, 32))).astype(np.uint8)) for _ in range(6)],
])
def test_drawn_masks_are_taken_as_they_are(opened, masks):
    _, test = opened("drawn", masks)
    assert labels.say_doubts(test, "test pictures") == "none"
    chosen = [masks[int(name[0])] for name in test.names]
    nearest = np.stack([np.asarray(mask.resize((64, 64), Image.Resampling.NEAREST)) for mask in chosen])
    assert (test.labels.numpy() == nearest).all()


def test_what_masks_of_a_published_set_leave_out_is_not_for_the_user_to_say():
    with pytest.raises(UserError, match="ignore_label: 255 is not allowed; .* none with masks as cub"):
        config.load("cub", ignore_label=255)
    with pytest.raises(UserError, match="ignore_label: 256"):
        config.load("folder", ignore_label=256)
