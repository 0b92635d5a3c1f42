"""The root cause of a failed start is found in the output of the processes that an engine starts."""

import multiprocessing
import os
import sys

import pytest
from pydantic import BaseModel

from labelkit.engines.child_output import ChildOutput, reason_of, root_cause

PREFIX = "(EngineCore pid=17) ERROR 11-26 18:46:03 [core.py:953] "
TRACE = f"""
Loading weights:   0% Completed | 0/1
{PREFIX}EngineCore failed to start.
{PREFIX}Traceback (most recent call last):
{PREFIX}  File "vllm/v1/worker/gpu_worker.py", line 1, in load_model
{PREFIX}    raise ValueError(message)
{PREFIX}ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.
(EngineCore pid=17) Process EngineCore:
(EngineCore pid=17) Traceback (most recent call last):
(EngineCore pid=17) RuntimeError: WorkerProc initialization failed due to an exception in a background process.
"""
STATED = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"


def test_colours_of_earlier_releases_are_ignored():
    coloured = TRACE.replace("(EngineCore pid=17)", "\x1b[0;36m(EngineCore_DP0 pid=17)\x1b[0;0m")
    assert root_cause(coloured) == root_cause(TRACE)


def test_the_first_exception_of_a_process_is_the_root_cause():
    assert root_cause(TRACE) == (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."
    )
    wanted = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
    assert reason_of(RuntimeError(STATED), TRACE).startswith(wanted)


@pytest.mark.parametrize(
    ("last", "cure"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "--tensor-parallel"),
        ("ValueError: To serve one request, 9 GiB KV cache is needed", "give a lower --max-model-len"),
        ("safetensors_rust.SafetensorError: Error while deserializing header", "damaged: fetch them again"),
    ],
)
def test_a_known_cause_has_a_cure(last, cure):
    reason = reason_of(RuntimeError(STATED), f"{PREFIX}Traceback (most recent call last):\n{PREFIX}{last}\n")
    assert last.split(".")[-1] in reason or last in reason
    assert cure in reason


def test_the_signal_that_ended_a_process_is_explained():
    killed = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'E': -9}")
    assert "the system killed it, most often because memory ran out; free memory" in reason_of(killed, "")
    assert reason_of(RuntimeError("plain words."), "") == "plain words"


def test_a_validation_error_says_what_is_wrong():
    class Config(BaseModel):
        length: int

    with pytest.raises(ValueError, match="validation error") as wrong:
        Config(length="x")  # type: ignore[arg-type]
    assert reason_of(wrong.value, "").startswith("length: Input should be a valid integer")


def fail():
    sys.stderr = os.fdopen(2, "w", closefd=False)  # pytest has replaced it in a forked process
    os.write(1, b"progress on standard output\n")
    sys.stderr.write("progress on standard error\n")
    raise LookupError("the weights are gone")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_output_of_a_process_is_read_and_shown_up_to_its_failure(capfd, method):
    output = ChildOutput()
    with output.inherited():
        child = multiprocessing.get_context(method).Process(target=fail)
        child.start()
        child.join()
    assert root_cause(output.text()) == "LookupError: the weights are gone"
    print("to standard output as before")
    output.close()
    shown = capfd.readouterr()
    assert shown.out == "to standard output as before\n"
    assert "progress on standard output" in shown.err
    assert "progress on standard error" in shown.err
    assert "LookupError" not in shown.err
    assert not output.path.exists()


def test_after_the_start_everything_is_shown_and_the_file_may_be_kept(capfd):
    output = ChildOutput()
    output.started()
    with output.inherited():
        os.write(2, b"Traceback (most recent call last):\nKeyError: 'x'\n")
    output.close(keep=True)
    assert "KeyError" in capfd.readouterr().err
    assert output.path.read_text().endswith("KeyError: 'x'\n")
    output.path.unlink()
