"""Real input that every machine with Python already has: the docstrings of the standard library.

`python examples/pydocs/corpus.py -o build/pydocs` writes a folder in the BEIR layout (`corpus.jsonl`,
`queries.jsonl`, `qrels/train.tsv`, `qrels/test.tsv`). The passages come from the running interpreter, so
nothing is downloaded and no text of others lies in this repository; README.md says who wrote the grades.
"""

import argparse
import builtins
import contextlib
import importlib
import inspect
import io
import json
import pkgutil
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, cast

HERE = Path(__file__).resolve().parent
LAYOUT = {"corpus.jsonl", "queries.jsonl", "qrels"}
MAX_WORDS = 180  # a longer docstring is cut between paragraphs
MIN_WORDS = 4  # a shorter one says nothing that a judge could grade
MIN_TAIL = 40  # a shorter last piece stays with the piece before it

SKIPPED = {"antigravity", "this", "turtledemo"}  # jokes and demos
SKIPPED |= {"idlelib", "lib2to3", "test"}  # programs and tests
SKIPPED |= {"encodings", "pydoc_data"}  # tables
SKIPPED |= {"curses", "tkinter", "turtle"}  # of no use without a screen
SKIPPED |= {"distutils"}  # setuptools puts its own in place
# The machinery of the interpreter, protocols and formats that few still use, and system calls: no query asks for
# them, and without them the corpus is encoded a quarter faster.
# fmt: off
SKIPPED |= {
    "aifc", "ast", "asynchat", "asyncore", "audioop", "bytearray", "bz2", "cgi", "cgitb", "chunk", "cmath", "codecs",
    "crypt", "ctypes", "dis", "ensurepip", "fcntl", "ftplib", "grp", "imaplib", "imghdr", "imp", "importlib", "lzma",
    "mailbox", "mailcap", "memoryview", "modulefinder", "nis", "nntplib", "pickletools", "pipes", "pkgutil", "poplib",
    "pty", "pwd", "pyclbr", "pydoc", "pyexpat", "readline", "site", "smtpd", "sndhdr", "socketserver", "spwd",
    "sunau", "symtable", "sysconfig", "telnetlib", "termios", "trace", "tty", "uu", "venv", "wsgiref", "xdrlib",
    "xmlrpc", "zipimport",
}
# fmt: on
SKIPPED |= {"genericpath", "ntpath", "nturl2path", "posix", "posixpath"}  # what stands behind os and os.path
# Where an object says it was defined -> where people import it from.
PUBLIC_HOME = {
    "_collections_abc": "collections.abc",
    "_frozen_importlib": "importlib.machinery",
    "_frozen_importlib_external": "importlib.machinery",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_thread": "threading",
    "_weakrefset": "weakref",
    "genericpath": "os.path",
    "posix": "os",
    "posixpath": "os.path",
}


class Entry(NamedTuple):
    """A documented thing under one of its names; `rank` orders its names, the best one first."""

    rank: tuple[bool, bool, bool, bool, int, int, str]
    name: str
    kind: str
    thing: object


class Passage(NamedTuple):
    """One line of corpus.jsonl."""

    passage_id: str
    title: str
    text: str


