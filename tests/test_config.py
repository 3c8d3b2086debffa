"""Every message of config.load, the defaults, and the files of params/."""

import pytest
import yaml

from ganseg import config
from ganseg.errors import UserError

PARAMS = [config.ROOT / "params" / f"{name}.yaml" for name in config.datasets()]
PRESETS = sorted((config.ROOT / "params" / "presets").glob("*.yaml"))

WRONG = [
    ({"n_partz": 3}, ["n_partz: there is no such setting (did you mean n_parts?)"]),
    ({"qqqqqqq": 3}, ["qqqqqqq: there is no such setting."]),
    ({"n_parts": "5"}, ["n_parts: '5'", "valid integer", "without quotes"]),
    ({"n_parts": 5.0}, ["n_parts: 5.0", "valid integer"]),
    ({"n_parts": True}, ["n_parts: True", "valid integer"]),
    ({"n_parts": 0}, ["n_parts: 0", "greater than or equal to 1"]),
    ({"flip": "on"}, ["flip: 'on'", "valid boolean"]),
    ({"lr_generator": "1e-4"}, ["lr_generator: '1e-4'", "write 1.0e-4"]),
    ({"lr_generator": 0.0}, ["lr_generator: 0.0", "greater than 0"]),
    ({"lr_generator": float("nan")}, ["lr_generator: nan"]),
    ({"lr_generator": float("inf")}, ["lr_generator: inf"]),
    ({"lambda_area": -1.0}, ["lambda_area: -1.0", "greater than or equal to 0"]),
    ({"ema_decay": 1.0}, ["ema_decay: 1.0", "less than 1"]),
    ({"batch_size": 1}, ["batch_size: 1", "greater than or equal to 2"]),
    ({"heatmap": "cones"}, ["heatmap: 'cones'", "'cone', 'gaussian', 'paper' or 'fixed'"]),
    ({"n_per": 1}, ["n_per: 1", "at least 2 for heatmap cone"]),
    ({"n_per": 1, "heatmap": "paper"}, ["n_per: 1", "at least 2 for heatmap paper"]),
    ({"n_per": 2, "heatmap": "gaussian"}, ["n_per: 2", "at least 3 for heatmap gaussian"]),
    ({"n_per": 1, "heatmap": "fixed", "fixed_sigma2": 0.01}, ["area_target: 'extent'", "heatmap where n_per is 1"]),
    ({"heatmap": "fixed"}, ["fixed_sigma2: None", "a number above 0"]),
    ({"image_size": 16}, ["image_size: 16", "greater than or equal to 32"]),
    ({"image_size": 48}, ["image_size: 48", "a power of two"]),
    ({"resolutions": [32, 128]}, ["resolutions: [32, 128]", "ends in 128", "twice"]),
    ({"resolutions": [64, 32, 128]}, ["resolutions: [64, 32, 128]"]),
    ({"resolutions": [16, 32, 64]}, ["resolutions: [16, 32, 64]", "ends in 128"]),
    ({"resolutions": [32, "64", 128]}, ["resolutions.1: '64'", "without quotes"]),
    ({"channels": [8, 8]}, ["channels: [8, 8]", "a list of 5 numbers"]),
    ({"mask_channels": [8]}, ["mask_channels: [8]", "a list of 4 numbers"]),
    ({"n_blocks": 5}, ["n_blocks: 5"]),
    ({"discriminator_channels": [0]}, ["discriminator_channels.0: 0", "greater than or equal to 1"]),
    ({"channels": [7, 8, 8, 8, 8]}, ["channels: [7, 8, 8, 8, 8]", "an even first number"]),
]


@pytest.mark.parametrize("fields, words", WRONG, ids=[str(fields) for fields, _ in WRONG])
def test_what_cannot_be_is_refused_with_field_value_and_what_is_allowed(fields, words):
    with pytest.raises(UserError) as error:
        config.load("lfw", **fields)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, words", [("creature", "did you mean creatures?"), ("../params/lfw", "known are"),
                                         ("", "known are celeba")])
def test_an_unknown_data_set_is_refused_naming_the_nearest_and_the_known_ones(name, words):
    with pytest.raises(UserError, match="dataset: there is no") as error:
        config.load(name)
    assert words in str(error.value) and "lfw" in str(error.value)


def test_a_data_set_without_a_reader_is_refused():
    with pytest.raises(UserError, match="reader: is missing"):
        config.check({"dataset": "x"})


ONE_POINT = {"n_per": 1, "heatmap": "fixed", "fixed_sigma2": 0.01}


@pytest.mark.parametrize("fields", [{**ONE_POINT, "area_target": "heatmap"}, {**ONE_POINT, "lambda_area": 0},
                                    {"n_per": 2},
                                    {"n_per": 3, "heatmap": "gaussian"}, {"lr_generator": 1}, {"n_parts": 1}])
