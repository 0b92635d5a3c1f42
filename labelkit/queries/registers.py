"""Read the registers in which queries are written, with their shares, and spread them over passages."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from labelkit.errors import UsageError
from labelkit.judging.methods import WRITING
from labelkit.judging.prompts import Prompt, load_prompt, shipped_prompts

PREFIX = "write-"
"""Beginning of the names of the shipped prompts that write queries."""
SEVERAL = "write-from-several"
"""Method of a prompt that reads two passages."""


class Register(NamedTuple):
    """A register with its prompt and its share of all queries."""

    name: str
    prompt: Prompt
    share: float
    """From 0 to 1; the shares of all registers sum to 1."""

    @property
    def several(self) -> bool:
        """Whether a query is written from two passages."""
        return self.prompt.method == SEVERAL


def read_registers(text: str) -> tuple[Register, ...]:
    """Read `question=0.4,keywords=0.2`: names of registers or prompt files with shares, which are scaled to sum to 1.

    Raises `UsageError` for a malformed text, an unknown register, a repeated one, or a prompt that writes nothing.
    """
    found: list[Register] = []
    for item in filter(None, map(str.strip, text.split(","))):
        place, mark, number = item.rpartition("=")
        try:
            share = float(number) if mark else 1.0
        except ValueError:
            raise UsageError(f"--registers {item}: expected NAME=SHARE, such as question=0.4") from None
        if not 0 < share < float("inf"):
            raise UsageError(f"--registers {item}: a share must be above 0; leave the register out instead")
        found.append(Register(*named(place if mark else item), share=share))
    if not found:
        raise UsageError(f"--registers {text!r} names no register; shipped are: {', '.join(shipped())}")
    if twice := [name for name, count in Counter(one.name for one in found).items() if count > 1]:
        raise UsageError(f"--registers {text}: {twice[0]} is named twice")
    total = sum(one.share for one in found)
    return tuple(one._replace(share=one.share / total) for one in found)


def shipped() -> list[str]:
    """Return the names of the registers whose prompts come with labelkit."""
    return [name.removeprefix(PREFIX) for name in shipped_prompts() if name.startswith(PREFIX)]


def named(place: str) -> tuple[str, Prompt]:
    """Return the name and the prompt of a register: a shipped one, or the prompt in a TOML file, named by itself."""
    if place in shipped():
        return place, load_prompt(f"{PREFIX}{place}")
    if not place.endswith(".toml"):
        raise UsageError(f"unknown register {place!r}; choose one of: {', '.join(shipped())}, or a TOML file")
    prompt = load_prompt(place)
    if prompt.method not in WRITING:
        raise UsageError(f"{place}: a prompt that writes queries has method {' or '.join(WRITING)}")
    return prompt.name, prompt


def spread(registers: Sequence[Register], per_passage: int) -> Iterator[list[Register]]:
    """Yield the registers of one passage after the other, without end, so that shares hold for every beginning.

    Each register follows the largest debt: its share of the queries so far minus those that it got. A passage gets a
    register again only once it has all of them. So more passages never change the registers of the first ones.
    """
    given: Counter[str] = Counter()
    while True:
        mine: list[Register] = []
        for number in range(per_passage):
            times = Counter(one.name for one in mine)
            free = [one for one in registers if times[one.name] == number // len(registers)]
            due = max(free, key=lambda one: one.share * (given.total() + 1) - given[one.name])
            given[due.name] += 1
            mine.append(due)
        yield mine
