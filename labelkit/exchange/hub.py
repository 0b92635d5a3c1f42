"""Uploads datasets to the Hugging Face Hub and downloads them: `labelkit publish` and `labelkit pull`.

The data files are uploaded first. The Hub stores each under its hash, so an interrupted publication resumes with the
missing files. Then one commit adds everything, so readers see either the old version or the new one.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labelkit.datasets.card import CARD, Publication, judges_and_told, published_card
from labelkit.errors import MissingPackageError, RemoteError, UnknownNameError, UsageError, first_line
from labelkit.exchange.croissant import as_text, croissant
from labelkit.exchange.options import PublishOptions, PullOptions
from labelkit.storage import folders
from labelkit.storage.atomic import disk_errors, write_text
from labelkit.storage.cache_folder import home_folder
from labelkit.storage.credentials import keyring, secrets
from labelkit.storage.dataset import AUDIT, KIND, known_leaks, read_audit
from labelkit.storage.manifest import DatasetFacts, Manifest
from labelkit.storage.names import inside
from labelkit.storage.outputs import claimed, put, unchanged
from labelkit.storage.remote import local

log = logging.getLogger(__name__)

CROISSANT = "croissant.json"
REFUSALS = {
    "unlicensed": "its licence is unknown: give --license",
    "unaudited": "it was not audited since it was written: run labelkit audit",
    "leaking": "it contains queries of an evaluation set: run labelkit mix --drop leaked-queries",
}
"""Value of `--allow` -> reason why `publish` refuses a dataset without it."""
PULLED = ".pulled"
"""Suffix of the folder that a pull downloads to, and from which it resumes."""


class Sent(NamedTuple):
    """A file of a publication."""

    name: str
    path: Path
    size: int


class Upload(NamedTuple):
    """The files, card and destination of a publication."""

    repo_id: str
    tag: str
    private: bool
    files: list[Sent]
    """Files in upload order: data first, then audit, card, Croissant description and manifest."""
    card: str


def publish(
    dataset: Path | str,
    repo: str,
    options: PublishOptions = PublishOptions(),  # noqa: B008 (a frozen record)
) -> Upload:
    """Upload a dataset with its card to the Hugging Face Hub, or resume an interrupted upload.

    Args:
        dataset: dataset folder; may be at s3://, gs:// or hf://.
        repo: ORG/NAME of the dataset repository.
        options: licence, card and version; with `dry_run` nothing is uploaded.

    Returns:
        The files, card and tag that were uploaded, or with `dry_run` would be.

    Raises:
        UsageError: the dataset is unlicensed, unaudited or known to leak and `allow` does not name that, or the tag
            belongs to another version.
        RemoteError: the Hub refuses the request or cannot be reached.
    """
    for name in options.allow:
        if name not in REFUSALS:
            raise UnknownNameError("refusal", name, REFUSALS)
    dataset = local(str(dataset))
    with unchanged(dataset):
        manifest = folders.read_manifest(dataset, KIND)
        publication = Publication(
            repo_id=repo,
            licence=options.license or manifest.facts.licence,
            languages=options.language,
            sources=options.source,
            title=options.title,
            note=options.note,
            audit=read_audit(dataset),
        )
        refuse(dataset, publication, options.allow)
        with staged(dataset, manifest, publication) as folder:
            files = files_of(dataset, folder, manifest)
            refuse_secrets(files)
            version = folders.file_sha256(folder / folders.MANIFEST)
            card = (folder / CARD).read_text(encoding="utf-8")
            tag = options.tag or f"sha256-{version[:12]}"
            plan = Upload(repo, tag, options.private, files=files, card=card)
            if not options.dry_run:
                with hub_errors(plan.repo_id):
                    send(plan, version)
    return plan


def refuse(dataset: Path, publication: Publication, allow: Sequence[str]) -> None:
    """Raise `UsageError` if the dataset is unlicensed, unaudited or leaking and `allow` does not name that."""
    wrong = {
        "unlicensed": not publication.licence,
        "unaudited": publication.audit is None,
        "leaking": known_leaks(dataset) > 0,
    }
    for name, why in REFUSALS.items():
        if wrong[name] and name not in allow:
            raise UsageError(f"{dataset} is not published: {why}, or override this with --allow {name}")


@contextmanager
def staged(dataset: Path, manifest: Manifest[DatasetFacts], publication: Publication) -> Iterator[Path]:
    """Make a temporary folder with card, Croissant description, manifest and audit of the published version."""
    manifest = Manifest[DatasetFacts].model_validate_json(json.dumps(without_home(manifest.as_json())))
    publication = publication._replace(audit=without_home(publication.audit))
    judges = judges_and_told(dataset)
    texts = {
        CARD: published_card(dataset, manifest, publication, judges=judges),
        CROISSANT: as_text(croissant(dataset, manifest, publication, judges=judges)),
    }
    with tempfile.TemporaryDirectory(prefix="labelkit-") as scratch:
        folder = Path(scratch)
        for name, text in texts.items():
            write_text(folder / name, text)
        files = {**manifest.files, **{name: folders.file_sha256(folder / name) for name in texts}}
        write_text(folder / folders.MANIFEST, manifest.model_copy(update={"files": files}).sealed().as_text())
        if publication.audit is not None:
            # An audit contains the sha256 of its manifest; the published manifest differs only by card and description.
            audit = {**publication.audit, "dataset": folders.file_sha256(folder / folders.MANIFEST)}
            write_text(folder / AUDIT, as_text(audit))
        yield folder


def without_home(document: Any) -> Any:
    """Replace the publisher's home folder by `~` in the paths of a JSON document."""
    home = home_folder()
    return json.loads(json.dumps(document).replace(json.dumps(f"{home}/")[1:-1], "~/")) if home else document


