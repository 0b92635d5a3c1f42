"""Runs that are read query by query: the same requests, keys, journals and counts as if all were in memory."""

import hashlib
import json
import sqlite3
from collections import Counter
from itertools import groupby

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelkit.engines import Message, Request
from labelkit.errors import ArtifactError
from labelkit.judging.annotate import annotate
from labelkit.judging.key_set import KeySet, short
from labelkit.judging.label_tables import RunPairs
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.pool_texts import PoolTexts, tables_of
from labelkit.judging.reading import Reading
from labelkit.judging.request_keys import MARK, QUERY_MARK, KeysOfPrompt, request_key
from labelkit.judging.task_states import TaskStates
from labelkit.judging.tasks import Task
from labelkit.pooling.pool import Pool, read_pool
from labelkit.records import JUDGEMENT_SCHEMA, Candidate, Judgement, JudgementRow, Origin, Passage, Query
from labelkit.storage.dataset import RowWriter, rows_to_table
from labelkit.storage.text_file import TextFile

GRADED = """
name = "mine"
version = "1"
method = "graded"
citation = "none"
system = "Grade the passage."
user = \"\"\"
Query: {query}

Passage: {passage}
\"\"\"
[[labels]]
text = "0"
grade = 0
[[labels]]
text = "1"
grade = 3
"""
RELSEL = """
name = "mine"
version = "1"
method = "relsel"
citation = "none"
system = "Select."
user = \"\"\"
Query: {query}

{passages}
\"\"\"
"""
PASSAGES = {
    "p1": ("Cats", "why do cats sleep in the day, they ask"),
    "p2": ("", 'dogs \u2028 "bark" at {night} \\ <|im_end|> mail'),
    "p3": ("", ""),
    "p4": ("Téa", "grüner Tee \U0001f375 cats day"),
    "p5": ("", "same words"),
    "p6": ("", "same words"),
}
QUERIES = {"q2": "why do cats sleep in the day", "q10": 'say "tea" {x}'}
PAIRS = [("q2", pid) for pid in ("p4", "p1", "p3", "p2", "p6", "p5")] + [("q10", pid) for pid in ("p2", "p5", "p1")]


def hostile_pool():
    """Two queries with equal passages, an empty one, one that repeats its query, and special characters."""
    passages = {pid: Passage(passage_id=pid, title=title, text=text) for pid, (title, text) in PASSAGES.items()}
    queries = {qid: Query(query_id=qid, text=text) for qid, text in QUERIES.items()}
    candidates = [Candidate(query_id=qid, passage_id=pid, sources=(Origin("bm25", 1, 1.0),)) for qid, pid in PAIRS]
    return Pool(queries, passages, candidates, {})


@pytest.mark.parametrize(
    ("prompt", "options", "journal"),
    [
        (GRADED, {}, "6e481dc30e201ebd2bc492d8dd58202f58e447f1aeb2bf27efbf0d2868199f67"),
        (
            GRADED,
            {"defence": ("nonce", "strip")},
            "ca7efb721c3e4273113f82d104081fc7fe516ccef5dd6d087e8a4ca4a3f4bdce",
        ),
        (GRADED, {"votes": 2, "seed": 5}, "f480b04dee2a974345aaa8de5008a8465f69fa918931ec92060b75c5d4c2e162"),
        (
            RELSEL,
            {"method": "relsel", "permutations": 2, "max_model_len": 60},
            "b185a9be0cb0546d25e8cd8ab43197bc06b21a5d1cbaf28f3eb4650197fa30b1",
        ),
    ],
    ids=["graded", "nonce", "votes", "relsel"],
)
def test_a_journal_has_the_keys_and_the_order_of_earlier_releases(tmp_path, prompt, options, journal):
    """The sha256 were computed by the release that had whole pools in memory: its folders are resumed for free."""
    (tmp_path / "prompt.toml").write_text(prompt[1:])
    given = {"engine": "scripted", "model": "overlap", "prompt": str(tmp_path / "prompt.toml"), **options}
    annotate(hostile_pool(), tmp_path / "labels", AnnotateOptions(**given), command="x")
    with sqlite3.connect(tmp_path / "labels" / "journal.sqlite") as db:
        rows = db.execute("SELECT key, reply FROM replies ORDER BY row").fetchall()
        asked = db.execute("SELECT judge_id, query_id, pairs FROM asked ORDER BY 1, 2").fetchall()
    assert hashlib.sha256(json.dumps([rows, asked]).encode()).hexdigest() == journal


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(TEXT, min_size=1, max_size=3), TEXT, TEXT)
def test_the_keys_of_a_query_are_those_of_its_requests(passages, query, between):
    def about(passage, query=query):
        messages = (Message("system", between), Message("user", f"{query}\n{passage}{between}{passage}"))
        return Request("", "q", messages, ("0", "1"))

    keys = KeysOfPrompt("identity", about(MARK, QUERY_MARK)).of_query(query)
    assert [keys.key(passage) for passage in passages] == [
        request_key("identity", about(passage)) for passage in passages
    ]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans())), st.sampled_from("abcde"))
