"""Options of `labelkit review`."""

from pathlib import Path

from pydantic import Field

from labelkit.options import SEEDS, Options


class ReviewOptions(Options):
    """The annotator, the pairs to grade, and the port of the page."""

    name: str
    """Name of the annotator."""
    texts: Path | None = None
    """Pool folder or BEIR folder with the texts. From a pool, only its pairs are shown. Default: the pool that was
    judged.
    """
    by: str = "random"
    """Choice of pairs: random, to measure agreement without bias, or disagreement, to correct the most doubtful labels
    first.
    """
    pairs: int = Field(default=100, ge=1)
    """Number of pairs to grade."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the random order of pairs."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port on 127.0.0.1. 0 chooses a free port."""
