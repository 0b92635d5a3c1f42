"""Define the version of labelkit and trainer, which come in one package."""

__version__ = "0.1.0"
