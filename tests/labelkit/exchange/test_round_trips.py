"""Whatever a judge says comes back from the journal and from the tables as it was: property-based."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelkit.engines import Reply
from labelkit.judging.journal import Arrival, Asked, Charge, Journal
from labelkit.records import JUDGEMENT_SCHEMA, Judge, Judgement, JudgementRow
from labelkit.storage import folders
from labelkit.storage.dataset import RowWriter
from labelkit.storage.manifest import Facts

pytestmark = pytest.mark.slow  # hypothesis writes hundreds of folders

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
REPLIES = st.builds(
    Reply,
    key=KEYS,
    text=st.none() | TEXT,
    label_logprobs=st.none() | st.dictionaries(TEXT, FINITE, max_size=4),
    masked=st.booleans(),
    finish_reason=st.none() | TEXT,
    error=st.none() | TEXT,
    tries=st.integers(1, 9),
    model=st.none() | TEXT,
    fingerprint=st.none() | TEXT,
    prompt_tokens=st.none() | st.integers(0, 2**40),
    completion_tokens=st.none() | st.integers(0, 2**40),
)
CHARGES = st.none() | st.builds(Charge, st.integers(0, 2**40), st.none() | st.floats(0, 1e6))
JUDGEMENTS = st.builds(
    Judgement,
    query_id=KEYS,
    passage_id=KEYS,
    judge_id=KEYS,
    grade=st.integers(0, 3),
    score=st.none() | FINITE,
    probs=st.none() | st.lists(FINITE, max_size=4).map(tuple),
    label_mass=st.none() | FINITE,
    position=st.none() | st.integers(0, 2**31 - 1),
    permutation_seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    reply_ref=st.none() | TEXT,
    tokens=st.none() | st.integers(0, 2**62),
    cost=st.none() | FINITE,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(REPLIES, CHARGES), min_size=1, max_size=4), max_size=4))
def test_every_reply_comes_back_from_the_journal(groups):
    with tempfile.TemporaryDirectory() as folder:
        with Journal(Path(folder)) as journal:
            for group in groups:
                journal.append([Arrival(*each) for each in group])
        last = {reply.key: reply for group in groups for reply, _ in group}
        charges = [charge for group in groups for _, charge in group if charge is not None]
        with Journal(Path(folder)) as journal:
            good = journal.answered()
            assert {key for key in last if key in good} == {key for key, reply in last.items() if reply.error is None}
            assert {key: journal.reply(key) for key in last} == last
            spent = journal.spent()
            journal.check()
        assert spent.tokens == sum(charge.tokens for charge in charges)
        assert spent.unpriced == sum(charge.usd is None for charge in charges)
        assert spent.replies == sum(map(len, groups))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.tuples(KEYS, KEYS, st.integers(0, 2)), KEYS, max_size=12), st.booleans())
def test_every_pair_asked_comes_back_in_order(pairs, twice):
    asked = [Asked("j", query, passage, variant, 0, 0, None, key) for (query, passage, variant), key in pairs.items()]
    together = sorted(asked, key=lambda pair: pair.query_id)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        for _ in range(1 + twice):
            journal.register(Judge(judge_id="j", kind="llm", name="m"), b"prompt", together)
        assert list(journal.asked("j")) == sorted(asked, key=lambda pair: pair[1:4])


@settings(max_examples=60, deadline=None)
@given(st.lists(JUDGEMENTS, max_size=6), st.dictionaries(TEXT, st.integers() | TEXT | FINITE | st.none(), max_size=4))
def test_every_judgement_and_fact_comes_back_from_a_folder(rows, facts):
    with tempfile.TemporaryDirectory() as parent:
        target = Path(parent) / "folder"
        for _ in range(2):
            with folders.writing(target, "thing", "make thing") as draft:
                with RowWriter(draft.path / "rows.parquet", JUDGEMENT_SCHEMA) as table:
                    table.add(*(JudgementRow(**vars(row)) for row in rows))
                draft.facts = Facts.model_validate(facts)
            manifest = folders.read_manifest(target, "thing")
        found = folders.read_table(target, "rows").to_pylist()
        assert [Judgement(**row) for row in found] == rows
        assert manifest.facts.as_json() == facts
