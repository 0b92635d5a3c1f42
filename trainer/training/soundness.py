"""Whether a model may be kept: its weights and embeddings are finite, and the training changed it."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import TrainerCallback

from labelkit.errors import LabelkitError
from labelkit.pooling.dense import encode_passages, encode_queries
from trainer.objectives.loss import MultiPositiveLoss

log = logging.getLogger(__name__)

LOWER = "lower learning_rate, or raise temperature or warmup_ratio"
MORE_NEGATIVES = "raise batch_size, judge negatives, or name a pool"
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number -> the integer of that size."""


def refuse_nonfinite(model: nn.Module, when: str, cure: str = LOWER) -> None:
    """Raise `LabelkitError` where a weight of a module is NaN or infinite; `when` says at which moment."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = f"{int((~torch.isfinite(tensor)).sum()):,} of the {tensor.numel():,} numbers of {name}"
            raise LabelkitError(f"{when}, {bad} are not finite: no model is written; {cure}")


def refuse_unusable(model: SentenceTransformer, queries: Sequence[str], passages: Sequence[str]) -> None:
    """Raise `LabelkitError` where a weight, or an embedding of one of these texts, is NaN or infinite."""
    refuse_nonfinite(model, "after the last step")
    try:
        encode_queries(model, None, queries)
        encode_passages(model, None, passages)
    except LabelkitError as error:
        raise LabelkitError(f"after the last step, {error}: no model is written") from None


def fingerprint(model: nn.Module) -> list[int]:
    """A number for each weight tensor, which differs where the tensor does."""
    return [
        int(tensor.detach().view(BITS[tensor.element_size()]).sum(dtype=torch.int64))
        for tensor in model.state_dict().values()
        if tensor.is_floating_point()
    ]


class Learning(TrainerCallback):
    """Finds out whether a stage learns anything, and warns after the first step where it does not."""

    def __init__(self, module: MultiPositiveLoss) -> None:
        self.module = module
        self.moved = False
        """Whether any step had a gradient other than 0; kept in checkpoints."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.moved:
            return
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        self.moved = any(bool(gradient.any()) for gradient in gradients)
        if state.global_step or not state.is_world_process_zero:
            return
        if not self.module.contrasted:
            log.warning(f"no query of the first step has a negative to be told from: {MORE_NEGATIVES}")
        if not self.moved:
            log.warning("the first step has no gradient: nothing is learnt from it")

    def check(self, before: list[int], losses: Sequence[dict[str, float]]) -> None:
        """Raise `LabelkitError` where the stage learnt nothing; `before` is the `fingerprint` it began with."""
        if not self.moved:
            why = "its loss was 0" if not any(point["loss"] for point in losses) else "its loss did not depend on them"
            raise LabelkitError(
                f"nothing was learnt, no model is written: no step gave the weights a gradient, {why}. Positives need "
                f"negatives with other texts: {MORE_NEGATIVES}"
            )
        if fingerprint(self.module.model) == before:
            raise LabelkitError(
                "nothing was learnt, no model is written: every weight is what it was before; raise learning_rate"
            )
