"""Options of `labelkit import`, `export`, `publish` and `pull`."""

from pydantic import Field

from labelkit.corpora.scales import ScaleText
from labelkit.options import Options


class ImportOptions(Options):
    """The judge and format of labels that are imported."""

    judge: str
    """Name for the person, model or project that made the labels."""
    kind: str = "imported"
    """Kind of judge that graded a qrels file: human, llm or imported."""
    format: str = "qrels"
    """Format of the source. qrels, argilla, label-studio and scored-ids become a labels folder; beir, msmarco,
    tevatron, tevatron-classic, dpr, flag-embedding, st-triplet, st-ntuple and st-labeled-list become a dataset.
    """
    split: str | None = None
    """Split to import, such as train, if the source has several."""
    spam: bool = False
    """Make grade -2 of a qrels file (spam) grade 0. By default, such pairs are left out, as pairs of grade -1 are."""
    positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest grade of a positive in an imported dataset; use 1 for binary qrels."""
    scale: ScaleText | None = None
    """Scale of the grades, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3. The original grade is kept beside the mapped one.
    """


class ExportOptions(Options):
    """The format in which a dataset is written."""

    to: str
    """Name of the output format."""
    verify: bool = True
    """Compare input folders with their checksums. --no-verify skips this, which saves time on large folders."""


class PublishOptions(Options):
    """Facts of a publication that the dataset does not contain, and refusals that are overridden."""

    license: str | None = None
    """Licence of the dataset, such as cc-by-4.0. Default: the licence of its texts."""
    language: tuple[str, ...] = ()
    """Language code of the texts, such as en. May be repeated."""
    source: tuple[str, ...] = ()
    """Dataset from which texts or labels come, as Hub id or URL. May be repeated."""
    title: str | None = None
    """Title of the card. Default: the name of the dataset folder."""
    note: str | None = None
    """Paragraph to add to the card."""
    private: bool = False
    """Create a private repository."""
    tag: str | None = None
    """Tag of this version. Default: made from the sha256 of its manifest."""
    allow: tuple[str, ...] = ()
    """Reason against publishing to override: unlicensed, unaudited or leaking. May be repeated."""
    dry_run: bool = False
    """Print the files and the card that would be uploaded, and upload nothing."""


class PullOptions(Options):
    """The version of a published dataset to download."""

    revision: str | None = None
    """Tag, branch or commit to download. Default: the newest commit."""
