"""Several segmenters: how far they agree, and as one: the mean of what they say, parts in the first one's order."""

import itertools

import numpy as np
import torch
from torch import nn

from ganseg.metrics.unlabelled import part_agreement
from ganseg.model.prediction import predict

N_COMPARED = 200  # test pictures that tell how far segmenters agree; more take too long


class Consensus(nn.Module):
    """Segmenters of equal K that vote.

    members  n networks, images (B, 3, S, S) -> logits (B, K + 1, S, S)
    orders   (n, K + 1) int: which label of a member is label k of all; row 0 is 0, 1, ..., K
    """

    def __init__(self, members, orders):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("orders", torch.as_tensor(orders, dtype=torch.long))

    def forward(self, images):
        """The logarithm of the members' mean probabilities, (B, K + 1, S, S)."""
        votes = [member(images).softmax(dim=1)[:, order]
                 for member, order in zip(self.members, self.orders, strict=True)]
        return torch.stack(votes).mean(dim=0).clamp(min=1e-12).log()


def agreement(networks, test):
    """Mean part_agreement of each network's labels of test Pictures with the others': {name: float}; {} of one network.

    networks  {name: segmenter}
    """
    labels = {name: predict(network, test.images, test.boxes).labels.numpy() for name, network in networks.items()}
    pairs = {pair: part_agreement(*(labels[name] for name in pair)) for pair in itertools.combinations(labels, 2)}
    return {name: float(np.mean([value for pair, value in pairs.items() if name in pair]))
            for name in labels if pairs}
