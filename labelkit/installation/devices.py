"""List the processors of this machine on which a model can run, with their memory."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

from labelkit.errors import first_line

GIB = 2**30
SMI_SECONDS = 20
"""Longest time in seconds for nvidia-smi, which is slow on a machine with many idle GPUs."""
SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")


class Device(NamedTuple):
    """A processor with its memory in GiB; None if unknown."""

    kind: str
    """cpu, cuda (also AMD GPUs, which PyTorch calls so) or mps."""
    name: str
    memory: float | None
    free: float | None = None
    problem: str | None = None
    """Reason why PyTorch cannot use the device, with the remedy."""


def devices() -> list[Device]:
    """List the CPU and all GPUs of this machine."""
    return [cpu(), *gpus()]


def cpu() -> Device:
    """Describe the CPU, with the memory of the whole machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    except (AttributeError, ValueError, OSError):  # Windows has none of them
        memory = None
    return Device("cpu", f"{platform.machine()}, {cores} cores", memory)


def gpus() -> Iterator[Device]:
    """Yield the GPUs that PyTorch can use, else those that the driver lists, with the reason why it cannot."""
    if find_spec("torch") is None:
        yield from listed_by_driver("PyTorch is not installed")
        return
    try:
        import torch
    except Exception as error:  # a damaged installation raises anything
        yield from listed_by_driver(f"PyTorch cannot be imported: {first_line(error)}")
        return
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, memory = (value / GIB for value in torch.cuda.mem_get_info(number))
            yield Device("cuda", torch.cuda.get_device_name(number), memory, free=free)
    elif torch.backends.mps.is_available():
        yield Device("mps", "Apple GPU, which shares the memory of the CPU", None)
    else:
        yield from listed_by_driver(
            f"PyTorch {torch.__version__} cannot use it; install a build for its driver: https://pytorch.org/get-started"
        )


def listed_by_driver(problem: str) -> Iterator[Device]:
    """Yield the GPUs that NVIDIA's driver lists, each with the problem that prevents its use."""
    if shutil.which(SMI[0]) is None:
        return
    try:
        listed = subprocess.run(SMI, capture_output=True, text=True, timeout=SMI_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return
    for line in listed.splitlines():
        name, *memory = (part.strip() for part in line.rsplit(",", 2))
        if len(memory) == 2 and all(part.isdigit() for part in memory):
            total, free = (int(part) / 1024 for part in memory)
            yield Device("cuda", name, total, free=free, problem=problem)