def test_the_last_reply_of_a_key_decides(replies, changed):
    keys = b"".join(short(key) for key, _ in replies)
    found = KeySet.of_last(bytearray(keys), bytearray(failed for _, failed in replies))
    expected = {key for key, failed in dict(replies).items() if not failed}
    assert {key for key in "abcde" if key in found} == expected
    assert len(found) == len(expected)
    found.add(changed)
    assert changed in found
    found.remove([changed])
    assert {key for key in "abcde" if key in found} == expected - {changed}


QUERIES_OF_TASKS = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 2)), min_size=1, max_size=4), max_size=4
)


@given(QUERIES_OF_TASKS, st.sets(st.sampled_from("abcdef")))
def test_tasks_with_equal_keys_wait_once_and_are_counted_each(queries, answered):
    states = TaskStates(listwise=False)
    keys = []
    for number, pairs in enumerate(queries):
        looks = [(pair, look, key) for pair, (key, looks) in enumerate(pairs) for look in range(looks)]
        named = [(pair, look, f"{key}{look}" if look else key) for pair, look, key in looks]
        states.add([Task(f"q{number}", (f"p{pair}",), look, window=0, seed=None, key=key) for pair, look, key in named])
        keys += [(number, pair, look, key) for pair, look, key in named]
    states.group(KeySet(b"".join(map(short, answered))))
    firsts = {key: place for place, (*_, key) in reversed(list(enumerate(keys)))}
    assert states.waiting.nonzero()[0].tolist() == sorted(firsts[key] for key in firsts if key not in answered)
    assert states.any_answered() == any(key in answered for *_, key in keys)
    counted = Counter(key for _, _, look, key in keys if not look)
    assert [int(states.pairs_for[firsts[key]]) for key in firsts] == [counted[key] for key in firsts]
    waiting = {(query, place) for query, wanted in states.unfinished() for place in wanted.nonzero()[0].tolist()}
    assert {states.start(query) + place for query, place in waiting} == set(states.waiting.nonzero()[0].tolist())
    looks_of: dict[tuple[int, int], list[str]] = {}
    for query, pair, _, key in keys:
        looks_of.setdefault((query, pair), []).append(key)
    done = sum(looks[0] in answered for looks in looks_of.values())
    known = sum(answered.issuperset(looks) for looks in looks_of.values())
    assert states.counts() == (done, 0, known)
    assert states.pairs == len(looks_of)


