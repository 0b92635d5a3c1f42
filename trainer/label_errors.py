"""Find probable label errors: labels that models trained on other queries disagree with.

The queries are split into folds. The labelled passages of each fold are scored by a model trained on the other folds,
so that no model scores its own training queries. The doubt of a positive is high if other passages score above it, and
the doubt of a negative is high if it scores above positives.
"""

import csv
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from labelkit.errors import LabelkitError, UsageError
from labelkit.pooling.dense import encode_passages, encode_queries
from labelkit.pooling.dense_search import SIMILARITIES, limited
from labelkit.records import Example, Label
from labelkit.storage import folders
from labelkit.storage.manifest import MODEL, SUSPECTS, SuspectsFacts
from labelkit.storage.outputs import claimed
from trainer.config.fit_config import FitConfig
from trainer.data.draws import draw
from trainer.data.foreign import our_dataset
from trainer.data.store import Store, open_store
from trainer.data.training_sets import fold_of
from trainer.retrieval.search import load_model
from trainer.training.checkpoints import difference_to, refuse_other_run
from trainer.training.fit import HARMLESS, inputs_of, train
from trainer.training.soundness import LOWER

log = logging.getLogger(__name__)

KIND = SUSPECTS
BACKGROUND = 200
"""Number of random labelled passages that the positives of every query are compared with, besides its negatives."""
BLOCK = 256
"""Number of queries scored at a time."""


@dataclass(frozen=True)
class Suspect:
    """A label and its doubt, the disagreement of a model that was trained without the query."""

    query_id: str
    passage_id: str
    side: str
    """positive or negative"""
    doubt: float
    """Mean probability that the label is wrong in a comparison of two passages, 0 to 1. The positive of a comparison is
    wrong with probability sigmoid((s_other - s_positive) / temperature). A positive is compared with passages that are
    not positive, a negative with the positives.
    """
    grade: int | None
    source: str
    judge_id: str
    query: str
    passage: str


def suspects(
    dataset: Path | str, output: Path | str, config: FitConfig, *, folds: int = 5, command: str = "trainer.suspects"
) -> list[Suspect]:
    """Rank labels by the disagreement of models that were trained on other queries.

    Args:
        dataset: folder of `labelkit mix`, or data in a format of `labelkit.exchange.formats`.
        output: folder of `suspects.tsv`, with all labels, and `suspects.run`, a TREC run for `labelkit pool --run`.
            Finished folds are kept in `OUTPUT.folds`, so that the same call resumes.
        config: settings of the models, one per fold.
        folds: number of parts of the queries, at least 2.
        command: the command line that the manifest records as the origin of the folder.

    Returns:
        Every label with its doubt, from 0 to 1, most doubted first.

    Raises:
        UsageError: fewer than 2 folds.
        LabelkitError: the errors of `fit`.
    """
    if folds < 2:
        raise UsageError(f"folds = {folds}: the model of a fold is trained on the other folds; set at least 2 folds")
    dataset, output = Path(dataset), Path(output)
    with claimed(output, KIND) as place:
        store = open_store(our_dataset(dataset), config.pool)
        settings = config.model_dump(mode="json", exclude=set(HARMLESS)) | {"folds": folds}
        refuse_other_run(output, KIND, settings, keys=store.keys)
        models = place.beside(".folds")
        found: list[Suspect] = []
        for fold in range(folds):
            of_fold = FitConfig.model_validate(config.model_dump(exclude_unset=True) | {"held_out": (fold, folds)})
            folder = models / f"fold-{fold}-of-{folds}"
            if not _is_made(folder, of_fold, store):
                train(dataset, folder, of_fold, command=command)
            model = load_model(str(folder), trust_remote_code=config.trust_remote_code)
            rows = np.flatnonzero(fold_of(store.query_keys, folds) == fold)
            found += doubts(model, store, rows, config=of_fold)
            log.info(f"fold {fold + 1}/{folds}: {len(rows):,} queries scored by the model of the other folds")
        found.sort(key=lambda one: (-one.doubt, one.query_id, one.passage_id))
        with folders.writing(output, KIND, command) as draft:
            _write(draft.path, found)
            draft.inputs |= inputs_of(store, dataset, config)
            draft.rows["suspects"] = len(found)
            draft.facts = SuspectsFacts(config=config.model_dump(mode="json"), folds=folds)
        shutil.rmtree(models)
    return found


