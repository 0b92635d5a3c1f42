"""Deviations of servers from OpenAI's chat completions with their sources, and the page docs/servers.md.

Write the page again after a change: `python tests/faults/deviations.py > docs/servers.md`.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Body = dict[str, Any]
PAIRS = 4
"""Number of pairs that each case judges."""
TOP = {"2": -0.2, "1": -2.0, "3": -3.0, "0": -5.0}
SCORE = 1.902
"""Score of the log-probabilities `TOP`."""


class Rule(NamedTuple):
    """An answer in place of a completion."""

    when: Callable[[Body, int], bool]
    """(request, its number from 1) -> whether the rule applies."""
    body: Any
    """JSON document, or bytes as they are sent."""
    status: int = 400


class Deviation(NamedTuple):
    """One deviation of one server, and the outcome of a run that judges `PAIRS` pairs there."""

    server: str
    does: str
    """Behaviour of the server, as the page says it."""
    source: str
    """Public address of the documentation or report."""
    rules: tuple[Rule, ...] = ()
    answer: Callable[[Body], Any] | None = None
    """Request -> completion of a shape of its own; None for a good completion."""
    grade: int | None = 2
    """Grade of every pair; None if every pair fails."""
    score: float | None = SCORE
    requests: int = PAIRS
    """Number of requests of the whole run."""
    code: int = 0
    """Exit code."""
    said: str = ""
    """Words on the screen."""
    sent: dict[str, Any] = {}  # noqa: RUF012
    """Options that are sent in the end, where they differ from the first request."""
    raw: bool = False
    """Whether the journal keeps the body as it came, because a reply does not preserve all of it."""

    @property
    def name(self) -> str:
        return f"{self.server}: {self.does}"


def good(request: Body, top: dict[str, float] | None = None) -> Body:
    """Return a completion as OpenAI sends it, with as many alternatives as the request asks for."""
    listed = dict(list((top or TOP).items())[: request.get("top_logprobs", 0)])
    logprobs = {"content": [token("2", listed)]} if request.get("logprobs") else None
    choice = {"index": 0, "message": {"role": "assistant", "content": "2"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
    return {"id": "c", "model": "m", "choices": [choice | {"logprobs": logprobs}], "usage": usage}


def token(text: Any, top: dict[str, float], logprob: Any = -0.2) -> Body:
    """Return an entry of a list of log-probabilities."""
    return {"token": text, "logprob": logprob, "top_logprobs": [{"token": t, "logprob": v} for t, v in top.items()]}


def whole(**fields: Any) -> Callable[[Body], Body]:
    """Change fields of the completion."""
    return lambda request: good(request) | fields


def choice(message: Body | None = None, **fields: Any) -> Callable[[Body], Body]:
    """Change fields of the choice; `message` replaces its message."""

    def answer(request: Body) -> Body:
        completion = good(request)
        first = completion["choices"][0] | fields | ({} if message is None else {"message": message})
        return completion | {"choices": [first]}

    return answer


def streamed(completion: Body) -> bytes:
    """Return a completion as a stream of events, after a comment."""
    (first,) = completion["choices"]
    message = first["message"]
    deltas = [{"role": "assistant", "content": ""}, {"content": message["content"]}, {}]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices[1]["logprobs"], choices[2]["finish_reason"] = first["logprobs"], first["finish_reason"]
    fields = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    chunks = [fields | {"choices": [one]} for one in choices]
    chunks.append(fields | {"choices": [], "usage": completion["usage"]})
    events = [": processing", *(f"data: {json.dumps(chunk)}" for chunk in chunks), "data: [DONE]"]
    return "".join(f"{event}\n\n" for event in events).encode()


def tokens(*entries: Body) -> Callable[[Body], Body]:
    """Change the list of log-probabilities."""
    return choice(logprobs={"content": list(entries)})


def listing(top: dict[str, float]) -> Callable[[Body], Body]:
    """Change the alternatives of the only token."""
    return tokens(token("2", top, top.get("2", -0.2)))


def always(body: Any, status: int = 400) -> tuple[Rule, ...]:
    return (Rule(lambda request, number: True, body, status),)


def first(body: Any, status: int = 400) -> tuple[Rule, ...]:
    return (Rule(lambda request, number: number == 1, body, status),)


def having(field: str, body: Any, status: int = 400) -> Rule:
    """Refuse requests that have a field."""
    return Rule(lambda request, number: field in request, body, status)


def system(body: Any, status: int = 400) -> tuple[Rule, ...]:
    """Refuse requests with a system turn."""
    return (Rule(lambda request, number: request["messages"][0]["role"] == "system", body, status),)


def listed_over(most: int, body: Any, status: int = 400) -> tuple[Rule, ...]:
    """Refuse a list of more log-probabilities."""
    return (Rule(lambda request, number: request.get("top_logprobs", 0) > most, body, status),)


def error(message: str, **fields: Any) -> Body:
    return {"error": {"message": message, **fields}}


def extra(field: str) -> Body:
    """Return Mistral's refusal of an unknown field."""
    detail = [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted"}]
    return {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "code": None}


TWICE = [{"type": "extra_forbidden", "loc": ["body", "structured_outputs"], "msg": "Extra inputs are not permitted"}]
FOREIGN = ("structured_outputs", "guided_choice", "regex", "grammar")
NONE: dict[str, Any] = {"constraint": "none"}
NO_LIST: dict[str, Any] = {"logprobs": 0}
NO_TEMPERATURE: dict[str, Any] = {"temperature": "none"}
AS_USER: dict[str, Any] = {"system": "user"}
GITHUB = "https://github.com/"
SUSPENDED = "Account me is suspended, possibly due to reaching the monthly spending limit"
TPM = "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 12328"
BEDROCK = (
    'litellm.BadRequestError: BedrockException - {"message":"The model returned the following errors: '
    '{\\"type\\":\\"error\\",\\"error\\":{\\"message\\":\\"`temperature` is deprecated for this model.\\"}}"}'
)
DROP = (
    "UnsupportedParamsError: ollama_chat does not support parameters: ['logprobs', 'top_logprobs'], for m. "
    "To drop these, set `litellm.drop_params=True`."
)
KEY = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
LEGACY = {"tokens": ["2"], "token_logprobs": [-0.2], "top_logprobs": [TOP], "text_offset": [0]}
TOGETHER = {"token_ids": [17], "tokens": ["2"], "token_logprobs": [-0.2]}

OPTIONS = (
    Deviation(
        "OpenAI",
        "refuses `max_tokens` and names `max_completion_tokens` (GPT-5, o-series)",
        GITHUB + "continuedev/continue/issues/7052",
        (
            having(
                "max_tokens",
                error(
                    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                    "'max_completion_tokens' instead.",
                    param="max_tokens",
                ),
            ),
        ),
        requests=5,
        sent={"limit": "max_completion_tokens"},
    ),
    Deviation(
        "OpenAI",
        "refuses any temperature but 1",
        "https://platform.openai.com/docs/guides/reasoning",
        (
            having(
                "temperature",
                error(
                    "Unsupported value: 'temperature' does not support 0 with this model. Only the "
                    "default (1) value is supported.",
                    param="temperature",
                ),
            ),
        ),
        requests=5,
        sent=NO_TEMPERATURE,
    ),
    Deviation(
        "OpenAI",
        "refuses log-probabilities of a reasoning model with status 403",
        GITHUB + "confident-ai/deepeval/pull/2184",
        (having("logprobs", error("You are not allowed to request logprobs from this model", param=None), 403),),
        requests=5,
        sent=NO_LIST,
        score=None,
    ),
    Deviation(
        "Azure OpenAI",
        "names the refused option in its words alone",
        GITHUB + "openai/openai-python/issues/1080",
        (having("logprobs", error("Unrecognized request argument supplied: logprobs", param=None)),),
        requests=5,
        sent=NO_LIST,
        score=None,
    ),
    Deviation(
        "Mistral",
        "refuses unknown fields with status 422",
        GITHUB + "charmbracelet/crush/issues/1590",
        (having("structured_outputs", extra("structured_outputs"), 422), having("logprobs", extra("logprobs"), 422)),
        requests=6,
        sent=NONE | NO_LIST,
        score=None,
    ),
    Deviation(
        "Mistral",
        "states the refused field twice, with code 3001",
        GITHUB + "partITech/php-mistral/issues/76",
        (having("structured_outputs", {"object": "Error", "code": 3001, "detail": TWICE, "message": TWICE}, 422),),
        requests=5,
        sent=NONE,
    ),
    Deviation(
        "Fireworks",
        "names an unknown field after its words",
        GITHUB + "FlowiseAI/Flowise/issues/2866",
        (having("structured_outputs", error("Extra inputs are not permitted, field: 'structured_outputs'")),),
        requests=5,
        sent=NONE,
    ),
    Deviation(
        "Groq",
        "has no log-probabilities",
        GITHUB + "groq/groq-python/issues/25",
        (having("logprobs", error("`logprobs` is not supported with this model", type="invalid_request_error")),),
        requests=5,
        sent=NO_LIST,
        score=None,
    ),
    Deviation(
        "Groq",
        "calls an unknown field an unsupported property and guesses another",
        GITHUB + "fanenr/chatbot/issues/21",
        tuple(having(name, error(f"property '{name}' is unsupported, did you mean 'stop'?")) for name in FOREIGN),
        requests=5,
        sent=NONE,
    ),
    Deviation(
        "LiteLLM",
        "lists the options that the model behind it lacks",
        GITHUB + "BerriAI/litellm/issues/17165",
        (having("logprobs", error(DROP, type="None", param=None, code="400")),),
        requests=5,
        sent=NO_LIST,
        score=None,
    ),
    Deviation(
        "Anthropic behind LiteLLM",
        "refuses a temperature, in JSON inside of JSON",
        GITHUB + "RooCodeInc/Roo-Code/issues/12162",
        (having("temperature", error(BEDROCK, type=None, param=None, code="400")),),
        requests=5,
        sent=NO_TEMPERATURE,
    ),
    Deviation(
        "Gemini",
        "sends the refusal as a list",
        GITHUB + "GoogleCloudPlatform/generative-ai/issues/2947",
        (
            having(
                "logprobs",
                [
                    error(
                        "Unable to submit request because Logprobs is not supported for this model.",
                        code=400,
                        status="INVALID_ARGUMENT",
                    )
                ],
            ),
        ),
        requests=5,
        sent=NO_LIST,
        score=None,
    ),
    Deviation(
        "vLLM",
        "limits the list of log-probabilities (its option max-logprobs)",
        GITHUB + "vllm-project/vllm/issues/5299",
        listed_over(
            5,
            {
                "object": "error",
                "code": 400,
                "message": "Requested sample logprobs of 20, which is greater than max allowed: 5",
            },
        ),
        requests=5,
        sent={"logprobs": 5},
    ),
    Deviation(
        "vLLM",
        "writes the refusal as a list in Python's spelling (older releases)",
        GITHUB + "vllm-project/vllm/issues/3657",
        (
            having(
                "structured_outputs",
                {
                    "object": "error",
                    "type": "BadRequestError",
                    "param": None,
                    "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'structured_outputs'), 'msg': 'Extra "
                    "inputs are not permitted'}]",
                },
            ),
        ),
        requests=5,
        sent=NONE,
    ),
    Deviation(
        "vLLM",
        "refuses a system turn where the chat template has none (Gemma)",
        GITHUB + "huggingface/chat-ui/issues/1386",
        system({"object": "error", "message": "System role not supported", "type": "BadRequestError", "code": 400}),
        requests=5,
        sent=AS_USER,
    ),
    Deviation(
        "SGLang",
        "fails on a system turn with status 500 and no words",
        GITHUB + "sgl-project/sglang/issues/892",
        system(b"Internal Server Error", 500),
        requests=25,
        sent=AS_USER,
    ),
    Deviation(
        "TGI",
        "limits the list to 5 and calls it `top_n_tokens`",
        "https://huggingface.co/docs/text-generation-inference/reference/launcher",
        listed_over(
            5,
            {
                "error": "Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: 20",
                "error_type": "validation",
            },
            422,
        ),
        requests=5,
        sent={"logprobs": 5},
    ),
    Deviation(
        "TGI",
        "refuses temperature 0",
        GITHUB + "huggingface/text-generation-inference/blob/main/router/src/validation.rs",
        (
            having(
                "temperature",
                {
                    "error": "Input validation error: `temperature` must be strictly positive",
                    "error_type": "validation",
                },
                422,
            ),
        ),
        requests=5,
        sent=NO_TEMPERATURE,
    ),
)
"""Servers that refuse an option: the run drops it once and judges every pair."""

SHAPES = (
    Deviation(
        "TGI", "ends with `eos_token`", GITHUB + "dstackai/dstack/pull/2229", answer=choice(finish_reason="eos_token")
    ),
    Deviation(
        "SGLang",
        "ends with an empty finish reason",
        GITHUB + "dstackai/dstack/issues/2228",
        answer=choice(finish_reason=""),
    ),
    Deviation(
        "Together", "ends with `eos`", GITHUB + "vespa-engine/vespa/pull/33327", answer=choice(finish_reason="eos")
    ),
    Deviation(
        "Anthropic behind OpenRouter",
        "ends with `end_turn`",
        GITHUB + "microsoft/autogen/issues/5020",
        answer=choice(finish_reason="end_turn"),
    ),
    Deviation(
        "LM Studio", "ends with `end`", GITHUB + "earendil-works/pi/pull/2116", answer=choice(finish_reason="end")
    ),
    Deviation(
        "mlx-lm",
        "ends with `tool_call` in the singular",
        GITHUB + "ml-explore/mlx-lm/pull/782",
        answer=choice(finish_reason="tool_call"),
    ),
    Deviation(
        "Ollama",
        "stops with `length` after a whole label",
        GITHUB + "ollama/ollama/pull/5312",
        answer=choice(finish_reason="length"),
    ),
    Deviation(
        "Ollama",
        "silently ignores `logprobs`",
        GITHUB + "ollama/ollama/issues/16117",
        answer=choice(logprobs=None),
        score=None,
        said="grade without a score",
    ),
    Deviation(
        "SGLang",
        "sends null log-probabilities",
        GITHUB + "sgl-project/sglang/issues/839",
        answer=choice(logprobs={"content": None}),
        score=None,
        raw=True,
    ),
    Deviation(
        "llama-cpp-python",
        "sends log-probabilities in the shape of text completions",
        GITHUB + "abetlen/llama-cpp-python/issues/1787",
        answer=choice(logprobs=LEGACY),
        score=None,
        raw=True,
    ),
    Deviation(
        "Together",
        "sends log-probabilities of the chosen tokens in a shape of its own",
        GITHUB + "UKGovernmentBEIS/inspect_ai/pull/3084",
        answer=choice(logprobs=TOGETHER),
        score=None,
        raw=True,
    ),
    Deviation(
        "OpenAI",
        "sends no alternatives where none were asked for, so that the chosen token stands alone",
        GITHUB + "vllm-project/vllm/issues/4795",
        answer=tokens(token("2", {}, -0.00001)),
        score=2.0,
    ),
    Deviation(
        "vLLM on ROCm",
        "gives -9999 to all tokens but the first ones",
        GITHUB + "vllm-project/vllm/issues/19305",
        answer=listing({"2": -0.17, "1": -1.85, "0": -9999.0, "3": -9999.0, "!": -9999.0}),
        score=1.843,
    ),
    Deviation(
        "TRL",
        "gives -1e30 in place of NaN",
        GITHUB + "huggingface/trl/pull/5803",
        answer=listing({"2": -0.17, "1": -1.85, "0": -1e30, "3": -1e30}),
        score=1.843,
    ),
    Deviation(
        "Aphrodite",
        "gives `-Infinity`, which is no JSON",
        GITHUB + "dphnAI/sonar/issues/183",
        answer=listing({"2": -0.17, "1": -1.85, "0": -math.inf, "3": -math.inf}),
        score=1.843,
    ),
    Deviation(
        "LMDeploy",
        "leaves the chosen token out of its list, and GPT-2's marks in the tokens",
        GITHUB + "InternLM/lmdeploy/issues/2802",
        answer=tokens(token("2", {"Ġ1": -9.0, "Ġ2": -9.5, "Ġ3": -9.7, "Ġ0": -9.9}, -0.0004)),
        score=2.0,
    ),
    Deviation(
        "llama.cpp",
        "lists the tokens before the grammar, so that prose is likelier than the label",
        GITHUB + "ggml-org/llama.cpp/pull/10783",
        answer=tokens(token("2", {"I": -0.1} | {k: v - 3 for k, v in TOP.items()}, -3.2)),
    ),
    Deviation(
        "SGLang",
        "lists the tokens of the reasoning, which the content lacks",
        GITHUB + "sgl-project/sglang/issues/26778",
        answer=choice(
            {"role": "assistant", "content": "2", "reasoning_content": "a 3? No."},
            logprobs={"content": [token("a 3", {"3": -0.1}), token("? No.", {}), token("2", TOP)]},
        ),
    ),
    Deviation(
        "vLLM",
        "writes tokens as ids (its option `return-tokens-as-token-ids`)",
        "https://docs.vllm.ai/en/stable/serving/openai_compatible_server/",
        answer=tokens(token("token_id:17", {"token_id:17": -0.2, "token_id:18": -2.0})),
        score=None,
        raw=True,
    ),
    Deviation(
        "Mistral",
        "sends the content as parts, one of them thinking",
        GITHUB + "vercel/ai/issues/13703",
        answer=choice(
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "3?"}]},
                    {"type": "text", "text": "2"},
                ],
            }
        ),
        raw=True,
    ),
    Deviation(
        "DeepSeek",
        "sends empty lines before the answer while it is busy",
        "https://api-docs.deepseek.com/quick_start/rate_limit",
        answer=lambda request: b"\n\n\n\n" + json.dumps(good(request)).encode(),
    ),
    Deviation(
        "mini-sglang",
        "always streams the answer",
        GITHUB + "sgl-project/mini-sglang/issues/51",
        answer=lambda request: streamed(good(request)),
    ),
    Deviation(
        "9router",
        "adds the end mark of a stream to a whole answer",
        GITHUB + "decolua/9router/issues/3492",
        answer=lambda request: json.dumps(good(request)).encode() + b"\n\ndata: [DONE]\n\n",
    ),
    Deviation(
        "Bifrost",
        "sends null counts of tokens",
        GITHUB + "maximhq/bifrost/issues/5425",
        answer=whole(usage={"prompt_tokens": None, "completion_tokens": None, "total_tokens": 0}),
    ),
    Deviation(
        "OpenRouter",
        "adds details of the reasoning to the message",
        "https://openrouter.ai/docs/use-cases/reasoning-tokens",
        answer=choice(
            {
                "role": "assistant",
                "content": "2",
                "reasoning": "two",
                "reasoning_details": [{"type": "reasoning.text", "text": "two"}],
            }
        ),
        raw=True,
    ),
)
"""Completions with an odd detail: every pair has its grade, and a score where the probabilities say enough."""

