"""Options that several commands of `labelkit` share, with their help."""

from pathlib import Path
from typing import Annotated

import typer


def here(location: str) -> Path:
    """A path, or the local copy of what stands at an address (s3://, gs://, hf://)."""
    from labelkit.storage.remote import local

    return local(location)


Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
PositiveGrade = Annotated[
    int, typer.Option(min=1, max=3, help="Lowest human grade that makes a positive; 1 for binary qrels.")
]
DatasetFolder = Annotated[
    Path, typer.Argument(metavar="DATASET", parser=here, help="Dataset folder, local or at s3://, gs://, hf://.")
]
Source = Annotated[
    Path,
    typer.Argument(metavar="POOL", parser=here, help="Pool folder, or a BEIR folder to pool with the defaults."),
]
MODEL = typer.Option(help="Local folder, Hub id, or the name the server knows.")
ModelOption = Annotated[str, MODEL]
EngineName = Annotated[str, typer.Option(help="local, vllm, openai, openai-batch, ray or scripted.")]
MethodName = Annotated[
    str, typer.Option(help="graded (0 to 3), binary (yes, no), or listwise: relsel, utilsel, utilrank.")
]
PromptName = Annotated[str | None, typer.Option(help="A shipped prompt's name or a TOML file.")]
Revision = Annotated[str | None, typer.Option(help="Commit or tag of a Hub model.")]
MaxModelLen = Annotated[
    int | None, typer.Option(min=16, help="Longest prompt and answer in tokens: the context of a server, or less.")
]
ApplyAnyway = Annotated[
    bool,
    typer.Option("--apply-anyway", help="Apply a calibration although it agreed with people less than its judge."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Judge only the first N pairs of the pool.")]
PassageTokens = Annotated[
    int | None, typer.Option(min=1, help="Cut passages to so many tokens; the cut is counted. Default: 400.")
]
PassageWords = Annotated[
    int | None, typer.Option(min=1, help="Cut by words instead. Default where no tokenizer is at hand: 300.")
]
Tokenizer = Annotated[
    str | None, typer.Option(help="tokenizer.json, its folder or Hub id, for a model behind a server.")
]
Permutations = Annotated[int, typer.Option(min=1, help="Orders of a pool that a listwise method judges.")]
VotesOption = Annotated[int, typer.Option(min=1, help="Answers drawn for a pair by a pointwise method.")]
Defence = Annotated[
    list[str] | None,
    typer.Option(
        help="strip, nonce, second-look, or none; several times for several. Default: strip, and second-look where a "
        "pair is judged alone and once."
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code and load pickles that come with a model.")
]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Do not check input folders byte for byte; for huge ones.")]
Prices = Annotated[
    Path | None, typer.Option(help="TOML file with dollars for a million tokens; default: prices.toml of labelkit.")
]
