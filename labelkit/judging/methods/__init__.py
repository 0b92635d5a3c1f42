"""Annotation methods: one file each, steps of prompts in, judgements out.

A method is a generator over one window of passages (a window of one for the pointwise methods). It yields what to ask,
is sent the reply, and returns a verdict for every passage of the window. It knows passages by their place in the window
and never sees a text, so that its verdicts can be read again from the journal alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from labelkit.errors import UnknownNameError
from labelkit.judging.defences import looks_twice
from labelkit.judging.methods import binary, graded, relsel, utilrank, utilsel
from labelkit.judging.methods.steps import Steps, Verdict, lowest, majority
from labelkit.judging.prompts import Prompt, parse_prompt
from labelkit.records import Judge


class Method(NamedTuple):
    """How a method asks and reads. Its shipped prompt has its name."""

    judge: Callable[[int, Prompt], Steps[list[Verdict]]]
    """(passages of the window, prompt) -> the steps, and in the end a verdict for each passage."""
    grades: tuple[int, ...] = ()
    """Grades of a listwise method, lowest first; empty where the prompt's labels name them and a window has one
    passage."""
    settle: Callable[[Sequence[Sequence[Verdict]], tuple[int, ...]], list[Verdict]] = majority
    """Verdicts on each passage of a query (one an order or vote), and the grades -> one verdict a passage."""

    @property
    def listwise(self) -> bool:
        return bool(self.grades)


METHODS = {
    "graded": Method(graded.judge),
    "binary": Method(binary.judge),
    "relsel": Method(relsel.judge, relsel.GRADES),
    "utilsel": Method(utilsel.judge, utilsel.GRADES),
    "utilrank": Method(utilrank.judge, utilrank.GRADES, utilrank.best_tenth),
}


def method_named(name: str) -> Method:
    """Look a method up. Raises `UnknownNameError`."""
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]


class Judging(NamedTuple):
    """A judge with its prompt and method: all that it takes to ask it, and to read its replies again."""

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
    """A judge out of a journal or a dataset, with the text of its prompt."""
    return Judging(judge, parse_prompt(prompt, f"prompt of {judge.judge_id}"), method_of(judge))


def method_of(judge: Judge) -> Method:
    """The method of a judge, with the way that its judgements are settled."""
    method = method_named(str(judge.method))
    return method._replace(settle=lowest) if looks_twice(judge) else method