CUT = "cut off: finish_reason"
FAILED = (
    Deviation(
        "z.ai",
        "withholds an answer as `sensitive`",
        GITHUB + "earendil-works/pi/pull/1509",
        answer=choice(finish_reason="sensitive"),
        grade=None,
        code=1,
        said=f"{CUT} sensitive",
    ),
    Deviation(
        "z.ai",
        "breaks off with `network_error`",
        GITHUB + "earendil-works/pi/pull/1509",
        answer=choice(finish_reason="network_error"),
        grade=None,
        code=1,
        said=f"{CUT} network_error",
    ),
    Deviation(
        "DeepSeek",
        "breaks off with `insufficient_system_resource`",
        GITHUB + "genkit-ai/genkit/pull/6259",
        answer=choice({"role": "assistant", "content": "The"}, finish_reason="insufficient_system_resource"),
        grade=None,
        code=1,
        said=f"{CUT} insufficient_system_resource",
    ),
    Deviation(
        "Gemini",
        "sends no content when the length runs out",
        GITHUB + "google/adk-python/issues/1357",
        answer=choice({"role": "assistant"}, finish_reason="length"),
        grade=None,
        requests=1,
        code=1,
        said="raise --thinking-tokens",
    ),
    Deviation(
        "vLLM",
        "sends null content when the reasoning used up the length",
        GITHUB + "vllm-project/vllm/issues/13375",
        answer=choice({"role": "assistant", "content": None, "reasoning_content": "Let me"}, finish_reason="length"),
        grade=None,
        requests=1,
        code=1,
        said="raise --thinking-tokens",
    ),
    Deviation(
        "Gemini",
        "sends no content for the reason `OTHER`",
        GITHUB + "google/generative-ai-docs/issues/235",
        answer=choice({"role": "assistant"}, finish_reason="OTHER", logprobs=None),
        grade=None,
        code=1,
        said="the reply holds no text",
        raw=True,
    ),
    Deviation(
        "OpenRouter",
        "sends no choices and no error",
        GITHUB + "langgenius/dify/issues/9197",
        answer=lambda request: {"id": "gen-1", "object": "chat.completion", "model": "m"},
        grade=None,
        code=1,
        said="the reply holds no text",
        raw=True,
    ),
    Deviation(
        "OpenAI",
        "refuses in a field of its own, with null content",
        "https://platform.openai.com/docs/guides/structured-outputs",
        answer=choice({"role": "assistant", "content": None, "refusal": "I can't help with that."}, logprobs=None),
        grade=None,
        code=1,
        said="the reply holds no text",
        raw=True,
    ),
    Deviation(
        "TGI",
        "refuses a prompt that is too long in words of its own",
        GITHUB + "huggingface/huggingface_hub/issues/2514",
        always(
            {
                "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: "
                "5000 `inputs` tokens and 8 `max_new_tokens`",
                "error_type": "validation",
            },
            422,
        ),
        grade=None,
        requests=2 * PAIRS,
        code=1,
        said="`inputs` tokens",
    ),
    Deviation(
        "Groq",
        "refuses a prompt above the limit of tokens per minute with status 413",
        GITHUB + "HunorLaczko/ha-groq-cloud-api/issues/27",
        always(error(TPM, type="tokens", code="rate_limit_exceeded"), 413),
        grade=None,
        requests=2 + PAIRS,
        code=1,
        said="Request too large for model",
    ),
)
"""Answers without a grade: every pair is a failure with its reason, and the run ends with exit code 1."""

