"""Servers that refuse an option, each in the words of its vendor: every pair is judged by one run of the command.

A deviation is a list of rules. A rule refuses a body that it applies to; the first one that does gives the answer. Each
test asserts grades, scores, the journal, the number of requests and the exit code.
"""

import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from present import present

from labelkit.engines import Message, Request, Settings, open_engine
from labelkit.engines.dialects import CONSTRAINTS, Dialect, chat_body, dialect_of, grammar_of
from labelkit.errors import EngineError
from labelkit.judging.journal import Journal
from labelkit.judging.reply_parser import ranking_pattern, selection_pattern
from labelkit.storage.labels import read_labels

TOP = {"2": -0.2, "1": -2.0, "3": -3.0, "0": -5.0}
LABELS = ("0", "1", "2", "3")


class Rule(NamedTuple):
    """A refusal: its status and body, and the bodies that it applies to."""

    applies: Callable[[dict[str, Any]], bool]
    status: int
    body: Any


def has(*names: str) -> Callable[[dict[str, Any]], bool]:
    return lambda body: any(name in body for name in names)


def openai(message: str, param: str | None, code: str | None = None, status: int = 400) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def unsupported(param: str) -> Rule:
    told = f"Unsupported parameter: '{param}' is not supported with this model."
    told += " Use 'max_completion_tokens' instead." if param == "max_tokens" else ""
    return Rule(has(param), *openai(told, param, "unsupported_parameter"))


