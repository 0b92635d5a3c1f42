"""Labels that the models disagree with most: what to look at a second time.

The queries are split into folds. A model that was trained on the other folds scores the labelled passages of each, so
that no model judges what it was trained on. A positive is in doubt when passages that are not positive score above it,
a negative when it scores above positives.
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
from trainer.training.fit import inputs_of, train
from trainer.training.soundness import LOWER

log = logging.getLogger(__name__)

KIND = SUSPECTS
BACKGROUND = 200
"""Passages that every query's positives are held against beside its judged negatives: labelled ones of others."""
BLOCK = 256
"""Queries scored at a time."""


@dataclass(frozen=True)
class Suspect:
    """A label and how far a model that never saw the query doubts it."""

    query_id: str
    passage_id: str
    side: str
    """positive or negative"""
    doubt: float
    """Of a positive: the mean, over passages that are not positive, of the probability that they are the better answer,
    sigmoid of the difference of scores over the temperature. Of a negative: the same over the positives, that it is the
    better answer than they.
    """
    grade: int | None
    source: str
    judge_id: str
    query: str
    passage: str


def suspects(
    dataset: Path | str, output: Path | str, config: FitConfig, *, folds: int = 5, command: str = "trainer.suspects"
) -> list[Suspect]:
    """List the labels that models trained on other queries disagree with most, for a second look.

    Args:
        dataset: folder of `labelkit mix`, or data in a format of `labelkit.exchange.formats`.
        output: folder of `suspects.tsv`, with all labels, and `suspects.run`, the TREC run that `labelkit pool --run`
            takes. A fold that is done is kept in `OUTPUT.folds`, and the same call resumes.
        config: settings of the models, one per fold.
        folds: parts of the queries, at least 2.
        command: the words that the manifest names as the origin of the folder.

    Returns:
        Every label with its doubt, from 0 to 1, the most doubted first.

    Raises:
        UsageError: fewer than 2 folds.
        LabelkitError: what `fit` raises.
    """
    if folds < 2:
        raise UsageError(f"folds = {folds}: a model is trained on the other folds, so there must be at least 2")
    dataset, output = Path(dataset), Path(output)
    with claimed(output, KIND) as place:
        store = open_store(our_dataset(dataset), config.pool)
        models = place.beside(".folds")
        found: list[Suspect] = []
        for fold in range(folds):
            settings = FitConfig.model_validate(config.model_dump(exclude_unset=True) | {"held_out": (fold, folds)})
            folder = models / f"fold-{fold}-of-{folds}"
            if not _is_made(folder, settings, store):
                train(dataset, folder, settings, command=command)
            model = load_model(str(folder), trust_remote_code=config.trust_remote_code)
            rows = np.flatnonzero(fold_of(store.query_keys, folds) == fold)
            found += doubts(model, store, rows, config=settings)
            log.info(f"fold {fold + 1}/{folds}: {len(rows):,} queries scored by a model that never saw them")
        found.sort(key=lambda one: (-one.doubt, one.query_id, one.passage_id))
        with folders.writing(output, KIND, command) as draft:
            _write(draft.path, found)
            draft.inputs |= inputs_of(store, dataset, config)
            draft.rows["suspects"] = len(found)
            draft.facts = SuspectsFacts(config=config.model_dump(mode="json"), folds=folds)
        shutil.rmtree(models)
    return found


def doubts(model: SentenceTransformer, store: Store, rows: NDArray[np.int64], config: FitConfig) -> Iterator[Suspect]:
    """The labels of some queries of the store with their doubt."""
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
    """Source and side -> how many labels there are, and how many are doubted by more than `line`."""
    every = Counter(f"{one.source} {one.side}" for one in found)
    doubted = Counter(f"{one.source} {one.side}" for one in found if one.doubt > line)
    return {name: (every[name], doubted[name]) for name in sorted(every)}


def _of_query(
    example: Example, scores: NDArray[np.float64], place: dict[str, int], background: list[str], store: Store
) -> Iterator[Suspect]:
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
    """[queries, passages]: similarities over the temperature."""
    prepare = SIMILARITIES[model.similarity_fn_name]
    with limited(model, config.max_query_length):
        near = prepare(torch.from_numpy(encode_queries(model, None, queries)))
    with limited(model, config.max_passage_length):
        far = prepare(torch.from_numpy(encode_passages(model, None, passages)))
    scores: NDArray[np.float64] = (near @ far.T / config.temperature).double().numpy()
    if not np.isfinite(scores).all():
        raise LabelkitError(f"a similarity of the model of a fold is not finite; {LOWER}")
    return scores


def _is_made(folder: Path, settings: FitConfig, store: Store) -> bool:
    """Whether a fold's model is there, of these settings and this dataset."""
    if not (folder / folders.MANIFEST).is_file():
        return False
    manifest = folders.read_manifest(folder, MODEL)
    same_settings = manifest.facts.config == settings.model_dump(mode="json")
    return same_settings and set(store.keys.values()) <= set(manifest.inputs.values())


def _write(folder: Path, found: list[Suspect]) -> None:
    with (folder / "suspects.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(field.name for field in fields(Suspect))
        writer.writerows(astuple(one) for one in found)
    ranks: Counter[str] = Counter()
    with (folder / "suspects.run").open("w", encoding="utf-8", newline="\n") as file:
        for one in found:
            ranks[one.query_id] += 1
            file.write(f"{one.query_id} Q0 {one.passage_id} {ranks[one.query_id]} {one.doubt!r} suspects\n")