PASSING = (
    Deviation(
        "Anthropic",
        "is overloaded with status 529",
        GITHUB + "anthropics/claude-code/issues/35792",
        first({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529),
        requests=5,
    ),
    Deviation(
        "OpenRouter",
        "sends the upstream's rate limit with status 200",
        GITHUB + "open-webui/computer/issues/293",
        first(error("Provider returned error", code=429, metadata={"raw": "rate-limited upstream"}), 200),
        requests=5,
    ),
    Deviation(
        "OpenRouter",
        "sends the error of a lost upstream inside the choice, with status 200",
        GITHUB + "genkit-ai/genkit/pull/6259",
        first(
            {
                "id": "gen-1",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "error",
                        "error": {"code": 502, "message": "Upstream failed"},
                        "message": {"role": "assistant", "content": ""},
                    }
                ],
            },
            200,
        ),
        requests=5,
    ),
    Deviation(
        "OpenRouter",
        "sends the error of a provider that broke off beside the choice, with status 200",
        "https://openrouter.ai/docs/api/reference/errors-and-debugging",
        first(
            error("Server disconnected unexpectedly", code=502)
            | {"id": "gen-1", "choices": [{"index": 0, "finish_reason": "error", "message": {"content": "The"}}]},
            200,
        ),
        requests=5,
    ),
    Deviation(
        "TGI",
        "reports a failed generation with status 424",
        "https://huggingface.github.io/text-generation-inference/",
        first({"error": "Request failed during generation: Server error", "error_type": "generation"}, 424),
        requests=5,
    ),
    Deviation(
        "TGI",
        "is overloaded with status 429 and no Retry-After",
        "https://huggingface.github.io/text-generation-inference/",
        first({"error": "Model is overloaded", "error_type": "overloaded"}, 429),
        requests=5,
    ),
    Deviation(
        "llama.cpp",
        "loads the model with status 503",
        GITHUB + "ggml-org/llama.cpp/blob/master/tools/server/README.md",
        first(error("Loading model", type="unavailable_error", code=503), 503),
        requests=5,
    ),
)
"""Faults that pass: the same request is sent again, and every pair is judged."""


