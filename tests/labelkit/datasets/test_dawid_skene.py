"""Dawid-Skene against a case by hand and a long run of literal loops."""

import logging
from math import prod
from typing import Any

import numpy as np
import pytest

from labelkit.datasets import dawid_skene
from labelkit.datasets.dawid_skene import fit, posterior
from labelkit.datasets.options import MixRules

RULES = MixRules()


def pair(truth: int | None = None, **said: int) -> list[dict[str, Any]]:
    """The votes of one pair, people first."""
    people = [] if truth is None else [{"judge_id": "people", "kind": "human", "grade": truth}]
    return people + [{"judge_id": name, "kind": "llm", "grade": grade} for name, grade in said.items()]


def test_where_people_graded_everything_errors_are_frequencies_and_the_posterior_is_bayes_rule():
    """Of 10 pairs of grade 3 judge a says 3 on 8 and b on 6; of 30 pairs of grade 0 they say 3 on 6 and 3."""
    sample = [pair(3, a=3 if n < 8 else 0, b=3 if n < 6 else 0) for n in range(10)]
    sample += [pair(0, a=3 if n < 6 else 0, b=3 if n < 3 else 0) for n in range(30)]
    errors, priors = fit(sample)
    assert errors["a", 3][3] == pytest.approx(0.8)
    assert errors["b", 3][0] == pytest.approx(0.1)
    assert (priors[3], priors[0]) == pytest.approx((0.25, 0.75))
    relevant, other = 0.25 * 0.8 * (1 - 0.6), 0.75 * 0.2 * (1 - 0.1)
    assert posterior(pair(a=3, b=0), errors, priors, RULES) == pytest.approx(relevant / (relevant + other), abs=1e-6)
    assert posterior(pair(3, a=0), errors, priors, RULES) == 1.0
    assert posterior([], errors, priors, RULES) is None


def test_a_judge_that_graded_nothing_with_others_tells_nothing():
    errors, priors = fit([pair(3, a=3), pair(0, a=0), pair(0, a=0), pair(0, a=0)])
    assert posterior(pair(stranger=3), errors, priors, RULES) == pytest.approx(0.25, abs=1e-6)
    assert posterior(pair(a=2), errors, priors, RULES) == pytest.approx(0.25, abs=1e-6), "a grade that it never gave"


def by_loops(sample: list[list[dict[str, Any]]], steps: int) -> list[list[float]]:
    """The same expectation maximisation, pair by pair: probabilities of the four grades of every pair."""
    judges = sorted({vote["judge_id"] for votes in sample for vote in votes if vote["kind"] != "human"})
    said = [{vote["judge_id"]: vote["grade"] for vote in votes if vote["kind"] != "human"} for votes in sample]
    known = [votes[0]["grade"] if votes[0]["kind"] == "human" else None for votes in sample]

    def put(beliefs: list[list[float]]) -> list[list[float]]:
        return [
            belief if grade is None else [float(grade == one) for one in range(4)]
            for belief, grade in zip(beliefs, known, strict=True)
        ]

    beliefs = put([[sum(g == one for g in given.values()) / len(given) for one in range(4)] for given in said])
    for _ in range(steps):
        prior = [max(1e-30, sum(belief[t] for belief in beliefs) / len(beliefs)) for t in range(4)]
        error = {}
        for judge in judges:
            for t in range(4):
                mass = [
                    sum(b[t] for b, given in zip(beliefs, said, strict=True) if given.get(judge) == g) for g in range(4)
                ]
                for g in range(4):
                    error[judge, g, t] = max(1e-10, mass[g] / sum(mass)) if sum(mass) else 0.25
        joint = [
            [prior[t] * prod(error[judge, g, t] for judge, g in given.items()) for t in range(4)] for given in said
        ]
        beliefs = put([[one / sum(row) for one in row] for row in joint])
    return beliefs


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_where_a_long_run_of_loops_arrives(seed):
    """Judges that err often converge slowly: after 100 steps such fits still move."""
    source = np.random.default_rng(seed)
    sample = []
    for n in range(30):
        truth = int(source.choice(4, p=[0.5, 0.2, 0.1, 0.2]))
        said = {j: truth if source.random() < 0.6 else int(source.integers(0, 4)) for j in "abc"}
        sample.append(pair(truth if n < 10 else None, **said))
    errors, priors = fit(sample)
    beliefs = by_loops(sample, 1_000)
    for votes, belief in zip(sample, beliefs, strict=True):
        machine = [vote for vote in votes if vote["kind"] != "human"]
        if len(machine) == len(votes):
            assert posterior(machine, errors, priors, RULES) == pytest.approx(belief[2] + belief[3], abs=1e-4)


def test_a_fit_that_stops_early_is_said(monkeypatch, caplog):
    monkeypatch.setattr(dawid_skene, "MOST_STEPS", 1)
    with caplog.at_level(logging.WARNING):
        fit([pair(a=3, b=0), pair(a=3, b=3), pair(a=0, b=1), pair(a=0, b=0)])
    assert "has not converged after 1 steps" in caplog.text
