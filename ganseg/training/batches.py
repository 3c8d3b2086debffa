"""Batches of real images on the training device. What a batch holds depends on (seed, step) alone."""

from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torchvision.transforms import RandomResizedCrop

from ganseg.devices import memory_format, rng
from ganseg.model.geometry import to_float

UNKNOWN_ROOM = 2 * 2**30  # bytes, where the device does not say what is free (mps)


class Batches:
    """An endless pass over shuffled images.

    images  (N, 3, S, S) uint8 on the CPU, in memory or mapped from a file, N >= cfg.batch_size
    Images that fit stay on the device. Others are read while a GPU computes the step before.
    """

    def __init__(self, images, cfg, device):
        self.images, self.cfg, self.device = images, cfg, device
        self.epoch, self.order = None, None
        self.resident = device.type != "cpu" and images.nbytes <= _room(device)
        if self.resident:
            self.images = images.to(device)
        # On the CPU the reading would take the training's own cores
        self.ahead = device.type != "cpu" and not self.resident
        self.pool, self.next = ThreadPoolExecutor(1), {}  # step -> future of its batch

    def __call__(self, step, random):
        """Batch number `step`: (B, 3, S, S) in [-1, 1], augmented with numbers from `random`."""
        batch = to_float(self._take(step))
        if self.cfg.random_resized_crop:
            batch = _resized_crop(batch, random)
        if self.cfg.flip:
            rows = (torch.rand(len(batch), generator=random) < 0.5).nonzero().flatten().to(self.device)
            batch[rows] = batch[rows].flip(-1)
        return batch.contiguous(memory_format=memory_format(self.cfg, self.device))

    def _take(self, step):
        """The step's images on the device, not augmented."""
        if self.resident:
            return self.images.index_select(0, self._rows(step).to(self.device))
        if not self.ahead:
            return self._gather(step)
        waiting = self.next.pop(step, None) or self.pool.submit(self._gather, step)
        batch = waiting.result()
        self.next = {step + 1: self.pool.submit(self._gather, step + 1)}
        return batch.to(self.device, non_blocking=True)

    def _gather(self, step):
        batch = self.images.index_select(0, self._rows(step))  # five times as fast as indexing
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def _rows(self, step):
        B = self.cfg.batch_size
        epoch, i = divmod(step, len(self.images) // B)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = torch.randperm(len(self.images), generator=rng(self.cfg.seed, "order", epoch))
        return self.order[i * B : (i + 1) * B]


def _room(device):
    """Bytes that images may take on a device: half of what is free."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else UNKNOWN_ROOM


def _resized_crop(batch, random):
    """Crop 0.9-1 of each image's area, with an aspect ratio of 0.9-1.1, and resize it to its old size.

    Source: torchvision's RandomResizedCrop, which draws again where a window does not fit into the image.
    """
    S = batch.shape[-1]
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator of the CPU
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=random)))
        windows = [RandomResizedCrop.get_params(image, (0.9, 1.0), (0.9, 1.1)) for image in batch]
    top, left, height, width = torch.tensor(windows).T / S
    theta = torch.zeros(len(batch), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = 2 * left + width - 1, 2 * top + height - 1
    window = F.affine_grid(theta, list(batch.shape), align_corners=False).to(batch.device)
    return F.grid_sample(batch, window, mode="bilinear", padding_mode="reflection", align_corners=False)
