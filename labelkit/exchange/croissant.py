"""The Croissant 1.1 description of a dataset: JSON-LD about its files, columns, judges and sources.

Vocabulary: http://mlcommons.org/croissant/1.1, its RAI extension, and PROV-O.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labelkit.datasets.card import Publication, Told, tables_of
from labelkit.records import Judge
from labelkit.storage.manifest import DatasetFacts, Manifest

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
KEYS = {"train": ["query_id"], "corpus": ["passage_id"], "queries": ["query_id"], "judges": ["judge_id"]}
"""Table -> columns that identify a row."""
DESCRIPTIONS = {
    "train": "One query per row, with parallel lists for its positive, negative and ignored passages.",
    "corpus": "Every passage once.",
    "queries": "Every query once.",
    "judgements": "One judge's judgment of one pair per row: a grade from 0 to 3, or the reason why there is none.",
    "judges": "The judges: people, and models with prompt, weights and decoding.",
    "prompts": "The text of each prompt.",
    "replies": "The raw reply of a model to each request.",
    "ballots": "The single orders or votes from which judgments were joined.",
    "mined": "The retriever, rank and score of each negative of source mined, which is unjudged.",
    "relabelled": "The labels that labelkit relabel changed: the judgment, the rule, and the label before.",
    "stage_llm": "Like train, but only with labels by models.",
    "stage_human": "Like train, but only with labels by people.",
}


def croissant(
    folder: Path, manifest: Manifest[DatasetFacts], publication: Publication, judges: Sequence[tuple[Judge, Told]]
) -> dict[str, Any]:
    """Describe a dataset folder as a JSON document."""
    name = publication.title or folder.name
    models = [judge for judge, _ in judges if judge.kind != "human"]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.1",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": re.sub(r"[^a-zA-Z0-9_-]+", "-", name),
        "description": f"{name}: a multi-positive retrieval dataset with grades and the judge of every label.",
        "url": f"https://huggingface.co/datasets/{publication.repo_id}",
        "citeAs": f"{name}, https://huggingface.co/datasets/{publication.repo_id}",
        "version": "1.0.0",
        **({"license": publication.licence} if publication.licence else {}),
        **({"inLanguage": list(publication.languages)} if publication.languages else {}),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": f"{table}.parquet",
                "name": f"{table}.parquet",
                "contentUrl": f"{table}.parquet",
                "encodingFormat": "application/x-parquet",
                "sha256": manifest.files[f"{table}.parquet"],
            }
            for table in tables_of(manifest.rows)
        ],
        "recordSet": [record_set(folder, table) for table in tables_of(manifest.rows)],
        **responsibility(publication, judges, models),
        **provenance(manifest, publication, models),
    }


def record_set(folder: Path, table: str) -> dict[str, Any]:
    """Describe a table with its columns."""
    keys = [{"@id": f"{table}/{column}"} for column in KEYS.get(table, [])]
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "description": DESCRIPTIONS[table],
        **({"key": keys} if keys else {}),
        "field": [field(table, column) for column in pq.read_schema((folder / f"{table}.parquet").absolute())],
    }


def field(table: str, column: pa.Field) -> dict[str, Any]:
    """Describe a column; a list is an array of unknown length."""
    listed = pa.types.is_list(column.type)
    return {
        "@type": "cr:Field",
        "@id": f"{table}/{column.name}",
        "name": column.name,
        "dataType": type_of(column.type.value_type if listed else column.type),
        **({"isArray": True, "arrayShape": "-1"} if listed else {}),
        "source": {"fileObject": {"@id": f"{table}.parquet"}, "extract": {"column": column.name}},
    }


def type_of(arrow_type: pa.DataType) -> str:
    """Return the Croissant name of an Arrow type."""
    if pa.types.is_integer(arrow_type):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(arrow_type) else "sc:Text"


def responsibility(
    publication: Publication, judges: Sequence[tuple[Judge, Told]], models: Sequence[Judge]
) -> dict[str, Any]:
    """Fill the RAI properties that are known from the dataset."""
    people = [judge.name for judge, _ in judges if judge.kind == "human"]
    prompts = sorted({judge.prompt_name for judge in models if judge.prompt_name})
    findings = publication.audit["findings"] if publication.audit else []
    limits = [f"{finding['found']} {finding['what']}" for finding in findings if finding["found"]] or (
        ["The audit found nothing."] if publication.audit else ["The dataset was not audited."]
    )
    return {
        "rai:dataCollection": "Candidates of each query were pooled, and people or models graded them from 0 to 3.",
        "rai:dataAnnotationProtocol": "Grades 0 (unrelated) to 3 (a dedicated, exact answer)."
        + (f" Prompts: {', '.join(prompts)}." if prompts else ""),
        "rai:dataAnnotationPlatform": ["labelkit"],
        "rai:machineAnnotationTools": [f"{judge.name} ({judge.engine or 'imported'})" for judge in models],
        "rai:annotationsPerItem": f"{len(judges)} judges; each judged some or all pairs",
        "rai:annotatorDemographics": f"Unknown. Human judges: {', '.join(people) or 'none'}.",
        "rai:dataUseCases": ["Training and evaluating text retrievers and rerankers."],
        "rai:dataBiases": ["Only pooled passages are judged. Models prefer passages that repeat the query's words."],
        "rai:dataLimitations": limits,
        "rai:personalSensitiveInformation": ["As in the source texts; nothing was added or removed."],
    }


def provenance(manifest: Manifest[DatasetFacts], publication: Publication, models: Sequence[Judge]) -> dict[str, Any]:
    """Describe the inputs of the dataset and the command that made it."""
    inputs = [
        {"@type": "prov:Entity", "@id": f"sha256:{digest}", "prov:label": Path(path).name}
        for path, digest in manifest.inputs.items()
    ]
    sources = [{"@type": "prov:Entity", "@id": source} for source in publication.sources]
    agents = [{"@type": "prov:SoftwareAgent", "@id": judge.judge_id, "prov:label": judge.name} for judge in models]
    return {
        "prov:wasDerivedFrom": [*sources, *inputs],
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": manifest.command,
            "prov:wasAssociatedWith": [
                {"@type": "prov:SoftwareAgent", "@id": f"labelkit-{manifest.labelkit_version}"},
                *agents,
            ],
        },
    }


def as_text(document: Mapping[str, Any]) -> str:
    """Return the document as the text of its file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
