"""Promises 1, 7 and 11 in one run: `annotate` is killed, again and again, at a server that deviates for every pair."""

import json
import random
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import rig
from checks import Outcome, finish
from deviations import FAILED, OPTIONS, PASSING, SCORE, SHAPES, Body, Deviation, choice, good
from present import present

from labelkit.storage.labels import read_labels

CONCURRENCY = 16
REFUSALS = [one for one in OPTIONS if one.score is not None]
"""Refused options without which every pair still has its score."""
CONSTRAINTS = (None, "guided_choice", "regex", "grammar")
"""Fields of the only constraint that a server knows; None for a server whose judge answers with labels anyway."""
ROWS: list[Deviation | str] = [
    *SHAPES,
    *PASSING,
    *(one for one in FAILED if one.requests > 1),
    *("500", "reset", "truncated"),
    Deviation("gateways", "leave the usage out", "", answer=lambda body: good(body) | {"usage": None}),
]
"""Deviations of single pairs, and faults of the rig by their names. None of them ends a run."""
TEXTS = re.compile(r"Query: [^\n]* (\d+)\n\nPassage: [^\n]* (\d+)$")
"""End of a prompt for a pair of the rig."""
CAP = (10_000, 60_000)
"""Fewest and most tokens by which the cap is raised for each run."""
Pair = tuple[str, str]


