"""Base of the option records: the settings of one command or function, checked when the record is made.

The functions of the Python API take such a record, and the command line makes one of its flags. So the name, type,
default, bounds and help text of an option are defined once: by a field and the docstring below it.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from labelkit.errors import UsageError
from labelkit.storage.remote import local

Address = Annotated[Path, BeforeValidator(lambda place: local(str(place)))]
"""A local path, or an address (s3://, gs://, hf://), which becomes the path of its local copy."""


SEEDS = 4_294_967_295
"""The largest seed that numpy and torch accept."""
MOST = 1_000_000_000_000_000
"""The largest number that any option accepts. Larger numbers lose digits in files, token counts and arrays."""


class Options(BaseModel):
    """A frozen record of settings that refuses unknown names, NaN and infinity.

    Creating one raises `UsageError` that names the field, the value and the remedy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    elsewhere: ClassVar[str] = ""
    """Text for the error of a missing field: the places besides its flag where it can be set."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            problems = (explain(one, type(self).model_fields, self.elsewhere) for one in error.errors())
            raise UsageError("; ".join(problems)) from None

    @model_validator(mode="before")
    @classmethod
    def _single_values_are_lists_of_one(cls, fields: Any) -> Any:
        """Read `llm="labels"` as `llm=("labels",)`."""
        return {name: (value,) if cls._takes_several(name, value) else value for name, value in fields.items()}

    @model_validator(mode="after")
    def _numbers_that_count(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, int | float) and abs(one) > MOST:
                    raise UsageError(f"{name} = {one}: expected a number from -1e15 to 1e15")
        return self

    @classmethod
    def _takes_several(cls, name: str, value: object) -> bool:
        field = cls.model_fields.get(name)
        return field is not None and get_origin(field.annotation) is tuple and isinstance(value, str | Path)

    def but(self, **changes: Any) -> Self:
        """Return a copy of the options with some fields changed, checked again."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)


def explain(problem: Mapping[str, Any], names: Iterable[str], elsewhere: str = "") -> str:
    """Describe a problem that pydantic found, in one line with its remedy."""
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(name, list(names), n=1)
        hint = f"did you mean {near[0]}?" if near else f"settings are: {', '.join(names)}"
        return f"unknown setting {name!r}; {hint}"
    if problem["type"] == "missing":
        return f"{name} is not set; give --{name.replace('_', '-')}{elsewhere.format(name=name)}"
    return f"{name} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
