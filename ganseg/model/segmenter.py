"""The segmenters that generated pairs are distilled into: images (B, 3, H, W) -> logits (B, K + 1, H, W)."""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.models.segmentation import deeplabv3_resnet50

from ganseg import checkpoints
from ganseg.errors import UserError


def build(cfg):
    """The network that cfg.segmenter names."""
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
        features = []
        x = images
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            features.append(x)
        for block, skip in zip(self.up, features[-2::-1], strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        return self.head(x).float()


def _double_conv(n_in, n_out):
    layers = []
    for a, b in ((n_in, n_out), (n_out, n_out)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
