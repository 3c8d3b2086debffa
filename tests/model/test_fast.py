"""The saved work changes no result: the fast generator computes what the plain one does, with the same weights."""

import pytest
import torch

from ganseg.devices import rng
from ganseg.model import fast, loading
from ganseg.model.generator import Generator

MARGINS = [0, 1, 2, 3, 6, 12]


def both(cfg):
    """The fast and the plain generator of a config, with equal weights."""
    generators = [loading.build_generator(cfg.model_copy(update={"fast": on})) for on in (True, False)]
    assert [type(G) for G in generators] == [fast.FastGenerator, Generator]
    return generators


def test_fast_can_be_switched_off_and_shares_the_state_dict(tiny):
    ours, plain = (G.state_dict() for G in both(tiny()))
    assert list(ours) == list(plain) and all(torch.equal(ours[name], plain[name]) for name in ours)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("point_divisor", [1.0, 10.0, 100.0])  # parts everywhere, in the middle, nowhere
@pytest.mark.parametrize("margin", MARGINS)
def test_what_is_not_computed_changes_no_pixel_and_no_statistic(tiny, margin, point_divisor, training):
    cfg = tiny(margin=margin, point_divisor=point_divisor)
    ours, plain = both(cfg)
    latents = ours.sample_latents(4, rng(0))
    pairs = zip(ours.train(training)(latents), plain.train(training)(latents), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    for (name, a), b in zip(ours.named_buffers(), plain.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("margin, point_divisor", [(3, 2.0), (12, 2.0), (6, 10.0), (12, 100.0)])
def test_gradients_are_those_of_the_plain_layers(tiny, margin, point_divisor):
    cfg = tiny(margin=margin, point_divisor=point_divisor)
    gradients = []
    for G in both(cfg):
        out = G(G.sample_latents(4, rng(0)))
        (out.image.square().mean() + out.masks[:, 1].square().mean()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in G.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-4 * gradients[1].abs().max().item(), rtol=1e-3)


def test_equal_lines_are_counted_up_to_the_middle():
    weights = torch.zeros(2, 3, 20, 24)
    assert fast.count_alike(weights) == [10, 10, 12, 12]
    weights[1, 2, 4, 17] = 1  # rows 0 to 3 are alike, columns 18 to 23
    assert fast.count_alike(weights) == [4, 10, 12, 6]
    weights[0, 0, 19] = 1
    weights[0, 1, :, 0] = 1
    assert fast.count_alike(weights) == [4, 1, 1, 6]
    style = fast.factored_style_map(weights, torch.ones(2, 3, 4), [4, 1, 1, 6])
    assert style.patches.shape == (2, 27, 20, 23) and style.left_out == (0, 0, 0, 1)
