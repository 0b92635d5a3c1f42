"""Count the floating-point operations of a training, and compare them with the peak of a GPU."""

import torch
from torch import nn

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
"""Part of a GPU's name -> its peak in bf16 without sparsity, in operations per second, by NVIDIA's data sheets."""


def operations_per_token(model: nn.Module) -> float:
    """Count the floating-point operations that a step needs for one token: two per weight and pass.

    The passes are the forward pass, the gradient of the activations and, for weights that are trained, the gradient of
    the weights. Embedding tables and attention scores are left out, and so are second forward passes of a gradient
    cache or of checkpointing, as usual for model FLOP utilisation (PaLM, arXiv 2204.02311, appendix B).
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    weights = [weight for weight in model.parameters() if weight.dim() > 1 and id(weight) not in embedded]
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    return 4.0 * sum(weight.numel() for weight in weights) + 2.0 * trained


def gpu_peak() -> float | None:
    """Return the current GPU's peak in bf16, in operations per second; None without a GPU that `PEAKS` lists."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((value for part, value in PEAKS.items() if part in name), None)