def final(server: str, does: str, source: str, answer: Any, said: str, status: int = 400) -> Deviation:
    """Return a deviation that ends the run at its first request."""
    return Deviation(server, does, source, always(answer, status), grade=None, requests=1, code=1, said=said)


FINAL = (
    final(
        "OpenAI",
        "reports an empty account with status 429",
        GITHUB + "langchain-ai/langchainjs/issues/1929",
        error("You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"),
        "no credit left",
        429,
    ),
    final(
        "Moonshot",
        "reports an empty account with a code of its own",
        "https://platform.moonshot.ai/docs/api/chat",
        error("suspended, please recharge", type="exceeded_current_quota_error"),
        "no credit left",
        429,
    ),
    final(
        "DeepSeek",
        "reports an empty account with status 402",
        "https://api-docs.deepseek.com/quick_start/error_codes",
        error("Insufficient Balance"),
        "no credit left",
        402,
    ),
    final(
        "MiniMax",
        "reports an empty account with status 500",
        GITHUB + "MiniMax-AI/MiniMax-M2/issues/62",
        {"type": "error", "error": {"type": "api_error", "message": "insufficient balance (1008)"}, "request_id": "0"},
        "no credit left",
        500,
    ),
    final(
        "ModelScope",
        "reports an empty account with status 429 and a type of its own",
        GITHUB + "modelscope/modelscope/issues/1691",
        error("insufficient balance (1008)", http_code="429", type="insufficient_balance_error"),
        "no credit left",
        429,
    ),
    final(
        "Fireworks",
        "suspends an account with status 412",
        GITHUB + "pollinations/pollinations/issues/12136",
        error(SUSPENDED, code="PRECONDITION_FAILED"),
        "no credit left",
        412,
    ),
    final(
        "Ollama",
        "ends a session's allowance with status 429",
        GITHUB + "continuedev/continue/issues/11444",
        {"error": "you (me) have reached your session usage limit, upgrade for higher limits"},
        "usage limit",
        429,
    ),
    final(
        "Ollama",
        "asks for a subscription with status 403",
        GITHUB + "ollama/ollama/issues/15990",
        {"error": "this model requires a subscription, upgrade for access: https://ollama.com/upgrade"},
        "requires a subscription",
        403,
    ),
    final(
        "Gemini",
        "refuses a key with status 400",
        GITHUB + "cequence-io/openai-scala-client/issues/109",
        [error("API key not valid. Please pass a valid API key.", code=400, status="INVALID_ARGUMENT", details=KEY)],
        "refuses the key",
    ),
    final(
        "xAI",
        "refuses a key with status 400 and two texts",
        GITHUB + "hotovo/aider-desk/issues/653",
        {
            "code": "Client specified an invalid argument",
            "error": "Incorrect API key provided: gs***tF. You can obtain an API key from https://console.x.ai.",
        },
        "refuses the key",
    ),
    final(
        "Gemini",
        "refuses a country with status 400",
        GITHUB + "google-gemini/gemini-cli/issues/24641",
        [error("User location is not supported for the API use.", code=400, status="FAILED_PRECONDITION")],
        "refuses access",
    ),
    final(
        "LM Studio",
        "answers a wrong path with status 200",
        GITHUB + "lmstudio-ai/lmstudio-bug-tracker/issues/618",
        {"error": "Unexpected endpoint or method. (POST /chat/completions)"},
        "correct --base-url",
        200,
    ),
    final(
        "FastAPI servers",
        "answer a wrong path with `detail`",
        "https://fastapi.tiangolo.com/tutorial/handling-errors/",
        {"detail": "Not Found"},
        "correct --base-url",
        404,
    ),
    final(
        "OpenAI",
        "does not know the model",
        "https://platform.openai.com/docs/guides/error-codes",
        error("The model `m` does not exist or you do not have access to it.", code="model_not_found"),
        "has no model 'm'",
        404,
    ),
    final(
        "Ollama",
        "does not have the model yet",
        "https://docs.ollama.com/openai",
        error('model "m" not found, try pulling it first', type="api_error"),
        "has no model 'm'",
        404,
    ),
    final(
        "Mistral",
        "does not know the model, with status 400",
        "https://docs.mistral.ai/api",
        {"object": "error", "message": "Invalid model: m", "type": "invalid_model", "code": "1500"},
        "has no model 'm'",
    ),
)
"""Errors after which no request can be answered: the run ends at its first request, with the server's words."""


