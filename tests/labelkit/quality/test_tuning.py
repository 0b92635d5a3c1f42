"""Prompts are tuned on half of the queries and reported on the other; a server on loopback judges and proposes."""

import hashlib
import json
import threading
import tomllib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

from labelkit.errors import DataError, UsageError
from labelkit.judging.journal import Journal
from labelkit.judging.prompts import Prompt, load_prompt
from labelkit.quality.options import TuneOptions
from labelkit.quality.tuning.evidence import examples_of, label_for, scored, split
from labelkit.quality.tuning.power import CORRELATION, DISCORDANT, Counts, counts_of, power, queries_needed
from labelkit.quality.tuning.prompt_files import Example, escaped, reworded, with_examples, with_history
from labelkit.quality.tuning.proposals import TOKENS
from labelkit.records import Judgement, Passage, Query
from labelkit.statistics.paired import POWER

QUERIES, PER_QUERY = 14, 4
GRADES = {f"q{n:02}": {f"p{n:02}{k}": (n + k) % 4 for k in range(PER_QUERY)} for n in range(QUERIES)}
TEXTS = {
    pid: ("", f"passage {pid} with {{braces}} of grade-{grade}")
    for graded in GRADES.values()
    for pid, grade in graded.items()
}


def answer_to(system: str, user: str) -> str:
    """The judge: right under instructions that say STRICT, else mostly wrong, which depends on the whole prompt."""
    grade = user.rpartition("grade-")[2][0]
    if "STRICT" in system:
        return grade
    wrong = hashlib.sha256(f"{system}{user}".encode()).digest()[0] % 3
    return str(3 - int(grade)) if wrong else grade


