"""Find evaluation queries among the training queries, which would measure memory instead of generalisation.

A training refuses such queries. A trained model keeps the hashes of its training queries, so that a later evaluation
can warn about them without the dataset.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from labelkit.corpora.near_duplicates import normalised
from labelkit.errors import ArtifactError, DataError
from labelkit.storage.dataset import known_leaks
from trainer.data.store import Store
from trainer.data.training_sets import TrainingSet
from trainer.objectives.batch import key_of
from trainer.retrieval.search import Collection

log = logging.getLogger(__name__)

TRAINED = "training_queries.npy"
"""File in a model folder with the sorted hashes of its training queries, int64."""
ALL_THE_SAME = "or train with them (allow_leaks = true, --allow-leaks)"


def refuse_leaks(folder: Path, store: Store, collections: Sequence[Collection]) -> None:
    """Raise `DataError` for a dataset with queries of an evaluation set.

    Such queries were found by the dataset's audit, or they have positives and equal a query of one of the collections
    apart from case and punctuation.
    """
    if count := known_leaks(folder):
        raise DataError(
            f"{folder}: its audit found {count} queries of an evaluation set in the dataset; leave them out (labelkit "
            f"mix --drop leaked-queries), {ALL_THE_SAME}"
        )
    trained = pa.concat_tables(
        table.filter(pc.greater(pc.list_value_length(table["positive_ids"]), 0)).select(["query"])
        for table in store.labels.values()
    )["query"]
    for collection in collections:
        names = list(collection.qrels)
        texts = normalised(pa.array([collection.queries[name].text for name in names], pa.string()))
        shared = pc.is_in(texts, value_set=normalised(trained.combine_chunks()))
        if count := pc.sum(shared).as_py():
            example = names[pc.index(shared, True).as_py()]
            raise DataError(
                f"{count} of the {len(names)} queries of {collection.name}, split {collection.split}, are also "
                f"training queries of {folder}, for example {example!r}; measure on other queries, {ALL_THE_SAME}"
            )


def write_training_queries(folder: Path, training_sets: Iterable[TrainingSet]) -> None:
    """Write the hashes of all queries that a model was trained on to its folder."""
    texts = [one.store.labels["train"]["query"].take(pa.array(one.rows)) for one in training_sets]
    np.save(folder / TRAINED, np.unique(hashes(pa.chunked_array(texts, pa.string()).combine_chunks())))


def hashes(queries: pa.Array) -> NDArray[np.int64]:
    """Compute the hash of each query apart from case and punctuation, `[queries]`."""
    return np.array([key_of(text) for text in normalised(queries).to_pylist()], dtype=np.int64)


def training_queries_in(model: str | None, collection: Collection) -> int | None:
    """Count the judged queries of a collection that a model was trained on; None if the model does not tell.

    Raises `ArtifactError` for a damaged file of hashes.
    """
    path = Path(model or "") / TRAINED
    if model is None or not path.is_file():
        return None
    try:
        known = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); train the model again, or remove the file") from None
    texts = pa.array([collection.queries[name].text for name in collection.qrels], pa.string())
    return int(np.isin(hashes(texts), known).sum())


def warn_of_training_queries(models: Iterable[str], collections: Sequence[Collection]) -> None:
    """Warn about each model that was trained on queries of a collection."""
    for model in models:
        for collection in collections:
            if count := training_queries_in(model, collection):
                log.warning(
                    f"{model} was trained on {count} of the {len(collection.qrels)} queries of {collection.name}, "
                    f"split {collection.split}: its figures there are too high; train without them (labelkit mix "
                    "--eval DATA --drop leaked-queries), or measure on other queries"
                )