class Real(NamedTuple):
    """A real server with a judge of 1.5 billion parameters; its behaviour is tested in tests/labelkit/engines."""

    server: str
    seen: str
    outcome: str


REAL = (
    Real(
        "vLLM 0.32, `vllm serve`",
        "obeys `structured_outputs`; gives -9999 to all tokens but the labels, and a fingerprint with its version. Its "
        "CPU build ends at a sampled request with a seed whose prompt is read in parts (CPU Generator does not use "
        "offset): start it with max-num-batched-tokens 16384",
        "28 pairs: 28 requests and one second look; every pair has grade and score",
    ),
    Real(
        "llama.cpp, `python -m llama_cpp.server` 0.3.36",
        "silently ignores `structured_outputs`, `guided_choice` and `regex`, obeys `grammar`; lists 20 "
        "log-probabilities in OpenAI's shape, as they are before the grammar; fails with status 500 on `logprobs` if "
        "it was started with `--logits_all false`",
        "20 pairs: 20 requests, because this judge gives a label alone; every pair has grade and score, 19 grades are "
        "vLLM's, scores differ by 0.05 at most. A judge that chats is sent constraint grammar, found with 3 more "
        "requests; with `--logits_all false` every pair has a grade alone",
    ),
)
"""Real servers with their behaviour, and the outcome of a run."""

