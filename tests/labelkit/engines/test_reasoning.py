"""Judges that think before they answer: their budget, the reasoning that is kept, and the words when it runs out."""

import json

import pytest
from present import present

from labelkit.judging.journal import Journal
from labelkit.judging.stored_replies import reply_of
from labelkit.storage.labels import read_labels

TOP = {"2": -0.2, "1": -2.0, "3": -3.0, "0": -5.0}
FLAG = "raise --thinking-tokens"


@pytest.fixture
def annotate(labelkit, pool, server, tmp_path):
    def run(*options, output="labels"):
        base = ("annotate", pool, "-o", tmp_path / output, "--engine", "openai", "--model", "m", "--json")
        return labelkit(*base, "--base-url", server.url, *options)

    return run


def thinking(completion, content, finish_reason="stop", **message):
    """A completion whose message has more fields than its content."""
    whole = completion(content, TOP if content == "2" else None)
    whole["choices"][0]["message"] |= message
    return whole | {"choices": [whole["choices"][0] | {"finish_reason": finish_reason}]}


def stored(folder):
    with Journal(folder) as journal:
        return [reply_of(key, reply, folder) for key, _, reply, *_ in journal.records()]


@pytest.mark.parametrize("fields", [["reasoning_content"], ["reasoning"], ["reasoning", "reasoning_content"]])
def test_reasoning_in_a_field_of_its_own_is_kept_apart(annotate, server, Answer, completion, tmp_path, fields):
    """DeepSeek and SGLang, OpenRouter and Ollama, vLLM between the two names."""
    told = "A 3? No: it is a 2."
    server.script = lambda body: Answer(thinking(completion, "2", **dict.fromkeys(fields, told)))
    outcome = json.loads(annotate("--thinking-tokens", "100", "--limit", "3").out)
    assert (outcome["failures"], outcome["unscored"], len(server.ledger)) == ({}, 0, 3)
    assert {body["max_tokens"] for body in server.ledger} == {108}
    assert {(reply.text, reply.reasoning, reply.raw) for reply in stored(tmp_path / "labels")} == {("2", told, None)}


def test_reasoning_in_the_text_is_no_part_of_the_answer(annotate, server, Answer, completion, tmp_path):
    """A template that opens the reasoning leaves only the closing mark in the text."""
    written = [("Is it 3", {"3": -0.1}), ("? No.", {}), ("</think>", {"3": -0.1, "0": -9.0}), ("\n\n", {}), ("2", TOP)]
    content = [
        {"token": token, "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": v} for t, v in top.items()]}
        for token, top in written
    ]
    whole = completion("".join(token for token, _ in written))
    whole["choices"][0]["logprobs"] = {"content": content}
    server.script = lambda body: Answer(whole)
    outcome = json.loads(annotate("--thinking-tokens", "100", "--limit", "3").out)
    assert (outcome["failures"], outcome["unscored"], len(server.ledger)) == ({}, 0, 3)
    rows = read_labels(tmp_path / "labels")[0]
    assert {row.grade for row in rows} == {2}
    assert all(present(row.probs)[2] > 0.7 for row in rows)


@pytest.mark.parametrize("content", [None, "", "<think>Let me see"])
def test_a_judge_that_thinks_without_a_budget_stops_the_run_at_its_first_answer(
    annotate, server, Answer, completion, tmp_path, content
):
    server.script = lambda body: Answer(thinking(completion, content, "length", reasoning_content="Let me"))
    called = annotate()
    assert (called.code, len(server.ledger)) == (1, 1)
    assert FLAG in called.err
    assert "for example --thinking-tokens 2048" in called.err
    assert len(stored(tmp_path / "labels")) == 1, "what was paid for is kept"
    server.script = lambda body: Answer(thinking(completion, "2"))
    assert annotate("--thinking-tokens", "2048").code == 0
    assert {row.grade for row in read_labels(tmp_path / "labels")[0]} == {2}


def test_the_words_of_openai_for_a_length_that_ran_out(annotate, server, Answer, completion):
    told = "Could not finish the message because max_tokens or model output limit was reached. Please try again."
    server.script = lambda body: Answer({"error": {"message": told, "param": None, "code": None}}, 400)
    called = annotate()
    assert (called.code, len(server.ledger)) == (1, 1)
    assert FLAG in called.err


def test_pairs_whose_budget_runs_out_are_failures_that_name_the_flag(
    annotate, server, Answer, completion, passage_of, labelkit
):
    def script(body):
        hard = "cats" in json.dumps(body["messages"]).lower().split("passage:")[-1]
        return Answer(thinking(completion, None, "length") if hard else thinking(completion, "2"))

    server.script = script
    called = annotate("--thinking-tokens", "64")
    outcome = json.loads(called.out)
    (reason, count), *others = outcome["failures"].items()
    assert FLAG in reason
    assert 0 < count < outcome["pairs"]
    assert not others
    assert f"{count} x {reason}" in called.err


def test_the_budget_counts_in_the_plan_and_in_the_caps(annotate, server, Answer, completion, labelkit, pool):
    def most(*options):
        called = labelkit("plan", pool, "--engine", "openai", "--model", "m", "--json", *options)
        assert called.code == 0, called.err
        return json.loads(called.out)

    plain, thoughtful = most(), most("--thinking-tokens", "1000")
    assert thoughtful["most_completion_tokens"] == plain["most_completion_tokens"] + 1000 * plain["pairs"]
    assert thoughtful["facts"]["thinking_tokens"] == 1000
    server.script = lambda body: Answer(thinking(completion, "2"))
    # One request with eight tries sets aside eight times a thousand tokens.
    called = annotate("--thinking-tokens", "1000", "--max-tokens", "8000")
    assert called.code == 1
    assert "the caps allow no more requests" in called.err
    assert server.ledger == []


def test_reasoning_that_only_the_total_counts_is_charged(annotate, server, Answer, completion):
    """xAI and Gemini state the tokens of the answer without those of the reasoning."""
    usage = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 541}
    server.script = lambda body: Answer(completion("2", TOP, usage=usage))
    outcome = json.loads(annotate("--thinking-tokens", "1000", "--limit", "3").out)
    assert outcome["tokens"] == 3 * 541


def test_effort_and_budget_are_part_of_the_judge(annotate, server, Answer, completion, tmp_path):
    server.script = lambda body: Answer(thinking(completion, "2"))
    keys = []
    for name, options in {
        "none": (),
        "low": ("--reasoning-effort", "low"),
        "high": ("--reasoning-effort", "high"),
        "budget": ("--thinking-tokens", "64"),
    }.items():
        assert annotate(*options, "--limit", "2", output=name).code == 0
        keys += [reply.key for reply in stored(tmp_path / name)]
        (judge,) = read_labels(tmp_path / name)[1]
        assert ("reasoning_effort" in json.loads(present(judge.decoding))) == (name in ("low", "high"))
    assert len(set(keys)) == 8
    assert [body.get("reasoning_effort") for body in server.ledger[::2]] == [None, "low", "high", None]


@pytest.mark.parametrize("engine", ["local", "scripted"])
def test_engines_that_do_not_think_refuse_a_budget(labelkit, pool, tmp_path, engine):
    called = labelkit(
        "annotate", pool, "-o", tmp_path / "l", "--engine", engine, "--model", "x", "--thinking-tokens", "9"
    )
    assert called.code == 2
    assert "--thinking-tokens" in called.err
