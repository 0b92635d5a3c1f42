"""A name that comes from outside names no file outside its folder, wherever it becomes part of a path."""

import json
from pathlib import Path

import fsspec
import pytest

from labelkit.engines import Settings
from labelkit.engines.batch_services import Files, part_of_address
from labelkit.errors import ArtifactError, UsageError
from labelkit.pooling.model_safety import refuse_code
from labelkit.records import Example, Judge, Judgement, Label, Passage, Query
from labelkit.storage.dataset import write_tables
from labelkit.storage.folders import writing
from labelkit.storage.names import inside
from labelkit.storage.remote import send_folder
from labelkit.storage.shipped import SHIPPED

REFUSED = "is not the name of a file inside"
ELSEWHERE = ["../victim", "a/../../victim", "/victim", "a//victim", "", ".", "..", "a\\..\\victim", "a\nb", "a\x1b[2J"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(ArtifactError, match=REFUSED):
        inside(tmp_path, name)


def test_a_name_through_a_linked_folder_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match=REFUSED):
        inside(tmp_path / "folder", "link/victim")


def dataset_of(folder: Path, judge_id: str) -> Path:
    """A whole dataset with one scored judgement of a judge with this id."""
    judge = Judge(judge_id=judge_id, kind="llm", name="m")
    positive = Label(passage_id="p", grade=3, source="llm", judge_id=judge_id)
    with writing(folder, "dataset", "test") as draft:
        write_tables(
            draft,
            examples=[Example(query_id="q", query="one", positives=(positive,), negatives=(), ignored=())],
            corpus=[Passage(passage_id="p", title="", text="text")],
            queries=[Query(query_id="q", text="one")],
            judgements=[Judgement(query_id="q", passage_id="p", judge_id=judge_id, grade=3, score=2.5)],
            judges=[judge],
        )
    return folder


def test_a_judge_of_a_dataset_names_no_run_outside_the_export(labelkit, tmp_path):
    """The export stands aside, in a folder beside its output, until it is whole."""
    victim = tmp_path / "victim.run"
    victim.write_text("mine")
    dataset = dataset_of(tmp_path / "dataset", "../../victim")
    called = labelkit("export", dataset, "--to", "trec", "-o", tmp_path / "export")
    assert (called.code, victim.read_text()) == (1, "mine")
    assert REFUSED in called.err


def test_a_judge_with_a_slash_in_its_id_has_a_run(labelkit, tmp_path):
    dataset = dataset_of(tmp_path / "dataset", "imported-org/model-0123")
    assert labelkit("export", dataset, "--to", "trec", "-o", tmp_path / "export").code == 0
    assert (tmp_path / "export" / "runs" / "imported-org" / "model-0123.run").read_text().startswith("q Q0 p 1 2.5")


@pytest.mark.parametrize("key", ["/store/set//etc/passwd", "/elsewhere/file"])
def test_no_object_outside_the_place_is_removed_when_a_folder_is_sent(key, monkeypatch, tmp_path):
    """A listing is the word of whoever keeps the store."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    old = json.dumps({"kind": "export", "files": {}}).encode()
    files.pipe_file("/store/set/manifest.json", old)
    files.pipe_file(key, b"theirs")
    listed = ["/store/set/manifest.json", key]
    monkeypatch.setattr(type(files), "find", lambda self, place, **options: listed)
    (tmp_path / "manifest.json").write_text("new")
    with pytest.raises(ArtifactError, match=REFUSED):
        send_folder(files, "/store/set", tmp_path)
    assert files.cat_file(key) == b"theirs"
    assert files.cat_file("/store/set/manifest.json") == old, "nothing was begun"


def test_a_batch_names_no_file_outside_its_folder(tmp_path):
    (tmp_path / "victim.replies.jsonl").write_text("{}\n")
    (tmp_path / "victim.requests.jsonl").write_text("mine")
    service = Files(Settings("m"), tmp_path / "batches")
    for call in (
        lambda: service.poll("../victim"),
        lambda: service.find("../victim", 0.0),
        lambda: service.submit("../victim", 0.0, b"theirs"),
        lambda: service.later(["../victim"]),
    ):
        with pytest.raises(ArtifactError, match=REFUSED):
            call()
    assert (tmp_path / "victim.requests.jsonl").read_text() == "mine"


def test_the_command_for_a_batch_is_what_a_shell_reads_as_it_stands(tmp_path):
    service = Files(Settings("m; touch x"), tmp_path / "my $(batches)")
    assert f"-i '{tmp_path}/my $(batches)/b.requests.jsonl'" in service.later(["b"])
    assert "--model 'm; touch x'" in service.later(["b"])


def test_an_id_of_a_server_leads_to_no_other_address():
    assert part_of_address("../../admin?x=1#y") == "..%2F..%2Fadmin%3Fx%3D1%23y"
    assert part_of_address("batch_6789-ab") == "batch_6789-ab"
    for name in ("..", ".", None, 7):
        with pytest.raises((ValueError, TypeError)):
            part_of_address(name)


def test_a_prompt_names_no_folder_outside_the_attacks(labelkit, beir, tmp_path):
    content = (SHIPPED / "prompts" / "graded.toml").read_text().replace('name = "graded"', 'name = "../victim"')
    assert "../victim" in content
    (tmp_path / "prompt.toml").write_text(content)
    called = labelkit(
        "redteam", beir, "-o", tmp_path / "attacks", "--human", beir / "qrels" / "test.tsv", "--engine", "scripted",
        "--model", "overlap", "--prompt", tmp_path / "prompt.toml", "--defence", "none", "--pairs", "1",
    )  # fmt: skip
    assert called.code == 1
    assert REFUSED in called.err
    assert not (tmp_path / "victim.none").exists()


def test_a_split_names_no_qrels_outside_the_folder(labelkit, beir, tmp_path):
    (tmp_path / "victim.tsv").write_text("q1\tp1\t3\n")
    called = labelkit("pool", beir, "--split", "../../victim", "-o", tmp_path / "pool")
    assert called.code == 1
    assert REFUSED in called.err


def modules(folder: Path, path: str) -> None:
    rows = [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(rows))


def shards(folder: Path, path: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"w": path}}))


def linked_module(folder: Path, path: str) -> None:
    (folder / "0_Transformer").symlink_to(folder / path)
    modules(folder, "0_Transformer")


@pytest.mark.parametrize("bring", [modules, shards, linked_module])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_model_names_no_file_outside_its_folder(tmp_path, bring, absolute):
    folder, victim = tmp_path / "model", tmp_path / "victim"
    folder.mkdir()
    victim.mkdir()
    bring(folder, str(victim) if absolute else "../victim")
    with pytest.raises(UsageError, match=r"would read files outside its folder: .*json names .*--trust-remote-code"):
        refuse_code(str(folder), trusted=False)
    refuse_code(str(folder), trusted=True)


def test_an_honest_model_is_taken(tmp_path):
    modules(tmp_path, "")
    shards(tmp_path, "model-00001-of-00001.safetensors")
    (tmp_path / "blob").write_text("weights")
    (tmp_path / "model-00001-of-00001.safetensors").symlink_to(tmp_path / "blob")
    refuse_code(str(tmp_path), trusted=False)
