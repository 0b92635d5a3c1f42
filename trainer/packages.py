"""Import the packages that training needs, when a function first needs them."""

from importlib import import_module

from labelkit.errors import MissingPackageError
from labelkit.pooling.model_loading import hide_loading_bars

TRAINING_PACKAGES = {
    "sentence_transformers": "sentence-transformers",
    "accelerate": "accelerate",
    "datasets": "datasets",
    "ir_measures": "ir-measures",
}
"""Module -> name of its package."""


def load_training_packages() -> None:
    """Import the training packages. Raises `MissingPackageError` for the first package that is not installed."""
    for module, package in TRAINING_PACKAGES.items():
        try:
            import_module(module)
        except ModuleNotFoundError:
            raise MissingPackageError(package, "train") from None
    hide_loading_bars()
