"""Name the collections of NanoBEIR and MTEB on the Hugging Face Hub: `nanobeir:scifact`, `nanobeir`, `mteb:SciFact`."""

from collections.abc import Iterable
from pathlib import Path

from labelkit.errors import UnknownNameError

NANOBEIR = {
    "arguana": "NanoArguAna",
    "climatefever": "NanoClimateFEVER",
    "dbpedia": "NanoDBPedia",
    "fever": "NanoFEVER",
    "fiqa2018": "NanoFiQA2018",
    "hotpotqa": "NanoHotpotQA",
    "msmarco": "NanoMSMARCO",
    "nfcorpus": "NanoNFCorpus",
    "nq": "NanoNQ",
    "quoraretrieval": "NanoQuoraRetrieval",
    "scidocs": "NanoSCIDOCS",
    "scifact": "NanoSciFact",
    "touche2020": "NanoTouche2020",
}
"""Name of a collection of NanoBEIR, as in sentence-transformers -> its repository of `zeta-alpha-ai`."""
MTEB = {
    "ArguAna": "arguana",
    "ClimateFEVER": "climate-fever",
    "DBPedia": "dbpedia",
    "FEVER": "fever",
    "FiQA2018": "fiqa",
    "HotpotQA": "hotpotqa",
    "NFCorpus": "nfcorpus",
    "NQ": "nq",
    "QuoraRetrieval": "quora",
    "SCIDOCS": "scidocs",
    "SciFact": "scifact",
    "Touche2020": "touche2020",
    "TRECCOVID": "trec-covid",
}
"""Name of a retrieval task of MTEB that is measured on the split test -> its repository of `mteb`. MSMARCO is not
listed, because MTEB measures it on the split dev.
"""
WHOLE = "nanobeir"
"""Name of the 13 collections of NanoBEIR together."""
PREFIXES = {"nanobeir:": ("zeta-alpha-ai", NANOBEIR), "mteb:": ("mteb", MTEB)}
"""Beginning of a name -> organisation on the Hub, and its repositories by name."""


def expanded(places: Iterable[Path | str]) -> list[Path | str]:
    """Replace the name of a whole benchmark by the names of its collections."""
    every = [f"{WHOLE}:{name}" for name in NANOBEIR]
    return [each for place in places for each in (every if str(place) == WHOLE else [place])]


def address_of(place: str) -> str | None:
    """Return the address of a benchmark's collection; None for a place that is no such name.

    Names may differ in case. Raises `UnknownNameError` for an unknown name.
    """
    for prefix, (organisation, repositories) in PREFIXES.items():
        if place.startswith(prefix):
            asked = place.removeprefix(prefix)
            found = {name.lower(): repository for name, repository in repositories.items()}.get(asked.lower())
            if found is None:
                raise UnknownNameError(f"collection of {prefix.rstrip(':')}", asked, repositories)
            return f"hf://datasets/{organisation}/{found}"
    return None


def split_or_usual(folder: Path, split: str | None, usual: str = "test") -> str:
    """Return the split of a collection that is measured: the given one, or else the usual one.

    A collection of NanoBEIR has only the split train, on which it is measured; its folder has the name of its
    repository.
    """
    return split or ("train" if folder.name in NANOBEIR.values() else usual)