class Server:
    """Judges pairs, and answers request number n for a proposal with `proposals[n]`; counts requests by their body."""

    def __init__(self, proposals: list[str]) -> None:
        self.seen: Counter[str] = Counter()
        self.asked: list[dict[str, Any]] = []
        self.together: threading.Barrier | None = None
        """Where the requests for proposals after the first one wait for each other."""
        server, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                body = json.loads(raw)
                system, user = (turn["content"] for turn in body["messages"])
                with lock:
                    server.seen[json.dumps(body, sort_keys=True)] += 1
                    if proposing := system.startswith("You improve"):
                        server.asked.append(body)
                        text = proposals[body["seed"] % len(proposals)]
                if proposing and server.together and len(server.asked) > 1:
                    server.together.wait()
                self.send(text if proposing else answer_to(system, user))

            def send(self, text: str) -> None:
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
                sent = json.dumps({"model": "served", "choices": [choice], "usage": usage}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


GOOD = "<system>\nBe STRICT {not a field} about {{this}}.\n</system>"
NO_BETTER = [f"<system>Wording {n}.</system>" for n in range(6)]


@pytest.fixture
def serve():
    servers = []

    def start(*proposals: str) -> Server:
        servers.append(Server(list(proposals) or ["<system>A wording.</system>"]))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def tune(labelkit, write_beir, tmp_path):
    folder = write_beir(tmp_path / "data", TEXTS, {name: f"question {name}" for name in GRADES}, GRADES)

    def run(server: Server, *flags: Any, output: str = "out") -> Any:
        base = ("tune", folder, "--human", folder / "qrels" / "test.tsv", "-o", tmp_path / output, "--detect", "0.9")
        return labelkit(*base, "--engine", "openai", "--model", "m", "--base-url", server.url, "--json", *flags)

    return run


def told(called) -> dict[str, Any]:
    assert called.code == 0, called.err
    found: dict[str, Any] = json.loads(called.out)
    return found


def test_a_better_wording_is_chosen_on_one_half_and_reported_on_the_other(tune, serve, labelkit, tmp_path):
    server = serve(GOOD, "no tags", "<system>Another wording.</system>", GOOD)
    found = told(tune(server))
    assert found["chosen"] == "graded-wording-1"
    assert found["significant"] is True, found["verdict"]
    assert found["choosing"]["graded-wording-1"]["value"] == 1
    assert found["reporting"]["kappa_2"]["tuned"]["value"] == 1
    assert found["reporting"]["kappa_2"]["parent"]["value"] < 0.6
    assert [line.partition(":")[0] for line in found["rejected"]] == ["proposal 2", "proposal 4"]
    assert "repeats another prompt" in found["rejected"][1]
    assert set(server.seen.values()) == {1}
    # The prompt is an ordinary one, with its history.
    prompt = load_prompt(found["prompt"])
    assert prompt.steps["judge"].system == "Be STRICT {{not a field}} about {{this}}."
    history = prompt.history or {}
    assert history["parent_sha256"] == load_prompt("graded").sha256
    assert (history["split_seed"], history["tried"], history["judge"]) == (0, 5, "m")
    assert history["labels"]["choosing"]["queries"] + history["labels"]["reporting"]["queries"] == QUERIES
    assert history["kappa_of_reporting_half"]["tuned"][0] == 1
    shown = labelkit("prompts", found["prompt"])
    assert shown.code == 0
    assert "[history]" in shown.out
    # Only the parent and the chosen prompt were ever judged on the reporting half.
    halves = Counter(path.name.partition(".")[2] for path in (tmp_path / "out" / "labels").iterdir())
    assert halves == {"choosing": 5, "reporting": 2}
    for path in (tmp_path / "out" / "labels").iterdir():
        assert labelkit("verify", path).code == 0


def test_the_same_command_again_sends_nothing_and_says_the_same(tune, serve):
    server = serve(GOOD, "<system>Another wording.</system>")
    first = told(tune(server, "--wordings", 2))
    sent = sum(server.seen.values())
    assert told(tune(server, "--wordings", 2)) == first
    assert sum(server.seen.values()) == sent
    more = told(tune(server, "--wordings", 3))
    assert len(server.asked) == 3
    assert more["choosing"]["graded-wording-1"] == first["choosing"]["graded-wording-1"]
    assert set(server.seen.values()) == {1}


def test_examples_come_from_the_choosing_half_alone(tune, serve, tmp_path):
    server = serve()
    found = told(tune(server, "--wordings", 0, "--examples", 4))
    assert server.asked == []
    choosing = split({(q, p): g for q, graded in GRADES.items() for p, g in graded.items()}, 0).choosing
    document = tomllib.loads((tmp_path / "out" / "prompts" / "graded-examples.toml").read_text())
    shown = {query for query in GRADES if f"question {query}\n" in document["system"]}
    assert len(shown) == 1
    assert shown <= {query_id for query_id, _ in choosing}
    assert {line for line in document["system"].splitlines() if line.startswith("Answer: ")} == {
        f"Answer: {grade}" for grade in range(4)
    }
    assert "{{braces}}" in document["system"]
    assert set(found["choosing"]) == {"graded", "graded-examples"}


def test_prompts_that_differ_by_chance_make_no_significant_difference(tune, serve):
    found = told(tune(serve(*NO_BETTER), "--wordings", 3))
    assert found["significant"] is False
    assert found["verdict"].startswith(("no significant difference between", "no prompt was better than graded"))


def test_a_prompt_that_no_proposal_improves_is_kept(tune, serve, labelkit, tmp_path):
    strict = reworded(load_prompt("graded"), "Be STRICT.", load_prompt("graded").steps["judge"].user, name="strict")
    (tmp_path / "strict.toml").write_bytes(strict.content)
    found = told(tune(serve(*NO_BETTER), "--prompt", tmp_path / "strict.toml"))
    assert (found["prompt"], found["chosen"], found["reporting"]) == (None, "strict", {})
    assert found["verdict"] == "no prompt was better than strict on the choosing half: keep it"
    assert not (tmp_path / "out" / "tuned.toml").exists()


def test_too_few_labels_are_refused_before_anything_is_sent(tune, serve, write_qrels, tmp_path):
    server = serve()
    few = write_qrels(tmp_path / "few.tsv", {query: GRADES[query] for query in list(GRADES)[:4]})
    refused = tune(server, "--human", few, "--detect", "0.3")
    assert refused.code == 1
    assert (
        "too few labels to tell prompts apart: with 16 labels on 4 queries, half of which are reported" in refused.err
    )
    needed = int(refused.err.partition("needs about ")[2].partition(" queries")[0].replace(",", ""))
    assert f"grade {needed - 4:,} more queries" in refused.err
    assert server.seen == {}
    assert not (tmp_path / "out").exists()
    one_sided = write_qrels(tmp_path / "one.tsv", {query: dict.fromkeys(GRADES[query], 3) for query in GRADES})
    assert "needs relevant and other pairs in both halves" in tune(server, "--human", one_sided).err
    binary = write_qrels(tmp_path / "binary.tsv", {query: dict.fromkeys(GRADES[query], 1) for query in GRADES})
    assert "no grade is 2 or 3: for binary qrels give --scale 0-1" in tune(server, "--human", binary).err


def test_caps_hold_over_all_prompts_and_a_higher_one_resumes(tune, serve, tmp_path):
    server = serve(GOOD, "<system>Another wording.</system>")
    cap = 40_000
    stopped = tune(server, "--wordings", 2, "--max-tokens", cap)
    assert stopped.code == 1
    assert "raise --max-usd or --max-tokens" in stopped.err
    assert 0 < spent(tmp_path / "out") <= cap
    found = told(tune(server, "--wordings", 2))
    assert found["tokens"] == spent(tmp_path / "out") == 101 * sum(server.seen.values())
    assert set(server.seen.values()) == {1}


def spent(folder) -> int:
    total = 0
    for path in folder.rglob("journal.sqlite"):
        with Journal(path.parent) as journal:
            total += journal.spent().tokens + sum(charge.tokens for charge in journal.aside().values())
    return total


def test_proposals_count_towards_the_caps_and_come_from_the_proposer(tune, serve):
    judge, proposer = serve(), serve(GOOD)
    refused = tune(
        judge,
        "--wordings",
        1,
        "--max-tokens",
        500_000,
        "--proposer",
        "big",
        "--proposer-base-url",
        proposer.url,
        "--examples",
        0,
    )
    found = told(refused)
    assert judge.asked == []
    assert [body["model"] for body in proposer.asked] == ["big"]
    assert found["tokens"] == 101 * (sum(judge.seen.values()) + 1)
    # A proposal may cost its whole token limit, so a cap just above the cost of the first prompt allows none.
    capped = tune(serve(GOOD), "--wordings", 1, "--max-tokens", found["tokens"] // 5 + TOKENS, output="capped")
    assert capped.code == 1


def test_the_proposals_after_the_first_are_in_flight_together(tune, serve):
    server = serve(*NO_BETTER)
    server.together = threading.Barrier(3, timeout=10)
    assert told(tune(server, "--wordings", 4, "--examples", 0))["rejected"] == []
    assert len(server.asked) == 4


def test_a_proposal_that_fails_is_asked_for_again_by_the_next_run(tune, serve, tmp_path):
    server = serve("<system></system>")
    found = told(tune(server, "--wordings", 1, "--examples", 0))
    assert found["rejected"] == ["proposal 1: no instructions between <system> and </system> in '<system></system>'"]
    server.close()
    again = told(tune(server, "--wordings", 1, "--examples", 0))
    assert again == found


def test_a_folder_of_another_tuning_is_refused(tune, serve):
    server = serve(GOOD)
    told(tune(server, "--wordings", 1))
    refused = tune(server, "--wordings", 1, "--seed", 1)
    assert refused.code == 2
    assert "was made with seed = 0 and not 1; choose another output" in refused.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--method", "relsel"), "tune is for prompts of the methods graded and binary"),
        (("--limit", "3"), "--limit has no effect with tune"),
        (("--wordings", "0", "--examples", "0"), "leave nothing to try"),
        (("--scale", "1-6"), "the scale '1-6' is unknown"),
    ],
)
def test_options_that_do_not_fit_are_refused(tune, serve, flags, said):
    called = tune(serve(), *flags)
    assert (called.code, said in called.err) == (2, True), called.err


