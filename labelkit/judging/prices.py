"""Read the prices and contexts of models from a TOML file, by default labelkit's `prices.toml`."""

import difflib
import tomllib
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from labelkit.engines.tokenizers import Tokens
from labelkit.errors import DataError
from labelkit.records import Record
from labelkit.storage.shipped import SHIPPED

MILLION = 1_000_000
MOST_USD = 1e9
"""Largest price of a million tokens in US dollars, so that sums stay finite."""
STALE = 90
"""Age of prices in days from which their line asks the user to check them."""


class Price(Record):
    """Prices of a model in US dollars per million tokens."""

    prompt: float = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    completion: float = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    batch: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    """Price factor of the provider's batch API, from 0 to 1."""
    context: int | None = Field(default=None, ge=1)
    """Most tokens of a prompt and its answer together."""
    source: str | None = None
    """Page that states the price."""
    note: str | None = None
    """When the price is another one."""

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the US dollars for prompt and completion tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / MILLION


class PriceFile(NamedTuple):
    """The prices in a file, and the day on which they were last checked."""

    path: Path
    date: date | None
    """None if the file does not state it."""
    prices: dict[str, Price]

    @property
    def age(self) -> str:
        """The file and its age, as words."""
        if self.date is None:
            return f"{self.path.name}, which states no date"
        days = max(0, (datetime.now(UTC).date() - self.date).days)
        age = "1 day" if days == 1 else f"{days} days"
        return f"{self.path.name} of {self.date}, {age} old{'; check them' if days >= STALE else ''}"


def read_prices(path: Path | None) -> PriceFile:
    """Read a file of prices, by default labelkit's. Raises `DataError` for an invalid file."""
    path = path or SHIPPED / "prices.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        checked = table.pop("date", None)
        if checked is not None and type(checked) is not date:
            raise DataError(f"{path}: date: expected a date such as 2026-11-26, without quotes")
        return PriceFile(path, checked, {name: Price(**fields) for name, fields in table.items()})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid TOML ({error})") from None
    except TypeError:
        raise DataError(f'{path}: expected ["MODEL"] with prompt and completion below it') from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def price_of(model: str, path: Path | None, *, batch: bool) -> Price | None:
    """Return the price of a model, with `batch` that of the provider's batch API; None if the file does not name it.

    Raises `DataError` for an invalid file.
    """
    found = read_prices(path).prices.get(model)
    if found is None or not batch:
        return found
    less = {"prompt": found.prompt * found.batch, "completion": found.completion * found.batch}
    return found.model_copy(update=less | {"batch": 1.0})


def known_context(price: Price | None, tokens: Tokens | None) -> int | None:
    """Return the context of a model behind a server, from its prices; None if it or the model's tokenizer is unknown.

    Without a tokenizer, tokens are counted as bytes, and lists that fit would be split into windows.
    """
    return price.context if price and tokens else None


def unpriced(model: str, path: Path | None) -> str:
    """Return the names of priced models that resemble the name of a model without a price, and how to add a price."""
    file = read_prices(path)
    close = difflib.get_close_matches(model.split("/")[-1].lower(), file.prices, n=3)
    alike = f"; it has {', '.join(close)}" if close else ""
    return f"{file.path} has no price for {model!r}{alike}; add it to a copy of the file and give --prices COPY"


def dollars(usd: float) -> str:
    """Return US dollars as text: whole cents from one dollar on, and two significant digits below."""
    return f"{usd:,.2f}" if usd >= 1 or usd == 0 else f"{Decimal(f'{usd:.1e}'):f}"


def price_line(model: str, price: Price, path: Path | None) -> str:
    """Return the price of a model as a line for people, with its origin, its age, and when it is another one."""
    details = [
        f"{price.prompt:g} US dollars per million tokens of prompts and {price.completion:g} of answers",
        *([f"context {price.context:,} tokens"] if price.context else []),
        f"from {read_prices(path).age}",
        *([price.note] if price.note else []),
        *([price.source] if price.source else []),
    ]
    return f"price of {model}: {'; '.join(details)}"
