"""Matches the judges of labels with the judges of a calibration.

A judge that labelkit ran is identified by its id: with another prompt or revision it is another judge. An imported
judge is identified by kind and name, since its id contains the sha256 of the imported file.
"""

from collections.abc import Iterable, Mapping, Sequence

from labelkit.errors import UsageError
from labelkit.quality.calibration.models import Calibration, KnownJudge
from labelkit.quality.raters import Rater, joined

IMPORTED_KINDS = ("llm", "imported")
"""Kinds with which the ids of imported judges begin. People are not features."""


def known_judges(calibration: Calibration) -> list[KnownJudge]:
    """Return the judges of a calibration; in files of older versions they are found in the report."""
    if calibration.judges:
        return list(calibration.judges)
    named = calibration.report.get("judges", {})
    ids = [feature.name for feature in calibration.features if feature.kind == "judge"]
    found = []
    for judge_id in ids:
        name = named.get(judge_id, judge_id)
        kind = next((kind for kind in IMPORTED_KINDS if judge_id.startswith(f"{kind}-{name}-")), None)
        found.append(KnownJudge(judge_id=judge_id, name=name, kind=kind or "llm", imported=kind is not None))
    return found


def known_judges_of(judges: Iterable[Rater]) -> tuple[KnownJudge, ...]:
    """Convert raters to the judges of a calibration."""
    return tuple(KnownJudge(judge_id=j.rater_id, name=j.name, kind=j.kind, imported=j.imported) for j in judges)


def match(
    calibration: Calibration, raters: Sequence[Rater], renamed: Mapping[str, str] | None = None
) -> dict[str, Rater]:
    """Find every judge of a calibration in labels: judge id in the calibration -> judge in the labels.

    `renamed`: name or id of a judge in the labels -> its name or id in the calibration, for judges whose names differ.
    The key "" means the only judge of the labels. Raises `UsageError` if a judge of the calibration is missing.
    """
    known, judges = known_judges(calibration), joined(rater for rater in raters if rater.kind != "human")
    told = {one(judges, given).rater_id: known_as(known, name).judge_id for given, name in (renamed or {}).items()}
    found: dict[str, Rater] = {}
    for own in known:
        same = [judge for judge in judges if told.get(judge.rater_id) == own.judge_id] or [
            judge
            for judge in judges
            if judge.rater_id not in told
            and (own.judge_id == judge.rater_id or (own.imported and judge.identity == (own.kind, own.name)))
        ]
        if not same:
            raise UsageError(
                f"the calibration needs judge {own.name!r} ({own.kind}), but these labels are by "
                f"{named_judges(judges)}; {listed(known)}. Add the labels of that judge, or use "
                "labelkit calibrate --apply --as to name the judge of these labels that it is"
            )
        found[own.judge_id] = same[0]
    return found


def refuse_unknown(calibration: Calibration, raters: Iterable[Rater], found: Mapping[str, Rater]) -> None:
    """Raise `UsageError` if the labels have judges that are not in the calibration."""
    matched = {rater.identity for rater in found.values()}
    unknown = [rater for rater in raters if rater.kind != "human" and rater.identity not in matched]
    if unknown:
        raise UsageError(
            f"the calibration was not fitted to judge {named_judges(unknown)}; {listed(known_judges(calibration))}. "
            "Give only labels by judges of the calibration, or fit a calibration to all judges"
        )


def one(judges: Sequence[Rater], given: str) -> Rater:
    """Return the judge of the labels with a name or id; "" means the only judge."""
    same = [judge for judge in judges if given in ("", judge.name, judge.rater_id)]
    if len(same) == 1:
        return same[0]
    what = "--as NAME needs labels by one judge" if not given else f"--as {given}=…: {len(same)} judges match this name"
    raise UsageError(f"{what}; give --as JUDGE=NAME with one of: {named_judges(judges)}")


def known_as(known: Sequence[KnownJudge], name: str) -> KnownJudge:
    """Return the judge of the calibration with a name or id."""
    same = [own for own in known if name in (own.name, own.judge_id)]
    if len(same) != 1:
        raise UsageError(f"--as {name}: {len(same)} judges of the calibration match this name; {listed(known)}")
    return same[0]


def named_judges(judges: Sequence[Rater]) -> str:
    return ", ".join(f"{judge.name!r} ({judge.kind}, id {judge.rater_id})" for judge in judges) or "no judge"


def listed(known: Sequence[KnownJudge]) -> str:
    return "judges of the calibration: " + ", ".join(f"{own.name!r} ({own.kind}, id {own.judge_id})" for own in known)
