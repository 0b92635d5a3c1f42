"""Load sentence-transformers models without progress bars and without running code that comes with them."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from labelkit.errors import MissingPackageError, UsageError, first_line
from labelkit.pooling.model_safety import refuse_code


def hide_loading_bars() -> None:
    """Disable the progress bars of transformers for loading and saving weights; other progress bars stay."""
    import_module("transformers.utils.logging").disable_progress_bar()


DENSE = "SentenceTransformer"
"""Class of sentence-transformers for dense encoders."""
STARTS = {DENSE: (DENSE,), "SparseEncoder": ("SparseEncoder",), "MultiVectorEncoder": ("MultiVectorEncoder", DENSE)}
"""Class of sentence-transformers -> classes of the saved models that it can load; each also loads plain transformers.
It would convert other saved models into ones with weights that were never trained.
"""


def saved_kind(name: str) -> str | None:
    """Return the class of sentence-transformers that saved a local folder or Hub model; None if it tells none."""
    kind: str | None = config_of(name, "config_sentence_transformers.json").get("model_type")
    return "MultiVectorEncoder" if kind == "ColBERT" else kind  # PyLate's models


def config_of(name: str, file: str) -> dict[str, Any]:
    """Read a JSON file of a local folder or Hub model; an empty dict if it cannot be read."""
    from transformers.utils.hub import cached_file

    quiet = {f"_raise_exceptions_for_{case}": False for case in ("missing_entries", "connection_errors", "gated_repo")}
    try:
        path = cached_file(name, file, **quiet)
        found = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}  # loading the model reports what is wrong with it
    return found if isinstance(found, dict) else {}


def load_encoder(name: str, *, trust_remote_code: bool = False, kind: str = DENSE) -> Any:
    """Load a model from a local folder or the Hub; `kind` is a key of `STARTS`. Raises `UsageError` if it cannot be
    loaded, or was saved by another class.

    Code and pickles that come with a model are run only with `trust_remote_code`.
    """
    try:
        import sentence_transformers
    except ImportError:
        raise MissingPackageError("sentence-transformers", "train") from None
    hide_loading_bars()
    refuse_code(name, trusted=trust_remote_code)
    if (saved := saved_kind(name)) is not None and saved not in STARTS[kind]:
        raise UsageError(f"the model {name!r} is a {saved}, and a {kind} is needed here; give another model")
    safe = {} if trust_remote_code else {"use_safetensors": True}
    try:
        return getattr(sentence_transformers, kind)(name, trust_remote_code=trust_remote_code, model_kwargs=safe)
    except Exception as error:  # the loaders raise errors of any type for a missing or damaged folder
        raise UsageError(
            f"cannot load the model {name!r}: {first_line(error)}; give a model folder or a Hub id"
        ) from None


def hub_commit(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a Hub model that was loaded, from the cache of the Hub; None if it is not in that cache."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "modules.json"):
        path = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(path, str):
            return Path(path).parent.name
    return None
