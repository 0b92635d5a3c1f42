"""Write README.md of a trained model: description, training data, evaluation, and the command to train it again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labelkit.statistics.paired import show_p
from labelkit.storage.foreign_text import markdown, markdown_code, markdown_indented, quoted
from labelkit.storage.manifest import DatasetFacts, Manifest
from trainer.config.architectures import CROSS_ENCODER, LATE_INTERACTION, SPARSE
from trainer.config.fit_config import FitConfig

if TYPE_CHECKING:
    from trainer.retrieval.evaluate import EvalResult
    from trainer.training.fit import StageReport

USE = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer(NAME)
scores = model.similarity(model.encode_query(["a query"]), model.encode_document(["a passage"]))"""
USE_PAIRS = """from sentence_transformers import CrossEncoder

model = CrossEncoder(NAME)
scores = model.predict([("a query", "a passage")])"""
USE_SPARSE = USE.replace("SentenceTransformer", "SparseEncoder")
USE_TOKENS = USE.replace("SentenceTransformer", "MultiVectorEncoder")
KINDS = {
    "dense": ("sentence-similarity", "dense-retrieval", "dense retriever", USE),
    CROSS_ENCODER: ("text-ranking", "cross-encoder", "reranker (cross-encoder)", USE_PAIRS),
    SPARSE: ("feature-extraction", "splade", "sparse retriever (SPLADE)", USE_SPARSE),
    LATE_INTERACTION: ("sentence-similarity", "late-interaction", "retriever with late interaction", USE_TOKENS),
}
"""Architecture -> pipeline and tag of the Hub, name, and code that uses the model."""


def model_card(
    name: str,
    config: FitConfig,
    command: str,
    dataset: str,
    manifest: Manifest[DatasetFacts],
    stages: "Sequence[StageReport]",
    evaluation: "EvalResult | None",
) -> str:
    """Write the card as Markdown with the Hub's metadata block. `dataset` and `manifest` describe the training data."""
    base = "" if Path(config.model).exists() else f"base_model: {quoted(config.model)}\n"
    objectives = ", ".join(dict.fromkeys(stage.objective for stage in config.stage_configs()))
    pipeline, kind, title, usage = KINDS[config.architecture]
    return f"""---
library_name: sentence-transformers
pipeline_tag: {pipeline}
tags: [sentence-transformers, {kind}, multi-positive, {objectives}]
{base}---

# {markdown(name)}

A {title}, fine-tuned from {markdown_code(config.model)} with {objectives}.

```python
{usage.replace("NAME", quoted(name))}
```

## Training data

{_provenance(Path(dataset).name, manifest)}

| stage | labels | objective | queries | steps | loss, first and last fifth |
|---|---|---|---|---|---|
{_stages(config, stages)}
{_evaluation(evaluation)}
## Reproduction

{markdown_indented(command)}

`manifest.json` contains the whole configuration, package versions, losses, the figures of each source of labels, and
the checksum of the dataset.
"""


def _provenance(name: str, manifest: Manifest[DatasetFacts]) -> str:
    made_by = markdown_code(manifest.command)
    lines = [f"The dataset {markdown_code(name)}, {manifest.rows['train']:,} queries, made by {made_by}."]
    per_query = manifest.facts.positives_per_query
    if per_query:
        total = sum(per_query.values()) or 1.0
        lines.append("Positives per query by source of the label:")
        lines += [
            f"- {markdown(source)}: {each:.2f} ({each / total:.0%})" for source, each in sorted(per_query.items())
        ]
    return "\n".join(lines)


def _stages(config: FitConfig, stages: "Sequence[StageReport]") -> str:
    rows = []
    for number, (settings, stage) in enumerate(zip(config.stage_configs(), stages, strict=True), start=1):
        trained_on = stage.counts["queries"] - stage.counts["queries_left_out"]
        first, last = stage.loss_at_ends()
        rows.append(
            f"| {number} | {markdown(settings.labels)} | {settings.objective} | {trained_on:,} | {stage.steps:,} "
            f"| {first:.4f}, {last:.4f} |"
        )
    return "\n".join(rows)


def _evaluation(result: "EvalResult | None") -> str:
    if result is None:
        return ""
    about = "; p-values after Holm's correction" if result.compared else ""
    lines = ["", "## Evaluation", "", f"Mean and 95% jackknife interval over queries{about}.", ""]
    first = result.measured[0].means
    lines += [f"| model | data | {' | '.join(first)} |", f"|---|---|{'---|' * len(first)}"]
    for entry in result.measured:
        cells = " | ".join(map(str, entry.means.values()))
        lines.append(f"| {markdown(_short(entry.model, result))} | {markdown(entry.data)} | {cells} |")
    for gap in result.compared:
        cells = " | ".join(f"{test.difference.shown('+.3f')}, {show_p(test.p_holm)}" for test in gap.tests.values())
        lines.append(f"| difference to {markdown(_short(gap.against, result))} | {markdown(gap.data)} | {cells} |")
    return "\n".join([*lines, ""])


def _short(model: str, result: "EvalResult") -> str:
    return "this model" if model == result.models[0] else Path(model).name
