"""The segmenters that generated pairs are distilled into: images (B, 3, H, W) -> logits (B, K + 1, H, W)."""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.models.segmentation import deeplabv3_resnet50

from ganseg import checkpoints
from ganseg.errors import UserError
from ganseg.model import features
from ganseg.model.layers import upsample


def build(cfg):
    """The network that cfg.segmenter names."""
    if cfg.segmenter == "unet_lite0":
        return LiteUNet(cfg.n_parts + 1, cfg.segmenter_width, cfg.backbone_weights)
    if cfg.segmenter == "unet":
        return UNet(cfg.n_parts + 1, cfg.segmenter_width)
    return DeepLab(cfg.n_parts, cfg.backbone_weights)


class DeepLab(nn.Module):
    """torchvision's DeepLabV3 with ResNet-50; K + 1 classes, background first."""

    def __init__(self, n_parts, backbone_weights="none"):
        super().__init__()
        imagenet = ResNet50_Weights.IMAGENET1K_V1 if backbone_weights == "imagenet" else None
        try:
            self.model = deeplabv3_resnet50(
                weights=None, weights_backbone=imagenet, num_classes=n_parts + 1, aux_loss=False
            )
        except OSError as error:  # the download failed
            raise UserError(
                f"backbone_weights: imagenet could not be downloaded ({error}); name a file or use none."
            ) from None
        if backbone_weights not in ("imagenet", "none"):
            state = checkpoints.load_checkpoint(backbone_weights)
            state = {key: value for key, value in state.items() if not key.startswith("fc.")}
            checkpoints.load_weights(self.model.backbone, state, backbone_weights)

    def forward(self, images):
        return self.model(images)["out"].float()


class LiteUNet(nn.Module):
    """A U-Net whose way down is EfficientNet-lite0, which sees the image doubled, for its strides are 2 to 16.

    It is told where each pixel lies (Liu et al., NeurIPS 2018): parts are where the generated ones are, and a second
    face at the edge of a photo is none of them.
    """

    def __init__(self, n_out, width, backbone_weights="none"):
        super().__init__()
        self.backbone = features.load_backbone(backbone_weights, scales=(0, 1, 2, 3))
        n, w = self.backbone.feature_info.channels(), [width, 2 * width, 2 * width]
        self.first = _double_conv(3 + 2, width)  # of the image as it is
        self.up = nn.ModuleList([_double_conv(n[3] + 2 + n[2], w[2]), _double_conv(w[2] + n[1], w[1]),
                                 _double_conv(w[1] + n[0] + width, w[0])])
        self.head = nn.Conv2d(width, n_out, 1)

    def forward(self, images):
        maps = self.backbone(upsample(images))
        maps[0] = torch.cat([maps[0], self.first(_with_positions(images))], dim=1)
        maps[-1] = _with_positions(maps[-1])
        return self.head(_way_up(self.up, maps)).float()


def _with_positions(x):
    """(B, C, H, W) -> (B, C + 2, H, W): x and y of each pixel in [-1, 1] as further channels."""
    down, across = (torch.linspace(-1, 1, n, device=x.device, dtype=x.dtype) for n in x.shape[2:])
    positions = torch.stack(torch.meshgrid(across, down, indexing="xy"))
    return torch.cat([x, positions.expand(x.shape[0], -1, -1, -1)], dim=1)


class UNet(nn.Module):
    """Three levels of two convolutions, for images too small for DeepLab's strides."""

    def __init__(self, n_out, width):
        super().__init__()
        w = [width, 2 * width, 2 * width]
        self.down = nn.ModuleList(_double_conv(a, b) for a, b in zip([3, *w], w, strict=False))
        self.up = nn.ModuleList(
            _double_conv(a + b, b) for a, b in zip(reversed(w), reversed(w[:-1]), strict=False)
        )
        self.head = nn.Conv2d(width, n_out, 1)

    def forward(self, images):
        maps = [self.down[0](images)]
        for block in self.down[1:]:
            maps.append(block(F.max_pool2d(maps[-1], 2)))
        return self.head(_way_up(self.up, maps)).float()


def _way_up(blocks, maps):
    """Double the coarsest map and join it with the next one, block by block; maps are fine to coarse."""
    x = maps[-1]
    for block, skip in zip(blocks, maps[-2::-1], strict=True):
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        x = block(torch.cat([x, skip], dim=1))
    return x


def _double_conv(n_in, n_out):
    layers = []
    for a, b in ((n_in, n_out), (n_out, n_out)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
