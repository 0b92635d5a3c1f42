"""The public Python API: every command is a function, every flag a field, and records refuse what makes no sense."""

import ast
import logging
import math
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from present import present
from pydantic.fields import FieldInfo

import labelkit
import labelkit.commands.app
import trainer
import trainer.commands.app
from labelkit.commands.declared import REQUIRED, declared
from labelkit.errors import UsageError
from labelkit.options import Options

REPOSITORY = Path(__file__).parents[2]
PACKAGES = [labelkit, trainer]
RECORDS = {
    f"{record.__module__}:{record.__name__}": record
    for package in PACKAGES
    for name in package.__all__
    if isinstance(record := getattr(package, name), type) and issubclass(record, Options)
}
FUNCTIONS = {
    "labelkit": {
        "import": ["import_grades", "import_dataset"],
        "review": [],
        "prompts": [],
        "queries": ["write_queries", "plan_queries", "sample_log"],
        "relabel": ["relabel", "plan_relabel"],
    },
    "trainer": {"eval": ["evaluate"], "verify": ["self_check"]},
}
"""Commands whose functions have other names. `review` is a page and `prompts` a list: they are for people alone."""


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_and_users_see_the_same_names(package: Any) -> None:
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.asname or alias.name: (node.module, alias.name) for node in imports for alias in node.names}
    homes = {name: (home.partition(":")[0], home.partition(":")[2] or name) for name, home in package.HOMES.items()}
    assert homes == typed
    assert sorted(package.__all__) == sorted([*typed, "__version__"]) == sorted(set(package.__all__))
    for name, (module, own) in typed.items():
        assert getattr(package, name) is getattr(import_module(present(module)), own)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_has_the_name_of_a_function(package: Any) -> None:
    """A room that is imported becomes an attribute of its package, and would take the place of the function."""
    rooms = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert rooms & set(package.__all__) == set()


def test_an_unknown_name_is_an_attribute_error() -> None:
    for package in PACKAGES:
        with pytest.raises(AttributeError, match="has no attribute 'anotate'"):
            package.anotate  # noqa: B018


@pytest.mark.parametrize("package", ["labelkit", "trainer"])
def test_importing_a_package_loads_nothing_slow(package: str) -> None:
    script = f"import sys, {package}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    slow = {"duckdb", "numpy", "pyarrow", "pydantic", "sentence_transformers", "torch", "transformers", "typer"}
    assert set(loaded.stdout.split()) & slow == set()


@pytest.mark.parametrize(
    ("package", "command"),
    [
        (package, command)
        for package, app in ((labelkit, labelkit.commands.app), (trainer, trainer.commands.app))
        for command in app.COMMANDS
    ],
)
def test_every_command_is_a_documented_function(package: Any, command: str) -> None:
    for name in FUNCTIONS[package.__name__].get(command, [command]):
        function = getattr(package, name)
        assert name in package.__all__
        assert "Args:" in function.__doc__
        assert any(word in function.__doc__ for word in ("Returns:", "Yields:", "Raises:"))
        assert "command" not in function.__annotations__ or function.__kwdefaults__["command"]


@pytest.mark.parametrize("record", RECORDS)
def test_flags_are_made_of_what_pydantic_checks(record: str) -> None:
    """The reader of declarations and pydantic agree on every field of every record."""
    fields = RECORDS[record].model_fields
    read = declared(record)
    assert list(read) == list(fields)
    for name, field in fields.items():
        one = read[name]
        assert (one.default is REQUIRED) == field.is_required(), name
        assert field.is_required() or one.default == field.default, name
        assert one.help == " ".join((field.description or "").partition("\n\n")[0].split()) != "", name
        limits = limits_of(field) if one.kind is not str else []
        bounds = {key: getattr(limit, what) for limit in limits for key, what in BOUNDS.items() if hasattr(limit, what)}
        assert one.bounds == bounds, name
        assert one.kind is str or one.kind in leaves(field.annotation), name
        assert not one.several or {tuple, dict, list} & leaves(field.annotation), name


def limits_of(field: FieldInfo) -> list[Any]:
    """The limits of a field, or of each of its values where it has several."""
    parts = [part for part in get_args(field.annotation) if get_origin(part) is Annotated]
    each = [limit for part in parts for inner in part.__metadata__ for limit in inner.metadata]
    return each or field.metadata


def leaves(annotation: Any) -> set[Any]:
    """An annotation and everything that it is made of."""
    return {annotation, get_origin(annotation)}.union(*map(leaves, get_args(annotation)))


def bounded() -> list[tuple[str, str, Any]]:
    """Record, field and a value that the field must refuse."""
    found: list[tuple[str, str, Any]] = []
    for record, cls in RECORDS.items():
        for name, field in cls.model_fields.items():
            if float in (field.annotation, *get_args(field.annotation)):
                found += [(record, name, value) for value in (math.nan, math.inf, -math.inf)]
            for limit in field.metadata:
                found += [(record, name, getattr(limit, what) - 1) for what in ("ge", "gt") if hasattr(limit, what)]
                found += [(record, name, getattr(limit, what) + 1) for what in ("le", "lt") if hasattr(limit, what)]
    return found


