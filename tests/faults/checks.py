"""The checks: each does its trials in an empty folder, few or all of them, and returns what went wrong."""

import base64
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import powerloss
import rig
from proxy import Proxy
from tiny_encoder import write_encoder

from labelkit.datasets import mix as mixing
from labelkit.datasets.options import MixOptions, ReplayOptions
from labelkit.datasets.replay import replay
from labelkit.engines import Message, Reply, Request, Settings, client, open_engine
from labelkit.errors import LabelkitError
from labelkit.exchange.hub import holds
from labelkit.judging.annotate import annotate, reparse
from labelkit.judging.journal import FILE, Arrival, Journal
from labelkit.judging.options import AnnotateOptions
from labelkit.storage import dataset
from labelkit.storage.credentials import BLOT
from labelkit.storage.labels import read_labels


class Outcome(NamedTuple):
    """Trials of a check, and what went wrong in them."""

    trials: int
    violations: list[str]
    note: str = ""


def reference(work: Path, pairs: int, server: rig.Server) -> bytes:
    """The judgements of a run that nothing disturbs. The address is part of a judge: the same server."""
    rig.judge(rig.make_pairs(work, pairs), work / "whole", server.url)
    return (work / "whole" / "judgements.parquet").read_bytes()


def finish(job: rig.Job) -> int | None:
    """Run a job to its end; its exit code."""
    process = rig.start(job)
    process.join()
    code: int | None = process.exitcode
    return code