def import_quietly(name: str) -> ModuleType | None:
    """The module, or None where this platform or this build of Python does not have it."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, AttributeError, RuntimeError, SystemExit):
            return None


def walk_modules() -> Iterator[ModuleType]:
    """Every public module of the standard library that imports here, packages before what they hold."""
    waiting = sorted((sys.stdlib_module_names - SKIPPED) | {"collections.abc", "os.path"})
    missing = []
    while waiting:
        name = waiting.pop(0)
        if any(part.startswith("_") or part in ("test", "tests") for part in name.split(".")):
            continue
        module = import_quietly(name)
        if module is None:
            missing.append(name)
            continue
        yield module
        inner = pkgutil.iter_modules(getattr(module, "__path__", ()))
        waiting += sorted(f"{name}.{found.name}" for found in inner)
    print(f"{len(missing)} modules do not import here: {', '.join(missing)}", file=sys.stderr)


def public_home(module_name: str) -> str:
    """The module that people would name: `_bisect` is bisect, `posixpath` is os.path."""
    return PUBLIC_HOME.get(module_name, module_name.lstrip("_"))


def make_entry(name: str, kind: str, thing: object, borrowed: bool = False, unlisted: bool = False) -> Entry:
    """Best of a thing's names: a built-in's, one where it lives, in `__all__`, no alias, few dots."""
    alias = getattr(thing, "__name__", name).rpartition(".")[2] != name.rpartition(".")[2]
    builtin = hasattr(builtins, name.split(".")[0])
    rank = (not builtin, borrowed, unlisted, alias, name.count("."), len(name), name)
    return Entry(rank, name, kind, thing)


def name_members(module: ModuleType) -> Iterator[Entry]:
    """The functions and classes of a module: its own, its submodules', and those it exports in `__all__`."""
    where = public_home(module.__name__)
    exported = set(getattr(module, "__all__", ()))
    for short in sorted(set(vars(module)) | exported):
        thing = getattr(module, short, None)
        if short.startswith("_") or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        kind = "class" if inspect.isclass(thing) else "function"
        own = f"{public_home(getattr(thing, '__module__', None) or where)}.".startswith(f"{where}.")
        if module is builtins:
            yield make_entry(short, kind, thing)
        elif own or short in exported:
            unlisted = bool(exported) and short not in exported
            yield make_entry(f"{where}.{short}", kind, thing, not own, unlisted)


def name_methods(entry: Entry, named: set[int]) -> Iterator[Entry]:
    """What a class defines itself, or has from a base without a public name; a public base shows its own."""
    this, *above = inspect.getmro(cast(type, entry.thing))
    shown_above = {id(base) for public in above if id(public) in named for base in inspect.getmro(public)}
    hidden = [base for base in above if id(base) not in shown_above]
    members = {short: member for base in [*reversed(hidden), this] for short, member in vars(base).items()}
    for short, member in sorted(members.items()):
        thing = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        is_property = isinstance(thing, property) or inspect.isgetsetdescriptor(thing)
        if not short.startswith("_") and (is_property or inspect.isroutine(thing)):
            kind = "property" if is_property else "method"
            yield make_entry(f"{entry.name}.{short}", kind, thing, borrowed=entry.rank[1])


def documentation(entry: Entry) -> str:
    """Its own docstring, for a class also that of `__init__`; empty where it says nothing or is made up."""
    found: list[object] = [entry.thing.__doc__]
    if inspect.isclass(entry.thing):
        own = vars(entry.thing)  # the attribute __doc__ would be the base class's where the class has none
        init = own.get("__init__")
        found = [own.get("__doc__"), init.__doc__ if inspect.isfunction(init) else None]
    texts = [inspect.cleandoc(text) for text in found if isinstance(text, str)]
    made_up = re.compile(r"\w+\(.*\)")  # how a dataclass or a namedtuple describes itself
    told = [text for text in texts if len(text.split()) >= MIN_WORDS and not made_up.fullmatch(text)]
    return "\n\n".join(told)


def collect_entries() -> list[Entry]:
    """Every documented thing under its best name; a docstring that several names share stands once."""
    modules = list({id(module): module for module in walk_modules()}.values())
    by_identity: dict[int, Entry] = {}
    for entry in sorted((member for module in modules for member in name_members(module)), key=attrgetter("rank")):
        by_identity.setdefault(id(entry.thing), entry)
    entries = [make_entry(public_home(module.__name__), "module", module) for module in modules]
    entries += by_identity.values()
    classes, named = [entry for entry in entries if entry.kind == "class"], set(by_identity)
    entries += [method for entry in classes for method in name_methods(entry, named)]
    by_docstring: dict[tuple[str, str], Entry] = {}
    for entry in sorted(entries, key=attrgetter("rank")):
        if text := documentation(entry):
            short = getattr(entry.thing, "__name__", entry.name.rpartition(".")[2])
            by_docstring.setdefault((short, text), entry)
    return list(by_docstring.values())


def show_default(value: object) -> object:
    """A default as it reads everywhere: plain values stay, a machine's paths and objects become `...`."""
    plain = type(value) in (type(None), bool, int, float, str, bytes)
    return value if plain and not str(value).startswith("/") else ...


