"""Name the family of a model, because models of one family may share their errors."""

import json
import re
from pathlib import Path

FAMILIES = {
    "arctic": "Snowflake", "bge": "BGE", "claude": "Claude", "command": "Command", "cohere": "Command",
    "deepseek": "DeepSeek", "e5": "E5", "gemini": "Gemma and Gemini", "gemma": "Gemma and Gemini", "glm": "GLM",
    "gpt": "OpenAI", "granite": "Granite", "gte": "GTE", "jina": "Jina", "llama": "Llama", "minilm": "MiniLM",
    "mistral": "Mistral", "mixtral": "Mistral", "ministral": "Mistral", "mxbai": "Mixedbread", "nomic": "Nomic",
    "olmo": "OLMo", "openai": "OpenAI", "phi": "Phi", "qwen": "Qwen", "snowflake": "Snowflake",
    "text-embedding-3": "OpenAI", "text-embedding-ada": "OpenAI", "voyage": "Voyage", "yi": "Yi",
    "zerank": "ZeroEntropy",
}  # fmt: skip
"""Word at the start of a part of a model's name -> model family."""
ARCHITECTURES = {
    "bert": "BERT", "deberta": "DeBERTa", "electra": "ELECTRA", "modernbert": "ModernBERT", "roberta": "RoBERTa",
    "t5": "T5",
}  # fmt: skip
"""The same for architectures that many makers train, which count only if the maker's family is unknown."""


def families(model: str) -> set[str]:
    """Return the model families in a model's name, or in the name and the configuration of its folder."""
    folder = Path(model)
    config = folder / "config.json"
    kind = str(json.loads(config.read_text(encoding="utf-8")).get("model_type", "")) if config.is_file() else ""
    # The other parts of a path name people and projects.
    name = folder.resolve().name if folder.is_dir() else model
    words = "-".join(re.split(r"[/_.\s-]+", f"{name} {kind}".lower()))
    return named_in(words, FAMILIES) or named_in(words, ARCHITECTURES)


def named_in(words: str, table: dict[str, str]) -> set[str]:
    """Return the values of a table whose keys begin a part of a name."""
    return {family for word, family in table.items() if re.search(rf"(^|-|embedding){word}(\d|-|$)", words)}
