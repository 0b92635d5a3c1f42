"""The dev set of a run: one figure for a model in training."""

from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from labelkit.pooling.dense_search import Lengths
from trainer.config.fit_config import FitConfig
from trainer.retrieval.evaluate import measure
from trainer.retrieval.search import Collection, read_collection, search

MEASURE = "nDCG@10"


class Dev:
    """nDCG@10 on a split of a BEIR folder."""

    def __init__(self, collection: Collection, lengths: Lengths) -> None:
        self.collection = collection
        self.lengths = lengths

    def __call__(self, model: SentenceTransformer) -> float:
        """Measure a model as it stands."""
        run = search(model, None, self.collection, depth=10, lengths=self.lengths)
        values = measure(self.collection.qrels, run, cutoffs=(10,))[MEASURE]
        return float(np.mean(list(values.values())))


def make_dev(config: FitConfig) -> Dev | None:
    """The dev set that the settings name; None where they name none."""
    if config.dev is None:
        return None
    folder, split = folder_and_split(config.dev, "dev")
    return Dev(read_collection(folder, split), Lengths(config.max_query_length, config.max_passage_length))


def folder_and_split(text: str, split: str) -> tuple[Path, str]:
    """`FOLDER` or `FOLDER:SPLIT` as a folder and a split."""
    folder, colon, named = text.rpartition(":")
    return (Path(folder), named) if colon and not Path(text).exists() else (Path(text), split)
