"""Manifests as records: what is forged, of a wrong type or missing is one line; what earlier releases wrote is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from labelkit.errors import ArtifactError
from labelkit.storage import folders
from labelkit.storage.manifest import DATASET, KINDS, LABELS, POOL, DatasetFacts, Facts, Kind, document_sha256

WRONG: list[Any] = [None, 7, "x", True, [], ["x"], [[]], {"x": {}}, {"x": None}, {"x": []}, {"": 1.5}, 1e400, -1]


def write(folder: Path, kind: Kind[Any]) -> Path:
    """A folder with the files that its kind always has."""
    with folders.writing(folder, kind, "make it") as draft:
        for pattern in kind.files:
            file = draft.path / pattern.replace("*", "model")
            file.parent.mkdir(exist_ok=True)
            file.write_text("content")
    return folder


def forge(folder: Path, **changed: Any) -> None:
    """Change entries of a manifest, and sign it again."""
    path = folder / folders.MANIFEST
    document = json.loads(path.read_text()) | changed
    path.write_text(json.dumps(document | {"sha256": document_sha256(document)}))


def refused(folder: Path, kind: str) -> str:
    with pytest.raises(ArtifactError) as caught:
        folders.read_manifest(folder, kind)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS.values())
def test_a_known_kind_of_folder_must_name_its_files(tmp_path, kind):
    folder = write(tmp_path / "folder", kind)
    files = dict(folders.read_manifest(folder, kind).files)
    forge(folder, files={})
    assert "which every folder with a" in refused(folder, kind)
    for name in files:
        forge(folder, files={other: digest for other, digest in files.items() if other != name})
        assert f"{folder / folders.MANIFEST} lists no " in refused(folder, kind)


def test_damage_that_a_forged_list_of_files_would_hide_is_refused_by_verify(labelkit, pool):
    (pool / "candidates.parquet").write_bytes(b"")
    forge(pool, files={})
    called = labelkit("verify", pool)
    assert (called.code, called.out) == (1, "")
    assert called.err.startswith(f"error: {pool / folders.MANIFEST} lists no candidates.parquet, which every folder")


def test_a_table_that_is_counted_must_be_named(tmp_path):
    folder = write(tmp_path / "folder", LABELS)
    forge(folder, rows={"judgements": 1, "ballots": 3})
    assert "lists no file of 'ballots'" in refused(folder, LABELS)


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["schema_version", "command", "labelkit_version", "inputs", "rows", "facts", "files"])
def test_a_wrong_type_anywhere_is_one_line(tmp_path, name, value):
    folder = write(tmp_path / "folder", POOL)
    forge(folder, **{name: value})
    if name in ("command", "labelkit_version") and value == "x":
        folders.read_manifest(folder, POOL)
    elif name == "facts" and isinstance(value, dict):
        assert folders.read_manifest(folder, POOL).facts.as_json() == value  # a fact that is not known here
    else:
        assert str(folder) in refused(folder, POOL)


@pytest.mark.parametrize("kind", KINDS.values())
def test_a_fact_of_a_wrong_type_is_one_line_that_names_it(tmp_path, kind):
    folder = write(tmp_path / "folder", kind)
    for name in kind.facts.model_fields:
        forge(folder, facts={name: [[1.5]]})
        assert f"(facts.{name}" in refused(folder, kind)


@pytest.mark.parametrize("content", ['{"kind": 3', '"kind"', "[" * 100_000, '{"kind": "pool", "sha256": "\\ud800"}'])
def test_a_document_that_is_no_manifest_is_one_line(tmp_path, content):
    folder = write(tmp_path / "folder", POOL)
    (folder / folders.MANIFEST).write_text(content)
    refused(folder, POOL)


def test_rules_that_this_release_does_not_know_are_one_line_of_audit(labelkit, beir, tmp_path):
    target = tmp_path / "dataset"
    assert labelkit("mix", "--data", beir, "--human", beir / "qrels" / "test.tsv", "-o", target).code == 0
    rules = json.loads((target / folders.MANIFEST).read_text())["facts"]["rules"]
    for forged in (rules | {"unknown": 1}, rules | {"seed": "0'; --"}):
        forge(target, facts={"rules": forged})
        called = labelkit("audit", target)
        assert called.code == 1
        assert "its rules cannot be read" in called.err
        assert len(called.err.splitlines()) == 1


def test_facts_keep_their_order_and_what_was_not_given_stays_away():
    facts = DatasetFacts(weights={"b": 2.0, "a": 1.0}, calibrated_judges=("j",), queries=3)
    assert json.dumps(facts.as_json()) == '{"weights": {"b": 2.0, "a": 1.0}, "calibrated_judges": ["j"], "queries": 3}'
    assert Facts.model_validate({"z": 1, "a": None}).as_json() == {"z": 1, "a": None}
    with pytest.raises(ValueError, match="frozen"):
        facts.queries = 4


def test_a_manifest_of_the_release_before_is_read(tmp_path):
    """It may have a fact that no model knows, and lack those that came later."""
    folder = write(tmp_path / "folder", DATASET)
    facts = {"rules": {"policy": "union"}, "queries": 2, "of_another_release": [1]}
    forge(folder, facts=facts)
    manifest = folders.read_manifest(folder, DATASET)
    assert (manifest.facts.queries, manifest.facts.leaked_queries, manifest.facts.licence) == (2, 0, None)
    assert manifest.facts.as_json() == facts
