"""Check that a trained model is usable: its weights and embeddings are finite, and training changed them."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import TrainerCallback

from labelkit.errors import LabelkitError
from labelkit.pooling.dense import encode_passages, encode_queries
from trainer.objectives.loss import MultiPositiveLoss
from trainer.retrieval.rerank import scores_of
from trainer.retrieval.search import Encoder
from trainer.retrieval.vector_search import VectorEncoder, vectors_of

log = logging.getLogger(__name__)

LOWER = "lower learning_rate, or raise temperature or warmup_ratio"
MORE_NEGATIVES = "raise batch_size, judge or mine negatives, or name a pool"
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Size in bytes -> integer type of that size."""


def refuse_nonfinite(model: nn.Module, when: str, cure: str = LOWER) -> None:
    """Raise `LabelkitError` for a NaN or infinite weight; `when` begins the message, `cure` ends it."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = f"{int((~torch.isfinite(tensor)).sum()):,} of the {tensor.numel():,} weights in {name}"
            raise LabelkitError(f"{when}, {bad} are not finite: no model is written; {cure}")


def refuse_unusable(model: Encoder | CrossEncoder, queries: Sequence[str], passages: Sequence[str]) -> None:
    """Raise `LabelkitError` for a NaN or infinite weight, or such an embedding or score of one of these texts."""
    refuse_nonfinite(model, "after the last step")
    try:
        if isinstance(model, CrossEncoder):
            scores_of(model, list(zip(queries, passages, strict=False)))
            return
        if isinstance(model, VectorEncoder):
            vectors_of(model, queries, "query")
            vectors_of(model, passages, "document")
            return
        encode_queries(model, None, queries)
        encode_passages(model, None, passages)
    except LabelkitError as error:
        raise LabelkitError(f"after the last step, {error}: no model is written") from None


def fingerprint(model: nn.Module) -> list[int]:
    """Compute a checksum of each weight tensor."""
    return [
        int(tensor.detach().view(BITS[tensor.element_size()]).sum(dtype=torch.int64))
        for tensor in model.state_dict().values()
        if tensor.is_floating_point()
    ]


class Learning(TrainerCallback):
    """Callback that records whether any step had a gradient, and warns if the first step had none."""

    def __init__(self, module: MultiPositiveLoss) -> None:
        self.module = module
        self.moved = False
        """True after a step with a gradient other than 0; saved in checkpoints."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.moved:
            return
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        self.moved = any(bool(gradient.any()) for gradient in gradients)
        if state.global_step or not state.is_world_process_zero:
            return
        if not self.module.contrasted:
            log.warning(f"no query of the first step has a negative: {MORE_NEGATIVES}")
        if not self.moved:
            log.warning("the first step has no gradient and changes no weight")

    def check(self, before: list[int], losses: Sequence[dict[str, float]]) -> None:
        """Raise `LabelkitError` if no weight changed; `before` is the `fingerprint` at the start of the stage."""
        if not self.moved:
            zero = not any(point["loss"] for point in losses)
            why = "the loss was 0" if zero else "the loss did not depend on the weights"
            raise LabelkitError(
                f"nothing was learnt, no model is written: no step had a gradient, because {why}. Positives need "
                f"negatives with different texts: {MORE_NEGATIVES}"
            )
        if fingerprint(self.module.model) == before:
            raise LabelkitError("nothing was learnt, no model is written: no weight has changed; raise learning_rate")
