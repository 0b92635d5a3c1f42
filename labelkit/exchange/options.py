"""Options of `labelkit import`, `export`, `publish` and `pull`."""

from pydantic import Field

from labelkit.options import Options


class ImportOptions(Options):
    """Who made the labels that are imported, and how they are stored."""

    judge: str
    """Name of who made these labels."""
    kind: str = "imported"
    """Who graded a qrels file: human, llm or imported."""
    format: str = "qrels"
    """qrels, argilla, label-studio (grades: a labels folder), or any other format of export (a dataset)."""
    positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest human grade that makes a positive; 1 for binary qrels."""


class ExportOptions(Options):
    """The format that a dataset is written in."""

    to: str
    """Name of the format."""
    verify: bool = True
    """Check input folders byte for byte; --no-verify skips it, for huge ones."""


class PublishOptions(Options):
    """What only the publisher knows of a dataset, and what is let through."""

    license: str | None = None
    """License of the dataset, such as cc-by-4.0."""
    language: tuple[str, ...] = ()
    """Language of the texts, such as en; may be repeated."""
    source: tuple[str, ...] = ()
    """Dataset that texts or labels come from: Hub id or address; may be repeated."""
    title: str | None = None
    """Title of the card; default: the folder's name."""
    note: str | None = None
    """A paragraph for the card."""
    private: bool = False
    """Create the repository as a private one."""
    tag: str | None = None
    """Name of this version; default: from its manifest's sha256."""
    allow: tuple[str, ...] = ()
    """Publish in spite of: unlicensed, unaudited, leaking; may be repeated."""
    dry_run: bool = False
    """Print all that would be sent, and send nothing."""


class PullOptions(Options):
    """The version of a published dataset."""

    revision: str | None = None
    """Tag, branch or commit; default: the newest."""
