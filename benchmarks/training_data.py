"""Make groups and models for the benchmarks of training and encoding.

    python benchmarks/training_data.py FOLDER... -o GROUPS.jsonl [--queries 4096]

FOLDERs are BEIR folders. A query is the title of a passage, its positive is that passage, and its negatives are seven
high-ranked passages of BM25. The file contains all texts, so that the benchmarks run on a machine without BM25 and
without the folders.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from labelkit.corpora.corpus import corpus_rows
from labelkit.records import Example, Label, Passage, Query
from labelkit.storage import folders
from labelkit.storage.dataset import KIND, write_tables

NEGATIVES = 7
SHAPES = ("minilm", "bert-base", "qwen3-0.6b")
"""Names of the models that `model_folder` makes."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all benchmarks that run an encoder on groups."""
    parser.add_argument(
        "model",
        type=Path,
        help="folder of all-MiniLM-L6-v2, or of its tokenizer alone: then its weights are random too",
    )
    parser.add_argument("groups", type=Path)
    parser.add_argument("--shape", nargs="+", default=["minilm"], choices=SHAPES)
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=256, help="tokens of a passage")


class Groups(NamedTuple):
    """Queries with their passages, the positive first."""

    queries: list[str]
    members: list[list[str]]
    """Passage ids of each query."""
    passages: dict[str, str]


def main() -> None:
    """Write the groups of some BEIR folders into a file."""
    parser = argparse.ArgumentParser(description="Groups for the training benchmarks.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=4096)
    given = parser.parse_args()
    groups = title_groups(given.folders, given.queries)
    given.output.write_text(json.dumps(groups._asdict()), encoding="utf-8")
    print(f"{given.output}: {len(groups.queries):,} queries, {len(groups.passages):,} passages")


def read_groups(path: Path, queries: int | None) -> Groups:
    """Read the first groups of a file, or all of them."""
    every = Groups(**json.loads(path.read_text(encoding="utf-8")))
    members = every.members[:queries]
    names = {name for group in members for name in group}
    return Groups(every.queries[:queries], members, {name: every.passages[name] for name in sorted(names)})


def title_groups(sources: list[Path], count: int) -> Groups:
    """Draw passages of several collections; each gives its title as the query and its text as the positive."""
    from labelkit.pooling.bm25 import bm25_run

    corpus = {f"{one.passage_id}": one for folder in sources for one in _passages(folder)}
    titled = [name for name, one in corpus.items() if one.title and one.text]
    drawn = random.Random(0).sample(sorted(titled), min(count, len(titled)))
    queries = {name: Query(query_id=name, text=corpus[name].title) for name in drawn}
    ranked = bm25_run(corpus, queries, NEGATIVES + 1)
    members = [[name, *[other for other in ranked.get(name, ()) if other != name][:NEGATIVES]] for name in drawn]
    whole = [(name, group) for name, group in zip(drawn, members, strict=True) if len(group) == NEGATIVES + 1]
    used = {name for _, group in whole for name in group}
    texts = {name: corpus[name].full_text for name in sorted(used)}
    return Groups([corpus[name].title for name, _ in whole], [group for _, group in whole], texts)


def equal_groups(count: int, words: int) -> Groups:
    """Make groups whose passages are all different and so long that each is cut to the same length."""
    names = [f"p{number}" for number in range((NEGATIVES + 1) * count)]
    texts = {name: " ".join(str(place + number) for place in range(words)) for number, name in enumerate(names)}
    members = [names[start : start + NEGATIVES + 1] for start in range(0, len(names), NEGATIVES + 1)]
    return Groups([f"query {number}" for number in range(count)], members, texts)


def write_groups(groups: Groups, folder: Path) -> Path:
    """Write groups as a dataset folder of labelkit."""

    def label(passage_id: str, grade: int) -> Label:
        return Label(passage_id=passage_id, grade=grade, source="human", judge_id="benchmark")

    examples = [
        Example(
            query_id=f"q{number:06d}",
            query=query,
            positives=(label(members[0], 1),),
            negatives=tuple(label(name, 0) for name in members[1:]),
            ignored=(),
        )
        for number, (query, members) in enumerate(zip(groups.queries, groups.members, strict=True))
    ]
    corpus = [Passage(passage_id=name, title="", text=text) for name, text in groups.passages.items()]
    queries = [Query(query_id=one.query_id, text=one.query) for one in examples]
    with folders.writing(folder, KIND, "benchmarks/training_data.py") as draft:
        write_tables(draft, examples=examples, corpus=corpus, queries=queries, judgements=(), judges=())
    return folder


def model_folder(shape: str, like: Path, scratch: Path, device: str) -> Path:
    """Return a model of a known shape: `like` itself if it is MiniLM with weights, else one with random weights.

    Args:
        shape: a name of `SHAPES`.
        like: folder of all-MiniLM-L6-v2, or of its tokenizer alone.
        scratch: folder in which models are made, once each.
        device: where the weights are drawn.
    """
    if shape == "minilm" and (like / "model.safetensors").is_file():
        return like
    made = scratch / "models" / shape
    return made if made.is_dir() else _make_model(shape, like, made, device)


def _make_model(shape: str, like: Path, made: Path, device: str) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoModel, AutoTokenizer

    config, pooling = _config(shape)
    raw = made.with_name(f"{shape}-transformer")
    untyped: Any = AutoModel
    with torch.device(device):
        torch.manual_seed(0)
        untyped.from_config(config).to(config.dtype).save_pretrained(raw)
    tokenizer = AutoTokenizer.from_pretrained(like)
    tokenizer.model_max_length = 512
    tokenizer.padding_side = "left" if pooling == "lasttoken" else "right"
    tokenizer.save_pretrained(raw)
    transformer = Transformer(str(raw))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(made), create_model_card=False)
    return made


def _config(shape: str) -> tuple[Any, str]:
    from transformers import BertConfig, Qwen3Config

    if shape == "bert-base":
        return BertConfig(dtype=torch.float32), "mean"
    if shape == "minilm":
        return BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, dtype=torch.float32), "mean"
    # Qwen/Qwen3-Embedding-0.6B; its checkpoint is in bfloat16.
    config = Qwen3Config(
        vocab_size=151669,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        dtype=torch.bfloat16,
    )
    return config, "lasttoken"


def _passages(folder: Path) -> Iterator[Passage]:
    for _, name, title, text in corpus_rows(folder / "corpus.jsonl"):
        yield Passage(passage_id=f"{folder.name}-{name}", title=title, text=text)


if __name__ == "__main__":
    main()
