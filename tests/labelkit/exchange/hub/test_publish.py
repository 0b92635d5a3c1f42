"""Publish, kill, resume, pull and load, by the unmodified clients of the Hub against a stand-in for its API."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml
from huggingface_hub.errors import OfflineModeIsEnabled

from labelkit.errors import RemoteError
from labelkit.exchange.hub import hub_errors
from labelkit.records import Example, Judge, Judgement, Label, Passage, Query
from labelkit.storage.dataset import AUDIT, CONFIGS, known_leaks, write_tables
from labelkit.storage.folders import file_sha256, read_manifest, writing

Completed = subprocess.CompletedProcess[str]
Run = Callable[..., Completed]
HUMAN = Judge(judge_id="human-anna", kind="human", name="anna")
MODEL = Judge(
    judge_id="graded-model", kind="llm", name="model", engine="local", engine_version="5", dtype="bfloat16",
    prompt_name="graded", prompt_version="1", prompt_sha256="ab", decoding='{"temperature":0}', method="graded",
)  # fmt: skip
PUBLISH = ("--license", "cc-by-4.0", "--language", "en", "--source", "BeIR/scifact", "--allow", "unaudited")


def make(folder: Path, queries: int = 30) -> Path:
    """A dataset on which a model errs in one pair of each third query."""
    examples, judgements = [], []
    for number in range(queries):
        names = [f"p{number}", f"p{number}x"]
        labels = [
            Label(passage_id=name, grade=grade, source="human", judge_id="human-anna")
            for name, grade in zip(names, (3, 0), strict=True)
        ]
        examples.append(
            Example(
                query_id=f"q{number}",
                query=f"query {number}",
                positives=(labels[0],),
                negatives=(labels[1],),
                ignored=(),
            )
        )
        for name, grades in ((names[0], (3, 3)), (names[1], (0, 2 if number % 3 == 0 else 0))):
            for judge, grade in zip((HUMAN, MODEL), grades, strict=True):
                judgements.append(
                    Judgement(
                        query_id=f"q{number}", passage_id=name, judge_id=judge.judge_id, grade=grade,
                        tokens=100 if judge is MODEL else None, cost=0.001 if judge is MODEL else None,
                    )
                )  # fmt: skip
    with writing(folder, "dataset", f"labelkit mix --data {Path.home()}/data") as draft:
        draft.inputs = {"data/corpus.jsonl": "0" * 64}
        write_tables(
            draft,
            examples=examples,
            corpus=[
                Passage(passage_id=f"p{n}{x}", title="", text=f"text {n}{x} \u2028")
                for n in range(queries)
                for x in ("", "x")
            ],
            queries=[Query(query_id=one.query_id, text=one.query) for one in examples],
            judgements=judgements,
            judges=[MODEL, HUMAN],
        )
        (draft.path / "README.md").write_text("by mix")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make(tmp_path / "dataset")


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "labelkit", *map(str, arguments)]


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def published(hub: Any, repo: str = "org/set") -> dict[str, bytes]:
    return {name: hub.content[file.content] for name, file in hub.repos[repo].commits[-1][1].items()}


def test_a_dataset_is_published_pulled_and_loaded(hub, dataset, environment, tmp_path):
    sent = subprocess.run(
        program("publish", dataset, "org/set", *PUBLISH, "--tag", "v1"), env=environment, capture_output=True, text=True
    )
    assert sent.returncode == 0, sent.stderr
    assert hub.repos["org/set"].tags == {"v1": hub.repos["org/set"].commits[-1][0]}
    assert len(hub.repos["org/set"].commits) == 2
    pulled = subprocess.run(
        program("pull", "org/set", "-o", tmp_path / "pulled", "--revision", "v1"),
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert pulled.returncode == 0, pulled.stderr
    there = published(hub)
    assert set(there) - {".gitattributes"} == set(contents(tmp_path / "pulled"))
    for name in set(there) - {".gitattributes"}:
        assert (tmp_path / "pulled" / name).read_bytes() == there[name]
    for table in CONFIGS:
        assert (tmp_path / "pulled" / f"{table}.parquet").read_bytes() == (dataset / f"{table}.parquet").read_bytes()
    assert read_manifest(tmp_path / "pulled", "dataset").rows == read_manifest(dataset, "dataset").rows
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, *CONFIGS], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(loaded.stdout) == read_manifest(dataset, "dataset").rows


LOAD = """
import json, sys, datasets
print(json.dumps({name: len(datasets.load_dataset("org/set", name, split="train")) for name in sys.argv[1:]}))
"""


def test_a_published_dataset_is_read_by_its_address(hub, dataset, labelkit, tmp_path):
    assert labelkit("publish", dataset, "org/set", *PUBLISH, "--tag", "v1").returncode == 0
    cache = {"LABELKIT_CACHE": str(tmp_path / "cache")}
    read = labelkit("export", "hf://datasets/org/set@v1", "--to", "beir", "-o", tmp_path / "beir", **cache)
    assert read.returncode == 0, read.stderr
    assert len((tmp_path / "beir" / "queries.jsonl").read_text(encoding="utf-8").split("\n")) == 31


def test_a_killed_publication_shows_nothing_and_goes_on(hub, dataset, labelkit, environment, tmp_path):
    arrived, go = Event(), Event()

    def hold(number: int) -> None:
        if number == 2:
            arrived.set()
            go.wait(60)

    hub.on_upload = hold
    command = program("publish", dataset, "org/set", *PUBLISH)
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        assert arrived.wait(60)
        process.send_signal(signal.SIGKILL)
    assert len(hub.repos["org/set"].commits) == 1
    assert hub.repos["org/set"].tags == {}
    assert labelkit("pull", "org/set", "-o", tmp_path / "early").returncode == 1
    hub.on_upload = lambda number: None
    before = list(hub.uploads)
    go.set()
    assert labelkit("publish", dataset, "org/set", *PUBLISH).returncode == 0
    assert len(before) == 2
    assert set(before) <= {file_sha256(dataset / f"{table}.parquet") for table in CONFIGS}
    assert all(hub.uploads.count(sha256) == 1 for sha256 in before)
    assert len(hub.repos["org/set"].commits) == 2
    assert len(hub.repos["org/set"].tags) == 1


def test_a_publication_killed_at_its_commit_leaves_the_old_version(hub, dataset, labelkit, environment, tmp_path):
    assert labelkit("publish", dataset, "org/set", *PUBLISH, "--tag", "v1").returncode == 0
    old = published(hub)
    newer = make(tmp_path / "newer", queries=31)
    arrived = Event()

    def drop() -> None:
        arrived.set()
        raise ConnectionAbortedError

    hub.on_commit = drop
    command = program("publish", newer, "org/set", *PUBLISH, "--tag", "v2")
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        assert arrived.wait(60)
        process.send_signal(signal.SIGKILL)
    assert published(hub) == old
    hub.on_commit = lambda: None
    assert labelkit("publish", newer, "org/set", *PUBLISH, "--tag", "v2").returncode == 0
    assert set(hub.repos["org/set"].tags) == {"v1", "v2"}
    for tag, folder in (("v1", dataset), ("v2", newer)):
        assert labelkit("pull", "org/set", "-o", tmp_path / "out", "--revision", tag).returncode == 0
        assert file_sha256(tmp_path / "out" / "train.parquet") == file_sha256(folder / "train.parquet")


def test_publishing_again_changes_nothing(hub, dataset, labelkit):
    for _ in range(2):
        assert labelkit("publish", dataset, "org/set", *PUBLISH).returncode == 0
    assert len(hub.repos["org/set"].commits) == 2
    assert len(hub.uploads) == len(CONFIGS)


def test_a_tag_is_never_moved(hub, dataset, labelkit, tmp_path):
    assert labelkit("publish", dataset, "org/set", *PUBLISH, "--tag", "v1").returncode == 0
    other = labelkit("publish", make(tmp_path / "other", 3), "org/set", *PUBLISH, "--tag", "v1")
    assert other.returncode == 2
    assert "the tag v1 of org/set belongs to another version" in other.stderr
    assert len(hub.repos["org/set"].commits) == 2


def test_files_of_an_older_version_leave_the_repository(hub, dataset, labelkit):
    assert labelkit("publish", dataset, "org/set", *PUBLISH).returncode == 0
    _, files = hub.repos["org/set"].commits[-1]
    hub.repos["org/set"].commit(files | {"old/notes.txt": hub.blob(b"old")})
    assert labelkit("publish", dataset, "org/set", *PUBLISH, "--title", "Another").returncode == 0
    assert "old/notes.txt" not in published(hub)


def test_a_dry_run_shows_everything_and_sends_nothing(hub, dataset, labelkit):
    called = labelkit("publish", dataset, "org/set", *PUBLISH, "--dry-run", "--private")
    assert called.returncode == 0
    assert hub.ledger == []
    assert called.stdout.startswith("org/set, private, tag sha256-")
    for name in [*(f"{table}.parquet" for table in CONFIGS), "README.md", "croissant.json", "manifest.json"]:
        assert re.search(rf"^ +[\d,]+  {re.escape(name)}$", called.stdout, re.MULTILINE)
    assert "license: " in called.stdout


def test_a_private_dataset_needs_the_token(hub, dataset, labelkit, tmp_path):
    assert labelkit("publish", dataset, "org/set", *PUBLISH, "--private").returncode == 0
    assert hub.repos["org/set"].private
    stranger = labelkit("pull", "org/set", "-o", tmp_path / "out", HF_TOKEN="")
    assert stranger.returncode == 1
    assert "error: " in stranger.stderr
    assert "Traceback" not in stranger.stderr
    assert labelkit("pull", "org/set", "-o", tmp_path / "out").returncode == 0


def test_a_public_repository_is_not_taken_for_a_private_one(hub, dataset, labelkit):
    assert labelkit("publish", dataset, "org/set", *PUBLISH).returncode == 0
    again = labelkit("publish", dataset, "org/set", *PUBLISH, "--private")
    assert again.returncode == 2
    assert "is already public" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--allow", "unaudited"), "its licence is unknown"),
        (("--license", "mit"), "it was not audited"),
        (("--license", "mit", "--allow", "everything"), "unknown refusal 'everything'"),
    ],
)
def test_what_should_not_leave_is_refused_before_anything_is_sent(hub, dataset, labelkit, arguments, message):
    called = labelkit("publish", dataset, "org/set", *arguments)
    assert called.returncode == 2
    assert message in called.stderr
    assert hub.ledger == []


def audit(dataset: Path, name: str, severity: str, found: int, what: str) -> None:
    finding = {"name": name, "severity": severity, "what": what, "found": found, "cure": "", "examples": []}
    unchecked = finding | {"name": "family", "what": "one family", "found": None}
    document = {
        "dataset": file_sha256(dataset / "manifest.json"),
        "command": f"labelkit audit {Path.home()}/set",
        "evaluations": {"beir/queries.jsonl": "0" * 64},
        "models": [],
        "findings": [finding, unchecked],
    }
    (dataset / AUDIT).write_text(json.dumps(document))


def test_a_leaking_dataset_is_refused_unless_told(hub, dataset, labelkit, tmp_path):
    audit(dataset, "leaked-queries", "error", 3, "queries that repeat an evaluation query")
    refused = labelkit("publish", dataset, "org/set", "--license", "mit")
    assert refused.returncode == 2
    assert "it contains queries of an evaluation set" in refused.stderr
    told = labelkit("publish", dataset, "org/set", "--license", "mit", "--allow", "leaking")
    assert told.returncode == 0, told.stderr
    assert "| error | 3 | queries that repeat an evaluation query |" in published(hub)["README.md"].decode()
    assert labelkit("pull", "org/set", "-o", tmp_path / "pulled").returncode == 0
    assert known_leaks(tmp_path / "pulled") == 3


def test_an_audit_of_another_state_is_none(hub, dataset, labelkit):
    audit(dataset, "twins", "warning", 0, "twins")
    found = json.loads((dataset / AUDIT).read_text()) | {"dataset": "0"}
    (dataset / AUDIT).write_text(json.dumps(found))
    assert "it was not audited" in labelkit("publish", dataset, "org/set", "--license", "mit").stderr


def test_a_key_is_never_published(hub, dataset, labelkit):
    called = labelkit(
        "publish", dataset, "org/set", *PUBLISH, "--note", "use canary-0123456789", OPENAI_API_KEY="canary-0123456789"
    )
    assert called.returncode == 2
    assert "README.md contains the value of OPENAI_API_KEY" in called.stderr
    called = labelkit("publish", dataset, "org/set", *PUBLISH, LABELKIT_API_KEY="query 17")
    assert called.returncode == 2
    assert "queries.parquet contains the value of LABELKIT_API_KEY" in called.stderr
    assert hub.ledger == []


def test_nor_is_a_key_of_the_keyring(hub, dataset, labelkit, tmp_path):
    keyring = tmp_path / "keys.toml"
    keyring.write_text('"api.example.org" = "canary-0123456789"')
    keyring.chmod(0o600)
    noted = (*PUBLISH, "--note", "use canary-0123456789")
    called = labelkit("publish", dataset, "org/set", *noted, LABELKIT_KEYRING=str(keyring))
    assert called.returncode == 2
    assert "README.md contains the key of api.example.org in" in called.stderr
    assert hub.ledger == []


def test_a_wrong_token_is_one_line(hub, dataset, labelkit):
    called = labelkit("publish", dataset, "org/set", *PUBLISH, HF_TOKEN="hf_wrong")
    assert called.returncode == 1
    assert called.stderr.count("\n") == 1


def test_a_hub_that_is_away_is_one_line(dataset, environment):
    away = environment | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    called = subprocess.run(program("publish", dataset, "org/set", *PUBLISH), env=away, capture_output=True, text=True)
    assert called.returncode == 1
    assert "error: the Hub cannot be reached" in called.stderr
    assert "Traceback" not in called.stderr


def test_an_absent_dataset_is_said(hub, labelkit, tmp_path):
    called = labelkit("pull", "org/none", "-o", tmp_path / "out")
    assert called.returncode == 1
    assert "the Hub has no dataset org/none" in called.stderr
    assert not (tmp_path / "out").exists()


def test_a_pull_never_replaces_a_strange_folder(hub, dataset, labelkit, tmp_path):
    assert labelkit("publish", dataset, "org/set", *PUBLISH).returncode == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert labelkit("pull", "org/set", "-o", tmp_path / "mine").returncode == 1
    assert contents(tmp_path / "mine").keys() == {"notes.txt"}


def test_a_damaged_copy_is_refused(hub, dataset, labelkit, tmp_path):
    assert labelkit("publish", dataset, "org/set", *PUBLISH).returncode == 0
    _, files = hub.repos["org/set"].commits[-1]
    hub.repos["org/set"].commit(files | {"train.parquet": hub.blob(b"PAR1")})
    called = labelkit("pull", "org/set", "-o", tmp_path / "out")
    assert called.returncode == 1
    assert "train.parquet changed since it was written" in called.stderr
    assert not (tmp_path / "out").exists()


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), hub_errors("org/set"):
        raise ZeroDivisionError
    with pytest.raises(RemoteError, match="refused the request: offline"), hub_errors("org/set"):
        raise OfflineModeIsEnabled("offline")


@pytest.fixture
def sent(hub: Any, dataset: Path, labelkit: Run) -> dict[str, bytes]:
    audit(dataset, "twins", "warning", 2, "negatives that repeat a positive")
    called = labelkit("publish", dataset, "org/set", *PUBLISH, "--title", "A set", "--note", "Texts are invented.")
    assert called.returncode == 0, called.stderr
    return published(hub)


def test_the_card_states_judges_agreement_cost_and_flaws(sent):
    card = sent["README.md"].decode()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["language"] == ["en"]
    assert metadata["annotations_creators"] == ["found", "machine-generated"]
    assert metadata["source_datasets"] == ["BeIR/scifact"]
    assert metadata["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in metadata["configs"]] == list(CONFIGS)
    # 20 of 60 pairs: 10 graded 2 and not 0; kappa by hand: (50/60 - pe) / (1 - pe), pe = (30*20 + 30*30) / 3600.
    kappa = (50 / 60 - 1500 / 3600) / (1 - 1500 / 3600)
    assert re.search(rf"\| model \| anna \| 60 \| {kappa:.3f} \[0\.\d+, 0\.\d+\]", card)
    assert "| `graded-model` | llm | model | graded 1 | 60 | 0 | 6,000 | 0.0600 |" in card
    assert "| warning | 2 | negatives that repeat a positive |" in card
    assert "Not checked: one family." in card
    assert "Texts are invented." in card
    assert "labelkit mix --data ~/data" in card
    for name, content in sent.items():
        assert f"{Path.home()}/".encode() not in content, name


def test_the_croissant_description_is_valid_and_reads_the_files(sent, tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant", reason="validates Croissant: pip install mlcroissant")
    for name, content in sent.items():
        (tmp_path / name).write_bytes(content)
    description = mlcroissant.Dataset(jsonld=str(tmp_path / "croissant.json"))
    assert not description.metadata.ctx.issues.errors
    (first, *rest) = description.records(record_set="train")
    assert len(rest) == 29
    assert first["train/positive_ids"] == [b"p0"]
    document = json.loads(sent["croissant.json"])
    assert "http://mlcommons.org/croissant/1.1" in document["conformsTo"]
    assert document["rai:machineAnnotationTools"] == ["model (local)"]
    assert document["prov:wasDerivedFrom"][0] == {"@type": "prov:Entity", "@id": "BeIR/scifact"}


@pytest.mark.parametrize("name", ["../victim", "/victim", "a/../../victim", "a\nb"])
def test_a_list_of_files_that_leads_elsewhere_is_refused_before_anything_is_fetched(
    hub, dataset, labelkit, tmp_path, name
):
    assert labelkit("publish", dataset, "org/set", *PUBLISH).returncode == 0
    repo = hub.repos["org/set"]
    repo.commit({**repo.commits[-1][1], name: hub.blob(b"theirs")})
    before = len(hub.ledger)
    pulled = labelkit("pull", "org/set", "-o", tmp_path / "here" / "pulled")
    assert pulled.returncode == 1
    assert re.fullmatch(r"error: .* is not the name of a file inside .*: refused\n", pulled.stderr), pulled.stderr
    assert [path for _, path, _ in hub.ledger[before:] if "/resolve/" in path] == []
    assert not (tmp_path / "here").exists()