BOUNDS = {"min": "ge", "max": "le"}
"""Of an option -> of a field."""
REQUIREMENTS = {"model": "m", "objective": "lsepair", "human": "h", "data": "d", "pool": "p", "budget": 1, "judge": "j"}
REQUIREMENTS |= {"log": "queries.log", "to": "beir", "query": "q", "fit": {"model": "m"}, "ranks": "1-2"}


@pytest.mark.parametrize(("record", "name", "value"), bounded())
def test_numbers_out_of_bounds_are_refused_by_name(record: str, name: str, value: Any) -> None:
    cls = RECORDS[record]
    needed = {key: REQUIREMENTS[key] for key, field in cls.model_fields.items() if field.is_required()}
    with pytest.raises(UsageError, match=f"{name} = {value}|{name} {value}"):
        cls(**needed | {name: value})


def test_a_record_says_what_is_wrong_and_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"^model is not set; give --model$"):
        labelkit.AnnotateOptions()  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"unknown setting 'vote'; did you mean votes\?"):
        labelkit.AnnotateOptions(model="m", vote=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"^votes = 0: input should be greater than or equal to 1$"):
        labelkit.AnnotateOptions(model="m").but(votes=0)
    with pytest.raises(UsageError, match="give either --human"):
        labelkit.CalibrateOptions(human=Path("h"), apply=Path("a"))
    with pytest.raises(UsageError, match="--weight x: expected JUDGE=WEIGHT"):
        labelkit.MixOptions(data=Path("d"), weight=("x",))  # type: ignore[arg-type]


def test_a_record_is_frozen_and_a_single_value_is_a_list_of_one() -> None:
    options = labelkit.MixOptions(data=Path("data"), llm="labels", weight={"gpt-4o": 2})  # type: ignore[arg-type]
    assert options.llm == (Path("labels"),)
    assert options.but(policy="weighted").weight == {"gpt-4o": 2.0}
    assert options.but(seed=1) == labelkit.MixOptions(
        data=Path("data"), llm=(Path("labels"),), weight={"gpt-4o": 2}, seed=1
    )
    with pytest.raises(ValueError, match="frozen"):
        options.seed = 2


def test_the_whole_path_prints_nothing(
    beir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A command that ran in this process before has its screen on the logger.
    monkeypatch.setattr(logging.getLogger("labelkit"), "handlers", [caplog.handler])
    caplog.set_level(logging.INFO, logger="labelkit")
    human = beir / "qrels" / "test.tsv"
    judge = labelkit.AnnotateOptions(model="overlap", engine="scripted")
    pool = labelkit.pool(beir, tmp_path / "pool", labelkit.PoolOptions(human=human))
    plan = labelkit.plan(pool, labelkit.PlanOptions(model="overlap", engine="scripted"))
    outcome = labelkit.annotate(str(tmp_path / "pool"), str(tmp_path / "labels"), judge)
    assert plan.pairs == outcome.pairs == len(pool.candidates)
    outcome.check()
    assert labelkit.agree([tmp_path / "labels"], labelkit.AgreeOptions(human=(human,))).agreement.raters == 2
    counts = labelkit.import_grades(human, tmp_path / "people", labelkit.ImportOptions(judge="ann", kind="human"))
    mixed = labelkit.MixOptions(data=beir, human=tmp_path / "people", llm=(tmp_path / "labels",))
    assert counts == 7
    assert labelkit.mix(tmp_path / "dataset", mixed)["queries"] == 3
    labelkit.audit(tmp_path / "dataset")
    assert labelkit.show(tmp_path / "dataset", labelkit.ShowOptions(query="q1")).labels
    assert labelkit.replay(tmp_path / "dataset").mismatches == []
    assert labelkit.export(tmp_path / "dataset", tmp_path / "out", labelkit.ExportOptions(to="beir")).rows
    assert labelkit.verify(tmp_path / "dataset").kind == "dataset"
    assert len(labelkit.open_dataset(tmp_path / "dataset").examples) == 3
    assert capsys.readouterr() == ("", "")
    assert "the licence is unknown" in caplog.text


def test_a_run_that_its_caps_ended_says_so(beir: Path, tmp_path: Path) -> None:
    judge = labelkit.AnnotateOptions(model="overlap", engine="scripted", max_tokens=150)
    outcome = labelkit.annotate(beir, tmp_path / "labels", judge)
    assert 0 < outcome.pending < outcome.pairs
    with pytest.raises(labelkit.BudgetError, match="raise --max-usd or --max-tokens"):
        outcome.check()


def test_the_manifest_names_the_function(beir: Path, tmp_path: Path) -> None:
    labelkit.pool(beir, tmp_path / "pool")
    assert '"command": "labelkit.pool"' in (tmp_path / "pool" / "manifest.json").read_text()


def test_the_wheel_ships_types_and_texts(tmp_path: Path) -> None:
    """Built as a release would be, from this checkout."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"labelkit/py.typed", "trainer/py.typed", "labelkit/shipped/prices.toml"} <= names
    assert wheel.name.startswith(f"labelkit_retrieval-{labelkit.__version__}-")
