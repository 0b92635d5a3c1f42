"""The architectures of models, and the settings that have no effect on some of them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

CROSS_ENCODER = "cross-encoder"
FOR_PAIRS = {"in_batch_negatives": False, "temperature": 1.0}
"""Defaults of a cross-encoder."""
OWN_GROUP = "a cross-encoder scores a query only with its own group"
NO_EMBEDDINGS = "a cross-encoder has no embeddings"
OFF: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "in_batch_negatives": (False, f"{OWN_GROUP}, so other passages of a batch are no negatives"),
        "pool": (None, f"{OWN_GROUP} of judged and mined passages; add negatives with labelkit mine"),
        "false_negative_margin": (None, OWN_GROUP),
        "false_negative_ratio": (None, OWN_GROUP),
        "same_tower_negatives": (False, NO_EMBEDDINGS),
        "hardness": (0.0, f"{NO_EMBEDDINGS}, whose cosine would weight a negative"),
        "matryoshka_dims": ((), NO_EMBEDDINGS),
        "pooling": (None, NO_EMBEDDINGS),
        "similarity": ("cosine", f"{NO_EMBEDDINGS} to compare"),
        "gradient_cache": (False, f"{OWN_GROUP}; lower batch_size to save memory"),
        "learn_temperature": (False, "the last layer of a cross-encoder learns the scale of its scores"),
        "query_prompt": (None, "a cross-encoder reads a query and a passage as one text"),
        "passage_prompt": (None, "a cross-encoder reads a query and a passage as one text"),
        "max_query_length": (
            None,
            "a cross-encoder reads a query and a passage as one text; limit both together with max_passage_length",
        ),
    }
)
"""Setting without an effect on a cross-encoder -> the value that it must have, and the reason."""


def unused_by_pairs(architecture: str, settings: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Yield the rules on settings of a cross-encoder: whether a rule is broken, and its error message."""
    for name, (value, why) in OFF.items():
        yield architecture == CROSS_ENCODER and settings[name] != value, f"{name} has no effect: {why}; remove {name}"
