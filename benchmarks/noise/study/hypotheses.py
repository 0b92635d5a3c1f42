"""The comparisons that answer the hypotheses of STUDY.md, and the break-even figure."""

from collections.abc import Callable, Iterator, Sequence

from labelkit.statistics.charts import COLOURS, curve, standalone
from study.grid import FIVE, LEVELS, ROBUST, SAYING_MORE, Cell, break_even, judged
from study.tables import Contrast, Family, Study, against, compared, family, pairs


def objectives_families(
    study: Study, title: str, make: Callable[[str, float], Cell], precisions: Sequence[float]
) -> Iterator[str]:
    """All pairs of the five: the mean over the precisions, then each precision."""
    cells = {f"{name} at {level:g}": make(name, level) for level in precisions for name in FIVE}
    if len(precisions) > 1:

        def means(names: list[str]) -> list[Contrast]:
            share = 1 / len(precisions)
            return [
                (label, {place + step * len(FIVE): weight * share for place, weight in each.items()
                         for step in range(len(precisions))})
                for label, each in pairs(FIVE)
            ]  # fmt: skip

        yield from family(study, f"{title}, mean over precisions", cells, means)
    for level in precisions:
        yield from family(study, f"{title}, precision {level:g}", {name: make(name, level) for name in FIVE}, pairs)


def h1(study: Study) -> Iterator[str]:
    """The five objectives against each other."""
    yield "## H1: is LSEPair the most robust?"
    three = (0.3, 0.7, 1.0)
    yield from objectives_families(
        study, "Cranfield, 7 positives per query", lambda o, p: judged("cranfield", o, p), three
    )
    yield from objectives_families(
        study, "SciFact, 3 positives per query", lambda o, p: judged("scifact", o, p), (0.3,)
    )
    few = lambda o, p: Cell("cranfield", "llm", o, "near", p, 3.0)  # noqa: E731
    yield from objectives_families(study, "Cranfield, 3 positives per query", few, three)
    for name in ("cisi", "cacm"):
        yield from objectives_families(study, name, lambda o, p, name=name: judged(name, o, p), three)  # type: ignore[misc]
    for name, levels in (("cranfield", (0.3, 1.0)), ("scifact", (0.3,))):
        make = lambda o, p, name=name: Cell(name, "llm", o, "near", p, judged(name, o, p).positives, "reset")  # noqa: E731
        yield from objectives_families(study, f"{name} from the reset model", make, levels)


def h2(study: Study) -> Iterator[str]:
    """Loss from precision 1.0 to 0.3, LSEPair and JointLH against SumMargLH."""
    yield "## H2: do objectives that raise every positive lose more when precision falls?"
    cells = {f"{name} at {level:g}": judged("cranfield", name, level) for name in FIVE for level in (1.0, 0.3)}

    def losses(names: list[str]) -> list[Contrast]:
        base = 2 * FIVE.index("summarglh")
        return [
            (f"loss of {name} - loss of summarglh", {2 * place: 1.0, 2 * place + 1: -1.0, base: -1.0, base + 1: 1.0})
            for place, name in enumerate(FIVE)
            if 2 * place != base
        ]

    yield from family(study, "Cranfield, 7 positives per query", cells, losses)


