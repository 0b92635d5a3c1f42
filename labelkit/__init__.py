"""labelkit: relevance labels from language models and people, as datasets that train retrievers."""

__version__ = "0.1.0"
