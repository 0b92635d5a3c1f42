"""Load sentence-transformers models without progress bars and without running code that comes with them."""

from importlib import import_module
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
