"""Writes a dataset, or the grades of a labels folder, in the format of another tool: `labelkit export`."""

from pathlib import Path
from typing import NamedTuple

from labelkit.errors import DataError, UnknownNameError
from labelkit.exchange.formats import FORMATS, writable
from labelkit.exchange.formats.base import View
from labelkit.exchange.options import ExportOptions
from labelkit.storage import folders
from labelkit.storage.atomic import write_text
from labelkit.storage.foreign_text import markdown, markdown_code, markdown_indented
from labelkit.storage.manifest import DATASET, EXPORT, LABELS, DatasetFacts, ExportFacts
from labelkit.storage.remote import delivered, local

KIND = EXPORT


class Exported(NamedTuple):
    """The result of an export."""

    rows: dict[str, int]
    """File -> number of rows."""
    left_out: dict[str, int]
    """Kind of item that could not be written -> number of items in this dataset."""
    lacks: tuple[str, ...]
    """Kinds of information that the format cannot store."""


def export(
    dataset: Path | str, output: Path | str, options: ExportOptions, *, command: str = "labelkit.export"
) -> Exported:
    """Write a dataset in the format of another tool, as a stream, and report the information that is lost.

    Args:
        dataset: dataset folder, or a labels folder for the format `qrels`; may be at s3://, gs:// or hf://.
        output: folder to write, local or at s3:// or gs://. It gets the files of the format, a README.md that lists the
            missing information, and a manifest, which is written last.
        options: the format.
        command: the command that manifest and README record as the origin of the folder.

    Returns:
        Rows by file, the information that the format cannot store, and the number of items that were left out.

    Raises:
        UsageError: the format is unknown.
        DataError: the format can store nothing of the dataset.
        ArtifactError: the dataset is damaged, or `output` contains other files.
    """
    if not writable(options.to):
        raise UnknownNameError("format", options.to, filter(writable, FORMATS))
    folder = local(str(dataset))
    with delivered(str(output), KIND) as target:
        return write_export(folder, target, options, command=command)


def write_export(dataset: Path, target: Path, options: ExportOptions, *, command: str) -> Exported:
    """Write an export into a local folder."""
    format_name = options.to
    made = FORMATS[format_name]
    assert made.write is not None
    labels = made.labels and folders.manifest_kind(dataset) is LABELS
    facts = folders.read_manifest(dataset, LABELS if labels else DATASET, verify=options.verify).facts
    raw = isinstance(facts, DatasetFacts) and bool(facts.scored_by)
    with folders.writing(target, KIND, command) as draft, View(dataset, draft.path.parent, raw=raw) as view:
        written = made.write(view, draft.path)
        left_out = {what: count for what, count in written.left_out.items() if count}
        if left_out and not any(written.rows.values()):
            reasons = ", ".join(f"{count:,} {what}" for what, count in left_out.items())
            raise DataError(
                f"{format_name} can store nothing of {dataset} (left out: {reasons}); choose another format"
            )
        draft.rows = written.rows
        draft.inputs = {str(dataset): folders.file_sha256(dataset / folders.MANIFEST)}
        draft.facts = ExportFacts(
            format=format_name,
            lacks=tuple(made.lacks),
            left_out=left_out,
            dataset=facts if isinstance(facts, DatasetFacts) else DatasetFacts(),
        )
        result = Exported(written.rows, left_out, made.lacks)
        write_text(draft.path / "README.md", readme(dataset.name, format_name, result, command=command))
    return result


def readme(name: str, format_name: str, made: Exported, *, command: str) -> str:
    """Write the README of an export; its metadata lets `datasets.load_dataset` find the files."""
    configs = [
        line
        for config, file in FORMATS[format_name].configs.items()
        for line in (f"- config_name: {config}", f"  data_files: {file}")
    ]
    return "\n".join(
        [
            *(["---", "configs:", *configs, "---", ""] if configs else []),
            f"# {markdown(name)} as {format_name}",
            "",
            "Written by labelkit:",
            "",
            markdown_indented(command),
            "",
            *(f"- {markdown_code(file)}: {rows:,} rows" for file, rows in made.rows.items()),
            "",
            "This format cannot store:",
            "",
            *(f"- {what}" for what in made.lacks),
            *(["", "Left out of this export:", ""] if made.left_out else []),
            *(f"- {count:,} {what}" for what, count in made.left_out.items()),
            "",
        ]
    )