def kills(work: Path, full: bool) -> Outcome:
    """SIGKILL at random points of a run."""
    pairs, times = (10_000, 50) if full else (500, 2)
    server, chance = rig.Server(), random.Random(1)
    whole = reference(work, pairs, server)
    job = rig.Job(work / f"pool-{pairs}", work / "killed", server.url, work / "acknowledged")
    wrong = []
    for number in range(times):
        rig.killed_at(server, job, chance.randint(1, 2 * pairs // (times + 1)), chance)
        lost = set(rig.keys_in(job.acknowledged)) - set(rig.replies_in(job.folder)) if job.folder.is_dir() else set()
        wrong += [f"kill {number}: {len(lost)} acknowledged replies lost"] if lost else []
    code = finish(job)
    server.close()
    again = server.arrived - 2 * pairs
    wrong += [f"the last run ended with {code}"] if code else []
    wrong += [f"{again} requests paid again"] if again > times * rig.CONCURRENCY else []
    wrong += ["other judgements"] if (job.folder / "judgements.parquet").read_bytes() != whole else []
    return Outcome(times, wrong, f"{pairs} pairs, {again} requests sent again, at most {times * rig.CONCURRENCY}")


WRITER = """
import os, sys
from pathlib import Path
from labelkit.engines import Reply
from labelkit.judging.journal import Arrival, Charge, Journal
handle = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
with Journal(Path(sys.argv[1])) as journal:
    for group in range(int(sys.argv[3])):
        keys = [f"{group:04d}-{number}" for number in range(1 + group % 7)]
        journal.reserve(keys[0], Charge(5, None))
        replies = [Reply(key=key, text=f"answer to {key} " + "x" * 300) for key in keys]
        journal.append([Arrival(reply, Charge(1, 0.5)) for reply in replies])
        os.write(handle, "".join(f"{key}\\n" for key in keys).encode())
"""


def power_loss(work: Path, full: bool) -> Outcome:
    """States of the disk after a power loss at any call of a run."""
    if not shutil.which("strace"):
        return Outcome(0, [], "strace is not installed: not shown (apt-get install strace)")
    groups, states = (400, 2000) if full else (30, 60)
    run, told = work / "run", work / "told"
    log = powerloss.record(WRITER, run, told, groups, log=work / "strace.log")
    journal = {str(run / f"{FILE}{suffix}"): f"{FILE}{suffix}" for suffix in ("", "-wal")}
    chance, disk, acknowledged, wrong = random.Random(2), powerloss.Disk(), [], []
    looked = set(chance.choices(range(len(log)), k=states))
    for number, event in enumerate(log):
        if event.path == str(told):
            acknowledged += event.data.decode().split()
        elif event.path in journal:
            disk.do(event)
        if number in looked:
            shutil.rmtree(work / "state", ignore_errors=True)
            (work / "state").mkdir()
            for path, content in disk.after_power_loss(chance).items():
                (work / "state" / journal[path]).write_bytes(content)
            try:
                with Journal(work / "state") as found:
                    answered = found.answered()
                    lost = [key for key in acknowledged if key not in answered]
                wrong += [f"call {number}: {len(lost)} acknowledged replies lost"] if lost else []
            except LabelkitError as error:
                wrong.append(f"call {number}: {error}")
    return Outcome(len(looked), wrong, f"{len(log)} writes and syncs recorded by strace")


def full_disk(work: Path, full: bool) -> Outcome:
    """A disk that fills up in the middle of a run, and has room again."""
    pairs, times = (2000, 10) if full else (300, 1)
    server, chance, wrong = rig.Server(), random.Random(3), []
    whole = reference(work, pairs, server)
    for number in range(times):
        disk, before = work / f"disk-{number}", server.arrived
        with rig.small_disk(disk, 8 << 20) as mounted:
            if not mounted:
                return Outcome(0, [], "no tmpfs may be mounted here: shown with a file size limit alone")
            job = rig.Job(work / f"pool-{pairs}", disk / "labels", server.url, work / f"told-{number}")
            ballast = disk / "ballast"
            ballast.write_bytes(bytes((8 << 20) - chance.randint(100_000, 250_000)))
            code, sent = finish(job), server.arrived - before
            said = job.acknowledged.with_suffix(".error")
            told = rig.keys_in(job.acknowledged)
            wrong += [f"disk {number}: ended with {code}"] if code != 1 or not said.is_file() else []
            wrong += [f"disk {number}: {sent - len(told)} sent in vain"] if sent - len(told) > rig.CONCURRENCY else []
            ballast.unlink()
            lost = set(told) - set(rig.replies_in(job.folder))
            wrong += [f"disk {number}: {len(lost)} acknowledged replies lost"] if lost else []
            code = finish(job)
            same = code == 0 and (job.folder / "judgements.parquet").read_bytes() == whole
            wrong += [] if same else [f"disk {number}: the resumed run ended with {code}, or other judgements"]
    server.close()
    return Outcome(times, wrong, f"a tmpfs of 8 MiB, {pairs} pairs")


def scripted(pool: Path, folder: Path) -> int:
    """A run of the scripted judge; how many requests it sent."""
    options = AnnotateOptions(model="garbage", engine="scripted", defence=("none",))
    return annotate(pool, folder, options, command="rig").asked


def flip(path: Path, chance: random.Random) -> str:
    """Flip one bit; where it was."""
    data = bytearray(path.read_bytes())
    place, bit = chance.randrange(len(data)), chance.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name} byte {place} bit {bit}"


def bit_flips(work: Path, full: bool) -> Outcome:
    """Single flipped bits in a journal, then resumed, and in a dataset, then read."""
    times = 500 if full else 12
    pairs, chance, wrong = 50, random.Random(4), []
    rig.make_pairs(work, pairs)
    pool, labels, made = work / f"pool-{pairs}", work / "labels", work / "dataset"
    scripted(pool, labels)
    whole = (labels / "judgements.parquet").read_bytes()
    mixing.mix(made, MixOptions(data=work / f"beir-{pairs}", llm=(labels,)), command="rig")
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    refused = asked_again = 0
    for _ in range(times):
        for folder in ("bent", "bent-dataset"):
            shutil.rmtree(work / folder, ignore_errors=True)
        shutil.copytree(labels, work / "bent")
        where = flip(work / "bent" / FILE, chance)
        try:
            asked = scripted(pool, work / "bent")
            asked_again += asked
            if asked > 1 or (work / "bent" / "judgements.parquet").read_bytes() != whole:
                wrong.append(f"{where}: {asked} asked again, or other judgements")
        except LabelkitError:
            refused += 1
        shutil.copytree(made, work / "bent-dataset")
        where = flip(work / "bent-dataset" / chance.choice(files), chance)
        try:
            dataset.read_dataset(work / "bent-dataset")
            wrong.append(f"dataset {where}: read as if nothing were")
        except LabelkitError:
            """As it should be."""
    note = f"half in a journal: {refused} refused with a reason, {asked_again} replies asked again, the rest harmless"
    return Outcome(2 * times, wrong, note)


def keys_answered(journal: Journal) -> set[str]:
    """The keys with a good last reply."""
    answered = journal.answered()
    return {key for key, *_ in journal.records() if key in answered}


def torn_tail(work: Path, full: bool) -> Outcome:
    """A write-ahead log that ends anywhere."""
    times, chance, wrong = 500 if full else 40, random.Random(5), []
    run, told = work / "run", work / "told"
    killed = WRITER + "    os.kill(os.getpid(), 9)\n"
    subprocess.run([sys.executable, "-c", killed, str(run), str(told), "60"], check=False)
    order = rig.keys_in(told)
    log = (run / f"{FILE}-wal").read_bytes()
    for _ in range(times):
        state = work / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        shutil.copy(run / FILE, state / FILE)
        length = chance.randrange(len(log))
        (state / f"{FILE}-wal").write_bytes(log[:length])
        try:
            with Journal(state) as journal:
                found = keys_answered(journal)
                journal.append([Arrival(Reply(key="next", text="2"))])
            with Journal(state) as journal:
                after = keys_answered(journal)
            # What is there is the beginning of what was written, whole groups of it.
            if found != set(order[: len(found)]) or after != found | {"next"}:
                wrong.append(f"log cut at {length}: earlier replies lost, or the next one glued on")
        except LabelkitError as error:
            # Before the first commit there is no journal yet: refused, never half-read.
            wrong.append(f"log cut at {length}: {error}")
    return Outcome(times, wrong, f"{len(order)} replies in {len(log)} bytes")


def http_faults(work: Path, full: bool) -> Outcome:
    """The mix of HTTP faults."""
    pairs = 10_000 if full else 600
    pool, server = rig.make_pairs(work, pairs), rig.Server(rig.mix(seed=7))
    outcome = rig.judge(pool, work / "labels", server.url)
    server.close()
    judged = read_labels(work / "labels")[0]
    calm = rig.Server()
    rig.judge(pool, work / "calm", calm.url)
    calm.close()
    right = {(row.query_id, row.passage_id): row.grade for row in read_labels(work / "calm")[0]}
    invented = [row for row in judged if row.grade is not None and row.grade != right[row.query_id, row.passage_id]]
    tries = sum(json.loads(reply).get("tries", 1) for reply in rig.replies_in(work / "labels").values())
    billed = server.arrived - server.ledger["429"]
    wrong = [f"{len(judged)} of {pairs} pairs have a state"] if len(judged) != pairs else []
    wrong += [f"{len(invented)} grades invented"] if invented else []
    wrong += [f"{tries} tries in the journal, {billed} in the ledger"] if tries != billed else []
    return Outcome(server.arrived, wrong, f"{sum(outcome.failures.values())} pairs failed with their reason")


def budget(work: Path, full: bool) -> Outcome:
    """Caps under faults and kills."""
    runs, wrong, most, stopped = 100 if full else 2, [], 0.0, 0
    rig.make_pairs(work, 200)
    for number in range(runs):
        chance, server = random.Random(f"11 {number}"), rig.Server(rig.mix(seed=number))
        cap = chance.randint(20_000, 120_000)
        job = rig.Job(work / "pool-200", work / f"labels-{number}", server.url, work / f"told-{number}", 4, cap)
        for _ in range(chance.randint(0, 2)):
            rig.killed_at(server, job, chance.randint(1, 60), chance)
        stopped += finish(job) == 1
        server.close()
        most = max(most, server.billed / cap)
        wrong += [f"run {number}: {server.billed} tokens billed, the cap was {cap}"] if server.billed > cap else []
        shutil.rmtree(job.folder)
    return Outcome(runs, wrong, f"{stopped} runs ended at their cap; at most {most:.0%} of one was billed")


def drifting(at: int) -> Callable[[int, dict[str, Any]], str | None]:
    """The script of a server whose model changes at one of its requests."""
    return lambda arrived, body: "drift" if arrived >= at else None


def drift(work: Path, full: bool) -> Outcome:
    """A model that changes in the middle of a run."""
    times, wrong, most = 20 if full else 2, [], 0
    pool = rig.make_pairs(work, 1000)
    for number in range(times):
        at = random.Random(number).randint(1, 800)
        server = rig.Server(drifting(at))
        try:
            rig.judge(pool, work / f"labels-{number}", server.url)
            wrong.append(f"run {number}: it went on")
        except LabelkitError as error:
            models = [json.loads(reply)["model"] for reply in rig.replies_in(work / f"labels-{number}").values()]
            late = len(models) - models.index("another") - 1
            most = max(most, late)
            wrong += [f"run {number}: {late} replies later"] if late >= rig.CONCURRENCY else []
            wrong += [f"run {number}: it says {error}"] if "became 'another'" not in str(error) else []
        server.close()
    return Outcome(times, wrong, f"at most {most} replies after the first of another model")


FIT = """
from trainer.training.checkpoints import Checkpoints
from trainer.commands.app import main
Checkpoints.remove = lambda self: None
main()
"""
"""`trainer` that leaves its checkpoints."""


CANARIES = (
    "LABELKIT_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_API_KEY", "AZURE_CLIENT_SECRET", "AZURE_STORAGE_KEY",
)  # fmt: skip
"""Variables that hold a secret and nothing else."""


def secrets(work: Path, full: bool) -> Outcome:
    """A job from pool to trained model under keys in every variable, in the keyring, in the proxy's address and in an
    argument: who reads them, and where they are written.
    """
    names = (*CANARIES, "keyring", "proxy", "storage", "argument")
    keys = {name: f"canary-{number}-0123456789" for number, name in enumerate(names)}
    keyring = work.with_name(work.name + ".keys.toml")
    keyring.write_text(f'"127.0.0.1" = "{keys["keyring"]}"')
    keyring.chmod(0o600)
    server = rig.Server()
    told, wrong = work / "told", []
    with Proxy("user", keys["proxy"]) as proxy:
        variables = {**os.environ, **{name: keys[name] for name in CANARIES}, "LABELKIT_KEYRING": str(keyring)}
        variables |= {"LABELKIT_CACHE": str(work / "cache"), "HTTP_PROXY": proxy.address, "http_proxy": proxy.address}
        variables |= {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey={keys['storage']};EndpointSuffix=e"}
        for number, (command, left_out) in enumerate(jobs(work, server.url, keys["argument"])):
            environment = {name: value for name, value in variables.items() if name != left_out}
            done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, check=False)
            told.with_suffix(f".{number}").write_bytes(done.stdout + done.stderr)
            refused = "http://judge.invalid/v1" in command
            if done.returncode != refused:
                wrong.append(f"{command[2]} ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    server.close()
    if server.keys != {keys["LABELKIT_API_KEY"], keys["keyring"]}:
        wrong.append("the server did not get the keys that were meant for it")
    reasons = [json.loads(reply)["error"] for reply in rig.replies_in(work / "refused").values()]
    met = reasons and all("status 407" in reason and BLOT in reason for reason in reasons)
    wrong += [] if met else ["no proxy was met"]
    keys["basic authentication"] = base64.b64encode(f"user:{keys['proxy']}".encode()).decode()
    files = [path for path in work.rglob("*") if path.is_file()]
    wrong += [f"{path} holds {name}" for path in files for name, key in keys.items() if holds(path, key)]
    checkpoints = sum("model.checkpoints" in path.parts for path in files)
    wrong += [] if checkpoints else ["no checkpoint was looked into"]
    return Outcome(len(files), wrong, f"{len(keys)} secrets looked for, {checkpoints} files of checkpoints among it")


def jobs(work: Path, url: str, secret: str) -> list[tuple[list[str], str]]:
    """Arguments of Python for each command of a whole job, and the variable that is left out for it."""
    rig.make_pairs(work, 200)
    words = [f"word{number}" for number in range(97)]
    data, labels, made, model = work / "beir-200", work / "labels", work / "dataset", work / "model"
    write_encoder(work / "start", ["tea", "number", *words])
    (work / "fit.toml").write_text("checkpoint_minutes = 0\n")
    labelkit = ("-m", "labelkit")
    asked = (*labelkit, "annotate", work / "pool-200", "--engine", "openai", "--model", "m", "--concurrency", 8)
    judged = (*asked, "-o", labels, "--base-url", url)
    elsewhere = ("-o", work / "refused", "--base-url", "http://judge.invalid/v1", "--insecure", "--limit", 2)
    mixed = (*labelkit, "mix", "--data", data, "--llm", labels, "--license", "mit", "-o", made)
    fitted = (made, "-o", model, "--model", work / "start" / "tiny", "--objective", "lsepair", "--max-steps", 3)
    commands = [
        ((*judged, "--limit", 100), ""),
        (judged, "LABELKIT_API_KEY"),
        ((*asked, *elsewhere), ""),
        ((*mixed, "--revision", f"https://user:{secret}@example.org/data?token={secret}"), ""),
        ((*labelkit, "audit", made), ""),
        ((*labelkit, "report", made, "-o", work / "report.html"), ""),
        ((*labelkit, "export", made, "--to", "tevatron", "-o", work / "export"), ""),
        ((*labelkit, "publish", made, "org/set", "--dry-run", "--allow", "unaudited"), ""),
        (("-c", FIT, "fit", *fitted, "--config", work / "fit.toml"), ""),
    ]
    return [([str(word) for word in command], left_out) for command, left_out in commands]


WAITS = ("0", "-1", "-1e9", "0.000001", "Mon, 01 Jan 2001 00:00:00 GMT", "NaN", "Infinity", "1e999", "soon", "0, 0")
"""Values of Retry-After that ask for nothing."""


def refused(header: str | None, pairs: int) -> int:
    """Requests that a server gets which answers 429 with this Retry-After to all but the first request."""
    told = b"" if header is None else f"Retry-After: {header}\r\n".encode()
    server = rig.Server(lambda number, body: rig.Sent(b"{}", 429, told) if number > 1 else None)
    engine = open_engine("openai", Settings("m", base_urls=(server.url,), concurrency=pairs))
    list(engine.run(Request(str(n), "q", (Message("user", f"grade {n}"),), ("0", "1")) for n in range(pairs + 1)))
    server.close()
    return server.arrived - 1


def retry_after(work: Path, full: bool) -> Outcome:
    """Requests in a time under a 429 with each kind of Retry-After, against those that our own backoff sends."""
    seconds, pairs, sent = 10.0 if full else 3.0, 8, {}

    def one(header: str | None) -> None:
        sent[header] = refused(header, pairs)

    threads = [threading.Thread(target=one, args=(header,)) for header in (None, *WAITS, "1e9")]
    pauses = {"FIRST_PAUSE": 0.5, "LONGEST_PAUSE": 1.0, "LONGEST_WAIT": 1.0}
    with rig.constants(client, CALL_SECONDS=seconds, **pauses):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    own, longest = sent[None], sent["1e9"]
    wrong = [
        f"Retry-After {header!r}: {sent.get(header)} requests" for header in WAITS if not 0 < sent[header] <= 2 * own
    ]
    if not pairs * (seconds - 2) <= longest <= pairs * (seconds + 1):
        wrong.append(f"a wait of 1e9 s, at most 1 s: {longest} requests")
    return Outcome(len(sent), wrong, f"{pairs} pairs in {seconds:.0f} s: our own backoff sends {own} requests, {sent}")


COUNTS: tuple[Any, ...] = (
    0,
    1,
    -1,
    -1e6,
    -(2**63),
    1e30,
    2**63,
    10**400,
    0.5,
    "x",
    "40",
    None,
    float("nan"),
    float("inf"),
    [40],
    {},
)
"""Tokens as lying servers state them."""


def lying_counts(work: Path, full: bool) -> Outcome:
    """A cap under counts that cannot be, and kills."""
    runs, wrong, most = 20 if full else 2, [], 0.0
    rig.make_pairs(work, 500)
    for number in range(runs):
        chance = random.Random(f"26 {number}")

        def lie(arrived: int, body: dict[str, Any], chance: random.Random = chance) -> rig.Sent:
            usage = {name: chance.choice(COUNTS) for name in ("prompt_tokens", "completion_tokens")}
            whole = rig.completion(body, usage=chance.choice([usage, usage, usage, None, [], "many"]))
            return rig.Sent(json.dumps(whole).encode())

        server, cap = rig.Server(lie), chance.randint(40_000, 120_000)
        job = rig.Job(work / "pool-500", work / f"labels-{number}", server.url, work / f"told-{number}", 4, cap)
        for _ in range(chance.randint(0, 1)):
            rig.killed_at(server, job, chance.randint(1, 20), chance)
        codes, sent = [finish(job)], server.arrived
        codes.append(finish(job))
        most = max(most, server.billed / cap)
        wrong += [f"run {number}: {server.billed} tokens billed, the cap was {cap}"] if server.billed > cap else []
        wrong += [f"run {number}: ended with {codes}"] if codes != [1, 1] else []
        wrong += [f"run {number}: {server.arrived - sent} requests after its cap"] if server.arrived > sent else []
        wrong += [f"run {number}: it stopped after {sent} requests"] if sent < 10 else []
        server.close()
        shutil.rmtree(job.folder)
    return Outcome(runs, wrong, f"all runs ended at their cap; at most {most:.0%} of one was billed")


ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    7,
    1e30,
    "",
    "x",
    "-1",
    "\ud800",
    [],
    [None],
    {},
    {"text": "3"},
    [{"type": "thinking"}],
    [51],
)
"""Values of a type or form that does not belong there."""


def odd_answer(body: dict[str, Any], chance: random.Random) -> tuple[dict[str, Any], bool]:
    """The right answer with up to three odd details, and whether its text and its end are as they were."""
    entry = {"token": rig.grade_of(body["messages"]), "logprob": -0.1}
    whole = rig.completion(body, id=chance.random())
    whole["choices"][0]["logprobs"] = {"content": [entry | {"top_logprobs": [dict(entry)]}]}
    good = copy.deepcopy(whole)
    for _ in range(chance.randint(1, 3)):
        place: object = whole
        while isinstance(place, dict | list) and place:
            step = chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
            inner = place[step]
            if step != "id" and (chance.random() < 0.4 or not isinstance(inner, dict | list) or not inner):
                place[step] = copy.deepcopy(chance.choice(ODD))
                break
            place = inner
    try:
        choice = whole["choices"][0]
        intact = choice["message"]["content"] == good["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        intact = False
    return whole, intact


def odd_shapes(work: Path, full: bool) -> Outcome:
    """Paid answers of any shape: each in the journal, none a traceback, no grade lost or invented."""
    pairs, sent, wrong = 10_000 if full else 500, {}, []
    pool, chance, lock = rig.make_pairs(work, pairs), random.Random(30), threading.Lock()

    def odd(arrived: int, body: dict[str, Any]) -> rig.Sent:
        with lock:
            whole, intact = odd_answer(body, chance)
        content = json.dumps(whole)
        sent[content] = intact
        return rig.Sent(content.encode())

    server = rig.Server(odd)
    options = AnnotateOptions(
        model="m",
        engine="openai",
        base_url=(server.url,),
        concurrency=rig.CONCURRENCY,
        defence=("none",),
        allow_drift=True,
    )
    outcome = annotate(pool, work / "labels", options, command="rig")
    server.close()
    kept = [json.loads(reply) for reply in rig.replies_in(work / "labels").values()]
    bodies = {reply["raw"] for reply in kept if "raw" in reply}
    texts = [content for content in sent if content not in bodies]
    lost = [content for content in texts if not sent[content]]
    wrong += [f"{len(kept)} replies in the journal, {len(sent)} answers were sent"] if len(kept) != len(sent) else []
    wrong += [f"not kept: {content}" for content in lost[:5]]
    judged = read_labels(work / "labels")[0]
    graded = sum(row.grade is not None for row in judged)
    if graded != sum(sent.values()):
        wrong.append(f"{graded} pairs graded, {sum(sent.values())} answers state a grade")
    again = sum(reparse(pool, work / "labels", command="rig").values())
    wrong += [f"{again} failures when read again"] if again != sum(outcome.failures.values()) else []
    return Outcome(len(sent), wrong, f"{len(bodies)} bodies kept as they came, {graded} pairs graded")


def replays(work: Path, full: bool) -> Outcome:
    """Random labels traced to request and reply, from the labels folder and from the dataset."""
    pairs = 2000 if full else 200
    pool, server = rig.make_pairs(work, pairs), rig.Server(rig.mix(seed=21))
    rig.judge(pool, work / "labels", server.url)
    server.close()
    options = MixOptions(data=work / f"beir-{pairs}", llm=(work / "labels",))
    mixing.mix(work / "dataset", options, command="rig")
    sample = ReplayOptions(sample=1000 if full else 100, seed=5)
    found = [replay(work / name, sample) for name in ("labels", "dataset")]
    return Outcome(sum(one.labels for one in found), [line for one in found for line in one.mismatches])