def doubts(model: SentenceTransformer, store: Store, rows: NDArray[np.int64], config: FitConfig) -> Iterator[Suspect]:
    """Compute the doubt of every label of some queries of a store."""
    ids = [str(store.corpus["passage_id"][row]) for row in store.labelled.tolist()]
    background = draw(ids, BACKGROUND, (config.seed, "background"))
    for start in range(0, len(rows), BLOCK):
        examples = [store.example(int(row)) for row in rows[start : start + BLOCK]]
        names = list(dict.fromkeys([*background, *(label.passage_id for one in examples for label in _labels(one))]))
        scores = _scores(
            model, [one.query for one in examples], [store.passages[name] for name in names], config=config
        )
        place = {name: number for number, name in enumerate(names)}
        for example, each in zip(examples, scores, strict=True):
            yield from _of_query(example, each, place, background=background, store=store)


def by_source(found: list[Suspect], line: float) -> dict[str, tuple[int, int]]:
    """Count labels by source and side: name -> number of labels, number of labels with a doubt above the threshold."""
    every = Counter(f"{one.source} {one.side}" for one in found)
    doubted = Counter(f"{one.source} {one.side}" for one in found if one.doubt > line)
    return {name: (every[name], doubted[name]) for name in sorted(every)}


def _of_query(
    example: Example, scores: NDArray[np.float64], place: dict[str, int], background: list[str], store: Store
) -> Iterator[Suspect]:
    """Compute the doubt of the labels of one query from the scores of all passages `[passages]`."""
    same = store.same
    texts = {same.get(label.passage_id, label.passage_id) for label in (*example.positives, *example.ignored)}
    negatives = [one for one in example.negatives if same.get(one.passage_id, one.passage_id) not in texts]
    others = {one.passage_id for one in negatives} | {name for name in background if same.get(name, name) not in texts}
    against = scores[[place[name] for name in sorted(others)]]
    good = scores[[place[one.passage_id] for one in example.positives]]
    for side, labels, rivals, sign in (("positive", example.positives, against, 1), ("negative", negatives, good, -1)):
        for label in labels if len(rivals) else ():
            gaps = sign * (rivals - scores[place[label.passage_id]])
            doubt = float((0.5 * (1 + np.tanh(gaps / 2))).mean())
            yield Suspect(
                query_id=example.query_id,
                passage_id=label.passage_id,
                side=side,
                doubt=doubt,
                grade=label.grade,
                source=label.source,
                judge_id=label.judge_id,
                query=example.query,
                passage=store.passages[label.passage_id],
            )


def _labels(example: Example) -> tuple[Label, ...]:
    return (*example.positives, *example.negatives)


def _scores(
    model: SentenceTransformer, queries: list[str], passages: list[str], config: FitConfig
) -> NDArray[np.float64]:
    """Compute similarities divided by the temperature, `[queries, passages]`. Raises `LabelkitError` for NaN."""
    prepare = SIMILARITIES[model.similarity_fn_name]
    with limited(model, config.max_query_length):
        near = prepare(torch.from_numpy(encode_queries(model, None, queries)))
    with limited(model, config.max_passage_length):
        far = prepare(torch.from_numpy(encode_passages(model, None, passages)))
    scores: NDArray[np.float64] = (near @ far.T / config.temperature).double().numpy()
    if not np.isfinite(scores).all():
        raise LabelkitError(f"the model of a fold gives a similarity that is not finite; {LOWER}")
    return scores


def _is_made(folder: Path, settings: FitConfig, store: Store) -> bool:
    """Check that a fold's model exists and was trained with these settings on this dataset."""
    if not (folder / folders.MANIFEST).is_file():
        return False
    folders.read_manifest(folder, MODEL)
    return difference_to(folder, MODEL, settings.model_dump(mode="json"), keys=store.keys) is None


def _write(folder: Path, found: list[Suspect]) -> None:
    """Write `suspects.tsv` and `suspects.run`."""
    with (folder / "suspects.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(field.name for field in fields(Suspect))
        writer.writerows(astuple(one) for one in found)
    ranks: Counter[str] = Counter()
    with (folder / "suspects.run").open("w", encoding="utf-8", newline="\n") as file:
        for one in found:
            ranks[one.query_id] += 1
            file.write(f"{one.query_id} Q0 {one.passage_id} {ranks[one.query_id]} {one.doubt!r} suspects\n")
