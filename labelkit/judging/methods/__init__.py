"""Annotation methods, one file each: how to ask a judge about passages, and how to turn its replies into verdicts.

A method is a generator over one window of passages (of one passage for the pointwise methods). It yields the next step,
receives the reply, and returns a verdict for every passage of the window. It identifies passages by their place in the
window and never sees a text, so that its verdicts can be computed again from the journal alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from labelkit.errors import UnknownNameError
from labelkit.judging.defences import looks_twice
from labelkit.judging.methods import binary, graded, relsel, rerank, utilrank, utilsel, write
from labelkit.judging.methods.steps import Ask, Steps, Verdict, VerdictOf, ask_for_label, lowest, majority
from labelkit.judging.prompts import Prompt, parse_prompt
from labelkit.records import Judge


class Method(NamedTuple):
    """The functions and grades of an annotation method. Its shipped prompt has the same name."""

    judge: Callable[[int, Prompt], Steps[list[Verdict]]]
    """(number of passages in the window, prompt) -> generator of steps that returns a verdict for each passage."""
    grades: tuple[int, ...] = ()
    """Grades of a listwise method, lowest first; empty for a pointwise method, whose prompt has the grades."""
    settle: Callable[[Sequence[Sequence[Verdict]], tuple[int, ...]], list[Verdict]] = majority
    """(verdicts on each passage of a query, one per order or vote; grades) -> one verdict per passage."""
    score_only: bool = False
    """True if the verdicts have scores but no grades."""
    verdict: VerdictOf | None = None
    """Function from the only reply of a pointwise method to its verdict, which needs no generator."""
    writes: bool = False
    """True if the answer is a text from all passages of the window; its verdicts have neither grades nor scores."""

    @property
    def listwise(self) -> bool:
        return bool(self.grades) or self.writes


def pointwise(verdict: VerdictOf, ask: Callable[[Prompt], Ask] = ask_for_label, *, score_only: bool = False) -> Method:
    """Return the method that asks about each passage alone, once."""

    def judge(size: int, prompt: Prompt) -> Steps[list[Verdict]]:
        reply = yield ask(prompt)
        return [verdict(reply, prompt)]

    return Method(judge, verdict=verdict, score_only=score_only)


METHODS = {
    "graded": pointwise(graded.verdict),
    "binary": pointwise(binary.verdict),
    "rerank": pointwise(rerank.verdict, rerank.ask, score_only=True),
    "relsel": Method(relsel.judge, relsel.GRADES),
    "utilsel": Method(utilsel.judge, utilsel.GRADES),
    "utilrank": Method(utilrank.judge, utilrank.GRADES, utilrank.best_tenth),
}

WRITING = {
    "write": Method(write.judge, writes=True),
    "write-from-several": Method(write.judge, writes=True),
}
"""Methods that write a text from one passage, or from several. They judge nothing, so that `METHODS` lacks them."""


def method_named(name: str) -> Method:
    """Return a method by its name. Raises `UnknownNameError`."""
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]


def method_behind(name: str) -> Method:
    """Return the method of a prompt, which judges or writes."""
    return WRITING.get(name) or method_named(name)


class Judging(NamedTuple):
    """A judge with its prompt and method, which are needed to send requests and to parse replies."""

    judge: Judge
    prompt: Prompt
    method: Method

    @property
    def listwise(self) -> bool:
        """Whether the passages of a query are judged together."""
        return self.method.listwise

    @property
    def grades(self) -> tuple[int, ...]:
        """Grades that the judge can give, in the order of its labels."""
        return self.method.grades or tuple(label.grade for label in self.prompt.labels)


def judging_of(judge: Judge, prompt: bytes) -> Judging:
    """Return a judge from a journal or a dataset with its method and its prompt, parsed from the prompt's content."""
    return Judging(judge, parse_prompt(prompt, f"prompt of {judge.judge_id}"), method_of(judge))


def method_of(judge: Judge) -> Method:
    """Return the method of a judge; with a second look, its verdicts are settled by the lowest one."""
    method = method_behind(str(judge.method))
    return method._replace(settle=lowest) if looks_twice(judge) else method
