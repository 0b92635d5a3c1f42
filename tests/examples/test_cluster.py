"""The jobs for clusters start the command that they name, on all machines, with a common meeting place."""

import os
import shlex
import subprocess
from pathlib import Path

import yaml
from typer.main import get_command

from labelkit.commands.app import app

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"


def test_the_job_of_slurm_starts_one_agent_per_machine(tmp_path):
    """`scontrol`, `srun` and `torchrun` are stand-ins; the last prints its arguments."""
    programs = {
        "scontrol": '[ "$*" = "show hostnames n[1-2]" ] && echo n1 && echo n2',
        "srun": '"$@" && "$@"',
        "torchrun": 'printf "%s|" "$@"; echo',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "7"}
    command = ["trainer", "eval", "a model", "data"]
    done = subprocess.run(
        ["bash", CLUSTER / "job.slurm", *command],
        capture_output=True, text=True, check=True,
        env=os.environ | given | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    meeting = "--rdzv-backend|c10d|--rdzv-id|7|--rdzv-endpoint|n1:29500"
    started = f"--nnodes|2|--nproc-per-node|8|{meeting}|--no-python|trainer|eval|a model|data|"
    assert done.stdout.splitlines() == [started, started]


def test_the_job_of_kubernetes_has_a_pod_for_each_index():
    service, job = yaml.safe_load_all((CLUSTER / "job.yaml").read_text(encoding="utf-8"))
    spec, name = job["spec"], job["metadata"]["name"]
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"] == {"clusterIP": "None", "selector": {"job-name": name}}
    (container,) = spec["template"]["spec"]["containers"]
    words = shlex.split(container["args"][0])
    assert words[:2] == ["exec", "torchrun"]
    options = dict(zip(words[2::2], words[3::2], strict=False))
    assert int(options["--nnodes"]) == spec["completions"] == spec["parallelism"]
    assert int(options["--nproc-per-node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert options["--master-addr"] == f"{name}-0.{service['metadata']['name']}"
    program, command, *arguments = words[words.index("--no-python") + 1 :]
    assert program == "labelkit"
    get_command(app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
