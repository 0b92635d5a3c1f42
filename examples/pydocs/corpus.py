"""Write the docstrings of the standard library as a collection with graded queries.

`python examples/pydocs/corpus.py -o build/pydocs` writes a folder in the BEIR layout (`corpus.jsonl`, `queries.jsonl`,
`qrels/train.tsv`, `qrels/test.tsv`, `qrels/heldout.tsv`). The passages are read from the running interpreter. Nothing
is downloaded, and this repository contains none of these texts. README.md describes who wrote the grades.

With `--documents`, each passage is a text file in the folder `documents` instead of a line of `corpus.jsonl`, and the
grades name these files: the state in which most people have their texts.
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
LAYOUT = {"corpus.jsonl", "documents", "queries.jsonl", "qrels"}
SPLITS = ("train", "test", "heldout")
MAX_WORDS = 180  # a longer docstring is cut between paragraphs
MIN_WORDS = 4  # a shorter docstring contains nothing to grade
MIN_TAIL = 40  # a shorter last piece is joined to the previous piece

SKIPPED = {"antigravity", "this", "turtledemo"}  # jokes and demos
SKIPPED |= {"idlelib", "lib2to3", "test"}  # programs and tests
SKIPPED |= {"encodings", "pydoc_data"}  # tables
SKIPPED |= {"curses", "tkinter", "turtle"}  # unusable without a screen
SKIPPED |= {"distutils"}  # setuptools replaces it by its own version
# Internals of the interpreter, rarely used protocols and formats, and system calls: no query asks for them, and
# without them the corpus is encoded a quarter faster.
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
SKIPPED |= {"genericpath", "ntpath", "nturl2path", "posix", "posixpath"}  # implementations of os and os.path
# Module in which an object is defined -> module from which people import it.
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
    """A documented object under one of its names; `rank` orders its names, best first."""

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
    """Import a module; None if this platform or this build of Python lacks it."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, AttributeError, RuntimeError, SystemExit):
            return None


def walk_modules() -> Iterator[ModuleType]:
    """Yield every public module of the standard library that can be imported, packages before their modules."""
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
    print(f"{len(missing)} modules cannot be imported: {', '.join(missing)}", file=sys.stderr)


def public_home(module_name: str) -> str:
    """Return the public name of a module, such as bisect for `_bisect`, and os.path for `posixpath`."""
    return PUBLIC_HOME.get(module_name, module_name.lstrip("_"))


def make_entry(name: str, kind: str, thing: object, borrowed: bool = False, unlisted: bool = False) -> Entry:
    """Make an entry whose rank prefers built-in names, defining modules, names in `__all__`, no aliases, few dots."""
    alias = getattr(thing, "__name__", name).rpartition(".")[2] != name.rpartition(".")[2]
    builtin = hasattr(builtins, name.split(".")[0])
    rank = (not builtin, borrowed, unlisted, alias, name.count("."), len(name), name)
    return Entry(rank, name, kind, thing)


def name_members(module: ModuleType) -> Iterator[Entry]:
    """Yield the functions and classes that a module or its submodules define, or that it exports in `__all__`."""
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
    """Yield the methods and properties that a class defines, or inherits from a base without a public name."""
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
    """Return the docstring of an object, for a class also of `__init__`; "" for a short or generated docstring."""
    found: list[object] = [entry.thing.__doc__]
    if inspect.isclass(entry.thing):
        own = vars(entry.thing)  # the attribute __doc__ would return the docstring of a base class
        init = own.get("__init__")
        found = [own.get("__doc__"), init.__doc__ if inspect.isfunction(init) else None]
    texts = [inspect.cleandoc(text) for text in found if isinstance(text, str)]
    made_up = re.compile(r"\w+\(.*\)")  # generated docstring of a dataclass or a namedtuple
    told = [text for text in texts if len(text.split()) >= MIN_WORDS and not made_up.fullmatch(text)]
    return "\n\n".join(told)


def collect_entries() -> list[Entry]:
    """List every documented object under its best name; objects with the same docstring are listed once."""
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
    """Make a default independent of the machine: plain values are kept, paths and other objects become `...`."""
    plain = type(value) in (type(None), bool, int, float, str, bytes)
    return value if plain and not str(value).startswith("/") else ...


