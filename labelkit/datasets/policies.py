"""How the judgements of a pair become its label: the mixing policies, one function each, in one table.

A policy is a piece of SQL over `said`, the list of all judgements of a pair, people first and then by judge id, those
without a grade last. Each has the fields judge_id, kind (human, llm, imported), grade, probability (of grade >= 2),
side (positive, negative or ignored, by the lines of `MixRules`) and weight. The policy says on which side the pair
falls and with what probability.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from labelkit.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    # The help of `labelkit mix` reads this module, and answers without pydantic.
    from labelkit.datasets.options import MixRules

RELEVANT = 2
"""Grade from which a judge's grade, or its probability mass, counts as relevant."""


class Policy(NamedTuple):
    """Two SQL expressions over `said`."""

    side: str
    probability: str
    """May be NULL, and may name the side that was decided."""


def human_first(rules: "MixRules") -> Policy:
    """The human grade wins, an LLM fills the holes; of several judges of a kind the first by id speaks."""
    return Policy(side="said[1].side", probability=SPEAKER_PROBABILITY)


def union(rules: "MixRules") -> Policy:
    """Positive where any judge says positive; negative where one says negative and none positive."""
    return Policy(
        side=f"CASE WHEN {votes('positive')} > 0 THEN 'positive' WHEN {votes('negative')} > 0 THEN 'negative' "
        "ELSE 'ignored' END",
        probability=SPEAKER_PROBABILITY,
    )


def agreement(rules: "MixRules") -> Policy:
    """A side needs --agree judges, people counted as judges; a pair with neither side or both is ignored."""
    enough = {side: f"({votes(side)} >= {rules.agree})" for side in ("positive", "negative")}
    return Policy(
        side=f"CASE WHEN {enough['positive']} AND NOT {enough['negative']} THEN 'positive' "
        f"WHEN {enough['negative']} AND NOT {enough['positive']} THEN 'negative' ELSE 'ignored' END",
        probability=SPEAKER_PROBABILITY,
    )


def weighted(rules: "MixRules") -> Policy:
    """The mean of the judges' probabilities, by --weight, against the lines; a human grade counts as 1 or 0."""
    graded = "list_filter(said, lambda x: x.grade IS NOT NULL)"
    weights = f"list_transform({graded}, lambda x: x.weight)"
    believed = f"list_transform({graded}, lambda x: {BELIEF})"
    mean = f"list_dot_product({believed}, {weights}) / list_sum({weights})"
    return Policy(side=between_the_lines(mean, rules), probability=mean)


def dawid_skene(rules: "MixRules") -> Policy:
    """Probabilities by Dawid and Skene: how far each judge is right is learnt from all; human grades are the truth."""
    return Policy(side=between_the_lines("posterior", rules), probability="posterior")


def staged(rules: "MixRules") -> Policy:
    """As human-first, and LLM and human labels apart too, in the tables stage_llm and stage_human, to train in turn."""
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
"""Of the first judge on the side that was decided."""

BY = ("probability", "grade")

BELIEF = (
    "CASE WHEN x.kind = 'human' OR x.probability IS NULL "
    "THEN CASE x.side WHEN 'positive' THEN 1.0 WHEN 'negative' THEN 0.0 ELSE 0.5 END ELSE x.probability END"
)
"""How far a judge that gave a grade holds the pair for relevant; 0.5 for a bare grade between the lines."""


def policy_named(rules: "MixRules") -> Policy:
    """The policy that the rules name. Raises `UsageError` for names and lines that make no sense."""
    if rules.by not in BY:
        raise UnknownNameError("measure", rules.by, BY)
    for name in ("llm_positive", "llm_negative", "human_fraction"):
        if not 0 <= getattr(rules, name) <= 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(rules, name)} does not lie between 0 and 1")
    if rules.llm_negative_grade >= rules.llm_positive_grade:
        raise UsageError("--llm-negative-grade must be below --llm-positive-grade")
    if rules.policy not in POLICIES:
        raise UnknownNameError("policy", rules.policy, POLICIES)
    return POLICIES[rules.policy](rules)


def explained() -> str:
    """Every policy with the first line of its docstring, for `--help`."""
    return " ".join(f"{name}: {(policy.__doc__ or '').splitlines()[0]}" for name, policy in POLICIES.items())


def votes(side: str) -> str:
    """How many judges fall on a side."""
    return f"len(list_filter(said, lambda x: x.side = '{side}'))"


def between_the_lines(probability: str, rules: "MixRules") -> str:
    """The side of a probability; NULL is ignored."""
    return (
        f"CASE WHEN {probability} >= {rules.llm_positive} THEN 'positive' "
        f"WHEN {probability} <= {rules.llm_negative} THEN 'negative' ELSE 'ignored' END"
    )


def side_of(rules: "MixRules") -> str:
    """The side of one judgement, from its columns kind, grade and probability."""
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
