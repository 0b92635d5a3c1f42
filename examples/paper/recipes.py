"""What the recipes read, train on and measure, and the figures that the papers published."""

from dataclasses import dataclass

CQADUPSTACK = tuple(
    f"cqadupstack-{forum}"
    for forum in (
        "android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex", "unix",
        "webmasters", "wordpress",
    )
)  # fmt: skip
"""The twelve forums of CQADupStack, which count as one collection in the average of BEIR."""
BEIR = (
    "trec-covid", "nfcorpus", "nq", "hotpotqa", "fiqa", "arguana", "touche2020", *CQADUPSTACK, "quora", "dbpedia",
    "scidocs", "fever", "climate-fever", "scifact",
)  # fmt: skip
"""The public collections of BEIR without MS MARCO, 14 with CQADupStack as one, by their names in MTEB."""


@dataclass(frozen=True)
class Published:
    """A figure of a paper, in percent."""

    labels: str
    """Regime of labels, as the settings file names it."""
    objective: str
    """Objective; empty if the paper's table, as far as we know it, does not name one."""
    value: float


@dataclass(frozen=True)
class Recipe:
    """One table of objectives in all regimes of labels."""

    name: str
    data: str
    """Collection to train on: `nq` or `msmarco`."""
    settings: str
    """Settings file of the package for `trainer bakeoff`."""
    measure: str
    """Measure of the table."""
    dense: str
    """Dense retriever whose first passages are judged, in addition to the passages of BM25."""
    measured: tuple[str, ...] = ()
    """Collections to measure on, by their names in MTEB; empty for the split `dev` of the collection itself."""
    published: tuple[Published, ...] = ()
    origin: str = ""
    """Where the published figures are from, or where to find them if we have none."""


CONDENSER = "sentence-transformers/msmarco-bert-co-condensor"
NO_FIGURES = "We have no figures of the paper for this collection: see https://arxiv.org/abs/2602.12727."
UTILITY = (
    "Published: https://arxiv.org/abs/2504.05220, RetroMAE instead of BERT, labels by Qwen2.5-32B. "
    "For BERT see https://arxiv.org/abs/2602.12727, of whose tables we have no figures."
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "nq",
            data="nq",
            settings="paper-nq.toml",
            measure="RR@10",
            dense="sentence-transformers/nq-distilbert-base-v1",
            measured=("nq",),
            origin=NO_FIGURES,
        ),
        Recipe(
            "msmarco",
            data="msmarco",
            settings="paper-msmarco.toml",
            measure="RR@10",
            dense=CONDENSER,
            published=(
                Published("human", "singlelh", 38.6),
                Published("llm", "rand1lh", 34.5),
                Published("llm", "jointlh-sum", 34.0),
                Published("llm", "summarglh", 35.3),
                Published("merged-20", "", 33.2),
                Published("curriculum-20", "", 38.2),
                Published("curriculum", "", 39.3),
            ),
            origin=UTILITY,
        ),
        Recipe(
            "beir",
            data="msmarco",
            settings="paper-beir.toml",
            measure="nDCG@10",
            dense=CONDENSER,
            measured=BEIR,
            published=(Published("human", "", 43.1), Published("llm", "", 45.3)),
            origin=UTILITY,
        ),
    )
}