def extra(field: str, status: int = 422) -> Rule:
    """Mistral's refusal of a field that it does not know."""
    detail = [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted", "input": 1}]
    return Rule(has(field), status, {"object": "error", "message": {"detail": detail}, "param": None, "code": None})


def gemini(field: str) -> Rule:
    told = f'Invalid JSON payload received. Unknown name "{field}": Cannot find field.'
    return Rule(has(field), 400, [{"error": {"code": 400, "message": told, "status": "INVALID_ARGUMENT"}}])


def system(status: int, body: Any) -> Rule:
    return Rule(lambda sent: sent["messages"][0]["role"] == "system", status, body)


def list_over(most: int, status: int, body: Any) -> Rule:
    return Rule(lambda sent: sent.get("top_logprobs", 0) > most, status, body)


UNKNOWN = Rule(
    has("structured_outputs", "guided_choice", "regex", "grammar"),
    *openai("Unrecognized request argument supplied: structured_outputs", None),
)
TEMPERATURE = Rule(
    lambda body: body.get("temperature") == 0,
    *openai(
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
        "temperature",
        "unsupported_value",
    ),
)
AZURE = "litellm.BadRequestError: AzureException BadRequestError - Unsupported value: 'temperature' does not support 0"
REASONER = "deepseek-reasoner does not support the parameter `{}`"
CASES: dict[str, tuple[list[Rule], dict[str, Any], int]] = {
    # name: rules, options that are sent in the end, refused requests
    "OpenAI gpt-5": (
        [UNKNOWN, unsupported("max_tokens"), TEMPERATURE, unsupported("logprobs")],
        {"constraint": "none", "limit": "max_completion_tokens", "temperature": "none", "logprobs": 0},
        4,
    ),
    "OpenAI o1, log-probabilities by 403": (
        [Rule(has("logprobs"), *openai("You are not allowed to request logprobs from this model", None, None, 403))],
        {"logprobs": 0},
        1,
    ),
    "OpenAI o1-mini, no system turn": (
        [system(*openai("Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                        "messages[0].role", "unsupported_value"))],
        {"system": "user"},
        1,
    ),
    "Azure behind LiteLLM, without param": (
        [Rule(has("temperature"), 400, {"error": {"message": AZURE, "type": None, "param": None, "code": "400"}})],
        {"temperature": "none"},
        1,
    ),
    "Copilot's proxy, another code": (
        [Rule(has("max_tokens"), 400, {"error": {"message": "Unsupported: 'max_tokens'", "code": "invalid"}})],
        {"limit": "max_completion_tokens"},
        1,
    ),
    "Mistral, unknown fields by 422": (
        [extra("structured_outputs"), extra("logprobs")], {"constraint": "none", "logprobs": 0}, 2,
    ),
    "Mistral on Azure, by 400": ([extra("structured_outputs", 400)], {"constraint": "none"}, 1),
    "Gemini, an error in a list": ([gemini("structured_outputs")], {"constraint": "none"}, 1),
    "Gemini, no log-probabilities": (
        [Rule(has("logprobs"), 400, {"error": {"code": 400, "message": "Logprobs is not enabled for models/g-2.5"}})],
        {"logprobs": 0},
        1,
    ),
    "Gemma at Google, no developer instruction": (
        [system(400, [{"error": {"code": 400, "message": "Developer instruction is not enabled for models/gemma-3"}}])],
        {"system": "user"},
        1,
    ),
    "Gemma in vLLM": ([system(400, {"message": "System role not supported"})], {"system": "user"}, 1),
    "Gemma in llama.cpp, a named 500": (
        [system(500, {"error": {"code": 500, "message": "Jinja Exception: System role not supported"}})],
        {"system": "user"},
        3,
    ),
    "vLLM --max-logprobs 5": (
        [list_over(5, 400, {"message": "Requested sample logprobs of 20, which is greater than max allowed: 5"})],
        {"logprobs": 5},
        1,
    ),
    "Together, one log-probability": (
        [list_over(1, *openai("5 is greater than the maximum of 1 - 'logprobs'", "logprobs"))], {"logprobs": 1}, 2,
    ),
    "DeepSeek R1, no parameters": (
        [Rule(has(name), *openai(REASONER.format(name), None)) for name in ("temperature", "logprobs")],
        {"temperature": "none", "logprobs": 0},
        2,
    ),
    "a gateway that answers 404": (
        [Rule(has("logprobs"), 404, {"error": {"message": "No endpoint supports logprobs", "code": 404}})],
        {"logprobs": 0},
        1,
    ),
    "a gateway with the error in a 200": (
        [Rule(has("max_tokens"), 200, {"error": {"message": "Unsupported parameter: 'max_tokens'"}})],
        {"limit": "max_completion_tokens"},
        1,
    ),
    # The options that are left are found by leaving out one after the other.
    "a small server, 400 without words": ([Rule(has("structured_outputs"), 400, {})], {"constraint": "none"}, 1),
    "a small server, 422 without words": ([Rule(has("temperature"), 422, b"no")], {"temperature": "none"}, 5),
}  # fmt: skip


def answering(server, Answer, completion, rules, reply=None):
    """Let the server refuse by rules, and answer all else by `reply(body)`."""

    def script(body):
        for rule in rules:
            if rule.applies(body):
                return Answer(rule.body, rule.status)
        if reply is not None:
            return reply(body)
        top = dict(list(TOP.items())[: body["top_logprobs"]]) if body.get("logprobs") else None
        return Answer(completion("2", top))

    server.script = script


@pytest.fixture
def annotate(labelkit, pool, server, tmp_path):
    def run(*options, output="labels"):
        base = ("annotate", pool, "-o", tmp_path / output, "--engine", "openai", "--model", "m", "--json")
        return labelkit(*base, "--base-url", server.url, *options)

    return run


def sent_in(folder):
    """The options in the manifest of a folder with one judge."""
    (sent,) = json.loads((folder / "manifest.json").read_text())["facts"].get("sent", {"": {}}).values()
    return sent


@pytest.mark.parametrize("case", CASES)
def test_one_run_of_the_command_judges_every_pair(annotate, server, Answer, completion, tmp_path, case):
    rules, sent, refused = CASES[case]
    answering(server, Answer, completion, rules)
    called = annotate("--limit", "4")
    assert called.code == 0, called.err
    outcome = json.loads(called.out)
    assert (outcome["pairs"], outcome["asked"], outcome["known"], outcome["failures"]) == (4, 4, 0, {})
    assert len(server.ledger) == 4 + refused, "the ladder is climbed once a run"
    judgements, (judge,), _ = read_labels(tmp_path / "labels")
    assert {row.grade for row in judgements} == {2}
    scored = sent.get("logprobs", 20) > 1
    assert {row.score is not None for row in judgements} == {scored}
    assert sent_in(tmp_path / "labels") == sent
    assert json.loads(present(judge.decoding)).get("sent") == sent
    with Journal(tmp_path / "labels") as journal:
        good = [reply for _, _, reply, *_ in journal.records() if "error" not in json.loads(reply)]
    assert len(good) == 4, "every answer was paid for once and is kept"
    # A run that resumes begins with the options that the journal knows, and probes nothing.
    before = len(server.ledger)
    more = json.loads(annotate().out)
    assert (more["known"], more["asked"]) == (4, more["pairs"] - 4)
    assert len(server.ledger) == before + more["pairs"] - 4
    assert len(read_labels(tmp_path / "labels")[1]) == 1, "the judge is still the same"


def test_an_internal_error_that_repeats_until_the_system_turn_is_dropped(
    annotate, server, Answer, completion, tmp_path
):
    answering(server, Answer, completion, [system(500, b"Internal Server Error")])
    assert annotate("--limit", "1").code == 0
    assert sent_in(tmp_path / "labels") == {"system": "user"}
    (turn,) = next(body["messages"] for body in server.ledger if len(body["messages"]) == 1)
    first = server.ledger[0]["messages"]
    assert turn == {"role": "user", "content": "\n\n".join(turn["content"] for turn in first)}


def test_an_internal_error_that_passes_gives_nothing_up(annotate, server, Answer, completion, tmp_path):
    count = iter(range(10_000))
    answering(server, Answer, completion, [Rule(lambda body: next(count) < 5, 500, b"busy")])
    outcome = json.loads(annotate().out)
    assert outcome["failures"] == {}
    assert sent_in(tmp_path / "labels") == {}


BROKEN_OFF = ("insufficient_system_resource", "network_error", "error", "content_filter")


def broken_off(completion, reason, text="The"):
    whole = completion(text)
    whole["choices"][0]["finish_reason"] = reason
    return whole


@pytest.mark.parametrize("reason", BROKEN_OFF)
@pytest.mark.parametrize("text", ["The", "2"])
def test_an_answer_that_breaks_off_gives_nothing_up(annotate, server, Answer, completion, tmp_path, reason, text):
    server.script = lambda body: Answer(broken_off(completion, reason, text))
    called = annotate("--limit", "4")
    assert (called.code, len(server.ledger)) == (1, 4), called.err
    assert sent_in(tmp_path / "labels") == {}
    assert "no log-probabilities" not in called.err


@pytest.mark.parametrize("fault", ["reset", "overloaded", "broken off"])
def test_a_fault_in_the_search_for_a_constraint_is_no_refusal(
    annotate, server, Answer, completion, tmp_path, monkeypatch, fault
):
    """The constraint that works meets a fault of the server at its first request; the next request finds it."""
    monkeypatch.setattr("labelkit.engines.openai.TRIES", 1)
    faults = {
        "reset": Answer(b"{", length=100),
        "overloaded": Answer({"error": {"message": "Overloaded", "code": 503}}, 529),
        "broken off": Answer(broken_off(completion, "insufficient_system_resource")),
    }
    met: list[Any] = []

    def reply(body):
        if "guided_choice" not in body:
            return Answer(completion("I would grade this"))
        met.append(body)
        return faults[fault] if len(met) == 1 else Answer(completion("2"))

    answering(server, Answer, completion, [], reply)
    assert annotate("--limit", "4").code == 0
    assert sent_in(tmp_path / "labels") == {"constraint": "guided"}


@pytest.mark.parametrize("fault", ["reset", "broken off"])
def test_a_fault_after_an_option_was_left_out_does_not_give_it_up(
    annotate, server, Answer, completion, tmp_path, monkeypatch, fault
):
    """An internal error passes; the request that is sent again with all its options meets another fault."""
    monkeypatch.setattr("labelkit.engines.openai.FEW_TRIES", 1)
    monkeypatch.setattr("labelkit.engines.openai.TRIES", 1)
    faults = {"reset": Answer(b"{", length=100), "broken off": Answer(broken_off(completion, "network_error"))}
    calls = iter(range(1000))
    # The first request fails, the one without the constraint is answered, and the full one meets the fault.
    answers = {0: Answer(b"busy", 500), 2: faults[fault]}
    answering(server, Answer, completion, [], lambda body: answers.get(next(calls), Answer(completion("2"))))
    assert annotate("--limit", "4").code in (0, 1)
    assert sent_in(tmp_path / "labels") == {}


def test_the_seed_of_votes_has_its_own_spelling_at_mistral(annotate, server, Answer, completion, tmp_path):
    answering(server, Answer, completion, [extra("seed")])
    assert annotate("--votes", "3").code == 0
    assert sent_in(tmp_path / "labels") == {"seed": "random_seed"}
    assert {body["random_seed"] for body in server.ledger[1:]} == {0, 1, 2}
    answering(server, Answer, completion, [extra("seed"), extra("random_seed")])
    assert annotate("--votes", "3", output="none").code == 0
    assert sent_in(tmp_path / "none") == {"seed": "none"}


FORCED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "guided": lambda body: body.get("guided_choice") == list(LABELS),
    "regex": lambda body: body.get("regex") == "(0|1|2|3)",
    "grammar": lambda body: body.get("grammar") == 'root ::= ( "0" | "1" | "2" | "3" )',
    "json_schema": lambda body: body.get("response_format", {}).get("type") == "json_schema",
    "json_object": lambda body: (
        body.get("response_format") == {"type": "json_object"} and "JSON" in body["messages"][-1]["content"]
    ),
}
"""Constraint -> whether a server that knows this one alone is told it."""


@pytest.mark.parametrize("known", FORCED)
def test_a_server_that_ignores_other_constraints_is_told_the_one_it_knows(
    annotate, server, Answer, completion, tmp_path, known
):
    """vLLM before 0.12, SGLang, llama.cpp, LM Studio, DeepSeek: unknown fields are ignored, and the judge chats."""

    def reply(body):
        if not FORCED[known](body):
            return Answer(completion("I would grade this"))
        return Answer(completion('{"answer": "2"}' if known.startswith("json") else "2", usage=None))

    answering(server, Answer, completion, [], reply)
    outcome = json.loads(annotate("--limit", "4").out)
    assert (outcome["failures"], outcome["unscored"]) == ({}, 4)
    assert sent_in(tmp_path / "labels") == {"constraint": known}
    tried = [name for name in CONSTRAINTS if name != "none"].index(known) + (known.startswith("json"))
    assert outcome["asked"] == len(server.ledger) == 4 + tried, "each answer of the search was paid for, and is counted"
    assert {row.grade for row in read_labels(tmp_path / "labels")[0]} == {2}


def test_a_judge_that_obeys_no_constraint_keeps_the_first(annotate, server, Answer, completion, tmp_path):
    server.script = lambda body: Answer(completion("I would grade this"))
    outcome = json.loads(annotate("--limit", "3").out)
    assert outcome["failures"] == {"no label": 3}
    assert sent_in(tmp_path / "labels") == {}
    assert outcome["asked"] == len(server.ledger) == 3 + len(CONSTRAINTS) - 1


def test_the_label_of_an_answer_in_json_has_its_probability(annotate, server, Answer, completion, tmp_path):
    """LM Studio answers by its schema; the list of log-probabilities is the one at the label."""
    tokens = [('{"', {}), ("answer", {}), ('":"', {"2": -9.0}), ("2", TOP), ('"}', {})]
    content = [
        {"token": token, "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": v} for t, v in top.items()]}
        for token, top in tokens
    ]

    def reply(body):
        if body.get("response_format", {}).get("type") != "json_schema":
            return Answer(completion("Well, 2"))
        choice = completion('{"answer":"2"}')["choices"][0] | {"logprobs": {"content": content}}
        return Answer(completion("", choices=[choice]))

    answering(server, Answer, completion, [], reply)
    assert annotate().code == 0
    rows = read_labels(tmp_path / "labels")[0]
    assert [present(row.probs)[2] for row in rows] == pytest.approx([0.810] * len(rows), abs=0.01)
    again = annotate("--reparse")
    assert again.code == 0
    assert read_labels(tmp_path / "labels")[0] == rows, "the body that is kept is read in the same way"


def test_a_request_that_fails_alone_gives_nothing_up(annotate, server, Answer, completion, tmp_path):
    long = openai("This model's maximum context length is 512 tokens; reduce max_tokens", "max_tokens", "too_long")
    first: list[Any] = []

    def too_long(body):
        first[:] = first or [body["messages"]]
        return body["messages"] == first[0]

    answering(server, Answer, completion, [Rule(too_long, *long)])
    outcome = json.loads(annotate().out)
    assert outcome["failures"] == {"no answer": 1}
    assert sent_in(tmp_path / "labels") == {}
    assert len(server.ledger) == outcome["pairs"] + 1


def test_an_effort_that_is_refused_is_said_and_not_dropped(annotate, server, Answer, completion, tmp_path):
    told = "Unsupported value: 'reasoning_effort' does not support 'tiny' with this model. Supported: 'low', 'high'."
    refuse = Rule(lambda body: body.get("reasoning_effort") == "tiny", *openai(told, "reasoning_effort"))
    answering(server, Answer, completion, [refuse])
    called = annotate("--reasoning-effort", "tiny")
    assert (called.code, len(server.ledger)) == (1, 1)
    assert "the server refuses --reasoning-effort tiny" in called.err
    assert "Supported: 'low', 'high'" in called.err
    assert annotate("--reasoning-effort", "low").code == 0


def test_two_servers_of_a_fleet_are_asked_in_the_way_that_both_accept(annotate, server, Answer, completion, tmp_path):
    other = type(server)()
    try:
        answering(server, Answer, completion, [TEMPERATURE])
        answering(other, Answer, completion, [unsupported("max_tokens")])
        outcome = json.loads(annotate("--base-url", other.url).out)
        sent = len(server.ledger) + len(other.ledger)
    finally:
        other.close()
    assert outcome["failures"] == {}
    assert sent_in(tmp_path / "labels") == {"limit": "max_completion_tokens", "temperature": "none"}
    assert sent == outcome["asked"] + 2
    assert outcome["asked"] <= outcome["pairs"] + 1, "at most one answer under other options was paid for in vain"


def test_nothing_waits_behind_the_ladder_but_its_own_answer(annotate, server, Answer, completion):
    """The first request climbs alone; all others are then in flight together."""
    together = threading.Barrier(4, timeout=10)
    seen: list[Any] = []

    def reply(body):
        seen.append(body)
        if len(seen) > 1:
            together.wait()
        return Answer(completion("2"))

    answering(server, Answer, completion, [unsupported("max_tokens")], reply)
    assert annotate("--limit", "5", "--concurrency", "4").code == 0
    assert len(server.ledger) == 6


def test_an_option_that_free_text_is_refused_is_dropped_once(server, Answer, completion):
    answering(server, Answer, completion, [unsupported("max_tokens")], lambda body: Answer(completion("An answer.")))
    engine = open_engine("openai", Settings("m", base_urls=(server.url,)))
    asked = [Request(str(number), "q", (Message("user", f"Answer {number}"),), max_tokens=400) for number in range(4)]
    assert [found.text for found in engine.run(asked)] == ["An answer."] * 4
    assert len(server.ledger) == 5


def test_a_run_with_a_cache_takes_the_options_from_it(annotate, server, Answer, completion, tmp_path):
    answering(server, Answer, completion, [unsupported("max_tokens"), TEMPERATURE])
    first = json.loads(annotate("--cache", tmp_path / "cache").out)
    sent = len(server.ledger)
    second = json.loads(annotate("--cache", tmp_path / "cache", output="again").out)
    assert (second["asked"], second["cached"]) == (0, first["pairs"])
    assert len(server.ledger) == sent
    assert (
        sent_in(tmp_path / "again")
        == sent_in(tmp_path / "labels")
        == {
            "limit": "max_completion_tokens",
            "temperature": "none",
        }
    )


def test_a_run_that_breaks_off_after_its_first_answer_resumes_with_its_options(annotate, server, Answer, completion):
    refusals = [unsupported("max_tokens"), Rule(lambda body: True, 401, {"error": {"message": "expired"}})]
    count = iter(range(100))
    refusals[1] = Rule(lambda body: next(count) > 1, *refusals[1][1:])
    answering(server, Answer, completion, refusals)
    assert annotate("--concurrency", "1").code == 1
    before = len(server.ledger)
    answering(server, Answer, completion, refusals[:1])
    outcome = json.loads(annotate().out)
    assert outcome["known"] + outcome["asked"] == outcome["pairs"]
    assert outcome["known"] >= 1
    assert len(server.ledger) == before + outcome["asked"]


def test_a_run_that_is_killed_at_any_request_has_one_judge_and_loses_nothing(
    annotate, server, Answer, completion, pool, tmp_path
):
    """Killed at its first answers, four times: at most the requests in flight are paid for again."""
    refusals = [unsupported("max_tokens"), TEMPERATURE]
    answering(server, Answer, completion, refusals)
    assert annotate(output="whole").code == 0
    answered = [body for body in server.ledger if "max_completion_tokens" in body and "temperature" not in body]
    pairs = len(answered)
    server.ledger.clear()
    command = [sys.executable, "-m", "labelkit", "annotate", pool, "-o", tmp_path / "labels", "--engine", "openai"]
    command += ["--model", "m", "--base-url", server.url, "--concurrency", "2"]
    for most in (2, 3, 2, 3):
        reached, before = threading.Event(), len(server.ledger)

        def stop(body, before=before, most=most, reached=reached):
            if len(server.ledger) - before >= most:
                reached.set()
                time.sleep(0.2)
            return Answer(completion("2", TOP))

        answering(server, Answer, completion, refusals, stop)
        child = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
        assert reached.wait(180)
        child.kill()
        child.wait()
    answering(server, Answer, completion, refusals)
    assert annotate().code == 0
    rows, judges, _ = read_labels(tmp_path / "labels")
    whole = read_labels(tmp_path / "whole")[0]
    assert [(row.judge_id, row.passage_id, row.grade, row.score) for row in rows] == [
        (row.judge_id, row.passage_id, row.grade, row.score) for row in whole
    ]
    assert len(judges) == 1
    paid = [body for body in server.ledger if "max_completion_tokens" in body and "temperature" not in body]
    assert pairs <= len(paid) <= pairs + 4 * 2


@pytest.mark.parametrize("answers", [1, 2, 3])
def test_a_search_for_a_constraint_that_breaks_off_resumes_where_it_was(annotate, server, Answer, completion, answers):
    """The judge chats unless it is told a grammar; the key expires in the middle of the search."""
    expired = Rule(lambda body: len(server.ledger) > answers, 401, {"error": {"message": "expired"}})

    def reply(body):
        return Answer(completion("2" if "grammar" in body else "I would grade this"))

    answering(server, Answer, completion, [expired], reply)
    assert annotate("--limit", "3").code == 1
    paid = server.ledger[:answers]
    server.ledger.clear()
    answering(server, Answer, completion, [], reply)
    assert annotate("--limit", "3").code == 0
    assert len(paid) + len(server.ledger) == 3 + 3, "three constraints are ignored, and each is tried once"
    assert not [body for body in server.ledger if body in paid]


def test_other_options_are_another_judge_with_other_keys(annotate, server, Answer, completion, tmp_path):
    answering(server, Answer, completion, [])
    annotate()
    answering(server, Answer, completion, [unsupported("logprobs")])
    annotate(output="other")
    keys, judges = [], []
    for name in ("labels", "other"):
        with sqlite3.connect(tmp_path / name / "journal.sqlite") as db:
            keys.append({key for (key,) in db.execute("SELECT key FROM replies WHERE failed = 0")})
        judges.append(read_labels(tmp_path / name)[1][0].judge_id)
    assert not keys[0] & keys[1]
    assert judges[0] != judges[1]


def test_a_label_is_replayed_with_the_options_of_its_judge(annotate, server, Answer, completion, labelkit, tmp_path):
    refused = [unsupported("max_tokens"), system(400, {"message": "System role not supported"})]
    answering(server, Answer, completion, refused)
    assert annotate("--thinking-tokens", "64").code == 0
    called = labelkit("replay", tmp_path / "labels")
    assert called.code == 0, called.err


@pytest.mark.parametrize("kind", [selection_pattern, ranking_pattern])
@pytest.mark.parametrize("size", [1, 3, 12])
def test_the_grammar_of_a_pattern_has_the_same_answers(kind, size):
    """The grammar is read as the regular expression that it was made of: literals unquoted, spaces taken out."""
    request = Request("k", "q", (), pattern=kind(size))
    rule = grammar_of(request).removeprefix("root ::= ")
    literals = r'"(?:[^"\\]|\\.)*"'
    back = re.sub(literals, lambda found: re.sub(r"([\[\]])", r"\\\1", json.loads(found[0])).replace(" ", "_"), rule)
    assert back.replace(" ", "").replace("_", " ") == kind(size)


@pytest.mark.parametrize("changes", [{"colour": "blue"}, {"limit": "blue"}, {"logprobs": 7}])
def test_options_of_another_release_are_one_line(changes):
    with pytest.raises(EngineError, match="use the labelkit release that sent them"):
        dialect_of(changes)


def test_free_text_has_no_constraint_in_any_dialect():
    request = Request("k", "q", (Message("user", "Answer"),), max_tokens=400)
    for name in CONSTRAINTS:
        body = chat_body("m", request, Dialect(constraint=name))
        assert body == {"model": "m", "messages": [{"role": "user", "content": "Answer"}], "temperature": 0.0} | {
            "max_tokens": 400
        }