def signature(entry: Entry) -> str:
    """`name(parameters)` without annotations, or "" where Python knows none."""
    if entry.kind in ("module", "property") or not callable(entry.thing):
        return ""
    try:
        found = inspect.signature(entry.thing)
    except (ValueError, TypeError, NameError, AttributeError):
        return ""
    blank, shown = inspect.Parameter.empty, []
    for parameter in found.parameters.values():
        default = blank if parameter.default is blank else show_default(parameter.default)
        shown.append(parameter.replace(annotation=blank, default=default))
    return entry.name + str(inspect.Signature(shown)).replace("Ellipsis", "...")


def cut(text: str) -> list[str]:
    """Pieces of at most MAX_WORDS words, cut between paragraphs, or between lines of a long one."""
    blocks: list[tuple[str, str]] = []  # what joins the block to the one before, and the block
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.split("\n") if len(paragraph.split()) > MAX_WORDS else [paragraph]
        blocks += [("\n" if number else "\n\n", line) for number, line in enumerate(lines)]
    pieces: list[str] = []
    for joint, block in blocks:
        if pieces and len(pieces[-1].split()) + len(block.split()) <= MAX_WORDS:
            pieces[-1] += joint + block
        else:
            pieces.append(block)
    if len(pieces) > 1 and len(pieces[-1].split()) < MIN_TAIL:
        tail = pieces.pop()
        pieces[-1] += "\n\n" + tail
    return pieces


def build_passages() -> list[Passage]:
    """The corpus, sorted by id: signature and docstring of each thing; a long one goes on as `name#2` …"""
    passages = []
    for entry in collect_entries():
        for number, piece in enumerate(cut(documentation(entry)), start=1):
            first = number == 1
            text = f"{signature(entry)}\n\n{piece}".lstrip() if first else piece
            title = f"{entry.name} ({entry.kind})" if first else f"{entry.name} ({entry.kind}, part {number})"
            text = re.sub(r" at 0x[0-9a-fA-F]+", "", text)
            passages.append(Passage(entry.name if first else f"{entry.name}#{number}", title, text))
    return sorted(passages)


def keep_known(qrels: Path, known: set[str]) -> tuple[str, int, list[str]]:
    """The rows whose passage this Python has, how many were dropped, the queries left without an answer."""
    header, *rows = qrels.read_text(encoding="utf-8").splitlines()
    cells = [row.split("\t") for row in rows]
    kept = [(query, passage, grade) for query, passage, grade in cells if passage in known]
    answered = {query for query, _, grade in kept if int(grade) >= 2}
    unanswered = sorted({query for query, _, _ in cells} - answered)
    return "\n".join([header, *("\t".join(row) for row in kept), ""]), len(rows) - len(kept), unanswered


def write_files(folder: Path, passages: list[Passage]) -> None:
    """The three parts of the BEIR layout; ValueError where a query lost every passage that answers it."""
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for passage_id, title, text in passages:
            record = {"_id": passage_id, "title": title, "text": text}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    shutil.copyfile(HERE / "queries.jsonl", folder / "queries.jsonl")
    known = {passage.passage_id for passage in passages}
    for name in ("train.tsv", "test.tsv"):
        rows, dropped, unanswered = keep_known(HERE / "qrels" / name, known)
        if unanswered:
            raise ValueError(f"{name}: no passage of grade 2 or 3 left for {', '.join(unanswered)}")
        (folder / "qrels" / name).write_text(rows, encoding="utf-8", newline="\n")
        print(f"{name}: {dropped} rows dropped, their passages are not in this Python", file=sys.stderr)


def replace_folder(out: Path) -> None:
    """Write the folder aside and rename it, so that a killed run leaves nothing half-written."""
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= LAYOUT):
        raise ValueError(f"{out} is not a folder that this command wrote; choose another one with -o")
    aside, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        passages = build_passages()
        write_files(aside, passages)
        if out.exists():
            out.rename(old)
        aside.rename(out)
    finally:
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
    print(f"{len(passages)} passages in {out}", file=sys.stderr)


def main() -> int:
    """Read the command line and write the folder; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description="Write the standard library's docstrings as a BEIR folder.")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # old modules warn when they are imported
    try:
        if sys.flags.optimize >= 2:
            raise ValueError("Python runs with -OO, which drops docstrings; run it without")
        replace_folder(args.out.resolve())
    except (ValueError, OSError) as error:
        print(f"corpus.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
