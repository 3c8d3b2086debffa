"""Several segmenters as one: the mean of what they say, each with its parts in the order of the first one's."""

import torch
from torch import nn


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
