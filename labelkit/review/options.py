"""Options of `labelkit review`."""

from pathlib import Path

from pydantic import Field

from labelkit.options import SEEDS, Options


class ReviewOptions(Options):
    """Who grades which pairs, and where the page is served."""

    name: str
    """Name of who grades."""
    texts: Path | None = None
    """Pool, whose pairs alone are taken, or BEIR folder; default: the pool judged."""
    by: str = "random"
    """random, for an honest agreement, or disagreement: the pairs most in doubt, to repair them."""
    pairs: int = Field(default=100, ge=1)
    """Number of pairs to grade."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the draw of pairs."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port on 127.0.0.1; 0 takes a free one."""
