"""What tokens cost: a TOML file that the user can edit, `prices.toml` unless told otherwise."""

import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from labelkit.errors import DataError
from labelkit.records import Record
from labelkit.storage.shipped import SHIPPED

MILLION = 1_000_000
MOST_USD = 1e9
"""No million tokens cost more: sums stay finite."""


class Price(Record):
    """US dollars for a million tokens."""

    prompt: float = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    completion: float = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    batch: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    """The share of these that the batch API of the provider costs."""

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars for these tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / MILLION


def price_of(model: str, path: Path | None, *, batch: bool) -> Price | None:
    """The price of a model, through the provider's batch API or not; None where the file does not name it.

    Raises `DataError` for a bad file.
    """
    path = path or SHIPPED / "prices.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        prices = {name: Price(**fields) for name, fields in table.items()}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid TOML ({error})") from None
    except TypeError:
        raise DataError(f'{path}: expected ["MODEL"] with prompt and completion below it') from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    found = prices.get(model)
    if found is None or not batch:
        return found
    return Price(prompt=found.prompt * found.batch, completion=found.completion * found.batch)