def test_what_is_at_the_edge_of_the_allowed_is_accepted(fields):
    config.load("lfw", **fields)


def test_two_points_per_part_are_warned_of_and_four_are_not():
    assert "collapse" in " ".join(config.warnings(config.load("lfw", n_per=2)))
    assert not list(config.warnings(config.load("lfw")))


def test_none_keeps_what_the_file_or_the_default_says():
    assert config.load("creatures", n_parts=None, lambda_area=None) == config.load("creatures")
    assert config.load("creatures", n_parts=7).n_parts == 7


def test_a_preset_goes_over_the_data_set_and_what_is_given_over_both():
    cfg = config.load("lfw", preset="small", margin=7)
    assert (cfg.reader, cfg.image_size, cfg.margin) == ("folder", 64, 7)
    with pytest.raises(UserError, match=r"preset: there is no 'smal' \(did you mean small\?\)"):
        config.load("lfw", preset="smal")


def test_the_defaults_are_the_lists_of_the_released_models():
    cfg = config.load("lfw")
    assert (cfg.image_size, cfg.n_parts, cfg.heatmap, cfg.margin) == (128, 8, "cone", 10)
    assert cfg.resolutions == [32, 32, 64, 128]
    assert cfg.channels == [512, 256, 128, 64, 64] and cfg.mask_channels == [512, 64, 64, 64]
    assert cfg.discriminator_channels == [64, 128, 256, 512, 512, 512]
    cfg = config.load("lfw", n_blocks=6)
    assert cfg.resolutions == [32, 32, 64, 64, 128, 128]
    assert cfg.channels == [512, 256, 256, 128, 128, 64, 64]
    assert cfg.mask_channels == [512, 64, 64, 64, 64, 64]


@pytest.mark.parametrize("n_blocks", [3, 4, 6])
def test_the_lists_of_every_number_of_blocks_fit_each_other(n_blocks):
    cfg = config.load("lfw", n_blocks=n_blocks)
    assert [len(cfg.resolutions), len(cfg.channels), len(cfg.mask_channels)] == [n_blocks, n_blocks + 1, n_blocks]


def test_other_image_sizes_scale_the_resolutions_and_the_discriminator():
    cfg = config.load("lfw", image_size=64)
    assert cfg.resolutions == [16, 16, 32, 64] and cfg.discriminator_channels == [64, 128, 256, 512, 512]
    assert config.load("lfw", image_size=256).discriminator_channels == [64, 128, 256, 512, 512, 512, 512]
    assert config.load("lfw", discriminator_channels=[8, 16]).discriminator_channels == [8, 16, 16, 16, 16, 16]


def test_a_written_config_is_read_back_equal(tmp_path, tiny):
    for cfg in (tiny(), tiny(lr_generator=1e-7, warm_start="a: #b.pt", heatmap="fixed", fixed_sigma2=7.25e-3)):
        config.write(cfg, tmp_path / "config.yaml", {"commit": None, "torch": "1.0e-4"})
        assert config.read(tmp_path / "config.yaml") == cfg
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["made_with"]["torch"] == "1.0e-4"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("text, words", [("a: [", "cannot be read as YAML"), ("- a", "field: value"),
                                         ("dataset: x\nreader: lfw\nlr_generator: 1e-4", "1.0e-4")])
def test_a_file_that_is_no_config_is_refused_by_its_path(tmp_path, text, words):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="config.yaml: ") as error:
        config.read(tmp_path / "config.yaml")
    assert words in str(error.value)


@pytest.mark.parametrize("path", [*PARAMS, *PRESETS], ids=lambda path: path.name)
def test_every_file_of_params_holds_known_fields_only_and_loads(path):
    values = yaml.safe_load(path.read_text())
    if isinstance(values, list):  # ablations: (name, overrides)
        pytest.skip("a list of ablations, not the parameters of a data set")
    assert set(values) <= set(config.Config.model_fields)
    if path in PRESETS:  # settings for any data set
        assert config.load("folder", preset=path.stem).preset == path.stem
    else:
        assert config.load(path.stem).dataset == path.stem


def test_the_word_none_sets_an_optional_field_back_and_stays_a_word_where_it_is_a_value():
    assert config.load("creatures").fit_pictures == 1000
    back = config.load("creatures", fit_pictures="none", max_minutes="None", backbone_weights="none")
    assert back.fit_pictures is None and back.max_minutes is None and back.backbone_weights == "none"
    assert config.load("creatures", fit_pictures=None).fit_pictures == 1000  # None is not given
    with pytest.raises(UserError, match="n_parts: 'none' is not allowed"):
        config.load("creatures", n_parts="none")


@pytest.mark.parametrize("field, value", [("n_parts", 256), ("seed", -1), ("seed", 2**32)])
def test_values_that_no_label_or_random_generator_can_hold_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field}: {value} is not allowed"):
        config.load("creatures", **{field: value})