def signature(entry: Entry) -> str:
    """Format `name(parameters)` without annotations; "" for an unknown signature."""
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
    """Split a text into pieces of at most MAX_WORDS words, between paragraphs or lines of long paragraphs."""
    blocks: list[tuple[str, str]] = []  # the separator before a block, and the block
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
    """Build the corpus, sorted by id: signature and docstring of each object, long ones continued as `name#2` …"""
    passages = []
    for entry in collect_entries():
        for number, piece in enumerate(cut(documentation(entry)), start=1):
            first = number == 1
            text = f"{signature(entry)}\n\n{piece}".lstrip() if first else piece
            title = f"{entry.name} ({entry.kind})" if first else f"{entry.name} ({entry.kind}, part {number})"
            text = re.sub(r" at 0x[0-9a-fA-F]+", "", text)
            passages.append(Passage(entry.name if first else f"{entry.name}#{number}", title, text))
    return sorted(passages)


class Qrels(NamedTuple):
    """Grades of a split without unknown passages; the number of rows dropped for them, and the queries dropped."""

    rows: str
    dropped: int
    unanswered: list[str]


def keep_known(qrels: Path, known: set[str]) -> Qrels:
    """Select the rows of known passages, without the queries that have no known passage of grade 2 or 3."""
    header, *rows = qrels.read_text(encoding="utf-8").splitlines()
    cells = [row.split("\t") for row in rows]
    kept = [(query, passage, grade) for query, passage, grade in cells if passage in known]
    answered = {query for query, _, grade in kept if int(grade) >= 2}
    unanswered = sorted({query for query, _, _ in cells} - answered)
    lines = ["\t".join(row) for row in kept if row[0] in answered]
    return Qrels("\n".join([header, *lines, ""]), len(rows) - len(kept), unanswered)


def write_corpus(path: Path, passages: list[Passage]) -> None:
    """Write the passages as JSON lines."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for passage_id, title, text in passages:
            record = {"_id": passage_id, "title": title, "text": text}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_documents(folder: Path, passages: list[Passage]) -> None:
    """Write each passage as a text file that begins with its title."""
    folder.mkdir()
    for passage_id, title, text in passages:
        (folder / f"{passage_id}.txt").write_text(f"{title}\n\n{text}\n", encoding="utf-8", newline="\n")


def write_files(folder: Path, passages: list[Passage], *, documents: bool) -> None:
    """Write passages, queries and grades, and report the rows and queries that are dropped."""
    (folder / "qrels").mkdir(parents=True)
    if documents:
        write_documents(folder / "documents", passages)
    else:
        write_corpus(folder / "corpus.jsonl", passages)
    shutil.copyfile(HERE / "queries.jsonl", folder / "queries.jsonl")
    known = {passage.passage_id for passage in passages}
    for name in (f"{split}.tsv" for split in SPLITS):
        found = keep_known(HERE / "qrels" / name, known)
        (folder / "qrels" / name).write_text(found.rows, encoding="utf-8", newline="\n")
        print(f"{name}: {found.dropped} rows dropped, because this Python lacks their passages", file=sys.stderr)
        if found.unanswered:
            print(f"{name}: queries dropped without any answer: {', '.join(found.unanswered)}", file=sys.stderr)


def replace_folder(out: Path, *, documents: bool) -> None:
    """Write a folder to a temporary name and rename it, so that a killed run leaves no incomplete folder."""
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= LAYOUT):
        raise ValueError(f"{out} is not a folder that this command wrote; choose another one with -o")
    aside, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        passages = build_passages()
        write_files(aside, passages, documents=documents)
        if out.exists():
            out.rename(old)
        aside.rename(out)
    finally:
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
    print(f"{len(passages)} passages in {out}", file=sys.stderr)


def main() -> int:
    """Write the folder given on the command line; return 0 after success, 1 after an error."""
    parser = argparse.ArgumentParser(description="Write the standard library's docstrings, with graded queries.")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--documents", action="store_true", help="write a folder of text files instead of corpus.jsonl")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # old modules warn when they are imported
    try:
        if sys.flags.optimize >= 2:
            raise ValueError("Python runs with -OO, which removes docstrings; run it without -OO")
        replace_folder(args.out.resolve(), documents=args.documents)
    except (ValueError, OSError) as error:
        print(f"corpus.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
