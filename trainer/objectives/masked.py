"""Arithmetic on masked rows without NaN and without gradients of masked entries."""

import torch
from torch import Tensor


def masked_lse(values: Tensor, mask: Tensor) -> Tensor:
    """Compute the log-sum-exp over the unmasked last dimension; a fully masked row has -inf and a zero gradient."""
    some = mask.any(dim=-1)
    # torch.where differentiates both branches, so the unused branch must be finite too: an empty row is summed over
    # zeros.
    shown = torch.where(mask, values, -torch.inf)
    shown = torch.where(some.unsqueeze(-1), shown, 0.0)
    return torch.where(some, shown.logsumexp(dim=-1), -torch.inf)


def joint_lse(*values: Tensor) -> Tensor:
    """Combine log-sum-exps over separate sets into one; terms of -inf, also if all are, have a zero gradient."""
    terms = torch.stack(values, dim=-1)
    return masked_lse(terms, terms > -torch.inf)


def softplus(values: Tensor) -> Tensor:
    """Compute log(1 + exp(x)) of each value; torch's own function turns linear above 20 and is then off by 2e-9."""
    return torch.logaddexp(values, torch.zeros_like(values))
