"""Pending pairs -> engine -> journal -> judgements.

Each reply goes to the journal before anything else happens with it. The judgements are then read from the journal
alone: the same journal gives the same bytes, and a run that was killed goes on where it stopped and pays for nothing
twice.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit import artifact
from labelkit.dataset import records_to_table
from labelkit.engines import Engine, EngineFacts, Message, Reply, Request, Settings, open_engine
from labelkit.errors import EngineError, UsageError
from labelkit.journal import FILE as JOURNAL_FILE
from labelkit.journal import Asked, Journal
from labelkit.methods import Method, method_named
from labelkit.parse import Failure, label_probabilities, read_label
from labelkit.pool import Pool
from labelkit.progress import Progress
from labelkit.prompts import Prompt, load_prompt, parse_prompt
from labelkit.schema import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, SCHEMA_VERSION, Judge, Judgement

KIND = "labels"
DECODING = {"temperature": 0, "max_tokens": 1}
PASSAGE_WORDS = 300
"""Words of a passage that a judge reads, where nothing else is asked for: as in arXiv 2504.05220."""
UNREACHABLE = 20
"""So many requests without an answer in a row, and none answered before, mean that there is no judge."""


class Outcome(NamedTuple):
    """What a run did, for the screen and the demo."""

    pairs: int
    asked: int
    """Requests sent in this run; the other pairs had their reply already."""
    failures: dict[str, int]
    """Reason -> pairs without a grade."""
    seconds: float
    cut_passages: int


def annotate(
    pool: Pool,
    folder: Path,
    *,
    engine_name: str,
    settings: Settings,
    method_name: str,
    prompt_name: str | None,
    limit: int | None,
    command: str,
    passage_words: int = PASSAGE_WORDS,
) -> Outcome:
    """Judge the pairs of a pool (the first `limit`, in pool order) into a labels folder, or go on with what is there.

    Longer passages are cut to `passage_words` words; how many were is counted.
    """
    method = method_named(method_name)
    prompt = load_prompt(prompt_name or method.prompt)
    if prompt.method != method_name:
        raise UsageError(f"prompt {prompt.name!r} is for method {prompt.method!r}, not {method_name!r}")
    refuse_other_labels(folder)
    engine = open_engine(engine_name, settings)
    engine.check_labels(prompt.label_texts)
    judge = make_judge(engine.facts, settings, method_name, prompt)
    asked, requests, cut = make_requests(pool, judge, prompt, limit, passage_words)
    with Journal(folder) as journal:
        (folder / artifact.MANIFEST).unlink(missing_ok=True)
        journal.register(judge, prompt.content, asked)
        answered = {key for key, reply in journal.replies().items() if reply.error is None}
        pending = unanswered(requests, answered)
        progress = Progress(total=len(asked), done=len(asked) - len(pending))
        try:
            ask(engine, pending, journal, progress, prompt)
        finally:
            progress.close()
            engine.close()
        judgements = finalise(
            journal, folder, command, inputs=pool.inputs, facts={"passage_words": passage_words, "cut_passages": cut}
        )
    mine = {(pair.query_id, pair.passage_id) for pair in asked}
    failures = count_failures(
        row for row in judgements if row.judge_id == judge.judge_id and (row.query_id, row.passage_id) in mine
    )
    return Outcome(len(asked), len(pending), failures, progress.seconds, cut)


def refuse_other_labels(folder: Path) -> None:
    """An annotation run goes into a new folder or one that it made before: never among imported grades."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / JOURNAL_FILE).is_file():
        raise UsageError(f"{folder} exists and holds no annotation run; choose another output folder")


def make_judge(facts: EngineFacts, settings: Settings, method: str, prompt: Prompt) -> Judge:
    """The judge of a run; its id is the method, the model's short name and a hash over all that may change a reply."""
    fields: dict[str, Any] = {
        "kind": "llm",
        "name": settings.model,
        **facts._asdict(),
        "method": method,
        "prompt_name": prompt.name,
        "prompt_version": prompt.version,
        "prompt_sha256": prompt.sha256,
        "label_grades": tuple(label.grade for label in prompt.labels),
        "decoding": canonical_json(DECODING | ({"base_url": settings.base_url} if settings.base_url else {})),
    }
    # What the model was called by its path is no part of what it says, and engine versions are provenance, not
    # identity.
    identity = {key: value for key, value in fields.items() if key not in ("name", "model_answered", "engine_version")}
    identity["model"] = facts.revision or settings.model
    digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
    return Judge(judge_id=f"{method}-{Path(settings.model).name}-{digest[:16]}", **fields)


def make_requests(
    pool: Pool, judge: Judge, prompt: Prompt, limit: int | None, passage_words: int
) -> tuple[list[Asked], list[Request], int]:
    """The pairs to judge, the request of each, and how many passages had to be cut."""
    asked, requests, cut = [], [], 0
    for candidate in pool.candidates[:limit]:
        text = pool.passages[candidate.passage_id].full_text
        words = text.split()
        if len(words) > passage_words:
            text, cut = " ".join(words[:passage_words]), cut + 1
        messages = prompt.render(pool.queries[candidate.query_id].text, text)
        key = request_key(judge, messages, prompt.label_texts)
        asked.append(Asked(judge.judge_id, candidate.query_id, candidate.passage_id, key))
        requests.append(Request(key, candidate.query_id, messages, prompt.label_texts))
    return asked, requests, cut


