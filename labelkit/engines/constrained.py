"""Generate an answer token by token with a transformers model in memory, constrained to a pattern if one is set."""

from functools import lru_cache
from typing import Any

from labelkit.engines import Request
from labelkit.errors import MissingPackageError


def write(model: Any, tokenizer: Any, past: Any, last: int, request: Request) -> tuple[str, str, int]:
    """Generate the answer to a prompt; return its text, finish reason (`stop` or `length`) and number of tokens.

    `past` holds the keys and values of the prompt without its `last` token, and is extended by the answer. Temperature
    0 selects the most probable token.
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
    """Return all tokens that end an answer: a chat model has one that ends a turn and one that ends a text."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*several, tokenizer.eos_token_id) if token is not None})


def _matcher(tokenizer: Any, vocabulary: int, pattern: str | None, ends: list[int]) -> Any:
    """Return a matcher that restricts the next token to a pattern; None if there is no pattern."""
    if pattern is None:
        return None
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise MissingPackageError("llguidance", "local") from None
    return LLMatcher(_compiled(tokenizer, vocabulary, tuple(ends)), LLMatcher.grammar_from_regex(pattern))


@lru_cache
def _compiled(tokenizer: Any, vocabulary: int, ends: tuple[int, ...]) -> Any:
    """Return a vocabulary in the matcher's form, which takes a second to build for 150,000 tokens."""
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))
