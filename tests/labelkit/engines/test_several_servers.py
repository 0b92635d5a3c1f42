"""Several servers of one run that accept different options: the run finds options for all, or ends and names them."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from labelkit.judging.journal import Journal

TOP = {"2": -0.2, "1": -2.0, "3": -3.0, "0": -5.0}


class Refusal(NamedTuple):
    """A refusal, and the bodies that it applies to."""

    applies: Callable[[dict[str, Any]], bool]
    words: str
    param: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.words, "param": self.param}} if self.words else {}


NEEDS_OTHER = Refusal(lambda body: "max_tokens" in body, "Use 'max_completion_tokens' instead.", "max_tokens")
ONLY_MAX_TOKENS = Refusal(lambda body: "max_completion_tokens" in body, "Unrecognized: max_completion_tokens")
TEMPERATURE = Refusal(lambda body: "temperature" in body, "Only the default (1) value is supported", "temperature")
UNKNOWN = Refusal(lambda body: "structured_outputs" in body, "Unrecognized request argument: structured_outputs")
NOTHING = Refusal(lambda body: True, "")
FLAGGED = Refusal(lambda body: "mail" in json.dumps(body), "The content management policy flagged this")


@pytest.fixture
def fleet(server, Answer, completion):
    """Servers on loopback, each refusing by its own rules."""
    with ExitStack() as opened:

        def make(*rules, replies=None):
            servers = [server]
            for _ in rules[1:]:
                servers.append(type(server)())
                opened.callback(servers[-1].close)
            for one, refusals, reply in zip(servers, rules, replies or [good] * len(rules), strict=True):
                one.script = scripted(refusals, reply)
            return servers

        def good(body):
            return Answer(completion("2", TOP if body.get("logprobs") else None))

        def scripted(refusals, reply):
            def script(body):
                refused = next((refusal for refusal in refusals if refusal.applies(body)), None)
                return reply(body) if refused is None else Answer(refused.body, 400)

            return script

        yield make


@pytest.fixture
def annotate(labelkit, pool, tmp_path):
    def run(servers, *options):
        base = ["annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m", "--json"]
        for one in servers:
            base += ["--base-url", one.url]
        return labelkit(*base, *options)

    return run


def ended(called, servers, *words):
    """The run ended with an error that names the servers, and says what to do."""
    assert called.code == 1, called.err
    last = called.err.splitlines()[-1]
    for word in (*words, *(one.url for one in servers), "leave one of them out, or run one command for each"):
        assert word in last, last
    return sum(len(one.ledger) for one in servers)


@pytest.mark.parametrize("reverse", [False, True])
def test_servers_that_need_different_options_end_the_run_at_its_first_requests(annotate, fleet, tmp_path, reverse):
    """Before: the pairs of the second server failed, the exit code was 0 and no server was named."""
    rules = [[NEEDS_OTHER], [ONLY_MAX_TOKENS]]
    servers = fleet(*(reversed(rules) if reverse else rules))
    sent = ended(annotate(servers), servers, "limit", "max_completion_tokens")
    assert sent <= 4
    with Journal(tmp_path / "labels") as journal:
        paid = journal.spent().replies
    assert paid == 1 + reverse, "what was paid is kept"


def test_servers_with_constraints_of_their_own_end_the_run(annotate, fleet, Answer, completion):
    def obeys(name):
        return lambda body: Answer(completion("2" if name in body else "I would say it is a 2."))

    servers = fleet([], [], replies=[obeys("structured_outputs"), obeys("grammar")])
    sent = ended(annotate(servers), servers, "constraint (structured_outputs at", "grammar at")
    assert sent <= 12


@pytest.mark.parametrize("reverse", [False, True])
def test_a_server_that_refuses_everything_is_named(annotate, fleet, reverse):
    rules = [[], [NOTHING]]
    servers = fleet(*(reversed(rules) if reverse else rules))
    ended(annotate(servers), servers, f"{servers[1 - reverse].url} refuses the requests")


def test_a_server_that_refuses_only_later_is_named(annotate, fleet, Answer, completion):
    """It is down while the options are found out."""
    servers = fleet([], [])
    down = iter([Answer({}, 503)] * 3)
    servers[1].script = lambda body: next(down, None) or Answer(NEEDS_OTHER.body, 400)
    called = annotate(servers, "--concurrency", 2)
    ended(called, servers, f"{servers[1].url} refuses the requests", "Use 'max_completion_tokens' instead")


def test_options_that_all_of_many_servers_accept_are_found(annotate, fleet, tmp_path):
    """Before: no more than five servers were asked for their options."""
    servers = fleet(*[[]] * 5, [UNKNOWN, TEMPERATURE], [NEEDS_OTHER])
    called = annotate(servers, "--concurrency", 14)
    assert called.code == 0, called.err
    assert json.loads(called.out)["failures"] == {}
    found = {"constraint": "none", "limit": "max_completion_tokens", "temperature": "none"}
    (sent,) = json.loads((tmp_path / "labels" / "manifest.json").read_text())["facts"]["sent"].values()
    assert sent == found
    for one in servers:
        assert "max_tokens" not in one.ledger[-1], "each server is asked in the options of the run"


def test_a_request_that_one_server_refuses_alone_does_not_end_the_run(annotate, fleet):
    servers = fleet([FLAGGED], [FLAGGED])
    called = annotate(servers)
    assert called.code == 0, called.err
    assert sum(json.loads(called.out)["failures"].values()) > 0


def test_a_server_without_log_probabilities_is_named_if_another_gives_them(annotate, fleet, Answer, completion):
    servers = fleet([], [], replies=[lambda body: Answer(completion("2", TOP)), lambda body: Answer(completion("2"))])
    called = annotate(servers)
    assert called.code == 0, called.err
    assert (
        f"{servers[1].url} gives no log-probabilities that distinguish labels, and {servers[0].url} does" in called.err
    )
    assert json.loads(called.out)["unscored"] > 0
