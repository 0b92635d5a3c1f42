"""Options of `labelkit plan` and `labelkit annotate`."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from labelkit.engines import DEFAULT, THINKING_TOKENS, Settings
from labelkit.engines.option_use import refuse_unused
from labelkit.errors import UsageError
from labelkit.judging.budget import Caps
from labelkit.judging.defences import defences_of
from labelkit.judging.methods import method_named
from labelkit.judging.reading import Reading
from labelkit.options import SEEDS, Options


class ModelOptions(Options):
    """A language model, the engine that runs it, and how much of a passage it reads."""

    model: str
    """Model that judges: local folder, Hub id, or model name on the server."""
    engine: str = DEFAULT
    """Engine that runs the model: local, vllm, openai, openai-batch, ray or scripted."""
    revision: str | None = None
    """Commit or tag of a Hub model. Default: the newest commit."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Maximum tokens of prompt and answer together; at most the context length of the server."""
    passage_tokens: int | None = Field(default=None, ge=1)
    """Cut passages to this many tokens. The number of cut passages is reported. Default: 400."""
    passage_words: int | None = Field(default=None, ge=1)
    """Cut passages to this many words instead of tokens. Default if no tokenizer is available: 300."""
    tokenizer: str | None = None
    """Tokenizer of a model behind a server: tokenizer.json, its folder or a Hub id."""
    thinking_tokens: int | None = Field(default=None, ge=0, le=1_000_000_000)
    """Tokens that a model may use for reasoning before each answer. plan and the caps include them. Default: 0, and
    2048 with --reasoning-parser.
    """
    reasoning_parser: str | None = None
    """vllm: name of the parser of the model's reasoning, such as deepseek_r1 or qwen3."""
    prices: Path | None = None
    """TOML file with US dollars per million tokens. Default: the prices.toml shipped with labelkit."""
    verify: bool = True
    """Compare input folders with their checksums. --no-verify skips this, which saves time on large folders."""

    @model_validator(mode="after")
    def _options_with_an_effect(self) -> Self:
        fields = {name: (getattr(self, name), field.default) for name, field in type(self).model_fields.items()}
        refuse_unused(self.engine, {name: value for name, (value, default) in fields.items() if value != default})
        return self

    @property
    def settings(self) -> Settings:
        """Settings of the engine."""
        named = {name: getattr(self, name) for name in Settings._fields if name in type(self).model_fields}
        return Settings(**named)

    @property
    def thinking(self) -> int:
        """Token limit of the reasoning before an answer."""
        return self.thinking_tokens or (THINKING_TOKENS if self.reasoning_parser else 0)


class JudgeOptions(ModelOptions):
    """The model, method and prompt of a judge, and how much of a passage it reads."""

    method: str = "graded"
    """Method of judging. One pair per request: graded (0 to 3), binary (yes or no), rerank (a reranker's score, from
    which calibrate makes grades). A list per request: relsel, utilsel, utilrank.
    """
    prompt: str | None = None
    """Prompt: the name of a shipped prompt, or a TOML file. Default: the shipped prompt of the method."""
    limit: int | None = Field(default=None, ge=1)
    """Judge only the first N pairs of the pool."""
    permutations: int = Field(default=1, ge=1)
    """Listwise methods: number of random orders in which each list is judged."""
    votes: int = Field(default=1, ge=1)
    """Pointwise methods: number of answers sampled per pair."""
    defence: tuple[str, ...] = ()
    """Defence against manipulative passages: strip, nonce, second-look or none. May be repeated. Default: strip, and
    also second-look for pointwise methods with one vote.
    """

    @model_validator(mode="after")
    def _known_method_and_defences(self) -> Self:
        _ = self.reading
        return self

    @property
    def reading(self) -> Reading:
        """Length, orders, votes and defences with which passages are read."""
        method = method_named(self.method)
        once = self.votes == 1 and not method.listwise and not method.score_only
        return Reading(
            passage_tokens=self.passage_tokens,
            passage_words=self.passage_words,
            permutations=self.permutations,
            votes=self.votes,
            thinking_tokens=self.thinking,
            defences=defences_of(self.defence, once=once),
        )


