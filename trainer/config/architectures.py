"""The architectures of models, and the settings that have no effect on some of them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

CROSS_ENCODER = "cross-encoder"
SPARSE = "sparse"
LATE_INTERACTION = "late-interaction"
DOT_PRODUCTS = {"similarity": "dot", "temperature": 1.0}
DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        CROSS_ENCODER: {"in_batch_negatives": False, "temperature": 1.0},
        SPARSE: DOT_PRODUCTS,
        LATE_INTERACTION: DOT_PRODUCTS,
    }
)
"""Architecture -> its defaults that differ from the defaults of a dense encoder."""
QUERY_FLOPS = 5e-5
PASSAGE_FLOPS = 3e-5
"""Default weights of the FLOPS regulariser, as in sentence-transformers' example of SPLADE."""
FLOPS = {
    "query_flops_weight": (QUERY_FLOPS, "only sparse encoders are regularised"),
    "passage_flops_weight": (PASSAGE_FLOPS, "only sparse encoders are regularised"),
}
OWN_GROUP = "a cross-encoder scores a query only with its own group"
NO_EMBEDDINGS = "a cross-encoder has no embeddings"
WORDS = "a sparse vector has a dimension for each word of the vocabulary"
TOKENS = "late interaction compares the vectors of tokens"
OFF: Mapping[str, Mapping[str, tuple[Any, str]]] = MappingProxyType(
    {
        "dense": FLOPS,
        CROSS_ENCODER: {
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
            **FLOPS,
        },
        SPARSE: {
            "similarity": ("dot", "the score of a sparse encoder is the dot product"),
            "hardness": (0.0, "the score of a sparse encoder is the dot product, and hardness needs the cosine"),
            "same_tower_negatives": (False, "the dot products of two queries have another scale than scores"),
            "matryoshka_dims": ((), WORDS),
            "pooling": (None, f"{WORDS}, and SPLADE takes its maximum over the tokens"),
            "lora_rank": (None, "adapters are not supported for sparse encoders"),
        },
        LATE_INTERACTION: {
            "similarity": ("dot", f"{TOKENS} by MaxSim"),
            "hardness": (0.0, f"{TOKENS} by MaxSim, and hardness needs the cosine"),
            "same_tower_negatives": (False, f"{TOKENS}, and the MaxSim of two queries has another scale"),
            "matryoshka_dims": ((), TOKENS),
            "pooling": (None, f"{TOKENS}, which are not pooled"),
            "lora_rank": (None, "adapters are not supported for late interaction"),
            "gradient_cache": (False, f"{TOKENS}, which are not cached; lower batch_size to save memory"),
            **FLOPS,
        },
    }
)
"""Architecture -> setting without an effect on it -> the value that it must have, and the reason."""


def without_effect(architecture: str, settings: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Yield the rules on settings of an architecture: whether a rule is broken, and its error message."""
    for name, (value, why) in OFF[architecture].items():
        yield settings[name] != value, f"{name} has no effect: {why}; remove {name}"
