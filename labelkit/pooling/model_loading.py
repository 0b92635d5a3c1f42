"""Load sentence-transformers models, quietly and without running code that comes with them."""

from importlib import import_module
from typing import Any

from labelkit.errors import MissingPackageError, UsageError, first_line
from labelkit.pooling.model_safety import refuse_code


def hide_loading_bars() -> None:
    """Keep transformers from drawing bars while it loads and saves weights; bars of judging and training stay."""
    import_module("transformers.utils.logging").disable_progress_bar()


def load_encoder(name: str, *, trust_remote_code: bool = False) -> Any:
    """A `SentenceTransformer` from a local folder or the Hub. Raises `UsageError` where there is none.

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
    except Exception as error:  # whatever a missing or damaged folder makes the loaders raise
        raise UsageError(
            f"cannot load the model {name!r}: {first_line(error)}; give a model folder or a Hub id"
        ) from None
