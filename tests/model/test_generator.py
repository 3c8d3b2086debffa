"""The generator's shapes and ranges in every setting, its gradients, and parts that move with their points."""

import pytest
import torch

from ganseg import devices
from ganseg.model import averaging, geometry, loading
from ganseg.model.discriminator import Discriminator
from ganseg.model.generator import Latents
from ganseg.model.layers import PositionalEmbedding
from ganseg.training.losses import area_targets

SETTINGS = [
    {},
    {"heatmap": "gaussian"},
    {"heatmap": "paper"},
    {"heatmap": "fixed", "fixed_sigma2": 0.05},
    {"heatmap": "fixed", "fixed_sigma2": 0.05, "n_per": 1, "area_target": "heatmap"},
    {"rgb_head": "conv1x1"},
    {"background_position": "free"},
    {"n_parts": 1},
    {"n_parts": 20},
    {"margin": 0},
    {"resolutions": [8, 8, 16, 16, 32, 32], "channels": [8, 8, 8, 4, 4, 4, 4], "mask_channels": [8, 4, 4, 4, 4, 4]},
    {"image_size": 64, "resolutions": [16, 32, 64], "discriminator_channels": [4] * 5},
]


def make(tiny, **fields):
    cfg = tiny(**fields)
    G = loading.build_generator(cfg)
    return cfg, G, G.sample_latents(2, devices.rng(0))


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_every_setting_gives_the_promised_shapes_and_ranges(tiny, fields):
    cfg, G, latents = make(tiny, **fields)
    out, K, S, D = G(latents), cfg.n_parts, cfg.image_size, cfg.embedding_dim
    shapes = {"points": (2, K, cfg.n_per, 2), "centers": (2, K, 2), "extent": (2, K), "w": (2, K, D),
              "heatmaps": (2, K, S, S), "masks": (2, K + 1, S, S), "foreground": (2, 4, S, S),
              "background": (2, 4, S, S), "image": (2, 3, S, S)}
    assert {name: tuple(getattr(out, name).shape) for name in out._fields} == shapes
    assert all(field.isfinite().all() for field in out)
    assert out.points.abs().max() < 1 and out.image.abs().max() <= 1
    assert 0 <= out.heatmaps.min() and out.heatmaps.max() <= 1
    torch.testing.assert_close(out.masks.sum(1), torch.ones(2, S, S))
    assert all(area_targets(out, kind).shape == (2, K) for kind in ("extent", "heatmap"))
    assert Discriminator(cfg)(out.image).shape == (2,)


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_gradients_reach_every_weight(tiny, fields):
    cfg, G, latents = make(tiny, **fields)
    out = G(latents)
    (out.image.square().mean() + out.masks[:, 0].square().mean()).backward()
    gradients = {name: p.grad for name, p in G.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    dead = [name for name, g in gradients.items() if not g.any()]
    # BatchNorm takes off again what these biases add
    assert all(name.endswith(".bias") for name in dead), dead


def test_no_parameter_is_shared_between_repeated_blocks(tiny):
    cfg, G, _ = make(tiny, channels=[8, 8, 8, 8], mask_channels=[8, 8, 8])
    parameters = [p for _, p in G.named_parameters(remove_duplicate=False)]
    parameters += [p for _, p in Discriminator(cfg).named_parameters(remove_duplicate=False)]
    assert len({id(p) for p in parameters}) == len({p.data_ptr() for p in parameters}) == len(parameters)


def test_the_horizontal_background_moves_sideways_only_and_the_free_one_everywhere(tiny):
    positions = {kind: make(tiny, background_position=kind)[1].sample_latents(50).background_position
                 for kind in ("horizontal", "free")}
    assert not positions["horizontal"][:, 1].any() and positions["horizontal"][:, 0].std() > 0.3
    assert positions["free"].std(dim=0).min() > 0.3 and positions["free"].abs().max() <= 1


def test_masks_do_not_depend_on_the_background(tiny):
    _, G, latents = make(tiny)
    other = latents._replace(background=latents.background + 1, background_position=latents.background_position + 1)
    before, after = G.eval()(latents), G(other)
    assert torch.equal(before.masks, after.masks) and not torch.equal(before.background, after.background)


def test_the_image_is_the_foreground_where_the_background_mask_is_zero(tiny):
    _, G, latents = make(tiny)
    level_2, all_of_part_1 = G.make_masks, torch.eye(4)[1].view(1, 4, 1, 1).expand(2, 4, 32, 32)
    G.make_masks = lambda *given: (*level_2(*given)[:2], all_of_part_1)
    out = G(latents)
    torch.testing.assert_close(out.image, G.rgb(out.foreground).tanh())


def test_the_same_seed_gives_the_same_weights_latents_and_images(tiny):
    torch.manual_seed(123)
    first = make(tiny)[1:]
    torch.manual_seed(321)
    second, other = make(tiny)[1:], make(tiny, seed=1)[1:]
    images = [G(latents).image for G, latents in (first, second, other)]
    assert torch.equal(images[0], images[1]) and not torch.allclose(images[0], images[2])


def test_in_evaluation_mode_an_image_depends_on_its_own_latents_alone(tiny):
    cfg, G, latents = make(tiny)
    averaging.recalibrate_batchnorm(G, cfg, 2)
    together = G(latents)
    assert torch.equal(together.image, G(latents).image)
    alone = G(latents[1:])
    torch.testing.assert_close(alone.image, together.image[1:], atol=1e-5, rtol=0)


def test_latents_are_built_by_keywords_and_cut_by_slices(tiny):
    _, G, latents = make(tiny)
    built = Latents(background_position=torch.zeros(5, 2), background=torch.zeros(5, 8), points=torch.zeros(5, 8),
                    appearance=torch.ones(5, 8))
    assert G(built).image.shape == (5, 3, 32, 32) and torch.equal(built[1], built.appearance)
    cut = built[1:3]
    assert isinstance(cut, Latents) and [len(z) for z in cut] == [2, 2, 2, 2]


def test_moving_all_points_by_coarse_pixels_moves_the_masks(tiny):
    """Two pixels of 16 are 8.53 of 64, so the grids do not align exactly; margins keep the border from showing."""
    cfg = tiny(image_size=64, resolutions=[16, 32, 64], margin=6, discriminator_channels=[4] * 5)
    G = averaging.recalibrate_batchnorm(loading.build_generator(cfg), cfg, 2)
    latents = G.sample_latents(4, devices.rng(1))
    before = G(latents).masks
    points, w = G.make_points(latents)
    moved = points + torch.tensor([4 / 15, 0.0])
    G.make_points = lambda _: (moved, w)
    after = G(latents).masks
    inside = slice(12, -12)
    shifted_db = psnr_db(after[..., inside, 20:-12], before[..., inside, 12:-20])
    unshifted_db = psnr_db(after[..., inside, 20:-12], before[..., inside, 20:-12])
    # measured over three seeds: 37 to 43 dB shifted, 10 to 15 dB unshifted
    assert shifted_db > 32 and unshifted_db < 20, (shifted_db, unshifted_db)


def psnr_db(a, b):
    return (-10 * torch.log10((a - b).square().mean())).item()


def test_positions_keep_their_precision_in_bfloat16():
    """Neighbours 2 / 127 apart: bfloat16 has steps of half as much near 1, and phases are several times larger."""
    start = PositionalEmbedding(16, 64)
    offsets = geometry.offsets(torch.linspace(-0.9, 0.9, 16).view(1, 8, 2), geometry.pixel_grid(128, 10))
    with torch.autocast("cpu", torch.bfloat16):
        x = start(offsets)
    torch.testing.assert_close(x, start(offsets), rtol=0, atol=0)
    assert x.dtype == torch.float32
