"""Map grades on other scales, such as 1 to 5 or named labels, to the grades 0 to 3."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from labelkit.errors import UsageError
from labelkit.records import MAX_GRADE

SCALES = {"0-1": "0=0,1=2", "0-4": "0=0,1=1,2=1,3=2,4=3", "1-5": "1=0,2=1,3=1,4=2,5=3"}
"""Range of a scale -> its mapping to grades. The two ends of a scale with five grades become 0 and 3, and its middle
becomes 1, so that an unclear pair is never a positive. A binary label becomes 2, as with the method `binary`. Prompts
and commands refer to these mappings by name, so a mapping must never change.
"""


OPTION = "--scale"
"""Name of the option with the scale of a source, for messages."""


class Scale(NamedTuple):
    """A mapping from the grades of a source to the grades 0 to 3."""

    names: tuple[str, ...]
    """Grades of the source, in the order given."""
    by_name: Mapping[str, int]
    """Grade of the source, in the form of `same` -> grade from 0 to 3."""

    @property
    def grades(self) -> dict[str, int]:
        """Grade of the source -> grade from 0 to 3."""
        return {name: self.by_name[same(name)] for name in self.names}

    @property
    def mapping(self) -> str:
        """The mapping as text, which `read_scale` reads."""
        return ",".join(f"{name}={grade}" for name, grade in self.grades.items())

    def grade_of(self, raw: str) -> int | None:
        """Return the grade from 0 to 3 for a grade of the source; None if the scale does not contain it.

        Names may differ in case, and `1.0` is `1`.
        """
        return self.by_name.get(same(raw))


@cache
def read_scale(text: str) -> Scale:
    """Return a scale from its range (`SCALES`) or from a mapping such as `no=0,partly=1,yes=3`.

    Raises `UsageError` for any other text, for a grade outside 0 to 3, and for a name that is repeated.
    """
    found: dict[str, int] = {}
    for item in SCALES.get(text, text).split(","):
        name, _, grade = (part.strip() for part in item.rpartition("="))
        if not name or grade not in map(str, range(MAX_GRADE + 1)):
            raise UsageError(
                f"the scale {text!r} is unknown: give {', '.join(SCALES)}, or the grade from 0 to {MAX_GRADE} of each "
                "label, such as no=0,partly=1,yes=3"
            )
        found[name] = int(grade)
    by_name = {same(name): grade for name, grade in found.items()}
    if len(by_name) < text.count("=") or len(by_name) < 2:
        raise UsageError(f"the scale {text!r} needs at least two labels, each of them once")
    return Scale(tuple(found), by_name)


def grade_on(text: str, scale: str | None) -> int | None:
    """Return the grade from 0 to 3 for a grade as text on the given scale; None if the scale does not contain it.

    Without a scale, the text must be a whole number from 0 to 3.
    """
    if scale is not None:
        return read_scale(scale).grade_of(text)
    grade = same(text)
    return int(grade) if grade in map(str, range(MAX_GRADE + 1)) else None


def expected_grades(scale: str | None, option: str = OPTION) -> str:
    """Return the grades that a source may have, and the cure for others, as the end of an error message.

    `option` is the name of the option that gives the scale of this source.
    """
    if scale is not None:
        return f"of {option} {scale}: {', '.join(read_scale(scale).names)}"
    return (
        f"from 0 to {MAX_GRADE}; for another scale give {option} with {', '.join(SCALES)}, or with the grade of each "
        "label, such as no=0,partly=1,yes=3"
    )


def checked(text: str) -> str:
    """Return the text of a scale unchanged. Raises `UsageError` if it is none."""
    read_scale(text)
    return text


ScaleText = Annotated[str, AfterValidator(checked)]
"""Text of a scale, as an option."""


def same(name: str) -> str:
    """Return a grade in the form in which grades are compared: whole numbers without a fraction, names in one case."""
    try:
        value = float(name)
    except ValueError:
        return name.strip().casefold()
    return str(int(value)) if value.is_integer() else str(value)  # infinity and NaN are names