def request_key(judge: Judge, messages: Sequence[Message], labels: Sequence[str]) -> str:
    """sha256 over everything that decides a reply: judge, messages, labels, schema. Equal keys share one reply."""
    identity = judge.judge_id.rsplit("-", 1)[-1]
    content = [SCHEMA_VERSION, identity, [list(message) for message in messages], list(labels)]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def unanswered(requests: Iterable[Request], answered: set[str]) -> list[Request]:
    """Requests without a reply, each key once."""
    pending = {request.key: request for request in requests if request.key not in answered}
    return list(pending.values())


def ask(engine: Engine, pending: Sequence[Request], journal: Journal, progress: Progress, prompt: Prompt) -> None:
    """Send what is pending and journal each reply as it comes. Raises `EngineError` where nobody answers at all."""
    if not pending:
        return
    unreached = 0
    for reply in engine.run(pending):
        journal.append(reply)
        progress.step(failed=isinstance(read_label(reply, prompt.label_texts), Failure))
        unreached = unreached + 1 if reply.error is not None and unreached >= 0 else -1
        if unreached >= min(UNREACHABLE, len(pending)):
            raise EngineError(f"the judge answers nothing: {reply.error}; mend that and run the same command again")


def finalise(
    journal: Journal, folder: Path, command: str, *, inputs: dict[str, str], facts: dict[str, Any]
) -> list[Judgement]:
    """Write judgements and judges of a journal into its folder, sorted by judge and pair, manifest last."""
    judgements: list[Judgement] = []
    judges: list[Judge] = []
    replies = journal.replies()
    for judge, content in journal.judges():
        prompt = parse_prompt(content, f"prompt of {judge.judge_id}")
        mine = list(read_judgements(journal.asked(judge.judge_id), replies, prompt, method_named(prompt.method)))
        served = sorted({r.model for j in mine if j.reply_ref and (r := replies[j.reply_ref]).model})
        judges.append(judge.model_copy(update={"model_answered": ", ".join(served)} if served else {}))
        judgements += mine
    artifact.write_parquet(folder / "judgements.parquet", records_to_table(judgements, JUDGEMENT_SCHEMA))
    artifact.write_parquet(folder / "judges.parquet", records_to_table(judges, JUDGE_SCHEMA))
    artifact.write_manifest(
        folder,
        KIND,
        command,
        inputs=inputs,
        rows={"judgements": len(judgements), "judges": len(judges)},
        facts=facts | {"failures": count_failures(judgements)},
        files=["judgements.parquet", "judges.parquet"],
    )
    return judgements


def read_judgements(
    asked: Iterable[Asked], replies: dict[str, Reply], prompt: Prompt, method: Method
) -> Iterator[Judgement]:
    """A judgement for every pair that has a reply; pairs without one are still pending and stay out."""
    grades = {label.text: label.grade for label in prompt.labels}
    for pair in asked:
        reply = replies.get(pair.key)
        if reply is None:
            continue
        label = read_label(reply, prompt.label_texts)
        fields: dict[str, Any] = {"failure": label.reason} if isinstance(label, Failure) else {"grade": grades[label]}
        if not isinstance(label, Failure) and reply.label_logprobs is not None:
            probs, mass = label_probabilities(reply.label_logprobs, prompt.label_texts)
            fields |= {
                "score": method.score(reply.label_logprobs, prompt),
                "probs": probs,
                "label_mass": None if reply.masked else mass,
            }
        if reply.prompt_tokens is not None:
            fields["tokens"] = reply.prompt_tokens + (reply.completion_tokens or 0)
        yield Judgement(
            query_id=pair.query_id,
            passage_id=pair.passage_id,
            judge_id=pair.judge_id,
            reply_ref=pair.key,
            **fields,
        )


def count_failures(judgements: Iterable[Judgement]) -> dict[str, int]:
    """Failures by the kind of their reason (what stands before the first colon or quote), most frequent first."""
    counts: dict[str, int] = {}
    for judgement in judgements:
        if judgement.failure is not None:
            reason = judgement.failure.split(":", 1)[0].split(" in '", 1)[0].split(' in "', 1)[0]
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def read_labels(folder: Path, *, verify: bool = True) -> tuple[list[Judgement], list[Judge], dict[str, Any]]:
    """Judgements, judges and manifest of a labels folder."""
    manifest = artifact.read_manifest(folder, KIND, verify=verify)
    judgements = [Judgement(**row) for row in artifact.read_table(folder, "judgements").to_pylist()]
    judges = [Judge(**row) for row in artifact.read_table(folder, "judges").to_pylist()]
    return judgements, judges, manifest


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
