"""Options of `labelkit plan` and `labelkit annotate`."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from labelkit.engines import DEFAULT, DEFAULT_WORKER, Settings
from labelkit.judging.budget import Caps
from labelkit.judging.defences import defences_of
from labelkit.judging.methods import method_named
from labelkit.judging.reading import Reading
from labelkit.options import SEEDS, Options


class JudgeOptions(Options):
    """Which model judges, by which method and prompt, and how much of a passage it reads."""

    model: str
    """Local folder, Hub id, or the name the server knows."""
    engine: str = DEFAULT
    """local, vllm, openai, openai-batch, ray or scripted."""
    method: str = "graded"
    """graded (0 to 3), binary (yes, no), or listwise: relsel, utilsel, utilrank."""
    prompt: str | None = None
    """A shipped prompt's name or a TOML file."""
    revision: str | None = None
    """Commit or tag of a Hub model."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt and answer in tokens: the context of a server, or less."""
    limit: int | None = Field(default=None, ge=1)
    """Judge only the first N pairs of the pool."""
    passage_tokens: int | None = Field(default=None, ge=1)
    """Cut passages to this many tokens; the number of cut passages is reported. Default: 400."""
    passage_words: int | None = Field(default=None, ge=1)
    """Cut passages by words instead. Default where no tokenizer is at hand: 300."""
    tokenizer: str | None = None
    """tokenizer.json, its folder or Hub id, for a model behind a server."""
    permutations: int = Field(default=1, ge=1)
    """Orders of a pool that a listwise method judges."""
    votes: int = Field(default=1, ge=1)
    """Answers drawn for a pair by a pointwise method."""
    defence: tuple[str, ...] = ()
    """strip, nonce, second-look, or none; may be repeated. Default: strip, and second-look where a pair is judged alone
    and once.
    """
    prices: Path | None = None
    """TOML file with dollars for a million tokens; default: prices.toml of labelkit."""
    verify: bool = True
    """Check input folders byte for byte; --no-verify skips it, for huge ones."""

    @model_validator(mode="after")
    def _known_method_and_defences(self) -> Self:
        _ = self.reading
        return self

    @property
    def settings(self) -> Settings:
        """The settings of the engine."""
        named = {name: getattr(self, name) for name in Settings._fields if name in type(self).model_fields}
        return Settings(**named)

    @property
    def reading(self) -> Reading:
        """How much of a passage is read, in which orders, how often, with which defences."""
        once = self.votes == 1 and not method_named(self.method).listwise
        return Reading(
            passage_tokens=self.passage_tokens,
            passage_words=self.passage_words,
            permutations=self.permutations,
            votes=self.votes,
            defences=defences_of(self.defence, once=once),
        )


class PlanOptions(JudgeOptions):
    """A run of `annotate` that is planned, and how fast its judge answers."""

    rate: float | None = Field(default=None, ge=0.001)
    """Calls per second, for the time that it takes."""


class AnnotateOptions(JudgeOptions):
    """A run of `annotate`: judge, reading, engine and limits."""

    dtype: str | None = None
    """bfloat16, float16 or float32; default: what the hardware is fast at."""
    base_url: tuple[str, ...] = ()
    """Address of an OpenAI-compatible server; once for each of a fleet."""
    trust_remote_code: bool = False
    """Run Python code and load pickles that come with a model."""
    insecure: bool = False
    """Allow plain http to other machines, and do not verify TLS."""
    concurrency: int | None = Field(default=None, ge=1)
    """Requests in flight, or rows per batch."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the first order or vote; each further one adds 1."""
    max_usd: float | None = Field(default=None, ge=0, le=1e9)
    """Spend at most this many US dollars on this folder, in all its runs."""
    max_tokens: int | None = Field(default=None, ge=0)
    """Spend at most this many tokens on this folder, prompts and answers together, in all its runs."""
    cache: Path | None = None
    """Folder of replies kept across runs: nothing in it is bought again."""
    retry_failed: bool = False
    """Ask again what gave no grade."""
    tensor_parallel: int = Field(default=1, ge=1)
    """vllm: GPUs that one model is spread over."""
    data_parallel: int = Field(default=1, ge=1)
    """vllm: copies of the model that share the work."""
    reasoning_parser: str | None = None
    """vllm: how the model marks its reasoning, such as deepseek_r1 or qwen3."""
    worker_engine: str = DEFAULT_WORKER
    """ray: engine of each worker: vllm, local, scripted."""
    workers: int | None = Field(default=None, ge=1)
    """ray: number of workers; default one per GPU."""
    wait: bool = False
    """openai-batch: stay until all batches are done."""
    batch_dir: Path | None = None
    """openai-batch: exchange files with `vllm run-batch` in this folder."""
    allow_drift: bool = False
    """Continue when the server changes the model's name or fingerprint."""

    @property
    def settings(self) -> Settings:
        """The settings of the engine."""
        return super().settings._replace(base_urls=self.base_url)

    @property
    def reading(self) -> Reading:
        """How much of a passage is read, in which orders, how often, with which defences."""
        return super().reading._replace(seed=self.seed)

    @property
    def caps(self) -> Caps:
        """The most that the folder may cost."""
        return Caps(self.max_usd, self.max_tokens)
