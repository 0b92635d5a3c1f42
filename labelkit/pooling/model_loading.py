"""Load sentence-transformers models without progress bars and without running code that comes with them."""

from importlib import import_module
from pathlib import Path
from typing import Any

from labelkit.errors import MissingPackageError, UsageError, first_line
from labelkit.pooling.model_safety import refuse_code


def hide_loading_bars() -> None:
    """Disable the progress bars of transformers for loading and saving weights; other progress bars stay."""
    import_module("transformers.utils.logging").disable_progress_bar()


def load_encoder(name: str, *, trust_remote_code: bool = False) -> Any:
    """Load a `SentenceTransformer` from a local folder or the Hub. Raises `UsageError` if it cannot be loaded.

    Code and pickles that come with a model are run only with `trust_remote_code`.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingPackageError("sentence-transformers", "train") from None
    hide_loading_bars()
    refuse_code(name, trusted=trust_remote_code)
    safe = {} if trust_remote_code else {"use_safetensors": True}
    try:
        return SentenceTransformer(name, trust_remote_code=trust_remote_code, model_kwargs=safe)
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
