"""Train dense retrievers on multi-positive datasets, and measure them.

dataset -data-> groups of an epoch -batch-> unique passages, ragged positives
        -contrast-> scores -objectives-> loss     (fit runs all of this)     -evaluate-> measures

Every command of the command line is a function of this package, and its flags are the fields of one record::

    import trainer

    trainer.fit("dataset", "model", trainer.FitConfig(model="all-MiniLM-L6-v2", objective="lsepair"))
    trainer.evaluate("model", ["data"], trainer.EvaluateOptions(compare="all-MiniLM-L6-v2"))

Functions return records, report through `logging`, and raise the exceptions of `labelkit.errors`; they never print and
never exit the process. Names are imported on first use; a missing package raises `MissingPackageError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from labelkit.version import __version__

if TYPE_CHECKING:
    from trainer.bakeoffs.bakeoff import Bakeoff, bakeoff
    from trainer.bakeoffs.config import BakeoffConfig
    from trainer.bakeoffs.runner import RunResult
    from trainer.config.fit_config import FitConfig, read_config
    from trainer.invariance import SelfCheck, self_check
    from trainer.label_errors import Suspect, Suspects, suspects
    from trainer.retrieval.evaluate import EvalResult, evaluate
    from trainer.retrieval.options import EvaluateOptions
    from trainer.training.fit import FitReport, StageReport, fit

HOMES = {
    "BakeoffConfig": "trainer.bakeoffs.config",
    "Bakeoff": "trainer.bakeoffs.bakeoff",
    "EvalResult": "trainer.retrieval.evaluate",
    "EvaluateOptions": "trainer.retrieval.options",
    "FitConfig": "trainer.config.fit_config",
    "FitReport": "trainer.training.fit",
    "RunResult": "trainer.bakeoffs.runner",
    "SelfCheck": "trainer.invariance",
    "StageReport": "trainer.training.fit",
    "Suspect": "trainer.label_errors",
    "Suspects": "trainer.label_errors",
    "bakeoff": "trainer.bakeoffs.bakeoff",
    "evaluate": "trainer.retrieval.evaluate",
    "fit": "trainer.training.fit",
    "read_config": "trainer.config.fit_config",
    "self_check": "trainer.invariance",
    "suspects": "trainer.label_errors",
}
"""Name -> its module. Type checkers read the imports above instead."""
LIGHT = ("BakeoffConfig", "EvaluateOptions", "FitConfig", "read_config")
"""Names that do not need the training packages."""

__all__ = [
    "Bakeoff",
    "BakeoffConfig",
    "EvalResult",
    "EvaluateOptions",
    "FitConfig",
    "FitReport",
    "RunResult",
    "SelfCheck",
    "StageReport",
    "Suspect",
    "Suspects",
    "__version__",
    "bakeoff",
    "evaluate",
    "fit",
    "read_config",
    "self_check",
    "suspects",
]


def __getattr__(name: str) -> Any:
    """Import a name of the public API on first use."""
    if name not in HOMES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    if name not in LIGHT:
        import_module("trainer.packages").load_training_packages()
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