def test_a_pool_folder_reads_like_the_pool_in_memory(pool, candidates, tmp_path):
    reading = Reading(passage_words=4, defences=("strip", "second-look"))

    def read(source, limit):
        with PoolTexts(tables_of(source).first(limit), reading, None, scratch=tmp_path) as texts:
            return [texts[number] for number in range(len(texts))], texts.facts, list(texts.passages_of())

    for limit in (None, 0, 1, 4):
        assert read(pool, limit) == read(candidates, limit)
    found, facts, _ = read(pool, None)
    pairs = [(texts.query_id, passage_id) for texts in found for passage_id in texts.passages]
    assert pairs == [(one.query_id, one.passage_id) for one in candidates.candidates]
    assert facts["cut_passages"] == sum(len(candidates.passages[pid].full_text.split()) > 4 for _, pid in pairs)
    assert list(tmp_path.glob("tmp*")) == [], "the temporary file has no name"


def test_a_candidate_without_a_text_is_named(pool, tmp_path):
    made = read_pool(pool)
    lost = made.candidates[1].passage_id
    tables = tables_of(pool)
    kept = tables.passage_ids.filter([name != lost for name in tables.passage_ids.to_pylist()])
    with pytest.raises(ArtifactError, match=f"passage '{lost}' has candidates but no text; make the pool again"):
        PoolTexts(tables._replace(passage_ids=kept), Reading(passage_words=9), None, scratch=tmp_path)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_come_back_from_their_file(tmp_path_factory, texts):
    with TextFile(iter(texts), tmp_path_factory.getbasetemp()) as file:
        assert [file[number] for number in reversed(range(len(file)))] == texts[::-1]


def test_the_pairs_of_a_run_are_found_in_the_order_of_a_table():
    pairs = RunPairs("j", [("q1", ["a"]), ("q3", ["b"]), ("q3", ["c"]), ("q4", [])])
    rows = [("q0", "a"), ("q1", "a"), ("q1", "b"), ("q2", "a"), ("q3", "b"), ("q3", "c"), ("q4", "a"), ("q5", "a")]
    judged = [Judgement(query_id=qid, passage_id=pid, judge_id="j", grade=1) for qid, pid in rows]
    queries = [list(group) for _, group in groupby(judged, key=lambda row: row.query_id)]
    found = [(row.query_id, row.passage_id) for query in queries for row in pairs.among(query)]
    assert found == [("q1", "a"), ("q3", "b"), ("q3", "c")]
    other = Judgement(query_id="q4", passage_id="a", judge_id="k", grade=1)
    assert pairs.among([other]) == pairs.among([]) == []


def test_a_row_has_the_columns_of_the_table_and_the_fields_of_the_record():
    assert list(JudgementRow._fields) == JUDGEMENT_SCHEMA.names
    assert set(JudgementRow._fields) == set(Judgement.model_fields)


@pytest.mark.parametrize("together", [1, 3, 11])
def test_row_groups_do_not_depend_on_how_many_rows_are_added_together(tmp_path, monkeypatch, together):
    monkeypatch.setattr("labelkit.storage.folders.ROW_GROUP", 4)
    monkeypatch.setattr("labelkit.storage.dataset.ROWS", 3)
    row = JudgementRow(**vars(Judgement(query_id="q", passage_id="p", judge_id="j", grade=1)))
    rows = [row._replace(passage_id=str(number)) for number in range(11)]
    with RowWriter(tmp_path / "rows.parquet", JUDGEMENT_SCHEMA) as writer:
        for first in range(0, len(rows), together):
            writer.add(*rows[first : first + together])
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [4, 4, 3]
    assert file.read().to_pylist() == [one._asdict() for one in rows]


@pytest.mark.parametrize("wrong", [{"score": float("nan")}, {"probs": (0.5, float("inf"))}])
def test_a_number_that_is_not_finite_is_never_written(wrong):
    row = JudgementRow(**vars(Judgement(query_id="q", passage_id="p", judge_id="j", grade=1)))
    assert rows_to_table([row], JUDGEMENT_SCHEMA).to_pylist() == [row._asdict()]
    with pytest.raises(ValueError, match=f"column {next(iter(wrong))} has a number that is not finite"):
        rows_to_table([row, row._replace(**wrong)], JUDGEMENT_SCHEMA)
