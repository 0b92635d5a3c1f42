"""Marks as `slow` every test that needs a model, a browser, a cluster or another process: `make test-fast` leaves them
out. The mark follows from the code of the test and of its fixtures, so that nobody has to keep a list.
"""

from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest

HEAVY = {
    "Popen",
    "SentenceTransformer",
    "check_output",
    "fork",
    "from_pretrained",
    "init_process_group",
    "save_pretrained",
    "spawn",
    "subprocess",
    "write_encoder",
}
"""Names of what starts a process or makes a model."""
TIMED_MARKS = ("judge", "vllm")


def names_in(code: CodeType) -> Iterator[str]:
    """Every name that a piece of code and the functions inside it refer to."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def needs_more(function: Callable[..., Any], seen: set[int]) -> bool:
    """Whether a function, or one of the test helpers that it calls, starts a process or makes a model."""
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, FunctionType) or id(function) in seen:
        return False
    seen.add(id(function))
    names = set(names_in(function.__code__))
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", None)
    helpers = [function.__globals__.get(name) for name in names] + [inner]
    ours = [one for one in helpers if getattr(one, "__module__", "").startswith("tests") or one is inner]
    return bool(names & HEAVY) or any(needs_more(one, seen) for one in ours if callable(one))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        fixtures = [one for found in item._fixtureinfo.name2fixturedefs.values() for one in found]
        marked = any(item.get_closest_marker(name) for name in TIMED_MARKS)
        seen: set[int] = set()
        if marked or any(needs_more(one, seen) for one in (item.function, *(each.func for each in fixtures))):
            item.add_marker(pytest.mark.slow)
