"""From a label of a dataset back to prompt, request, raw reply, price and date."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from present import present

from labelkit.datasets.evidence import find
from labelkit.datasets.provenance import cuts
from labelkit.judging.journal import Journal
from labelkit.judging.methods import METHODS
from labelkit.judging.prompts import load_prompt
from labelkit.judging.reading import Reading
from labelkit.judging.tasks import Requests

PRICES = "[overlap]\nprompt = 1000.0\ncompletion = 2000.0\n"
GRADING = [name for name, method in METHODS.items() if not method.score_only]
SEVERAL = {
    "graded": ("--defence", "strip", "--defence", "nonce", "--defence", "second-look"),
    "binary": ("--votes", 3),
    "relsel": ("--permutations", 2),
    "utilrank": ("--permutations", 2),
}


@pytest.fixture
def sent(monkeypatch):
    """Every request that the runs of a test send: the key and the messages."""
    seen = {}
    request = Requests.request

    def note(self, texts, task, ask, *, key):
        made = request(self, texts, task, ask, key=key)
        if key:
            seen[key] = made.messages
        return made

    monkeypatch.setattr(Requests, "request", note)
    return seen


@pytest.fixture
def mixed(labelkit, beir, pool, tmp_path, sent):
    """A dataset of people's grades and those of every method, with cut passages; the prices of it all are known."""
    (tmp_path / "prices.toml").write_text(PRICES)
    labels = []
    for number, method in enumerate(GRADING):
        folder = tmp_path / method
        given = (*SEVERAL.get(method, ()), "--passage-words", 3 + 3 * number, "--prices", tmp_path / "prices.toml")
        called = labelkit(
            "annotate", pool, "-o", folder, "--engine", "scripted", "--model", "overlap", "--method", method, *given
        )
        assert called.code == 0, called.err
        labels += ["--llm", folder]
    human = beir / "qrels" / "test.tsv"
    called = labelkit("mix", "--data", beir, "--human", human, *labels, "-o", tmp_path / "dataset")
    assert called.code == 0, called.err
    return tmp_path / "dataset"


def test_every_label_leads_to_what_was_sent_and_what_came_back(mixed, sent, tmp_path):
    asked = dict(sent)
    replies: dict[str, tuple[str, str]] = {}
    checked: set[str] = set()
    for method in GRADING:
        with Journal(tmp_path / method) as journal:
            replies |= {key: (reply, at) for key, _, reply, _, _, at in journal.records()}
    for query_id in ("q1", "q2", "q3"):
        _, shown = find(mixed, query_id)
        for one in shown:
            judges = [found.judge for found in one.evidence]
            assert {judge.method for judge in judges if judge.kind == "llm"} == set(GRADING)
            for found in one.evidence:
                if found.judge.kind == "human":
                    assert (found.prompt, found.exchanges) == (None, [])
                    continue
                assert present(found.prompt).encode() == load_prompt(present(found.judge.prompt_name)).content
                assert present(found.judgement.cost) > 0
                assert len(found.exchanges) >= (3 if found.judge.method == "binary" else 1)
                for exchange in found.exchanges:
                    key = exchange.record["key"]
                    assert exchange.messages == asked[key]
                    assert (exchange.record["reply"], exchange.record["answered_at"]) == replies[key]
                    assert exchange.record["cost"] > 0
                    checked.add(key)
    assert checked == set(replies)


def test_another_text_is_not_passed_off_as_the_one_that_was_sent(mixed):
    path = mixed / "corpus.parquet"
    corpus = pq.read_table(path).to_pylist()
    changed = [row | {"text": row["text"].replace("cats", "dogs")} for row in corpus]
    pq.write_table(pq.read_table(path).from_pylist(changed), path)
    _, (one,) = find(mixed, "q1", "p1")
    machines = [found for found in one.evidence if found.judge.kind == "llm"]
    assert all(exchange.messages is None for found in machines for exchange in found.exchanges)


def test_a_cut_as_the_judge_read_comes_before_every_beginning():
    words, two = Reading(passage_words=2), Reading(passage_tokens=2)
    assert list(cuts(["a  b c"], words, engine="scripted", tokenizer="-"))[:3] == [["a  b c"], ["a b"], ["a"]]
    assert list(cuts(["a  b c"], two, engine="scripted", tokenizer="-"))[:2] == [["a  b c"], ["a  b"]]
    assert list(cuts(["a  b c", "d"], two, engine="scripted", tokenizer="-")) == [["a  b c", "d"], ["a  b", "d"]]
    gone = "/nowhere/tokenizer.json"
    assert ["a  b"] in list(cuts(["a  b c"], two, engine="openai", tokenizer=gone))
    assert list(cuts(["a  b c", "d"], two, engine="openai", tokenizer=gone)) == [["a  b c", "d"]]


def test_show_for_people_and_machines(labelkit, mixed):
    called = labelkit("show", mixed, "--query", "q1", "--passage", "p1")
    assert called.code == 0, called.err
    for part in ("query q1: why do cats sleep", "Passage: Cats cats", '"label_logprobs"', "US dollars", "decide how"):
        assert part.lower() in called.out.lower()
    plain = json.loads(labelkit("show", mixed, "--query", "q1", "--json").out)
    (label,) = [one for one in plain["labels"] if one["passage_id"] == "p1"]
    assert (label["role"], label["grade"], label["source"]) == ("positive", 3, "human")
    graded = next(one for one in label["judgements"] if one["judge"]["method"] == "graded")
    (exchange,) = graded["exchanges"]
    assert json.loads(exchange["reply"])["text"] in "0123"
    assert "\nCats cats sleep\n</passage" in exchange["request"][-1]["content"]
    assert exchange["cost"] == pytest.approx(graded["cost"])


@pytest.mark.parametrize(
    ("given", "words"), [(("q9",), "no query 'q9'"), (("q1", "--passage", "p9"), "no label of passage 'p9'")]
)
def test_what_is_not_there_is_said(labelkit, mixed, given, words):
    called = labelkit("show", mixed, "--query", *given)
    assert called.code == 1
    assert words in called.err


def test_folders_that_share_replies_by_a_cache(labelkit, beir, pool, tmp_path):
    run = ("annotate", pool, "--engine", "scripted", "--model", "overlap", "--cache", tmp_path / "cache")
    assert labelkit(*run, "-o", tmp_path / "one").code == 0
    assert labelkit(*run, "-o", tmp_path / "two", "--method", "binary").code == 0
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    mix = ("mix", "--data", beir, "--llm", tmp_path / "one", "--llm", tmp_path / "two", "-o", tmp_path / "dataset")
    assert labelkit(*mix).code == 0
    replies = pq.read_table(tmp_path / "dataset" / "replies.parquet").to_pylist()
    assert len({row["key"] for row in replies}) == len(replies) == 14
    assert all(row["tries"] == 1 for row in replies)
