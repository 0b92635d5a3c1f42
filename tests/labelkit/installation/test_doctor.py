"""`labelkit doctor`: what works here and in a bare installation, without a network and without the value of a key."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from bare_install import install_bare, run_bare
from packaging.requirements import Requirement

from labelkit.engines import EXTRAS
from labelkit.installation.devices import devices
from labelkit.installation.doctor import KEYS, PARTS, WAYS, DoctorOptions, doctor, way
from labelkit.packages import CORE, requirements

SECRET = "sk-1234567890-abcdef"
DOCTOR = """
import os, sys
sys.addaudithook(lambda event, about: os._exit(9) if event in ("socket.connect", "socket.getaddrinfo") else None)
sys.argv = ["labelkit", "doctor", *sys.argv[1:]]
from labelkit.commands.app import main
main()
"""
"""Runs the command, and ends with status 9 if it contacts anybody."""


def test_every_extra_for_users_has_a_purpose() -> None:
    described = {CORE, "all", *PARTS, *WAYS, *EXTRAS.values()}
    assert described | {"demo", "docs", "dev"} == set(requirements())


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    environment = install_bare(tmp_path_factory.mktemp("bare"))
    kept = {name: value for name, value in environment.items() if name not in KEYS}
    return kept | {"HOME": environment["PYTHONPATH"], "LABELKIT_API_KEY": SECRET}


def test_a_bare_installation_is_told_all_packages_that_a_way_of_working_lacks(bare: dict[str, str]) -> None:
    done = run_bare(bare, "-c", DOCTOR, "--json")
    assert done.returncode == 0, done.stderr
    assert SECRET[:6] not in done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["keys"] == ["LABELKIT_API_KEY"]
    ways = {one["name"]: one for one in found["ways"]}
    for name in ("api", "training"):
        words = re.findall(r"'([^']+)'", ways[name]["cure"])
        needed = {one.name for one in requirements()[name]} - {"markdown-it-py"}  # rich brings it in every installation
        assert {Requirement(word).name for word in words} == needed
    works = {one["what"] for one in found["commands"] if one["works"]}
    assert works == {"all commands of labelkit that are not listed below"}
    people = run_bare(bare, "-c", DOCTOR)
    assert people.returncode == 0, people.stderr
    assert "MISSING  review       labelkit review\n           pip install 'aiohttp>=3.12' 'nh3>=0.3'\n" in people.stdout
    assert SECRET[:6] not in people.stdout + people.stderr


def test_what_is_missing_besides_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 81000'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    cpu, *gpus = devices()
    assert (cpu.kind, cpu.problem) == ("cpu", None)
    if [device for device in gpus if device.problem is None]:
        pytest.skip("PyTorch can use a GPU here")
    (gpu,) = gpus
    assert (gpu.name, round(gpu.memory or 0), round(gpu.free or 0)) == ("NVIDIA H100 80GB HBM3", 80, 79)
    assert "install a build for its driver" in str(way("gpu", keys=[], servers=[], found=[cpu, gpu]).cure)
    assert "this machine has no GPU" in str(way("gpu", keys=[], servers=[], found=[cpu]).cure)
    assert "set LABELKIT_API_KEY" in str(way("api", keys=["HF_TOKEN"], servers=[], found=[cpu]).cure)
    assert "LABELKIT_API_KEY" not in str(way("api", keys=["OPENAI_API_KEY"], servers=[], found=[cpu]).cure)


class Serving(BaseHTTPRequestHandler):
    """Lists two models to those who know the key; other paths are refused in several ways."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        known = self.headers["Authorization"] == f"Bearer {SECRET}"
        status = {"/v1/models": 200 if known else 401, "/moved/models": 302, "/page/models": 200}.get(self.path, 404)
        self.send_response(status)
        self.send_header("Location", "/v1/models")
        self.end_headers()
        if self.path == "/v1/models" and known:
            self.wfile.write(b'{"data": [{"id": "judge-7b"}, {"id": "judge-32b"}]}')

    def log_message(self, *about: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Serving) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_server_is_asked_only_when_it_is_named(
    server: str, labelkit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABELKIT_API_KEY", SECRET)
    Serving.seen.clear()
    assert doctor().servers == []
    paths = ("/v1", "/moved", "/page", "/none")
    found = doctor(DoctorOptions(base_url=tuple(f"{server}{path}" for path in paths))).servers
    assert Serving.seen == [f"{path}/models" for path in paths]
    assert found[0].models == ("judge-7b", "judge-32b")
    for one, words in zip(found[1:], ("redirects", "without a list", "often ends|ends in /v1"), strict=True):
        assert re.search(words, str(one.problem))
    called = labelkit("doctor", "--base-url", f"{server}/v1", "--base-url", "http://127.0.0.1:1/v1")
    assert called.code == 0
    assert f"{server}/v1: 2 models\n    judge-7b, judge-32b\n" in called.out
    assert "http://127.0.0.1:1/v1: does not answer" in called.out
    assert SECRET[:6] not in called.out + called.err
    monkeypatch.setenv("LABELKIT_API_KEY", "another-key-1")
    problem = str(doctor(DoctorOptions(base_url=(f"{server}/v1",))).servers[0].problem)
    assert problem == "refuses the key in LABELKIT_API_KEY (status 401); correct it"
    monkeypatch.delenv("LABELKIT_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    problem = str(doctor(DoctorOptions(base_url=(f"{server}/v1",))).servers[0].problem)
    assert problem.startswith("asks for a key (status 401); set LABELKIT_API_KEY")
    assert labelkit("doctor", "--base-url", "http://example.org/v1").code == 2


def test_a_keyring_that_others_may_read_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ring = tmp_path / "keys.toml"
    ring.write_text(f'"api.example.org" = "{SECRET}"\n')
    monkeypatch.setenv("LABELKIT_KEYRING", str(ring))
    ring.chmod(0o644)
    assert doctor().problems == [f"{ring} contains keys and others may read it; run: chmod 600 {ring}"]
    ring.chmod(0o600)
    healthy = doctor()
    assert healthy.problems == []
    assert str(ring) in healthy.keys
    assert SECRET not in json.dumps(healthy.to_json())
