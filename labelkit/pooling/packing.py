"""Encode texts without padding: join the tokens of a batch to one sequence, with attention within each text only.

sentence-transformers and transformers support such batches only with a FlashAttention package. PyTorch has kernels for
them, too: they are registered here as an attention implementation of transformers with the name `packed`. Features with
`cu_seq_lens_q` use it; padded features use PyTorch's scaled dot product attention, as before.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

log = logging.getLogger(__name__)

NAME = "packed"
TEXTS = ("a", "Texts without padding give the same embeddings.", "Three words more.")
"""Texts whose embeddings with and without padding must agree before an encoder reads packed batches."""
KEYS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
"""Features with the boundaries of the texts, as in transformers' `DataCollatorWithFlattening`."""
AGREEMENT = {torch.float32: 0.01, torch.float64: 0.01, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Precision -> largest difference of two embeddings or two gradients, relative to their norm. Rounding adds up over the
layers: in bfloat16, gradients at the token embeddings of a random model with 28 layers differ by several percent.
"""


class Rows(NamedTuple):
    """Queries, keys and values of all tokens of some texts, and how they attend to each other."""

    query: Tensor
    """[T, H, D]."""
    key: Tensor
    """[T, K, D]: several heads of the queries may share one of the keys and values."""
    value: Tensor
    """[T, K, D]."""
    ends: Tensor
    """[N + 1] int32: 0, and the number of tokens up to the end of each text."""
    longest: int
    """Tokens of the longest text."""
    causal: bool
    dropout: float
    scale: float | None

    def with_all_heads(self) -> "Rows":
        """Repeat keys and values for the heads of the queries that share them."""
        times = self.query.shape[1] // self.key.shape[1]
        key, value = (tensor.repeat_interleave(times, dim=1) for tensor in (self.key, self.value))
        return self._replace(key=key, value=value)


@dataclass(frozen=True)
class Packing:
    """Converts padded features to packed features."""

    first_position: int
    """Position of the first token of a text: 0, but 2 for RoBERTa."""

    def __call__(self, features: dict[str, Any]) -> dict[str, Any]:
        """Return the features [N, L] of a batch as one row [1, T] without padding.

        Features with tensors other than tokens and token types are returned unchanged.
        """
        tensors = {key for key, value in features.items() if isinstance(value, Tensor)}
        if not {"input_ids", "attention_mask"} <= tensors <= {"input_ids", "attention_mask", "token_type_ids"}:
            return features
        shown = features["attention_mask"].bool()
        lengths = shown.sum(dim=1)
        ends = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        text_of_token = torch.arange(len(lengths), device=shown.device).repeat_interleave(lengths)
        starts = ends[text_of_token]
        longest = int(lengths.max()) if len(lengths) else 0
        packed = {key: features[key][shown].unsqueeze(0) for key in tensors - {"attention_mask"}}
        positions = torch.arange(int(ends[-1]), device=shown.device) - starts + self.first_position
        # Where tokens belong is said here and not computed by the pooling, which would wait for a GPU.
        packed |= {"position_ids": positions.unsqueeze(0), "seq_idx": text_of_token.unsqueeze(0)} | dict(
            zip(KEYS, (ends, ends, longest, longest), strict=True)
        )
        return {key: value for key, value in features.items() if key not in tensors} | packed


@contextmanager
def unpadded(encoder: Any, precision: torch.dtype | None = None) -> Iterator[Packing | None]:
    """Enable packed features for a `SentenceTransformer` within the block; yield None if it does not support them.

    `precision` is the dtype of an autocast around its calls, or None. The encoder supports packed features if a few
    texts have the same embeddings and gradients with and without padding.
    """
    packing, before = _switch(encoder)
    try:
        if packing is not None and not _agrees(encoder, packing, precision):
            packing = None
        yield packing
    finally:
        if before is not None:
            encoder[0].model.set_attn_implementation(before)


def _switch(encoder: Any) -> tuple[Packing | None, str | None]:
    """Set this module's attention in an encoder; return the converter of features and the name of the old attention.

    Both are None if the encoder was not changed.
    """
    from sentence_transformers.base.modules import Transformer

    first = encoder[0]
    if not isinstance(first, Transformer) or getattr(first, "backend", "torch") != "torch":
        return None, None
    before = getattr(first.model.config, "_attn_implementation", None)
    if before not in ("sdpa", NAME) or first.query_expansion is not None:
        return None, None
    register()
    first.model.set_attn_implementation(NAME)
    if first.model.config._attn_implementation != NAME:
        return None, None
    if first.model_forward_params is not None:
        first.model_forward_params |= {*KEYS, "position_ids", "seq_idx"}
    return Packing(first._infer_flatten_position_offset()), before


def register() -> None:
    """Make the attention of this module known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(*given: Any, **more: Any) -> Any:
    """Return the mask of a padded batch; None for a packed batch, which has no attention mask."""
    from transformers import masking_utils

    untyped: Any = masking_utils
    return None if more.get("attention_mask") is None else untyped.sdpa_mask(*given, **more)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Compute attention as an `AttentionInterface` of transformers: [1, H, T, D] -> [1, T, H, D] for packed features.

    Raises `NotImplementedError` for packed features of a layer with a sliding window or a position bias, which the
    kernels do not support; `unpadded` then keeps the padding.
    """
    ends = more.get("cu_seq_lens_q")
    if ends is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return padded
    if more.get("sliding_window") is not None or more.get("position_bias") is not None:
        raise NotImplementedError("packed attention has no sliding window and no position bias")
    causal = more.get("is_causal")
    causal = bool(getattr(module, "is_causal", True)) if causal is None else causal
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    q, k, v = (tensor.squeeze(0).transpose(0, 1).to(dtype) for tensor in (query, key, value))
    rows = Rows(q, k, v, ends=ends, longest=more["max_length_q"], causal=causal, dropout=dropout, scale=scaling)
    out = _kernel(kind, dtype)(rows)
    return out.unsqueeze(0), None


def _kernel(kind: str, dtype: torch.dtype) -> Callable[[Rows], Tensor]:
    """Return a function that computes the attention [T, H, D] on a type of device."""
    if kind != "cuda" or dtype == torch.float64:
        return _one_by_one
    return _efficient if dtype == torch.float32 else _flash


def _flash(rows: Rows) -> Tensor:
    """Compute FlashAttention in half precision, as in `torch.nn.attention.varlen`, which does not support dropout."""
    query, key, value, ends, longest, causal, dropout, scale = rows
    kernel: Any = torch.ops.aten._flash_attention_forward
    out: Tensor = kernel(query, key, value, ends, ends, longest, longest, dropout, causal, False, scale=scale)[0]
    return out


def _efficient(rows: Rows) -> Tensor:
    """Compute memory-efficient attention in float32, as in PyTorch's nested tensors."""
    query, key, value, ends, longest, causal, dropout, scale = rows.with_all_heads()
    kernel: Any = torch.ops.aten._efficient_attention_forward
    each = [tensor.unsqueeze(0) for tensor in (query, key, value)]
    out: Tensor = kernel(*each, None, ends, ends, longest, longest, dropout, int(causal), True, scale=scale)[0]
    return out.squeeze(0)


def _one_by_one(rows: Rows) -> Tensor:
    """Compute attention text by text, if no kernel supports several texts."""
    query, key, value, ends, _, causal, dropout, scale = rows.with_all_heads()
    lengths: list[int] = ends.diff().tolist()
    parts = (torch.split(tensor.transpose(0, 1), lengths, dim=1) for tensor in (query, key, value))
    found = [
        functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal, scale=scale)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(found, dim=1).transpose(0, 1)


def _agrees(encoder: Any, packing: Packing, precision: torch.dtype | None) -> bool:
    """Return whether an encoder gives a few texts the same embeddings and gradients with and without padding."""
    training = encoder.training
    encoder.eval()
    try:
        padded = encoder.preprocess(list(TEXTS))
        packed = packing(padded)
        if "cu_seq_lens_q" not in packed:
            return False
        (plain, slope), (other, other_slope) = (_embed(encoder, each, precision) for each in (padded, packed))
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        log.info(f"texts are padded: this model does not read them without padding ({error})")
        return False
    finally:
        encoder.train(training)
    allowed = AGREEMENT[precision or next(encoder.parameters()).dtype]
    alike = _close(plain, other, allowed) and _close(slope, other_slope, allowed)
    if not alike:
        log.info("texts are padded: this model gives other embeddings without padding")
    return alike


def _embed(encoder: Any, features: dict[str, Any], precision: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Return the embeddings [N, D] of a batch, and the gradient of a weighted sum of them by the token embeddings."""
    kind = encoder.device.type
    moved = {key: value.to(encoder.device) if isinstance(value, Tensor) else value for key, value in features.items()}
    tokens: Any = encoder[0].model.get_input_embeddings()
    with torch.enable_grad(), torch.autocast(kind, dtype=precision, enabled=precision is not None):
        seen: list[Tensor] = []
        hook = tokens.register_forward_hook(lambda module, given, out: _watch(out, seen))
        try:
            vectors: Tensor = encoder(moved)["sentence_embedding"].float()
        finally:
            hook.remove()
        weights = torch.linspace(-1, 1, vectors.shape[1], device=vectors.device)
        (slope,) = torch.autograd.grad((vectors * weights).sum(), seen)
    shown = features.get("attention_mask")
    flat = slope[shown.bool().to(slope.device)] if shown is not None else slope.squeeze(0)
    return vectors.detach(), flat.float()


def _watch(out: Tensor, seen: list[Tensor]) -> Tensor:
    seen.append(out.detach().requires_grad_())
    return seen[-1]


def _close(one: Tensor, other: Tensor, allowed: float) -> bool:
    if one.shape != other.shape:
        return False
    scale = one.norm(dim=-1).amax().clamp(min=1e-12)
    return bool((one - other).norm(dim=-1).amax() <= allowed * scale)