def test_a_pool_is_tuned_on_its_pairs_with_grades(tune, serve, labelkit, tmp_path):
    data = tmp_path / "data"
    assert labelkit("pool", data, "--human", data / "qrels/test.tsv", "--bm25", 0, "-o", tmp_path / "pool").code == 0
    words = ("tune", tmp_path / "pool", "--human", data / "qrels/test.tsv", "-o", tmp_path / "out", "--json")
    called = labelkit(*words, "--engine", "openai", "--model", "m", "--base-url", serve(GOOD).url, "--detect", "1")
    assert called.code == 1  # the pool of human positives holds no pair that is not relevant
    assert "needs relevant and other pairs in both halves" in called.err


def counts(queries: int, labels_each: int, share: float) -> Counts:
    return Counts(queries, queries * labels_each, round(queries * labels_each * share), together=labels_each)


@pytest.mark.parametrize(
    ("queries", "labels_each", "share", "detect"), [(30, 10, 0.5, 0.2), (60, 5, 0.3, 0.25), (15, 10, 0.5, 0.3)]
)
def test_the_power_is_that_of_a_simulation(queries, labels_each, share, detect):
    """Draws differences of two prompts on every pair, correlated within queries, and counts significant means."""
    given = counts(queries, labels_each, share)
    mean = detect * (1 - given.expected)
    draw = np.random.default_rng(0)
    runs, better, worse = 4_000, (DISCORDANT + mean) / 2, (DISCORDANT - mean) / 2
    shape = (runs, queries, labels_each)
    # With this probability a pair repeats the draw of its query, so that two pairs are correlated by CORRELATION.
    common = draw.choice([1, 0, -1], (runs, queries, 1), p=[better, 1 - DISCORDANT, worse])
    own = draw.choice([1, 0, -1], shape, p=[better, 1 - DISCORDANT, worse])
    pairs = np.where(draw.random(shape) < np.sqrt(CORRELATION), common, own)
    by_query = pairs.mean(2)
    error = by_query.std(1, ddof=1) / np.sqrt(queries)
    simulated = float((by_query.mean(1) / error > stdtrit(queries - 1, 0.975)).mean())
    assert power(given, detect) == pytest.approx(simulated, abs=0.05)


