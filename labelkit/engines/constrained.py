"""Write an answer token by token with a transformers model in memory, inside a pattern where one is set."""

from functools import lru_cache
from typing import Any

from labelkit.engines import Request
from labelkit.errors import MissingPackageError


def write(model: Any, tokenizer: Any, past: Any, last: int, request: Request) -> tuple[str, str, int]:
    """Text, finish reason (`stop` or `length`) and tokens of the answer to a prompt.

    `past` holds the keys and values of the prompt up to its `last` token, and grows. Temperature 0 takes the likeliest
    token.
    """
    import torch

    ends = _end_tokens(model, tokenizer)
    matcher = _matcher(tokenizer, model.get_output_embeddings().weight.shape[0], request.pattern, ends=ends)
    source = torch.Generator().manual_seed(request.seed or 0)
    written: list[int] = []
    finish_reason = "length"
    with torch.inference_mode():
        while len(written) < request.max_tokens:
            ids = torch.tensor([[written[-1] if written else last]], device=model.device)
            hidden = model.base_model(input_ids=ids, past_key_values=past).last_hidden_state[0, -1]
            logits = model.get_output_embeddings()(hidden).float().cpu()
            if matcher is not None:
                allowed = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8) > 0
                logits = logits.masked_fill(~allowed, -torch.inf)
            if request.temperature > 0:
                token = int(torch.multinomial(torch.softmax(logits / request.temperature, -1), 1, generator=source))
            else:
                token = int(logits.argmax())
            if token in ends:
                finish_reason = "stop"
                break
            written.append(token)
            if matcher is not None:
                matcher.consume_token(token)
                if matcher.is_stopped():
                    finish_reason = "stop"
                    break
    text: str = tokenizer.decode(written, skip_special_tokens=True)
    return text, finish_reason, len(written)


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: a chat model has one for a turn and one for a text."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*several, tokenizer.eos_token_id) if token is not None})


def _matcher(tokenizer: Any, vocabulary: int, pattern: str | None, ends: list[int]) -> Any:
    """What says which tokens may come next; None where anything may."""
    if pattern is None:
        return None
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise MissingPackageError("llguidance", "local") from None
    return LLMatcher(_compiled(tokenizer, vocabulary, tuple(ends)), LLMatcher.grammar_from_regex(pattern))


@lru_cache
def _compiled(tokenizer: Any, vocabulary: int, ends: tuple[int, ...]) -> Any:
    """A vocabulary as the matcher reads it: a second of work for one of 150,000 tokens."""
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))