SECTIONS: dict[str, tuple[str, tuple[Deviation, ...]]] = {
    "Refused options": ("The run drops the option, once, and judges every pair.", OPTIONS),
    "Answers of another shape": (
        "Every pair has its grade. It has a score if the log-probabilities say enough. A body that a reply does not "
        "preserve in full is kept in the journal as it came.",
        SHAPES,
    ),
    "Answers without a grade": ("Every such pair is a failure with its reason.", FAILED),
    "Faults that pass": ("The same request is sent again.", PASSING),
    "Errors that end a run": (
        "The run ends at once, with the server's words and the cure; the same command resumes it.",
        FINAL,
    ),
}
TABLE = tuple(deviation for _, deviations in SECTIONS.values() for deviation in deviations)


def page() -> Iterator[str]:
    """Yield the lines of docs/servers.md."""
    yield "# Servers and their deviations"
    yield ""
    yield "Servers that call themselves OpenAI-compatible differ. Each line below is a deviation that the documentation"
    yield "of a vendor or an issue reports. A test lets `annotate` judge pairs at a local server that deviates in this"
    yield "way, and checks grades, scores, journal, number of requests and exit code."
    yield from (
        "",
        "## Real servers",
        "",
        "Seen with the judge Qwen2.5-Coder-1.5B-Instruct and pairs of LLMJudge. A test",
    )
    yield from ("judges pairs at each of these servers where it is installed.", "")
    yield from ("| server | seen | labelkit |", "|---|---|---|")
    yield from (f"| {one.server} | {one.seen} | {one.outcome} |" for one in REAL)
    for title, (outcome, deviations) in SECTIONS.items():
        yield from ("", f"## {title}", "", outcome, "")
        yield from ("| server | deviation | labelkit | source |", "|---|---|---|---|")
        for one in deviations:
            yield f"| {one.server} | {one.does} | {outcome_of(one)} | [{label_of(one.source)}]({one.source}) |"


def outcome_of(deviation: Deviation) -> str:
    """Return the outcome of a deviation for the page."""
    if deviation.sent:
        changes = ", ".join(f"{name} {value}" for name, value in deviation.sent.items())
        return f"sends {changes}" + ("" if deviation.score is not None else "; no score")
    if deviation.grade is None:
        return f"stops: “{deviation.said}”" if deviation.requests == 1 else f"failure: “{deviation.said}”"
    if deviation.requests > PAIRS:
        return "sends again"
    return "grade and score" if deviation.score is not None else "grade, no score"


def label_of(source: str) -> str:
    """Return a short name of a source."""
    parts = source.removeprefix("https://").rstrip("/").split("/")
    if parts[0] == "github.com" and parts[3] in ("issues", "pull"):
        return f"{parts[2]}#{parts[4]}"
    return parts[2] if parts[0] == "github.com" else parts[0]


if __name__ == "__main__":
    sys.stdout.write("\n".join(page()) + "\n")