def test_the_number_of_queries_needed_has_the_wanted_power():
    for detect in (0.01, 0.1, 0.2, 0.5):
        needed = queries_needed(counts(5, 8, 0.4), detect)
        assert power(counts(needed, 8, 0.4), detect) >= POWER - 0.01
        assert power(counts(needed // 2, 8, 0.4), detect) < POWER
    uneven = {("a", str(n)): n % 2 * 2 for n in range(9)} | {("b", "x"): 2}
    assert counts_of(uneven) == Counts(2, 10, 5, together=8.2)


def test_halves_share_no_query_and_depend_on_the_seed_alone():
    grades = {(query, str(n)): n for query in "abcdefg" for n in range(3)}
    halves = split(grades, 1)
    assert halves == split(dict(reversed(grades.items())), 1)
    assert {q for q, _ in halves.choosing} & {q for q, _ in halves.reporting} == set()
    assert (len(halves.choosing), len(halves.reporting)) == (9, 12)
    assert any(split(grades, seed) != halves for seed in range(2, 6))


def test_a_missing_grade_counts_as_the_wrong_one():
    def row(pid, grade):
        failure = None if grade is not None else "no label"
        return Judgement(query_id="q", passage_id=pid, judge_id="j", grade=grade, failure=failure)

    judged = {("q", pid): row(pid, grade) for pid, grade in {"a": None, "b": None, "c": 1}.items()}
    found = scored({("q", "a"): 3, ("q", "b"): 0, ("q", "c"): 2}, judged)
    assert found.judged.tolist() == [0, 3, 1]
    assert found.level.tolist() == [0, 2, 1]


def test_human_grades_become_labels_on_the_same_side():
    graded, binary = load_prompt("graded"), load_prompt("binary")
    assert [label_for(graded, grade).text for grade in range(4)] == ["0", "1", "2", "3"]
    assert [label_for(binary, grade).text for grade in range(4)] == ["No", "No", "Yes", "Yes"]


def test_examples_take_every_label_in_turn_from_a_quarter_of_the_queries():
    prompt = load_prompt("binary")
    half = {(query, str(place)): (place + number) % 4 for number, query in enumerate("abcdefgh") for place in range(4)}
    pool: Any = type("Texts", (), {})()
    pool.queries = {name: Query(query_id=name, text=f"query {name}") for name in "abcdefgh"}
    pool.passages = {name: Passage(passage_id=name, title="", text=f"passage {name}") for name in "0123"}
    found = examples_of(pool, prompt, half, first=[("c", "3"), ("h", "1")], count=4)
    assert list(found) == [("c", "3"), ("c", "0"), ("h", "1"), ("c", "1")]
    assert [one.label for one in found.values()] == ["No", "Yes", "No", "Yes"]
    assert len(examples_of(pool, prompt, half, first=[], count=50)) == 8


@pytest.mark.parametrize(
    ("text", "template"),
    [("{query} {passage}", "{query} {passage}"), ("{x} {{y}}", "{{x}} {{y}}"), ("}{query}{", "}}{query}{{")],
)
def test_braces_that_are_no_field_are_doubled(text, template):
    assert escaped(text) == template


def test_a_prompt_without_a_system_turn_gets_its_examples_before_the_query(tmp_path):
    content = load_prompt("graded").content.decode()
    start, end = content.index('system = """'), content.index("user =")
    path = tmp_path / "flat.toml"
    path.write_text(content[:start] + 'system = ""\n' + content[end:])
    made = with_examples(load_prompt(str(path)), [Example("{query}", "a passage", "2")], name="flat-examples")
    (turn,) = made.render("judge", "the query", ["the passage"])
    assert turn.content.startswith("Examples of correct answers:\n\nQuery: {query}\nPassage: a passage\nAnswer: 2\n")
    assert turn.content.endswith("Passage: the passage")


def test_a_history_changes_no_request(tmp_path):
    prompt = load_prompt("binary")
    path = tmp_path / "tuned.toml"
    path.write_bytes(with_history(prompt, {"parent": "x", "labels": {"choosing": {"queries": 3}}}))
    again: Prompt = load_prompt(str(path))
    assert again.history == {"parent": "x", "labels": {"choosing": {"queries": 3}}}
    assert again.render("judge", "q", ["p"]) == prompt.render("judge", "q", ["p"])
    assert again.labels == prompt.labels


def test_a_wording_that_loses_a_field_is_no_prompt():
    with pytest.raises(DataError, match=r"does not contain \{passage\}"):
        reworded(load_prompt("graded"), "Judge.", "Only {query}", name="x")


def test_options_name_the_proposer():
    with pytest.raises(UsageError, match="leave nothing to try"):
        TuneOptions(human=Path("h"), wordings=0, examples=0)
