"""Score pairs of texts with vLLM in this process, by its pooling runner.

Pairs are tokenised as in engine `local`, so that both engines see the same tokens. The scores are the model's logits:
vLLM is told not to apply the activation that it would apply by default.
"""

import math
from typing import Any

from labelkit.engines import Reply, Request, Settings
from labelkit.engines.cross_encoder import over_limit, refuse_messages, reranker_dtype
from labelkit.engines.vllm import VllmEngine


class VllmReranker(VllmEngine):
    """A cross-encoder with one output in vLLM's engine."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings._replace(dtype=settings.dtype or reranker_dtype()))

    def check_labels(self, labels: tuple[str, ...]) -> None:
        if labels:
            refuse_messages(self._settings.model)

    def _own_arguments(self) -> dict[str, Any]:
        # Without a length, vLLM takes the longest that the model and its tokenizer allow.
        return super()._own_arguments() | {"runner": "pooling", "max_model_len": self._settings.max_model_len}

    async def _reply_to(self, request: Request) -> Reply:
        from vllm import PoolingParams

        if not request.pair:
            refuse_messages(self._settings.model)
        encoding = self._tokenizer(*(message.content for message in request.messages))
        ids, limit = encoding["input_ids"], self._llm.vllm_config.model_config.max_model_len
        if len(ids) > limit:
            return over_limit(request, f"{len(ids)} tokens", limit)
        # vLLM takes the place of the first token of the second text instead of the number of the text of each token.
        types = encoding.get("token_type_ids") or []
        extra = {"compressed_token_type_ids": types.index(1)} if 1 in types else None
        pooling = PoolingParams(task="classify", use_activation=False, extra_kwargs=extra)
        prompt = {"type": "token", "prompt_token_ids": ids}
        found = [output async for output in self._llm.encode(prompt, pooling, request.key)]
        return self._scored(request, len(ids), found[-1].outputs.data.float().flatten().tolist())

    def _scored(self, request: Request, tokens: int, scores: list[float]) -> Reply:
        valid = len(scores) == 1 and math.isfinite(scores[0])
        return Reply(
            key=request.key,
            score=scores[0] if valid else None,
            error=None if valid else f"the model computes no single finite score: {scores[:4]}",
            finish_reason="stop" if valid else None,
            model=self.facts.model_answered,
            prompt_tokens=tokens,
            completion_tokens=0,
        )
