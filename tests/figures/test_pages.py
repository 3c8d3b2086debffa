"""Pages for print and COCO annotations: geometry, fonts, and masks that come back as they were."""

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from ganseg.figures import coco, pages, pictures
from ganseg.model import loading, sampling

S, K = 16, 3


@pytest.fixture
def labels():
    """Five label maps with every part somewhere, one of them all background."""
    labels = np.random.default_rng(0).integers(0, K + 1, (5, S, S)).astype(np.uint8)
    labels[2] = 0
    labels[3][labels[3] == 2] = 0
    return labels


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, S, S), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def read(labels, tmp_path):
    """The annotations of `labels`, written, and read by pycocotools."""
    content = coco.as_coco(labels, [f"photo {i}.jpg" for i in range(5)], K, "Parts of tiny/x")
    coco.save_coco(content, tmp_path / "figures" / "detections.json")
    return COCO(tmp_path / "figures" / "detections.json")


def test_masks_decoded_from_the_json_are_the_labels(read, labels):
    decoded = np.zeros_like(labels)
    for annotation in read.loadAnns(read.getAnnIds()):
        mask = read.annToMask(annotation).astype(bool)
        assert not decoded[annotation["image_id"] - 1][mask].any()  # parts do not overlap
        decoded[annotation["image_id"] - 1][mask] = annotation["category_id"]
    np.testing.assert_array_equal(decoded, labels)


def test_areas_boxes_names_and_categories_are_those_of_the_masks(read, labels):
    assert [read.imgs[i]["file_name"] for i in sorted(read.imgs)] == [f"photo {i}.jpg" for i in range(5)]
    assert {(image["width"], image["height"]) for image in read.imgs.values()} == {(S, S)}
    assert [read.cats[k]["name"] for k in sorted(read.cats)] == ["part_1", "part_2", "part_3"]
    assert f"{S} x {S} square" in read.dataset["info"]["description"]
    assert len(read.anns) == sum(len(np.unique(picture[picture > 0])) for picture in labels)
    for annotation in read.anns.values():
        rows, columns = np.nonzero(labels[annotation["image_id"] - 1] == annotation["category_id"])
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box and annotation["area"] == len(rows) and annotation["iscrowd"] == 0


def test_a_photo_without_parts_is_listed_without_annotations(read):
    assert read.imgs[3]["file_name"] == "photo 2.jpg" and not read.getAnnIds(imgIds=[3])


def test_photos_are_drawn_at_random_by_the_seed_and_none_twice(capsys):
    rows = pages.random_rows(500, 120, seed=0)
    assert len(set(rows)) == 120 and list(rows) != sorted(rows)
    assert list(pages.random_rows(500, 120, seed=0)) == list(rows) != list(pages.random_rows(500, 120, seed=1))
    assert capsys.readouterr().out == ""


def test_fewer_photos_than_wanted_are_all_taken_and_a_sentence_says_so(capsys):
    assert sorted(pages.random_rows(50, 120, seed=0)) == list(range(50))
    assert "only 50 test pictures, fewer than the wanted 120" in capsys.readouterr().out


def test_a_page_is_seven_inches_at_300_dpi_with_embedded_fonts_and_text_that_stays_text(images, labels, tmp_path):
    png, pdf = pages.save_page(pages.detections_page(images, labels, K), tmp_path / "new folder" / "page")
    assert pictures.read_picture(png).shape[1] == 7 * 300
    content = pdf.read_bytes()
    assert b"/FontFile2" in content and b"/Type3" not in content


def test_every_part_is_named_in_the_legend_in_its_colour(images, labels):
    (legend,) = pages.detections_page(images, labels, 20).legends
    assert [text.get_text() for text in legend.get_texts()] == [str(k) for k in range(1, 21)]
    colors = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    np.testing.assert_allclose(colors, pictures.part_colors(20) / 255)


def test_a_page_shows_each_photo_beside_its_painted_self(images, labels):
    sheet = pages.detections_page(images, labels, K, n_columns=2).axes[0].images[0].get_array()
    photos, gap = pictures.to_uint8(images), 2
    assert sheet.shape == (3 * S + 2 * gap, 4 * S + gap, 3)
    np.testing.assert_array_equal(sheet[:S, 2 * S + gap : 3 * S + gap], photos[1])
    painted = sheet[:S, S : 2 * S]
    np.testing.assert_array_equal((painted != photos[0]).any(axis=-1) | (labels[0] == 0), np.ones((S, S), bool))
    np.testing.assert_array_equal(painted[labels[0] == 0], photos[0][labels[0] == 0])


def test_points_lie_on_the_pixels_of_the_right_hand_pictures(tiny):
    G = loading.build_generator(tiny()).eval()
    generated = sampling.sample(G, 5, seed=0)
    points = torch.zeros_like(generated.points)
    points[4, :, :, 0], points[4, :, :, 1] = -1, 1  # lower left pixel of the last picture
    axes = pages.samples_page(generated._replace(points=points), n_columns=2).axes[0]
    size, gap = 32, 2
    assert len(axes.collections) == 3  # one per part
    for collection in axes.collections:
        x, y = collection.get_offsets()[[0, -1]].T
        middle = (size - 1) / 2
        np.testing.assert_allclose(x, [size + middle, size])
        np.testing.assert_allclose(y, [middle, 2 * (size + gap) + size - 1])


def test_the_json_is_plain_json(labels):
    content = coco.as_coco(labels, ["a"] * 5, K, "x")
    assert json.loads(json.dumps(content)) == content
