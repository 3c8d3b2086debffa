"""Parts as clusters of frozen features: what a network that was trained for something else makes of the same photos."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from ganseg import checkpoints, config, files
from ganseg.errors import UserError
from ganseg.model import features
from ganseg.model.geometry import to_float

CELLS = 16  # the photos are brought to the size at which the finest map used has so many cells a side
N_COMPONENTS = 32  # principal components of the features that are kept
N_CLUSTERS = 8  # of all features, each of which is foreground or background
BATCH = 16  # images are enlarged, and all of an evaluation's batch would take gigabytes
LITE0 = "efficientnet_lite0"  # whose ImageNet weights come with a package
COLORS = "colors"


class Clusters(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> logits (B, K + 1, S, S), by the nearest centroid of a cell's features.

    Features are those of a network's last two stages, or of a transformer's last block. They are standardised per
    channel, brought to unit length and to their principal components. A cell is foreground where a foreground cluster
    is nearer than any background cluster, and of the nearest part. The distances are brought to the image's size, not
    the labels. Logits are those of equal round Gaussians about the centroids.
    backbone  from load_backbone
    What ganseg/experiments/features.py fits are buffers.
    """

    def __init__(self, backbone, n_parts):
        super().__init__()
        self.backbone = backbone.requires_grad_(False).to(memory_format=torch.channels_last)  # faster on the CPU
        n = sum(backbone.feature_info.channels())
        D = min(N_COMPONENTS, n)
        shapes = {"center": n, "scale": n, "axes": (n, D), "offset": D, "clusters": (N_CLUSTERS, D),
                  "is_foreground": N_CLUSTERS, "parts": (n_parts, D), "variance": ()}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape, dtype=torch.bool if name == "is_foreground" else torch.float))

    def maps(self, images):
        """The features as they come, (B, n, h, w): coarser maps are enlarged to the finest."""
        if len(images) > BATCH:
            return torch.cat([self.maps(batch) for batch in images.split(BATCH)])
        x = F.interpolate(images, size=self.backbone.seen_px, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in self.backbone.colors)
        maps = self.backbone((((x + 1) / 2 - mean) / std).contiguous(memory_format=torch.channels_last))
        size = maps[0].shape[-2:]
        return torch.cat([F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in maps], dim=1)

    def maps_of(self, photos):
        """The maps of photos (N, 3, S, S) uint8, on the CPU: (N, n, h, w)."""
        device = self.center.device
        return torch.cat([self.maps(to_float(batch.to(device))).cpu() for batch in photos.split(BATCH)])

    def fit_axes(self, cells):
        """Set center, scale, axes and offset from features (M, n) as they come; returns these embedded, (M, D)."""
        n_channels = torch.tensor(self.backbone.feature_info.channels())
        scale = cells.std(dim=0).clamp(min=1e-6) * n_channels.sqrt().repeat_interleave(n_channels)
        unit = self.unit((cells - cells.mean(dim=0)) / scale)
        axes = torch.linalg.eigh(unit.T.cov())[1].flip(1)[:, : self.axes.shape[1]]  # the largest first
        offset = (unit @ axes).mean(dim=0)
        for name, value in {"center": cells.mean(dim=0), "scale": scale, "axes": axes, "offset": offset}.items():
            getattr(self, name).copy_(value)
        return unit @ axes - offset

    def embed(self, cells):
        """Features (M, n) of cells as they come -> (M, D)."""
        return self.unit((cells - self.center) / self.scale) @ self.axes - self.offset

    def unit(self, cells):
        """Standardised features (M, n) at unit length; colours as they are, whose length is their brightness."""
        return cells if isinstance(self.backbone, Colors) else F.normalize(cells)

    def forward(self, images):
        maps = self.maps(images)
        B, n, h, w = maps.shape
        z = self.embed(maps.permute(0, 2, 3, 1).reshape(-1, n))
        to_clusters, to_parts = torch.cdist(z, self.clusters) ** 2, torch.cdist(z, self.parts) ** 2
        foreground, background = (to_clusters[:, of].min(dim=1).values for of in (self.is_foreground,
                                                                                 ~self.is_foreground))
        found = torch.column_stack([background - foreground, to_parts]) / (2 * self.variance)
        found = found.view(B, h, w, -1).permute(0, 3, 1, 2)
        found = F.interpolate(found, size=images.shape[-2:], mode="bilinear", align_corners=False)
        score, to_parts = found[:, :1], found[:, 1:]
        return torch.cat([torch.zeros_like(score), score + to_parts.amin(dim=1, keepdim=True) - to_parts], dim=1)


