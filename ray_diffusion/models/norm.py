"""Group normalisation in the arithmetic in which a processor is fast at it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# torch takes 16 channels of a group at a time. A narrower group it reads number by number, in
# bfloat16 at two or three times the cost of float32 (benchmarks/norm.py).
VECTOR = 16


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm``, which on a CPU normalises narrow groups of bfloat16 in float32."""

    def forward(self, input: Tensor) -> Tensor:
        narrow = self.num_channels // self.num_groups < VECTOR
        if not (narrow and input.dtype == torch.bfloat16 and input.device.type == "cpu"):
            return super().forward(input)
        weight, bias = self.weight.float(), self.bias.float()
        wide = F.group_norm(input.float(), self.num_groups, weight, bias, self.eps)
        return wide.to(input.dtype)
