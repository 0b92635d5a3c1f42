"""Refuse evaluation queries among the training queries, which would measure memory instead of generalisation."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from labelkit.corpora.near_duplicates import normalised
from labelkit.errors import DataError
from labelkit.storage.dataset import known_leaks
from trainer.data.store import Store
from trainer.retrieval.search import Collection

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
