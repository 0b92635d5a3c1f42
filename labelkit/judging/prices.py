"""Read the prices of tokens from a TOML file, by default labelkit's `prices.toml`."""

import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from labelkit.errors import DataError
from labelkit.records import Record
from labelkit.storage.shipped import SHIPPED

MILLION = 1_000_000
MOST_USD = 1e9
"""Largest price of a million tokens in US dollars, so that sums stay finite."""


class Price(Record):
    """Prices of a model in US dollars per million tokens."""

    prompt: float = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    completion: float = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    batch: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    """Price factor of the provider's batch API, from 0 to 1."""

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the US dollars for prompt and completion tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / MILLION


def price_of(model: str, path: Path | None, *, batch: bool) -> Price | None:
    """Return the price of a model, with `batch` that of the provider's batch API; None if the file does not name it.

    Raises `DataError` for an invalid file.
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
