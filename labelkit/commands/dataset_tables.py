"""Tables on standard output: the findings of an audit, and one query of a dataset with its provenance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from labelkit.commands.terminal import Terminal
from labelkit.datasets.audit_findings import Finding
from labelkit.datasets.evidence import Evidence, Shown
from labelkit.datasets.provenance import Exchange
from labelkit.records import Example
from labelkit.relabelling.rules import Flips


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a table of the findings that have items, then the checks without items, and the skipped ones by reason."""
    table = Table("finding", "severity", "items", "description, example and remedy", show_lines=True)
    for finding in findings:
        if finding.found:
            first = finding.examples[0]
            place = [
                f"{name.removesuffix('_id')} {first[name]}: " for name in ("query_id", "passage_id") if first[name]
            ]
            lines = [finding.what, "  " + "".join(place) + str(first["note"]), "  " + finding.cure]
            table.add_row(finding.name, finding.severity, f"{finding.found:,}", "\n".join(lines))
    out = Terminal()
    if table.row_count:
        out.print(table)
    if clean := [finding.name for finding in findings if finding.found == 0]:
        out.print(f"not found: {', '.join(clean)}")
    skipped: dict[str | None, list[str]] = {}
    for finding in findings:
        if finding.found is None:
            skipped.setdefault(finding.skipped, []).append(finding.name)
    for reason, names in skipped.items():
        out.print(f"not checked: {', '.join(names)}: {reason}")


def mix_lines(output: Path, totals: Mapping[str, Any]) -> list[str]:
    """Describe a mixed dataset for people: its queries and labels, and then each number that is not 0."""
    labels = ", ".join(f"{totals[role]:,} {role}" for role in ("positives", "negatives", "ignored"))
    lines = [f"{output}: {totals['queries']:,} queries, {labels}"]
    if by_source := totals["positives_per_query"]:
        lines.append("positives per query: " + ", ".join(f"{mean:.2f} {source}" for source, mean in by_source.items()))
    conflicts = " (" + ", ".join(f"{count:,} {name}" for name, count in totals["conflicts_between"].items()) + ")"
    for name, more in (
        ("queries_without_positives", ""),
        ("judged_by_both", ""),
        ("conflicts", conflicts),
        ("failed_judgements", ""),
        ("human_queries_set_aside", ""),
    ):
        if totals[name]:
            lines.append(f"{name.replace('_', ' ').replace('judgements', 'judgments')}: {totals[name]:,}{more}")
    return lines


def print_flips(flips: Sequence[Flips]) -> None:
    """Print a table of changed labels by role and source, with the shares of changed labels and their intervals."""
    table = Table("old label", "judged", "promoted", "share promoted", "ignored", "share ignored", "kept", "no grade")
    for one in flips:
        counts = (one.judged, one.promoted, one.ignored, one.kept, one.without_grade)
        judged, promoted, ignored, kept, without = (f"{count:,}" for count in counts)
        shares = str(one.promoted_share), str(one.ignored_share)
        table.add_row(f"{one.source} {one.role}", judged, promoted, shares[0], ignored, shares[1], kept, without)
    Terminal().print(table)


def print_shown(example: Example, shown: Sequence[Shown], *, everything: bool) -> None:
    """Print a query's labels as a table; then the requests and replies behind the positives, or behind `everything`."""
    out = Terminal(highlight=False)
    out.print(f"query {example.query_id}: {example.query}", style="bold")
    table = Table("role", "passage", "grade", "P(grade >= 2)", "judge", "text")
    for one in shown:
        probability = "" if one.label.probability is None else f"{one.label.probability:.2f}"
        text = one.passage.full_text
        grade = "-" if one.label.grade is None else str(one.label.grade)
        row = (one.role, one.label.passage_id, grade, probability, one.label.judge_id, shorten(text, 120))
        table.add_row(*row)
    out.print(table)
    prompts = {}
    for one in shown:
        if everything or one.role == "positive":
            for found in one.evidence:
                print_evidence(out, one.label.passage_id, found)
                prompts[found.judge.prompt_sha256] = found
            if one.mined:
                print_origin(out, one.mined, f"{one.label.passage_id} mined, unjudged")
            if one.relabelled:
                print_origin(out, one.relabelled, f"{one.label.passage_id} relabelled")
    for sha256, found in prompts.items():
        if found.prompt is not None:
            out.rule(f"prompt {found.judge.prompt_name} {found.judge.prompt_version}, sha256 {sha256}")
            out.print(found.prompt.strip())


def print_origin(out: Terminal, row: Mapping[str, Any], title: str) -> None:
    """Print the row of a mined negative (retriever, rank, score) or of a changed label (rule and old label)."""
    out.rule(title)
    for name, value in row.items():
        if name not in ("query_id", "passage_id", "judge_id") and value is not None:
            out.print(f"{name.replace('_', ' ')}: {value}")


def print_evidence(out: Terminal, passage_id: str, found: Evidence) -> None:
    """Print one judge's judgement of one passage, with its requests, replies, price and date."""
    judge, said = found.judge, found.judgement
    out.rule(f"{passage_id} by {judge.judge_id}")
    family = judge.family and f"family {judge.family}"
    made_by = (judge.kind, judge.name, family, judge.revision, judge.engine, judge.engine_version, judge.dtype)
    lines = {
        "judge": ", ".join(filter(None, made_by)),
        "answered as": judge.model_answered,
        "decoding": judge.decoding,
        "prompt": judge.prompt_name and f"{judge.prompt_name} {judge.prompt_version}",
        "grade": f"none: {said.failure or 'a score only'}" if said.grade is None else said.grade,
        "grade as given": said.raw_grade,
        "score": said.score,
        "probabilities": said.probs and ", ".join(f"{share:.3f}" for share in said.probs),
        "position in the list": said.position,
        "tokens": said.tokens,
        "US dollars": said.cost,
    }
    for name, value in lines.items():
        if value is not None:
            out.print(f"{name}: {value}")
    for exchange in found.exchanges:
        print_exchange(out, exchange)


def print_exchange(out: Terminal, exchange: Exchange) -> None:
    """Print a request and its reply."""
    for message in exchange.messages or ():
        out.print(f"[{message.role}]", style="bold")
        out.print(message.content)
    if exchange.messages is None:
        out.print("[the request cannot be rebuilt from these texts]", style="bold")
    record = exchange.record
    cost = "" if record["cost"] is None else f", {record['cost']:.6f} US dollars"
    out.print(f"[reply of {record['answered_at']}, {record['tokens'] or 'unknown'} tokens{cost}]", style="bold")
    out.print(record["reply"])


def shorten(text: str, most: int) -> str:
    """Return the first `most` characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
