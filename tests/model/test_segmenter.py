"""The segmenters: shapes, backbones from files, single pictures."""

import urllib.error

import pytest
import torch
from torchvision.models import resnet50

from ganseg.errors import UserError
from ganseg.model import loading, segmenter


@pytest.fixture(scope="module")
def deeplab():
    return segmenter.DeepLab(n_parts=3).eval()


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (50, 70)])
def test_the_unet_gives_logits_of_background_and_parts_at_any_size(tiny, size):
    S = loading.build_segmenter(tiny(segmenter="unet", segmenter_width=4))
    for images in (torch.zeros(2, 3, *size), torch.zeros(1, 3, *size)):
        logits = S(images)
        assert logits.shape == (len(images), 4, *size) and logits.isfinite().all()
        S.eval()  # one picture alone


def test_deeplab_gives_logits_of_background_and_parts_for_one_odd_picture(deeplab):
    logits = deeplab(torch.randn(1, 3, 50, 70))
    assert logits.shape == (1, 4, 50, 70) and logits.dtype == torch.float32 and logits.isfinite().all()


def test_in_evaluation_mode_a_pictures_logits_do_not_depend_on_the_others(tiny):
    S = loading.build_segmenter(tiny(segmenter="unet", segmenter_width=4)).eval()
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(S(images)[1:2], S(images[1:2]))


@pytest.mark.parametrize("kind", [{"segmenter": "unet", "segmenter_width": 4},
                                  {"segmenter": "unet_lite0", "backbone_weights": "none"}])
def test_a_network_that_is_ready_for_the_cpu_gives_the_same_logits(tiny, kind):
    S, images = loading.build_segmenter(tiny(**kind)).eval(), torch.randn(2, 3, 32, 32)
    before = S(images)
    torch.testing.assert_close(loading.ready(S, "cpu")(images), before, rtol=1e-3, atol=1e-4)


def test_a_backbone_is_read_from_a_file(tiny, tmp_path):
    state = resnet50(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet50.pt")
    cfg = tiny(segmenter="deeplabv3_resnet50", backbone_weights=str(tmp_path / "resnet50.pt"))
    S = loading.build_segmenter(cfg)
    backbone = S.model.backbone.state_dict()
    assert all(torch.equal(backbone[key], state[key]) for key in state if not key.startswith("fc."))
    assert S.model.classifier[-1].out_channels == 4


@pytest.mark.parametrize("content, words", [
    ({"weight": torch.zeros(3)}, "do not fit"),
    ({"state_dict": {"conv1.weight": torch.zeros(3)}}, "do not fit"),
    (torch.zeros(3), "named weights"),
    (b"no checkpoint", "is damaged"),
    (None, "no such checkpoint"),
])  # fmt: skip
def test_a_backbone_file_that_is_none_is_refused_in_one_sentence(tmp_path, deeplab, monkeypatch, content, words):
    monkeypatch.setattr(segmenter, "deeplabv3_resnet50", lambda **_: deeplab.model)  # making one takes a second
    path = tmp_path / "backbone.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=f"backbone.pt: .*{words}") as error:
        segmenter.DeepLab(3, str(path))
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_a_failed_download_of_imagenet_weights_is_explained(monkeypatch):
    def offline(**_):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(segmenter, "deeplabv3_resnet50", offline)
    with pytest.raises(UserError, match="backbone_weights: imagenet could not be downloaded"):
        segmenter.DeepLab(3, "imagenet")