class Colors(nn.Module):
    """No network: the colours of 32 x 32 cells, for the control that clusters these."""

    def __init__(self):
        super().__init__()
        self.feature_info = SimpleNamespace(channels=lambda: [3], reduction=lambda: [2])  # as timm's networks have
        self.colors = (0.5,) * 3, (0.5,) * 3

    def forward(self, images):
        return [images]


def load_backbone(name, weights=None, pretrained=True):
    """A frozen network as a function of images to a list of maps, with `seen_px` and `colors` of its images.

    name        efficientnet_lite0, with the weights of its package, a model of timm, maybe with a tag, or colors
    weights     file of its state dict under timm's names (.safetensors or PyTorch's); None: timm downloads them
    pretrained  False: random, for a checkpoint that holds them
    Raises UserError for a name that timm does not know, and for weights that are missing or of another network.
    """
    if name == COLORS:
        backbone = Colors()
    elif name == LITE0:
        backbone = features.load_backbone((weights or "imagenet") if pretrained else "none", scales=(3, 4))
        backbone.colors = (0.5,) * 3, (0.5,) * 3
    else:
        backbone = _of_timm(name, weights, pretrained)
    backbone.seen_px = CELLS * backbone.feature_info.reduction()[0]
    return backbone.eval()


def _of_timm(name, weights, pretrained):
    """load_backbone of another network than LITE0."""
    import timm  # takes seconds, for an option

    if not timm.is_model(name.split(".")[0]):
        raise UserError(f"network: timm knows no {name!r}{config.nearest(name, [LITE0, *timm.list_models()])}; name "
                        f"one of timm.list_models(), {LITE0} or {COLORS}.")
    try:
        with torch.device("meta"):
            info = timm.create_model(name, features_only=True, out_indices=(-2, -1)).feature_info
            names = timm.create_model(name, num_classes=0).state_dict().keys()
        known = timm.get_pretrained_cfg(name)
    except Exception as error:  # networks without stages, and unknown tags, raise whatever they like
        raise UserError(f"network: {name} gives no maps of features: {files.one_line(error)}; name another, such as "
                        "vit_small_patch14_dinov2.lvd142m.") from None
    strides = info.reduction()
    given = {"features_only": True, "out_indices": (-1,) if strides[0] == strides[1] else (-2, -1)}
    given |= {"img_size": CELLS * strides[0]} if known.fixed_input_size else {}
    if weights and pretrained:
        state = _read_weights(weights)
        if missing := [key for key in names if key not in state]:
            raise UserError(f"weights: {weights} lacks {missing[0]} of {name}; give the file of this network.")
        given["pretrained_cfg_overlay"] = {"state_dict": state}
    try:
        backbone = timm.create_model(name, pretrained=pretrained, **given)
    except Exception as error:  # of a network's shapes, a hub, a proxy or a disk
        if weights:
            raise UserError(f"weights: {weights} is not of {name}: {files.one_line(error)}") from None
        raise UserError(f"weights: those of {name} cannot be downloaded: {files.one_line(error)}; give them as a file "
                        "with -p weights FILE, which huggingface.co/timm has as model.safetensors.") from None
    backbone.colors = known.mean, known.std
    return backbone


def _read_weights(path):
    """The state dict of a file."""
    if not str(path).endswith(".safetensors"):
        return checkpoints.load_checkpoint(path)
    from safetensors.torch import load_file  # comes with timm

    try:
        return load_file(path)
    except Exception as error:  # its own kinds, and those of files
        raise UserError(f"weights: {path} cannot be read: {files.one_line(error)}.") from None
