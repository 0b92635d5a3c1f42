"""The dev set of a run, on which a model is measured during training."""

from functools import cached_property
from pathlib import Path

import numpy as np
from sentence_transformers import CrossEncoder

from labelkit.corpora.benchmarks import PREFIXES
from labelkit.corpora.places import IRDS
from labelkit.pooling.dense_search import Lengths
from trainer.config.fit_config import FitConfig
from trainer.retrieval.evaluate import measure
from trainer.retrieval.options import RERANKED
from trainer.retrieval.rerank import Reranking, first_stage
from trainer.retrieval.search import Collection, Encoder, read_collection, search, without_itself

MEASURE = "nDCG@10"


class Dev:
    """Function from a model to its nDCG@10 on a split of a BEIR folder.

    A cross-encoder reranks the passages of `RERANKED`, which are found once.
    """

    def __init__(self, collection: Collection, lengths: Lengths) -> None:
        self.collection = collection
        self.lengths = lengths

    @cached_property
    def reranking(self) -> Reranking:
        """Passages that a cross-encoder reranks."""
        return Reranking(self.collection, first_stage(RERANKED))

    def __call__(self, model: Encoder | CrossEncoder) -> float:
        """Compute the nDCG@10 of a model, a number in 0 to 1."""
        if isinstance(model, Encoder):
            run = search(model, None, self.collection, depth=10, lengths=self.lengths)
        else:
            run = without_itself(self.reranking(model, max_length=self.lengths.passage), self.collection)
        values = measure(self.collection.qrels, run, cutoffs=(10,))[MEASURE]
        return float(np.mean(list(values.values())))


def make_dev(config: FitConfig) -> Dev | None:
    """Read the dev set that the settings name; None if they name none."""
    if config.dev is None:
        return None
    folder, split = folder_and_split(config.dev)
    collection = read_collection(folder, split, scale=config.scale, usual="dev")
    return Dev(collection, Lengths(config.max_query_length, config.max_passage_length))


def folder_and_split(text: str) -> tuple[str, str | None]:
    """Parse `FOLDER` or `FOLDER:SPLIT`, with a folder, an address or a name of a collection."""
    prefix = next((prefix for prefix in (IRDS, *PREFIXES) if text.startswith(prefix)), "")
    folder, colon, named = text.removeprefix(prefix).rpartition(":")
    split = colon and "/" not in named and not Path(text).exists()
    return (prefix + folder, named) if split else (text, None)