def files_of(dataset: Path, folder: Path, manifest: Manifest[DatasetFacts]) -> list[Sent]:
    """List the files to upload, in upload order: only files in the manifest, and those that describe the version."""
    own = [name for name in (AUDIT, CARD, CROISSANT, folders.MANIFEST) if (folder / name).is_file()]
    paths = {name: dataset / name for name in sorted(manifest.files) if name not in own}
    paths |= {name: folder / name for name in own}
    return [Sent(name, path, path.stat().st_size) for name, path in paths.items()]


def refuse_secrets(files: Sequence[Sent]) -> None:
    """Raise `UsageError` if a file to upload contains a key from the environment or the keyring."""
    keyring()  # raises if the keyring cannot be read, since unknown keys cannot be searched for
    for value, where in secrets().items():
        for file in files:
            if holds(file.path, value):
                raise UsageError(f"{file.name} contains {where}; remove the key before publishing")


def holds(path: Path, text: str) -> bool:
    """Return whether a file contains a text; in a Parquet file the text columns are searched."""
    if path.suffix != ".parquet":
        return text.encode() in path.read_bytes()
    with pq.ParquetFile(path.absolute()) as file:
        names = [column.name for column in file.schema_arrow if column.type == pa.string()]
        batches = file.iter_batches(columns=names)
        return any(pc.any(pc.match_substring(column, text)).as_py() for batch in batches for column in batch)


