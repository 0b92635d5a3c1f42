"""The loss module of each architecture."""

from torch import nn

from trainer.config.architectures import CROSS_ENCODER, LATE_INTERACTION, SPARSE
from trainer.config.fit_config import FitConfig
from trainer.objectives.loss import MultiPositiveLoss
from trainer.objectives.pair_loss import PairLoss
from trainer.objectives.vector_loss import SparseLoss, TokenLoss

LOSSES: dict[str, type[MultiPositiveLoss]] = {
    "dense": MultiPositiveLoss,
    CROSS_ENCODER: PairLoss,
    SPARSE: SparseLoss,
    LATE_INTERACTION: TokenLoss,
}


def make_loss(model: nn.Module, config: FitConfig) -> MultiPositiveLoss:
    """Make the loss module for the architecture of a model. Raises `UsageError` as `MultiPositiveLoss` does."""
    return LOSSES[config.architecture](model, config)