class Deviating:
    """The plan of a server that refuses three options, ignores all constraints but one, and deviates for each pair in a
    way drawn by the pair.

    So every run of the same pairs has the same verdicts. A fault that passes meets the first request of its pair.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.known = CONSTRAINTS[seed % len(CONSTRAINTS)]
        about = [one for one in REFUSALS if "constraint" not in one.sent or not self.known]
        refused = random.Random(f"refused {seed}").sample(about, 3)
        # A refusal that names its option comes first, as an internal error says nothing else.
        self.rules = sorted((rule for one in refused for rule in one.rules), key=lambda rule: rule.status)
        self.forget()

    def forget(self) -> None:
        """Begin as a server that was asked nothing yet."""
        self.seen: Counter[Pair] = Counter()
        self.paid: Counter[str] = Counter()
        """Body of a request -> completions that were sent for it."""
        self.refused = self.free = 0
        """Requests with a refused option, and requests that were too many."""

    def __call__(self, number: int, body: Body) -> str | rig.Sent | None:
        for rule in self.rules:
            if rule.when(body, number):
                self.refused += rule.status < 500
                return sent(rule.body, rule.status)
        if self.known and self.known not in body:
            self.paid[json.dumps(body)] += 1
            return sent(choice({"role": "assistant", "content": "I grade it"})(body), 200, tokens=words_in(body))
        pair = pair_of(body)
        self.seen[pair] += 1
        one = self.deviation(pair)
        if isinstance(one, str):
            if self.seen[pair] == 1:
                return one
            one = ROWS[-1]
        assert isinstance(one, Deviation)
        for rule in one.rules:
            if rule.when(body, self.seen[pair]):
                self.free += {429, 503} & {rule.status, code_in(rule.body)} != set()
                return sent(rule.body, rule.status)
        self.paid[json.dumps(body)] += 1
        return sent((one.answer or good)(body), 200, tokens=words_in(body))

    def deviation(self, pair: Pair) -> Deviation | str:
        """Return how the server deviates for a pair."""
        return random.Random(f"{self.seed} {pair}").choice(ROWS)

    def verdict(self, pair: Pair) -> tuple[int | None, float | None]:
        """Return the right grade and score of a pair."""
        one = self.deviation(pair)
        return (2, SCORE) if isinstance(one, str) else (one.grade, one.score if one.grade is not None else None)


def pair_of(body: Body) -> Pair:
    """Return the ids of query and passage in a request."""
    query, passage = present(TEXTS.search(body["messages"][-1]["content"])).groups()
    return f"q{int(query):05d}", f"p{int(passage):05d}"


def words_in(body: Body) -> int:
    """Return the tokens of a prompt, as the rig counts them."""
    return sum(len(turn["content"].split()) for turn in body["messages"])


def code_in(body: Any) -> Any:
    """Return the code of an error object; None without one."""
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def sent(answer: Any, status: int, *, tokens: int = 0) -> rig.Sent:
    """Return an answer as it is sent; a completion with the usual count of tokens states `tokens` of its prompt."""
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    usual = b'"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41'
    stated = b'"prompt_tokens": %d, "completion_tokens": 1, "total_tokens": %d' % (tokens, tokens + 1)
    return rig.Sent(content.replace(usual, stated), status)


def wrong_verdicts(folder: Path, plan: Deviating, pairs: int) -> list[str]:
    """Return the pairs of a finished run whose verdict is not the one of their deviation."""
    rows, judges, _ = read_labels(folder)
    wrong = [f"{len(rows)} of {pairs} pairs have a state, of {len(judges)} judges"] if len(rows) != pairs else []
    for row in rows:
        grade, score = plan.verdict((row.query_id, row.passage_id))
        same = (row.score is None) == (score is None) and abs((row.score or 0) - (score or 0)) < 0.002
        if row.grade != grade or not same:
            stated = plan.deviation((row.query_id, row.passage_id))
            wrong.append(f"{row.query_id} {row.passage_id}: {row.grade}, {row.score}, {row.failure}: {stated}")
    return wrong


def whole_run(work: Path, folder: Path, server: rig.Server, *, plan: Deviating, pairs: int) -> list[str]:
    """Judge all pairs without a kill; return what is wrong with verdicts and tries."""
    rig.judge(rig.make_pairs(work, pairs), folder, server.url, CONCURRENCY)
    tries = sum(json.loads(reply).get("tries", 1) for reply in rig.all_replies_in(folder))
    billed = server.arrived - plan.refused
    wrong = wrong_verdicts(folder, plan, pairs)
    # A server that is out of service for all is no try, which depends on the other answers of that moment.
    if not billed - plan.free <= tries <= billed:
        wrong.append(f"{tries} tries in the journal, {billed} in the ledger, {plan.free} of them free")
    return wrong


def killed_run(job: rig.Job, server: rig.Server, times: int, *, seed: int, pairs: int) -> tuple[int, list[str]]:
    """Run a job under a cap that grows from run to run, until it was killed `times` times; return runs and faults."""
    wrong, cap, killed, runs, chance = list[str](), 0, 0, 0, random.Random(f"kills {seed}")
    while killed < times and runs < 5 * times:
        cap, runs = cap + chance.randint(*CAP), runs + 1
        code = rig.killed_at(server, job._replace(max_tokens=cap), chance.randint(1, pairs // times), chance)
        killed += code == -signal.SIGKILL
        wrong += [f"run {runs} ended with {code}"] if code not in (0, 1, -signal.SIGKILL) else []
        wrong += [f"run {runs}: {server.billed} tokens billed, the cap was {cap}"] if server.billed > cap else []
        lost = set(rig.keys_in(job.acknowledged)) - set(rig.replies_in(job.folder)) if job.folder.is_dir() else set()
        wrong += [f"run {runs}: {len(lost)} acknowledged replies lost"] if lost else []
    return runs, wrong + ([f"killed only {killed} times"] if killed < times else [])


def kills_at_deviations(work: Path, full: bool) -> Outcome:
    """SIGKILL and a cap at servers that deviate: nothing lost, little paid again, each pair its right verdict."""
    servers, times, pairs = (5, 12, 1000) if full else (2, 2, 100)
    wrong, runs, again = list[str](), 0, 0
    rig.make_pairs(work, pairs)
    for seed in range(servers):
        plan = Deviating(seed)
        server, whole = rig.Server(plan), work / f"whole-{seed}"
        wrong += whole_run(work, whole, server, plan=plan, pairs=pairs)
        plan.forget()
        server.billed = server.arrived = 0
        job = rig.Job(work / f"pool-{pairs}", work / f"killed-{seed}", server.url, work / f"told-{seed}", CONCURRENCY)
        done, found = killed_run(job, server, times, seed=seed, pairs=pairs)
        runs, code = runs + done, finish(job)
        wrong += found + ([f"server {seed}: the last run ended with {code}"] if code else [])
        server.close()
        twice = sum(plan.paid.values()) - len(plan.paid)
        again += twice
        wrong += [f"server {seed}: {twice} answers paid again"] if twice > times * CONCURRENCY else []
        wrong += wrong_verdicts(job.folder, plan, pairs)
        same = verdicts(job.folder) == verdicts(whole)
        wrong += [] if same else [f"server {seed}: other verdicts than the run that was not killed"]
    most = servers * times * CONCURRENCY
    note = f"{servers} servers, {pairs} pairs each, {runs} runs under a cap; {again} answers paid again, at most {most}"
    return Outcome(servers * times, wrong, note)


def verdicts(folder: Path) -> list[tuple[Any, ...]]:
    """Return everything that a run says about its pairs."""
    rows = read_labels(folder)[0]
    return [(row.judge_id, row.query_id, row.passage_id, row.grade, row.score, row.probs, row.failure) for row in rows]
