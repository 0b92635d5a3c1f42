"""The promises, each with the check that shows it: run short by pytest and with the full numbers by `make soak`.

A check does its trials and returns how many there were and what went wrong, one line a violation. A promise that is
shown by ordinary tests names them.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import checks
import deviating
from checks import Outcome

TESTS = Path(__file__).parents[1] / "labelkit"


class Promise(NamedTuple):
    """A promise by its number."""

    number: int
    text: str
    check: Callable[[Path, bool], Outcome] | None = None
    """(empty folder, whether with the full numbers) -> what it found."""
    tests: tuple[str, ...] = ()
    """Files or tests under tests/labelkit that show it, or the rest of it."""


PROMISES = (
    Promise(1, "SIGKILL loses nothing acknowledged, pays at most C again a kill, same bytes", checks.kills),
    Promise(2, "power loss loses nothing acknowledged, every state opens", checks.power_loss),
    Promise(
        3,
        "a full disk stops the run, keeps everything, resumes to the same bytes",
        checks.full_disk,
        ("judging/test_journal.py::test_a_disk_that_takes_no_more_stops_the_run_and_keeps_what_was_acknowledged",),
    ),
    Promise(
        4,
        "two processes on one run",
        None,
        (
            "judging/test_journal.py::test_a_second_process_is_refused_fast_and_learns_who_holds",
            "judging/test_journal.py::test_the_lock_of_a_killed_holder_is_free",
        ),
    ),
    Promise(
        5,
        "a flipped bit changes nothing silently, only damaged keys are asked again",
        checks.bit_flips,
        ("storage/test_manifest.py",),
    ),
    Promise(6, "a torn tail costs no earlier record, nothing is glued on", checks.torn_tail),
    Promise(7, "HTTP faults: every pair a state, no grade invented, tries as in the ledger", checks.http_faults),
    Promise(
        8,
        "a dripping server costs its deadline, others keep their rate",
        None,
        ("engines/test_client.py::test_a_dripping_server_costs_the_deadline_and_the_others_keep_their_rate",),
    ),
    Promise(
        9,
        "a gzip bomb is refused at 4 MB",
        None,
        (
            "engines/test_client.py::test_a_packed_bomb_is_refused_without_growing",
            "engines/test_client.py::test_a_body_without_end_is_given_up_at_the_limit",
        ),
    ),
    Promise(10, "nothing that is no grade is graded", None, ("judging/test_reply_parser.py",)),
    Promise(11, "never above the cap", checks.budget, ("judging/test_budget.py",)),
    Promise(
        12,
        "a killed submission is found again, none bought twice",
        None,
        ("engines/test_openai_batch.py::test_a_kill_between_submission_and_record_orphans_nothing",),
    ),
    Promise(
        13,
        "changed requests meet no old reply, changed speed sends nothing",
        None,
        (
            "judging/test_annotate.py",
            "judging/test_reply_cache.py",
            "judging/test_resume.py",
            "engines/test_openai_runs.py::test_concurrency_is_no_part_of_a_judge_but_the_address_is",
        ),
    ),
    Promise(14, "a changed model pauses the run", checks.drift, ("engines/test_openai_runs.py",)),
    Promise(15, "readers see the old or the new", None, ("storage/test_folders.py",)),
    Promise(
        16,
        "a killed training ends with the losses and weights of one that was not killed",
        None,
        ("../trainer/training/test_resume_fit.py",),
    ),
    Promise(17, "no code of a model runs unasked", None, ("pooling/test_model_safety.py",)),
    Promise(
        18,
        "evaluation queries and passages in training data are found, and refused or dropped",
        None,
        (
            "datasets/test_audit.py::test_500_planted_copies_in_real_text",
            "datasets/test_audit.py::test_leaks_are_refused_allowed_or_dropped",
            "datasets/test_audit.py::test_passages_of_the_evaluation",
            "../trainer/training/test_fit.py::test_known_leakage_is_refused_unless_allowed",
            "../trainer/training/test_fit.py::test_training_queries_are_no_evaluation",
        ),
    ),
    Promise(
        19,
        "no key is written anywhere, redirects get nothing",
        checks.secrets,
        (
            "engines/test_openai_runs.py",
            "engines/test_openai.py::test_a_redirect_carries_nothing_to_another_origin",
            "engines/test_client.py::test_addresses_that_would_leak_or_cannot_work_are_refused",
            "engines/test_client.py::test_a_certificate_that_nobody_signed_is_trusted_with_a_flag_alone",
            "storage/test_credentials.py",
        ),
    ),
    Promise(
        20,
        "hostile text byte for byte, or set aside with its line",
        None,
        ("corpora/test_tidy.py", "corpora/test_beir.py"),
    ),
    Promise(21, "labels replay from provenance", checks.replays, ("datasets/test_replay.py",)),
    Promise(
        22,
        "a name from outside names no file outside its folder",
        None,
        (
            "storage/test_names_from_outside.py",
            "storage/test_remote.py::test_an_object_whose_name_leads_elsewhere_is_refused",
            "storage/test_remote.py::test_an_object_key_that_is_an_absolute_path_overwrites_nothing",
            "exchange/hub/test_publish.py::test_a_list_of_files_that_leads_elsewhere_is_refused_before_anything_is_fetched",
            "../trainer/data/test_names_from_outside.py",
            "../trainer/commands/test_command_line.py"
            "::test_the_name_of_a_run_that_leads_elsewhere_is_refused_before_anything_is_measured",
        ),
    ),
    Promise(
        23,
        "twenty payloads in every text: pages and cards stay inert in a browser",
        None,
        ("../faults/test_payloads.py", "storage/test_foreign_text.py"),
    ),
    Promise(
        24,
        "control characters never reach a terminal",
        None,
        ("commands/test_terminal.py", "../trainer/commands/test_terminal.py"),
    ),
    Promise(
        25,
        "Retry-After of any kind: at most our own backoff's requests, at most a stated wait",
        checks.retry_after,
        ("engines/test_retry_after.py",),
    ),
    Promise(
        26,
        "whatever a server says of its tokens, the cap holds by our own count",
        checks.lying_counts,
        ("engines/test_paid_answers.py",),
    ),
    Promise(
        27,
        "paths are literal; mount points, links, `.` and disks are checked before the work and keep it after; "
        "nothing that was paid for is replaced",
        None,
        (
            "storage/test_outputs.py",
            "commands/test_replacing.py",
            "commands/test_folder_names.py",
            "../trainer/commands/test_folder_names.py",
            "../trainer/training/test_full_disk.py",
        ),
    ),
    Promise(
        28,
        "two processes, one output folder: the second is told who holds it",
        None,
        ("commands/test_two_processes.py", "../trainer/commands/test_two_processes.py"),
    ),
    Promise(
        29,
        "weights, embeddings, scores and labels that are not finite become no artifact and no figure",
        None,
        (
            "storage/test_finite_numbers.py",
            "pooling/test_dense.py",
            "../trainer/training/test_soundness.py",
            "../trainer/data/test_store.py::test_weights_and_probabilities_that_are_none_are_refused",
            "../trainer/retrieval/test_evaluate.py"
            "::test_no_figure_comes_of_embeddings_or_similarities_that_are_not_finite",
        ),
    ),
    Promise(
        30,
        "an answer that was paid for is kept, whatever its shape",
        checks.odd_shapes,
        ("engines/test_completions.py",),
    ),
    Promise(31, "1, 7 and 11 hold together at servers that deviate for every pair", deviating.kills_at_deviations),
)


def run_tests(promise: Promise, full: bool) -> Outcome:
    """The tests of a promise in pytest; a test that fails is a violation, one that is skipped is no trial."""
    if not promise.tests:
        return Outcome(0, [])
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-rfE", "--durations=0"]
    environment = os.environ | ({"LABELKIT_SOAK": "1"} if full else {})
    done = subprocess.run(
        [*command, *(str(TESTS / name) for name in promise.tests)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=TESTS.parents[1],
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    passed = re.search(r"(\d+) passed", last)
    wrong = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not wrong:
        wrong = [f"pytest ended with {done.returncode}: {last}"]
    return Outcome((int(passed[1]) if passed else 0) + len(wrong), wrong)
