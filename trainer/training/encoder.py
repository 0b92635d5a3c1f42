"""Load the encoder of a run, set its pooling, prompts and adapters, and check it against the settings."""

from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import batch_to_device

from labelkit.errors import MissingPackageError, UsageError
from trainer.config.architectures import CROSS_ENCODER
from trainer.config.fit_config import FitConfig
from trainer.retrieval.rerank import load_cross_encoder
from trainer.retrieval.search import Encoder, load_any_encoder, load_model
from trainer.training.soundness import refuse_nonfinite

Model = Encoder | CrossEncoder


def build_model(config: FitConfig) -> Model:
    """Build the model that the settings describe. Raises `UsageError` for settings that the model cannot follow."""
    if config.architecture == CROSS_ENCODER:
        return build_cross_encoder(config)
    return build_encoder(config) if config.architecture == "dense" else build_vector_encoder(config)


def build_vector_encoder(config: FitConfig) -> Encoder:
    """Build a sparse encoder, or one for late interaction; an encoder without a projection of its tokens gets a new
    one, whose weights depend on the seed.
    """
    model = load_any_encoder(config.model, config.architecture, trust_remote_code=config.trust_remote_code)
    set_prompts(model, config)
    refuse_nonfinite(model, f"in {config.model} as loaded", "download it again, or start from another model")
    if not isinstance(model[0], Transformer):
        raise UsageError(f"{config.model} is no transformer, which {config.architecture} needs; choose another model")
    check_lengths(model, config)
    give_padding(model)
    if isinstance(model, SparseEncoder):
        model.similarity_fn_name = "dot"
    return model


def build_cross_encoder(config: FitConfig) -> CrossEncoder:
    """Build a cross-encoder with one output; an encoder gets a head whose weights depend on the seed."""
    model = load_cross_encoder(config.model, trust_remote_code=config.trust_remote_code)
    refuse_nonfinite(model, f"in {config.model} as loaded", "download it again, or start from another model")
    check_lengths(model, config)
    give_padding(model)
    if config.lora_rank is not None:
        _add_adapters(model, config, task_type="SEQ_CLS")  # which also trains the head
    return model


def build_encoder(config: FitConfig) -> SentenceTransformer:
    """Build a dense encoder. Raises `UsageError` for settings that the model cannot follow."""
    model = load_model(config.model, trust_remote_code=config.trust_remote_code)
    if config.pooling is not None:
        model = _with_pooling(model, config)
    set_prompts(model, config)
    refuse_nonfinite(model, f"in {config.model} as loaded", "download it again, or start from another model")
    check_model(model, config)
    model.similarity_fn_name = config.similarity
    if isinstance(model[0], Transformer):
        give_padding(model)
    if config.lora_rank is not None:
        _add_adapters(model, config)
    return model


def set_prompts(model: Encoder, config: FitConfig) -> None:
    """Set the prompts that the settings give."""
    for name, prompt in (("query", config.query_prompt), ("document", config.passage_prompt)):
        if prompt is not None:
            model.prompts[name] = prompt


def give_padding(model: Model) -> None:
    """Pad with the last token of a text if a model has no padding token, as decoders."""
    if model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token


def check_model(model: SentenceTransformer, config: FitConfig) -> None:
    """Raise `UsageError` for settings that the model or its device does not support."""
    check_lengths(model, config)
    if not isinstance(model[0], Transformer):
        for name in ("max_query_length", "max_passage_length", "lora_rank", "pooling"):
            if getattr(config, name) is not None:
                raise UsageError(f"{config.model} is not a transformer and does not support {name}; remove it")
    dimensions = model.get_embedding_dimension() or 0
    if config.matryoshka_dims and max(config.matryoshka_dims) > dimensions:
        raise UsageError(
            f"matryoshka_dims {max(config.matryoshka_dims)} is more than the {dimensions} dimensions of "
            f"{config.model}; lower it"
        )
    normalises = any(isinstance(module, Normalize) for module in model)
    if normalises and config.similarity == "dot" and config.temperature == 1.0:
        raise UsageError(
            f"{config.model} normalises its embeddings: dot products lie between -1 and 1, and temperature 1 "
            "flattens them; set similarity to cosine or temperature to 0.05"
        )


def check_lengths(model: Model, config: FitConfig) -> None:
    """Raise `UsageError` for a precision that the device does not support, or texts longer than the model reads."""
    if config.precision == "fp16" and model.device.type == "cpu":
        raise UsageError("precision fp16 needs a GPU; on a CPU use bf16 or float32")
    if config.precision == "bf16" and model.device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError("this GPU does not compute in bf16; set precision to fp16 or float32")
    limit = model.max_seq_length
    for name in ("max_query_length", "max_passage_length"):
        wanted = getattr(config, name)
        if wanted is not None and limit is not None and wanted > limit:
            raise UsageError(f"{name} {wanted} is more than the {limit} tokens that {config.model} reads; lower it")


def prompt_of(model: Model, *names: str) -> str | None:
    """Return the prompt that `encode_query` or `encode_document` puts before a text, or without `names` the default
    prompt of the model; None for none.
    """
    known = [name for name in (*names, model.default_prompt_name) if name in model.prompts]
    return model.prompts[known[0]] if known else None


def merge_adapters(model: Model) -> None:
    """Merge the adapters into the weights, so that an ordinary model is saved."""
    encoder: Any = model[0]
    if isinstance(encoder, Transformer) and hasattr(encoder.model, "merge_and_unload"):
        encoder.model = encoder.model.merge_and_unload()


def freeze_unused(model: Model) -> None:
    """Freeze the parameters that no embedding or score depends on, such as BERT's pooler under mean pooling.

    With several processes, training would wait for their gradients forever.
    """
    pairs = isinstance(model, CrossEncoder)
    features = batch_to_device(model.preprocess([("text", "text")] if pairs else ["text"]), model.device)
    torch.autograd.backward(model(features)["scores" if pairs else "sentence_embedding"].sum())
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None


def _with_pooling(model: SentenceTransformer, config: FitConfig) -> SentenceTransformer:
    """Replace the pooling of a model; later modules, such as a normalisation, are kept."""
    if not isinstance(model[0], Transformer):
        raise UsageError(f"{config.model} is not a transformer and does not support pooling; remove it")
    pooling = Pooling(model[0].get_embedding_dimension(), pooling_mode=config.pooling)
    behind = [module for module in list(model)[1:] if not isinstance(module, Pooling)]
    prompts = {name: prompt for name, prompt in model.prompts.items() if prompt is not None}
    return SentenceTransformer(modules=[model[0], pooling, *behind], prompts=prompts, device=str(model.device))


def _add_adapters(model: Model, config: FitConfig, task_type: str | None = None) -> None:
    """Add LoRA adapters to a model in place."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingPackageError("peft", "lora") from None
    targets = config.lora_targets if isinstance(config.lora_targets, str) else list(config.lora_targets)
    settings = LoraConfig(
        r=config.lora_rank or 1, lora_alpha=config.lora_alpha, target_modules=targets, task_type=task_type
    )
    encoder: Any = model[0]
    try:
        encoder.model = get_peft_model(encoder.model, settings)
    except ValueError as error:
        raise UsageError(f"lora_targets {targets!r} match no layer of {config.model}: {error}") from None