def h3(study: Study) -> Iterator[str]:
    """Curriculum against merged, at equal steps."""
    yield "## H3: is a curriculum better than merging, at equal steps?"
    cells: dict[str, Cell] = {}
    for name in ROBUST:
        cells |= {
            f"{name} curriculum": judged("cranfield", name, 0.7, regime="curriculum"),
            f"{name} merged": judged("cranfield", name, 0.7, regime="merged"),
            f"{name} LLM": judged("cranfield", name, 0.7),
            f"{name} all human": Cell("cranfield", "all human", name),
        }
    cells |= {"one human positive": Cell("cranfield", "single"), "untrained": Cell("cranfield", "untrained")}

    def contrasts(names: list[str]) -> list[Contrast]:
        found = []
        for one, other in (("curriculum", "merged"), ("curriculum", "LLM"), ("merged", "LLM"), ("all human", "LLM")):
            of = [(names.index(f"{name} {one}"), names.index(f"{name} {other}")) for name in ROBUST]
            found += [(f"{name}: {one} - {other}", {a: 1.0, b: -1.0}) for name, (a, b) in zip(ROBUST, of, strict=True)]
            share = 1 / len(of)
            found.append((f"mean: {one} - {other}", {a: share for a, _ in of} | {b: -share for _, b in of}))
        places = {name: place for place, name in enumerate(names)}
        for name in ROBUST:
            found.append(
                (f"{name} LLM - one human positive", {places[f"{name} LLM"]: 1.0, places["one human positive"]: -1.0})
            )
            found.append((f"{name} LLM - untrained", {places[f"{name} LLM"]: 1.0, places["untrained"]: -1.0}))
        found.append(("one human positive - untrained", {places["one human positive"]: 1.0, places["untrained"]: -1.0}))
        return found

    yield from family(study, "Cranfield, precision 0.7, 7 positives per query", cells, contrasts)


def _break_even_cells(collection: str) -> dict[str, Cell]:
    few, short, *judges, every = break_even(collection)
    named = {f"judge of {cell.precision:g}": cell for cell in judges}
    return {"human-few": few, "untrained": Cell(collection, "untrained"), **named, "all human": every,
            "human-few, 1/4 of the steps": short}  # fmt: skip


def h4(study: Study) -> Iterator[str]:
    """The break-even curve: judges against human-few and against the untrained model."""
    yield "## H4: from which precision on do LLM labels for the other queries help?"
    for name in ("scifact", "cranfield"):
        yield from family(
            study, name, _break_even_cells(name), lambda names: [*against(names, 0), *against(names, 1)[1:]]
        )


def h5(study: Study) -> Iterator[str]:
    """Objectives that read probabilities or grades against LSEPair."""
    yield "## H5: are objectives that read probabilities or grades better than LSEPair?"
    for collection, level in (("cranfield", 0.3), ("cranfield", 0.7), ("scifact", 0.3)):
        cells = {name: judged(collection, name, level) for name in ("lsepair", *SAYING_MORE)}
        yield from family(study, f"{collection}, precision {level:g}", cells, lambda names: against(names, 0))


def h6(study: Study) -> Iterator[str]:
    """Near misses against uniform noise at equal precision."""
    yield "## H6: do near misses harm less than random wrong passages?"
    cells: dict[str, Cell] = {}
    for level in (0.3, 0.7):
        for name in FIVE:
            cells[f"{name} near {level:g}"] = judged("cranfield", name, level)
            cells[f"{name} uniform {level:g}"] = Cell("cranfield", "llm", name, "uniform", level, 7.0)

    def contrasts(names: list[str]) -> list[Contrast]:
        return [
            (f"{names[place]} - {names[place + 1]}", {place: 1.0, place + 1: -1.0}) for place in range(0, len(names), 2)
        ]

    yield from family(study, "Cranfield, 7 positives per query", cells, contrasts)


def break_even_chart(study: Study) -> str | None:
    """Gain over human-few against the precision of the judge's positives; None while a cell is missing."""
    series: dict[str, list[tuple[float, float]]] = {}
    for name in ("scifact", "cranfield"):
        cells = _break_even_cells(name)
        found = {label: study.of(cell) for label, cell in cells.items()}
        whole = [one for one in found.values() if one is not None]
        if len(whole) < len(found):
            continue
        table = compared(Family(name, whole, list(found), against(list(found), 0)))
        gaps = dict(zip([label for label in found if label != "human-few"], table, strict=True))
        for bound, pick in (("", "value"), (", lower bound", "low"), (", upper bound", "high")):
            series[f"{name}{bound}"] = [
                (level, float(getattr(gaps[f"judge of {level:g}"].estimate, pick) or 0.0)) for level in LEVELS
            ]
    if not series or len(series) > COLOURS:
        return None
    title = f"Gain in nDCG@10 of LLM labels beside few human labels, by the judge's precision; {study.part.steps} steps"
    return standalone(curve(series, "precision of the judge's positives", "gain in nDCG@10", title, diagonal=False))
