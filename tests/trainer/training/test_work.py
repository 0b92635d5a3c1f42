"""Arithmetic of a training run, counted by hand."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.training.work import operations_per_token


def test_embeddings_and_vectors_do_not_count_and_frozen_weights_need_no_gradient() -> None:
    model = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert operations_per_token(model) == 6 * (8 * 4 + 4 * 2)
    model[1].weight.requires_grad_(False)
    assert operations_per_token(model) == 4 * 8 * 4 + 6 * 4 * 2


def test_operations_are_those_of_the_matrix_products() -> None:
    model = nn.Linear(8, 4, bias=False)
    counter = FlopCounterMode(display=False)
    tokens = torch.randn(10, 8, requires_grad=True)
    with counter:
        model(tokens).sum().backward()
    assert counter.get_total_flops() == 10 * operations_per_token(model)
