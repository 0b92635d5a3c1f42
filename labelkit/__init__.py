"""Make datasets for training retrievers from relevance labels by language models and people.

Every command of the command line is a function here, and its options are the fields of one record::

    import labelkit

    labelkit.pool("data", "pool", labelkit.PoolOptions(bm25=50))
    labelkit.annotate("pool", "labels", labelkit.AnnotateOptions(model="Qwen/Qwen3-8B", engine="vllm"))
    labelkit.mix("dataset", labelkit.MixOptions(data="data", llm="labels"))

A function takes the arguments of its command, then the folder to write (`-o`), then the options. Options are a
record instead of keyword arguments: a record is checked as a whole when it is made, can be stored, compared, printed
and changed (`options.but(votes=3)`), and editors know its fields. Functions never print or exit: they return records,
report through `logging`, and raise the exceptions of `labelkit.errors`.

Names are loaded when they are first used, so that `import labelkit` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from labelkit.version import __version__

if TYPE_CHECKING:
    from labelkit.corpora.documents.make import CorpusCounts
    from labelkit.corpora.documents.make import make_corpus as corpus
    from labelkit.corpora.options import CorpusOptions, SplitOptions
    from labelkit.corpora.split import SplitCounts, split
    from labelkit.corpora.tidy import tidy
    from labelkit.datasets.audit import audit
    from labelkit.datasets.audit_findings import Finding
    from labelkit.datasets.mining.mine import Mined, mine
    from labelkit.datasets.mix import mix
    from labelkit.datasets.options import AuditOptions, MineOptions, MixOptions, ReplayOptions, ShowOptions
    from labelkit.datasets.replay import Replayed, replay
    from labelkit.datasets.show import ShownQuery, show
    from labelkit.datasets.verify import Verified, verify
    from labelkit.errors import (
        ArtifactError,
        BudgetError,
        DataError,
        EngineError,
        JournalError,
        LabelkitError,
        MissingPackageError,
        NotYetError,
        RemoteError,
        UnknownNameError,
        UsageError,
    )
    from labelkit.exchange.exporting import Exported, export
    from labelkit.exchange.hub import Upload, publish, pull
    from labelkit.exchange.importing import import_dataset, import_grades
    from labelkit.exchange.options import ExportOptions, ImportOptions, PublishOptions, PullOptions
    from labelkit.installation.doctor import Diagnosis, DoctorOptions, doctor
    from labelkit.judging.annotate import Outcome, annotate, reparse
    from labelkit.judging.judges import JudgeCounts, drop_judge, judges
    from labelkit.judging.options import AnnotateOptions, PlanOptions
    from labelkit.judging.plan import Plan, plan
    from labelkit.judging.progress import Progress, progress_bar
    from labelkit.pooling.options import PoolOptions
    from labelkit.pooling.pool import Pool, Written, read_pool, write_pool
    from labelkit.pooling.pool import make_pool as pool
    from labelkit.quality.agree import AgreementReport, agree
    from labelkit.quality.bias import Biases
    from labelkit.quality.bias import biases as bias
    from labelkit.quality.calibrate import calibrate
    from labelkit.quality.calibration.apply import recalibrate
    from labelkit.quality.calibration.models import Calibration
    from labelkit.quality.cascade import Cascade, cascade
    from labelkit.quality.distillation.options import DistilOptions
    from labelkit.quality.distillation.run import Distilled, distil
    from labelkit.quality.options import (
        AgreeOptions,
        BiasOptions,
        CalibrateOptions,
        CascadeOptions,
        RedteamOptions,
        ReportOptions,
        SelectOptions,
        TuneOptions,
    )
    from labelkit.quality.redteam.run import redteam
    from labelkit.quality.report import report
    from labelkit.quality.selection import select
    from labelkit.quality.tuning.result import Tuned
    from labelkit.quality.tuning.run import tune
    from labelkit.queries.log import LogQueries, sample_log
    from labelkit.queries.options import LogOptions, WriteOptions
    from labelkit.queries.outcome import WrittenQueries
    from labelkit.queries.planning import QueriesPlan, plan_queries
    from labelkit.queries.write import write_queries
    from labelkit.records import Candidate, Example, Judge, Judgement, Label, Origin, Passage, Query
    from labelkit.relabelling.options import RelabelOptions
    from labelkit.relabelling.relabel import Relabelled, plan_relabel, relabel
    from labelkit.relabelling.rules import Flips
    from labelkit.storage.dataset import Dataset
    from labelkit.storage.dataset import read_dataset as open_dataset
    from labelkit.storage.labels import read_labels

HOMES = {
    "AgreeOptions": "labelkit.quality.options",
    "AgreementReport": "labelkit.quality.agree",
    "AnnotateOptions": "labelkit.judging.options",
    "ArtifactError": "labelkit.errors",
    "AuditOptions": "labelkit.datasets.options",
    "BiasOptions": "labelkit.quality.options",
    "Biases": "labelkit.quality.bias",
    "BudgetError": "labelkit.errors",
    "CalibrateOptions": "labelkit.quality.options",
    "Calibration": "labelkit.quality.calibration.models",
    "Candidate": "labelkit.records",
    "Cascade": "labelkit.quality.cascade",
    "CascadeOptions": "labelkit.quality.options",
    "CorpusCounts": "labelkit.corpora.documents.make",
    "CorpusOptions": "labelkit.corpora.options",
    "DataError": "labelkit.errors",
    "Dataset": "labelkit.storage.dataset",
    "Diagnosis": "labelkit.installation.doctor",
    "DistilOptions": "labelkit.quality.distillation.options",
    "Distilled": "labelkit.quality.distillation.run",
    "DoctorOptions": "labelkit.installation.doctor",
    "EngineError": "labelkit.errors",
    "Example": "labelkit.records",
    "ExportOptions": "labelkit.exchange.options",
    "Exported": "labelkit.exchange.exporting",
    "Finding": "labelkit.datasets.audit_findings",
    "Flips": "labelkit.relabelling.rules",
    "ImportOptions": "labelkit.exchange.options",
    "JournalError": "labelkit.errors",
    "Judge": "labelkit.records",
    "JudgeCounts": "labelkit.judging.judges",
    "Judgement": "labelkit.records",
    "Label": "labelkit.records",
    "LabelkitError": "labelkit.errors",
    "LogOptions": "labelkit.queries.options",
    "LogQueries": "labelkit.queries.log",
    "MineOptions": "labelkit.datasets.options",
    "Mined": "labelkit.datasets.mining.mine",
    "MissingPackageError": "labelkit.errors",
    "MixOptions": "labelkit.datasets.options",
    "NotYetError": "labelkit.errors",
    "Origin": "labelkit.records",
    "Outcome": "labelkit.judging.annotate",
    "Passage": "labelkit.records",
    "Plan": "labelkit.judging.plan",
    "PlanOptions": "labelkit.judging.options",
    "Pool": "labelkit.pooling.pool",
    "PoolOptions": "labelkit.pooling.options",
    "Progress": "labelkit.judging.progress",
    "PublishOptions": "labelkit.exchange.options",
    "PullOptions": "labelkit.exchange.options",
    "QueriesPlan": "labelkit.queries.planning",
    "Query": "labelkit.records",
    "RedteamOptions": "labelkit.quality.options",
    "RelabelOptions": "labelkit.relabelling.options",
    "Relabelled": "labelkit.relabelling.relabel",
    "RemoteError": "labelkit.errors",
    "ReplayOptions": "labelkit.datasets.options",
    "Replayed": "labelkit.datasets.replay",
    "ReportOptions": "labelkit.quality.options",
    "SelectOptions": "labelkit.quality.options",
    "ShowOptions": "labelkit.datasets.options",
    "ShownQuery": "labelkit.datasets.show",
    "TuneOptions": "labelkit.quality.options",
    "SplitCounts": "labelkit.corpora.split",
    "SplitOptions": "labelkit.corpora.options",
    "Tuned": "labelkit.quality.tuning.result",
    "UnknownNameError": "labelkit.errors",
    "Upload": "labelkit.exchange.hub",
    "UsageError": "labelkit.errors",
    "Verified": "labelkit.datasets.verify",
    "WriteOptions": "labelkit.queries.options",
    "Written": "labelkit.pooling.pool",
    "WrittenQueries": "labelkit.queries.outcome",
    "agree": "labelkit.quality.agree",
    "annotate": "labelkit.judging.annotate",
    "audit": "labelkit.datasets.audit",
    "bias": "labelkit.quality.bias:biases",
    "calibrate": "labelkit.quality.calibrate",
    "cascade": "labelkit.quality.cascade",
    "corpus": "labelkit.corpora.documents.make:make_corpus",
    "distil": "labelkit.quality.distillation.run",
    "doctor": "labelkit.installation.doctor",
    "drop_judge": "labelkit.judging.judges",
    "export": "labelkit.exchange.exporting",
    "import_dataset": "labelkit.exchange.importing",
    "import_grades": "labelkit.exchange.importing",
    "judges": "labelkit.judging.judges",
    "mine": "labelkit.datasets.mining.mine",
    "mix": "labelkit.datasets.mix",
    "open_dataset": "labelkit.storage.dataset:read_dataset",
    "plan": "labelkit.judging.plan",
    "plan_queries": "labelkit.queries.planning",
    "plan_relabel": "labelkit.relabelling.relabel",
    "pool": "labelkit.pooling.pool:make_pool",
    "progress_bar": "labelkit.judging.progress",
    "publish": "labelkit.exchange.hub",
    "pull": "labelkit.exchange.hub",
    "read_labels": "labelkit.storage.labels",
    "read_pool": "labelkit.pooling.pool",
    "recalibrate": "labelkit.quality.calibration.apply",
    "redteam": "labelkit.quality.redteam.run",
    "relabel": "labelkit.relabelling.relabel",
    "reparse": "labelkit.judging.annotate",
    "replay": "labelkit.datasets.replay",
    "report": "labelkit.quality.report",
    "sample_log": "labelkit.queries.log",
    "select": "labelkit.quality.selection",
    "show": "labelkit.datasets.show",
    "split": "labelkit.corpora.split",
    "tidy": "labelkit.corpora.tidy",
    "tune": "labelkit.quality.tuning.run",
    "verify": "labelkit.datasets.verify",
    "write_pool": "labelkit.pooling.pool",
    "write_queries": "labelkit.queries.write",
}
"""Name -> its module, followed by `:` and its name there if that differs. The imports above are for type checkers."""

__all__ = [
    "AgreeOptions",
    "AgreementReport",
    "AnnotateOptions",
    "ArtifactError",
    "AuditOptions",
    "BiasOptions",
    "Biases",
    "BudgetError",
    "CalibrateOptions",
    "Calibration",
    "Candidate",
    "Cascade",
    "CascadeOptions",
    "CorpusCounts",
    "CorpusOptions",
    "DataError",
    "Dataset",
    "Diagnosis",
    "DistilOptions",
    "Distilled",
    "DoctorOptions",
    "EngineError",
    "Example",
    "ExportOptions",
    "Exported",
    "Finding",
    "Flips",
    "ImportOptions",
    "JournalError",
    "Judge",
    "JudgeCounts",
    "Judgement",
    "Label",
    "LabelkitError",
    "LogOptions",
    "LogQueries",
    "MineOptions",
    "Mined",
    "MissingPackageError",
    "MixOptions",
    "NotYetError",
    "Origin",
    "Outcome",
    "Passage",
    "Plan",
    "PlanOptions",
    "Pool",
    "PoolOptions",
    "Progress",
    "PublishOptions",
    "PullOptions",
    "QueriesPlan",
    "Query",
    "RedteamOptions",
    "RelabelOptions",
    "Relabelled",
    "RemoteError",
    "ReplayOptions",
    "Replayed",
    "ReportOptions",
    "SelectOptions",
    "ShowOptions",
    "ShownQuery",
    "SplitCounts",
    "SplitOptions",
    "TuneOptions",
    "Tuned",
    "UnknownNameError",
    "Upload",
    "UsageError",
    "Verified",
    "WriteOptions",
    "Written",
    "WrittenQueries",
    "__version__",
    "agree",
    "annotate",
    "audit",
    "bias",
    "calibrate",
    "cascade",
    "corpus",
    "distil",
    "doctor",
    "drop_judge",
    "export",
    "import_dataset",
    "import_grades",
    "judges",
    "mine",
    "mix",
    "open_dataset",
    "plan",
    "plan_queries",
    "plan_relabel",
    "pool",
    "progress_bar",
    "publish",
    "pull",
    "read_labels",
    "read_pool",
    "recalibrate",
    "redteam",
    "relabel",
    "reparse",
    "replay",
    "report",
    "sample_log",
    "select",
    "show",
    "split",
    "tidy",
    "tune",
    "verify",
    "write_pool",
    "write_queries",
]


def __getattr__(name: str) -> Any:
    """Load a name of the public API when it is first used."""
    if name not in HOMES:
        raise AttributeError(f"module 'labelkit' has no attribute {name!r}")
    module, _, own = HOMES[name].partition(":")
    found = getattr(import_module(module), own or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