class PlanOptions(JudgeOptions):
    """A planned run of `annotate`, and the speed of its judge."""

    rate: float | None = Field(default=None, ge=0.001)
    """Calls per second of the judge, to estimate the duration."""
    gpu: str | None = None
    """GPU on which the judge runs with vLLM, to estimate the duration from shipped measurements: h200."""
    distilled: Path | None = None
    """Folder of labelkit distil, whose judge would take pairs from this model, to estimate the money saved."""
    confidence: float | None = Field(default=None, ge=0.5, le=1)
    """With --distilled: the distilled judge takes only pairs of which it is at least this sure, that is max(p, 1 - p)
    for P(grade >= 2) = p. Default: it takes all pairs.
    """

    @model_validator(mode="after")
    def _confidence_of_a_judge(self) -> Self:
        if self.confidence is not None and self.distilled is None:
            raise UsageError("--confidence is about the judge of --distilled; give the folder of labelkit distil, too")
        return self

    @model_validator(mode="after")
    def _one_speed(self) -> Self:
        if self.rate and self.gpu:
            raise ValueError("give --rate or --gpu, not both")
        return self


class CallOptions(ModelOptions):
    """A run that asks a model: engine, spending limits and the cache of replies."""

    reasoning_effort: str | None = Field(default=None, pattern="^[a-z]+$")
    """How long a model behind a server is to reason before an answer, in a word that the server knows, such as none,
    minimal, low, medium or high. Default: the server's default.
    """
    dtype: str | None = None
    """Precision of the model: bfloat16, float16 or float32. Default: the fastest precision of the hardware."""
    base_url: tuple[str, ...] = ()
    """Address of an OpenAI-compatible server, which often ends in /v1. Repeat it to share the work among several
    servers. Default: https://api.openai.com/v1."""
    trust_remote_code: bool = False
    """Allow a model to run its own Python code and to load pickle files. Only for models that you trust."""
    insecure: bool = False
    """Allow unencrypted http to other machines, and skip the verification of TLS certificates."""
    concurrency: int | None = Field(default=None, ge=1)
    """Number of requests in flight to a server, or of prompts per batch of a model that runs here."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the first order or vote. Each further order or vote adds 1."""
    max_usd: float | None = Field(default=None, ge=0, le=1e9)
    """Spend at most this many US dollars on the output folder, all runs together."""
    max_tokens: int | None = Field(default=None, ge=0)
    """Use at most this many tokens for the output folder: prompts and answers, all runs together."""
    cache: Path | None = None
    """Folder of stored replies that several output folders share. A stored reply is not requested again."""
    retry_failed: bool = False
    """Ask again about pairs that have no grade."""
    tensor_parallel: int = Field(default=1, ge=1)
    """vllm: number of GPUs that share one copy of the model."""
    pipeline_parallel: int = Field(default=1, ge=1)
    """vllm: number of groups of GPUs, each with a part of the model's layers, through which the requests pass."""
    data_parallel: int = Field(default=1, ge=1)
    """vllm: number of copies of the model that share the work."""
    engine_arg: tuple[str, ...] = ()
    """vllm: argument of vLLM itself as NAME=VALUE, such as gpu_memory_utilization=0.8 or kv_cache_dtype=fp8. May be
    repeated.
    """
    worker_engine: str | None = None
    """ray: engine of each worker: vllm, local or scripted. Default: vllm."""
    workers: int | None = Field(default=None, ge=1)
    """ray: number of workers. Default: one per GPU."""
    wait: bool = False
    """openai-batch: wait until all batches are done. By default the command ends, and running it again collects the
    results.
    """
    batch_dir: Path | None = None
    """openai-batch: folder in which batch files are exchanged with vllm run-batch instead of a server."""
    allow_drift: bool = False
    """Continue even if the server changes the name or fingerprint of the model during the run."""

    @property
    def settings(self) -> Settings:
        """Settings of the engine."""
        return super().settings._replace(base_urls=self.base_url, engine_args=self.engine_arg)

    @property
    def caps(self) -> Caps:
        """Spending limits of the folder."""
        return Caps(self.max_usd, self.max_tokens)


class AnnotateOptions(CallOptions, JudgeOptions):
    """A run of `annotate`: judge, reading, engine and spending limits."""

    add_judge: bool = False
    """Add a further judge to an output folder that has labels of another judge."""

    @property
    def reading(self) -> Reading:
        """Length, orders, votes and defences with which passages are read."""
        return super().reading._replace(seed=self.seed)
