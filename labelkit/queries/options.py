"""Options of `labelkit queries`."""

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from labelkit.corpora.options import ColumnOptions
from labelkit.engines.option_use import unused_options
from labelkit.judging.methods import method_named
from labelkit.judging.options import AnnotateOptions, CallOptions
from labelkit.options import SEEDS, Address, Options
from labelkit.pooling.languages import code_of
from labelkit.queries.registers import Register, read_registers

OF_THE_MODEL = ("revision", "tokenizer", "reasoning_parser")
"""Options that belong to one model, and that another judge does not share."""


class WriteOptions(CallOptions, ColumnOptions):
    """Queries that a model writes for sampled passages, and the checks that they must pass."""

    model: str
    """Model that writes the queries: local folder, Hub id, or model name on the server."""
    passages: int = Field(default=100, ge=1)
    """Number of passages to draw. Each document gives one passage before any gives a second one."""
    per_passage: int = Field(default=1, ge=1, le=100)
    """Queries to write per passage, in different registers as far as there are enough."""
    registers: str = "question=0.35,keywords=0.2,claim=0.15,situation=0.2,multi-passage=0.1"
    """Registers and their shares: question, keywords, claim, situation (told without the passage's words),
    multi-passage (whose answer needs two passages), or a TOML file with a prompt of your own.
    """
    max_overlap: float | None = Field(default=None, ge=0, le=1)
    """Largest share of a query's words that may occur in its passages. A register whose prompt has a lower limit keeps
    that. Default: the limits of the prompts, 0.8, for situation 0.5, and for keywords none.
    """
    within: int = Field(default=30, ge=1)
    """Keep a query if BM25 or a dense model finds its passage among the first N."""
    language: str | None = None
    """Language of the texts for BM25, such as german or de. Default: English stop words and no stemmer."""
    dense: tuple[str, ...] = ()
    """Dense model that also searches the passages. May be repeated."""
    judge: bool = True
    """Keep a query only if a judge gives its passages grade 2 or 3. --no-judge skips this, and the manifest says so."""
    judge_model: str | None = None
    """Model that judges. Default: --model, which then grades its own queries."""
    judge_engine: str | None = None
    """Engine of the judge. Default: --engine."""
    judge_base_url: tuple[str, ...] = ()
    """Server address of the judge. Default: --base-url."""
    judge_method: str = "graded"
    """Method of judging: graded or binary."""
    judge_prompt: str | None = None
    """Prompt of the judge. Default: the shipped prompt of the method."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the drawn passages and of the texts."""
    retry_failed: bool = False
    """Ask again for queries that were not written, and about pairs that have no grade."""
    max_usd: float | None = Field(default=None, ge=0, le=1e9)
    """Spend at most this many US dollars on writing and judging together, all runs of this output included."""
    max_tokens: int | None = Field(default=None, ge=0)
    """Use at most this many tokens for writing and judging together: prompts and answers, all runs of this output."""

    @field_validator("language")
    @classmethod
    def _known_language(cls, name: str | None) -> str | None:
        return None if name is None else code_of(name)

    @model_validator(mode="after")
    def _readable_registers_and_judge(self) -> Self:
        _ = self.shares
        method = method_named(self.judge_method)
        if method.listwise or method.score_only:
            raise ValueError(
                f"judge_method {self.judge_method!r} gives no grade to a single pair; use graded or binary"
            )
        return self

    @property
    def shares(self) -> tuple[Register, ...]:
        """The registers with their shares."""
        return read_registers(self.registers)

    def annotating(self) -> AnnotateOptions:
        """Return the options of `annotate` for the judge. It has no cap yet."""
        fields = AnnotateOptions.model_fields
        shared = {name: getattr(self, name) for name in self.model_fields_set & set(fields)}
        engine = self.judge_engine or self.engine
        # The writer's options that the judge's engine does not use stay with the writer.
        unused = unused_options(engine, fields, worker=self.worker_engine)
        own = [*unused, *(OF_THE_MODEL if self.judge_model else ()), "max_usd", "max_tokens"]
        mine: dict[str, Any] = {name: fields[name].default for name in own}
        mine |= {"model": self.judge_model or self.model, "engine": engine, "add_judge": True}
        mine |= {"method": self.judge_method, "prompt": self.judge_prompt}
        mine |= {"base_url": self.judge_base_url} if self.judge_base_url else {}
        return AnnotateOptions(**shared | mine)


class LogOptions(Options):
    """A log of queries that people typed, and the queries to take from it."""

    log: Address
    """Take queries from this log instead of a model: one query per line, or CSV, TSV, JSONL, JSON or Parquet with
    --text-field, plain or compressed.
    """
    sample: int | None = Field(default=None, ge=1)
    """Number of different queries to draw from the log. Default: all that pass the checks."""
    by_frequency: bool = False
    """Draw frequent queries of the log more often: each line has the same chance. Default: each different query has."""
    text_field: str | None = None
    """Column of the queries in the log. Default: text, query, question or another usual name."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the drawn queries."""
