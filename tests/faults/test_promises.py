"""The promises, in the short form of `make soak`."""

from pathlib import Path

import promises
import pytest
from present import present

pytestmark = pytest.mark.slow  # every promise is tried, some in processes

CHECKED = [promise for promise in promises.PROMISES if promise.check]


@pytest.mark.parametrize("promise", CHECKED, ids=lambda promise: str(promise.number))
def test_a_promise_holds(promise: promises.Promise, tmp_path: Path) -> None:
    found = present(promise.check)(tmp_path, False)
    assert found.violations == []
    if not found.trials:
        pytest.skip(found.note)


def test_every_promise_is_shown_by_something() -> None:
    numbers = [promise.number for promise in promises.PROMISES]
    assert numbers == list(range(1, 32))
    for promise in promises.PROMISES:
        assert promise.check or promise.tests
        for name in promise.tests:
            assert (promises.TESTS / name.split("::")[0]).is_file()
