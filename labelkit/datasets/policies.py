"""The policies that turn the judgements of a pair into its label: one function each, in one table.

A policy is SQL over `said`, the list of all judgements of a pair: people first, then by judge id, judgements without a
grade last. A judgement has the fields judge_id, kind (human, llm, imported), grade, probability (of grade >= 2), side
(positive, negative or ignored, by the thresholds of `MixRules`) and weight. The policy decides the side and the
probability of the pair.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from labelkit.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    # The help of `labelkit mix` imports this module, and must not wait for pydantic.
    from labelkit.datasets.options import MixRules

RELEVANT = 2
"""Lowest grade that counts as relevant."""


class Policy(NamedTuple):
    """The side and the probability of a pair, as SQL expressions over `said`."""

    side: str
    probability: str
    """May be NULL, and may use the decided `side`."""


def human_first(rules: "MixRules") -> Policy:
    """Human grades decide, LLM labels fill the gaps; of several judges of one kind, the first by id decides."""
    return Policy(side="said[1].side", probability=SPEAKER_PROBABILITY)


def union(rules: "MixRules") -> Policy:
    """Positive if any judge says positive; negative if any judge says negative and none says positive."""
    return Policy(
        side=f"CASE WHEN {votes('positive')} > 0 THEN 'positive' WHEN {votes('negative')} > 0 THEN 'negative' "
        "ELSE 'ignored' END",
        probability=SPEAKER_PROBABILITY,
    )


def agreement(rules: "MixRules") -> Policy:
    """Positive or negative if at least --agree judges, people included, say so; ignored if neither or both apply."""
    enough = {side: f"({votes(side)} >= {rules.agree})" for side in ("positive", "negative")}
    return Policy(
        side=f"CASE WHEN {enough['positive']} AND NOT {enough['negative']} THEN 'positive' "
        f"WHEN {enough['negative']} AND NOT {enough['positive']} THEN 'negative' ELSE 'ignored' END",
        probability=SPEAKER_PROBABILITY,
    )


def weighted(rules: "MixRules") -> Policy:
    """The weighted mean of the judges' probabilities (see --weight) decides; a human grade counts as 1 or 0."""
    graded = "list_filter(said, lambda x: x.grade IS NOT NULL)"
    weights = f"list_transform({graded}, lambda x: x.weight)"
    believed = f"list_transform({graded}, lambda x: {BELIEF})"
    mean = f"list_dot_product({believed}, {weights}) / list_sum({weights})"
    return Policy(side=between_the_lines(mean, rules), probability=mean)


def dawid_skene(rules: "MixRules") -> Policy:
    """The model of Dawid and Skene decides; it learns the errors of each judge, and human grades count as true."""
    return Policy(side=between_the_lines("posterior", rules), probability="posterior")


def staged(rules: "MixRules") -> Policy:
    """Like human-first, plus tables with LLM labels only (stage_llm) and human labels only, to train in stages."""
    return human_first(rules)


POLICIES: "dict[str, Callable[[MixRules], Policy]]" = {
    "human-first": human_first,
    "union": union,
    "agreement": agreement,
    "weighted": weighted,
    "dawid-skene": dawid_skene,
    "staged": staged,
}

SPEAKER_PROBABILITY = "list_filter(said, lambda x: x.side = side)[1].probability"
"""SQL expression of the probability by the first judge on the decided side."""

BY = ("probability", "grade")

BELIEF = (
    "CASE WHEN x.kind = 'human' OR x.probability IS NULL "
    "THEN CASE x.side WHEN 'positive' THEN 1.0 WHEN 'negative' THEN 0.0 ELSE 0.5 END ELSE x.probability END"
)
"""SQL expression of a judge's probability that the pair is relevant; 0.5 for a grade between the thresholds without
probability.
"""


def policy_named(rules: "MixRules") -> Policy:
    """Return the policy that the rules name. Raises `UsageError` for unknown names and impossible thresholds."""
    if rules.by not in BY:
        raise UnknownNameError("measure", rules.by, BY)
    for name in ("llm_positive", "llm_negative", "human_fraction"):
        if not 0 <= getattr(rules, name) <= 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(rules, name)} is not between 0 and 1")
    if rules.llm_negative_grade >= rules.llm_positive_grade:
        raise UsageError("--llm-negative-grade must be below --llm-positive-grade")
    if rules.policy not in POLICIES:
        raise UnknownNameError("policy", rules.policy, POLICIES)
    return POLICIES[rules.policy](rules)


def explained() -> str:
    """Describe every policy by the first line of its docstring, for `--help`."""
    return " ".join(f"{name}: {(policy.__doc__ or '').splitlines()[0]}" for name, policy in POLICIES.items())


def votes(side: str) -> str:
    """Return the SQL expression of the number of judges on a side."""
    return f"len(list_filter(said, lambda x: x.side = '{side}'))"


def between_the_lines(probability: str, rules: "MixRules") -> str:
    """Return the SQL expression of the side of a probability; NULL is ignored."""
    return (
        f"CASE WHEN {probability} >= {rules.llm_positive} THEN 'positive' "
        f"WHEN {probability} <= {rules.llm_negative} THEN 'negative' ELSE 'ignored' END"
    )


def side_of(rules: "MixRules") -> str:
    """Return the SQL expression of the side of one judgement, from its columns kind, grade and probability."""
    by_grade = (
        f"CASE WHEN grade >= {rules.llm_positive_grade} THEN 'positive' "
        f"WHEN grade <= {rules.llm_negative_grade} THEN 'negative' ELSE 'ignored' END"
    )
    by_probability = f"CASE WHEN probability IS NULL THEN {by_grade} ELSE {between_the_lines('probability', rules)} END"
    return (
        "CASE WHEN grade IS NULL THEN 'ignored' "
        f"WHEN kind = 'human' THEN if(grade >= {rules.positive_grade}, 'positive', 'negative') "
        f"ELSE {by_probability if rules.by == 'probability' else by_grade} END"
    )
