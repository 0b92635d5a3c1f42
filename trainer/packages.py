"""The packages that training needs, loaded with the first function that needs them."""

from importlib import import_module

from labelkit.errors import MissingPackageError
from labelkit.pooling.model_loading import hide_loading_bars

TRAINING_PACKAGES = {
    "sentence_transformers": "sentence-transformers",
    "accelerate": "accelerate",
    "datasets": "datasets",
    "ir_measures": "ir-measures",
}
"""Module -> package that brings it."""


def load_training_packages() -> None:
    """Import them. Raises `MissingPackageError` for the first that is not installed."""
    for module, package in TRAINING_PACKAGES.items():
        try:
            import_module(module)
        except ModuleNotFoundError:
            raise MissingPackageError(package, "train") from None
    hide_loading_bars()
