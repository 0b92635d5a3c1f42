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
    """Options of a judge: its model, method and prompt, and how much of a passage it reads."""

    model: str
    """Model of the judge: a local folder, a Hub id, or the name that the server uses."""
    engine: str = DEFAULT
    """Engine that runs the model: local, vllm, openai, openai-batch, ray or scripted."""
    method: str = "graded"
    """Annotation method: graded (0 to 3), binary (yes or no), or a listwise one: relsel, utilsel, utilrank."""
    prompt: str | None = None
    """Name of a shipped prompt, or a TOML file; default: the prompt named like the method."""
    revision: str | None = None
    """Commit or tag of a Hub model."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Most tokens of a prompt and its answer together; at most the context of the model."""
    limit: int | None = Field(default=None, ge=1)
    """Judge only the first N pairs of the pool."""
    passage_tokens: int | None = Field(default=None, ge=1)
    """Cut passages to this many tokens, and report how many were cut. Default: 400."""
    passage_words: int | None = Field(default=None, ge=1)
    """Cut passages to this many words instead of tokens. Default if no tokenizer is available: 300."""
    tokenizer: str | None = None
    """Tokenizer of a model behind a server: a tokenizer.json, its folder, or a Hub id."""
    permutations: int = Field(default=1, ge=1)
    """Number of orders in which a listwise method judges each pool."""
    votes: int = Field(default=1, ge=1)
    """Number of answers that a pointwise method samples per pair."""
    defence: tuple[str, ...] = ()
    """Defence against manipulative passages: strip, nonce, second-look, or none; may be repeated. Default: strip, and
    second-look if each pair is judged alone and once.
    """
    prices: Path | None = None
    """TOML file with US dollars per million tokens; default: labelkit's prices.toml."""
    verify: bool = True
    """Compare input folders with their checksums; --no-verify saves time on large ones."""

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
        """How passages are read: their length, orders, votes and defences."""
        once = self.votes == 1 and not method_named(self.method).listwise
        return Reading(
            passage_tokens=self.passage_tokens,
            passage_words=self.passage_words,
            permutations=self.permutations,
            votes=self.votes,
            defences=defences_of(self.defence, once=once),
        )


class PlanOptions(JudgeOptions):
    """Options of a planned run of `annotate`, and the rate of its judge."""

    rate: float | None = Field(default=None, ge=0.001)
    """Calls per second that the judge answers, to estimate the duration."""


class AnnotateOptions(JudgeOptions):
    """Options of a run of `annotate`: judge, reading, engine and limits."""

    dtype: str | None = None
    """Number format of the weights: bfloat16, float16 or float32; default: one that the hardware computes fast."""
    base_url: tuple[str, ...] = ()
    """Address of an OpenAI-compatible server; repeat it for several servers of the same model."""
    trust_remote_code: bool = False
    """Run Python code and load pickles that come with a model."""
    insecure: bool = False
    """Allow plain http to other machines, and do not verify TLS certificates."""
    concurrency: int | None = Field(default=None, ge=1)
    """Requests in flight to a server, or rows per batch of a model that runs here."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Random seed of the first order or vote; the seed of each further one is larger by 1."""
    max_usd: float | None = Field(default=None, ge=0, le=1e9)
    """Spend at most this many US dollars on the labels folder, in all its runs."""
    max_tokens: int | None = Field(default=None, ge=0)
    """Spend at most this many tokens on the labels folder, prompts and answers together, in all its runs."""
    cache: Path | None = None
    """Folder of replies that runs share, so that no reply in it is paid for again."""
    retry_failed: bool = False
    """Send the requests of pairs without a grade again."""
    tensor_parallel: int = Field(default=1, ge=1)
    """vllm: number of GPUs that share one copy of the model."""
    data_parallel: int = Field(default=1, ge=1)
    """vllm: number of copies of the model that share the work."""
    reasoning_parser: str | None = None
    """vllm: name of the parser for the model's reasoning, such as deepseek_r1 or qwen3."""
    worker_engine: str = DEFAULT_WORKER
    """ray: engine of each worker: vllm, local or scripted."""
    workers: int | None = Field(default=None, ge=1)
    """ray: number of workers; default: one per GPU."""
    wait: bool = False
    """openai-batch: wait until all batches have ended."""
    batch_dir: Path | None = None
    """openai-batch: exchange files with `vllm run-batch` in this folder."""
    allow_drift: bool = False
    """Continue if the server changes the model's name or fingerprint."""

    @property
    def settings(self) -> Settings:
        """The settings of the engine."""
        return super().settings._replace(base_urls=self.base_url)

    @property
    def reading(self) -> Reading:
        """How passages are read: their length, orders, votes, seed and defences."""
        return super().reading._replace(seed=self.seed)

    @property
    def caps(self) -> Caps:
        """Most US dollars and tokens that the folder may cost."""
        return Caps(self.max_usd, self.max_tokens)