def send(plan: Upload, version: str) -> None:
    """Create the repository, upload missing files, commit all files at once, and tag the commit."""
    api, operations = hub()
    api.create_repo(plan.repo_id, repo_type="dataset", private=plan.private, exist_ok=True)
    info = api.dataset_info(plan.repo_id)
    if plan.private and not info.private:
        raise UsageError(f"{plan.repo_id} is already public; make it private on the Hub or omit --private")
    tags = {ref.name for ref in api.list_repo_refs(plan.repo_id, repo_type="dataset").tags}
    if plan.tag in tags:
        if published_version(api, operations, plan) != version:
            raise UsageError(f"the tag {plan.tag} of {plan.repo_id} belongs to another version; choose another --tag")
        return
    additions = [operations.CommitOperationAdd(file.name, file.path) for file in plan.files]
    for addition, file in zip(additions, plan.files, strict=True):
        api.preupload_lfs_files(plan.repo_id, [addition], repo_type="dataset", free_memory=False)
        log.info(f"  {file.name}, {file.size:,} bytes")
    ours = {file.name for file in plan.files} | {".gitattributes"}
    gone = sorted({sibling.rfilename for sibling in info.siblings or []} - ours)
    commit = api.create_commit(
        plan.repo_id,
        [*(operations.CommitOperationDelete(name) for name in gone), *additions],
        commit_message=f"{plan.tag}: manifest {version[:12]}",
        repo_type="dataset",
        parent_commit=info.sha,
    )
    api.create_tag(plan.repo_id, tag=plan.tag, revision=commit.oid, repo_type="dataset", exist_ok=True)


def published_version(api: Any, client: Any, plan: Upload) -> str | None:
    """Download the manifest at the plan's tag and return its sha256; None if there is no manifest."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = api.hf_hub_download(
                plan.repo_id, folders.MANIFEST, repo_type="dataset", revision=plan.tag, local_dir=folder
            )
        except client.errors.EntryNotFoundError:
            return None
        return folders.file_sha256(Path(path))


def pull(
    repo: str,
    output: Path | str,
    options: PullOptions = PullOptions(),  # noqa: B008 (a frozen record)
) -> Manifest[DatasetFacts]:
    """Download a published dataset and check every file, or resume an interrupted download.

    Args:
        repo: ORG/NAME of the dataset repository on the Hugging Face Hub.
        output: dataset folder to write; a complete dataset there is replaced.
        options: the version to download.

    Returns:
        The manifest of the dataset.

    Raises:
        RemoteError: the Hub refuses the request or cannot be reached.
        ArtifactError: a file differs from the published one.
    """
    target = Path(output)
    with claimed(target, KIND) as place, disk_errors(f"{target} was not written"):
        aside = place.beside(PULLED)
        with hub_errors(repo):
            api, client = hub()
            listed = api.dataset_info(repo, revision=options.revision)
            for sibling in listed.siblings or []:
                inside(aside, sibling.rfilename)
            client.snapshot_download(repo, repo_type="dataset", revision=listed.sha, local_dir=aside.absolute())
        manifest = folders.read_manifest(aside, KIND)
        keep = {*manifest.files, folders.MANIFEST, AUDIT}
        for path in sorted(aside.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif path.is_file() and path.relative_to(aside).as_posix() not in keep:
                path.unlink()
        shutil.rmtree(aside / ".cache", ignore_errors=True)
        put(aside, place, KIND)
    return manifest


def hub() -> tuple[Any, Any]:
    """Return the client of the Hub and its module. Raises `MissingPackageError` if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise MissingPackageError("huggingface_hub", "hub") from None
    return huggingface_hub.HfApi(), huggingface_hub


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Convert errors of the Hub's client to `RemoteError` with a remedy."""
    errors = hub()[1].errors
    try:
        yield
    except errors.RepositoryNotFoundError:
        raise RemoteError(f"the Hub has no dataset {repo_id}, or the token in HF_TOKEN has no access to it") from None
    except errors.RevisionNotFoundError:
        raise RemoteError(f"{repo_id} has no such version; its page on the Hub lists its tags") from None
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise RemoteError(f"the Hub refused the request: {first_line(error)}") from None
    except Exception as error:
        # The Hub's client lets errors of its HTTP client through; which one it uses depends on its release.
        if type(error).__module__.partition(".")[0] not in {"httpx", "httpx2", "requests"}:
            raise
        raise RemoteError(
            f"the Hub cannot be reached ({first_line(error)}); run the same command again to resume"
        ) from None
