"""Secrets of this process are found wherever they stand, and blotted in every form that gives them away."""

import base64
import json
import os
import subprocess
import sys
from urllib.parse import quote

import pytest

from labelkit.storage.credentials import BLOT, SECRET_NAME, blot, secret_forms, secrets

CANARY = "canary-4b1d7f0e"


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """No secrets but those of the test."""
    for name in os.environ:
        if SECRET_NAME.search(name) or "@" in os.environ[name]:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["labelkit"])


@pytest.mark.parametrize(
    "name",
    [
        "LABELKIT_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_API_KEY", "AZURE_CLIENT_SECRET", "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN", "PGPASSWORD", "MY_PASSPHRASE", "hf_token",
    ],
)  # fmt: skip
def test_the_secrets_of_the_environment_are_known_by_their_names(monkeypatch, name):
    monkeypatch.setenv(name, CANARY)
    assert secrets() == {CANARY: f"the value of {name}"}
    assert blot(f"it is {CANARY}!") == f"it is {BLOT}!"


@pytest.mark.parametrize("name", ["PATH", "PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "KEYBOARD", "AWS_ACCESS_KEY_ID"])
def test_other_variables_hold_none(monkeypatch, name):
    monkeypatch.setenv(name, CANARY)
    assert secrets() == {}


def test_short_values_words_and_paths_are_none(monkeypatch, tmp_path):
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("A_TOKEN", "short-1")
    monkeypatch.setenv("B_TOKEN", "relevantpassage")
    monkeypatch.setenv("GOOGLE_CREDENTIALS", str(tmp_path / "key.json"))
    assert secrets() == {}


PASSWORDS = ["hunter-2-hunter", "p@ss:w0rd/%41", 'quot"ed\\s-1234', "päßwört-1234"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY", "DATABASE_URL"])
def test_the_password_of_an_address_is_blotted_in_every_form(monkeypatch, variable, password):
    escaped = quote(password, safe="")
    monkeypatch.setenv(variable, f"http://bob:{escaped}@proxy.example.org:3128")
    basic = base64.b64encode(f"bob:{password}".encode()).decode()
    said = [
        f"cannot reach http://bob:{escaped}@proxy.example.org:3128",
        f"Proxy-Authorization: Basic {basic}",
        f"the password {password} is wrong",
        json.dumps({"password": password}),
        json.dumps({"password": password}, ensure_ascii=False),
    ]
    blotted = blot("\n".join(said))
    assert blotted.count(BLOT) == len(said)
    for form in (password, escaped, basic, json.dumps(password)[1:-1]):
        assert form not in blotted
    assert "proxy.example.org:3128" in blotted


def test_a_short_password_is_blotted_in_its_address(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "bob:pw@proxy:3128")
    assert blot("407 at http://bob:pw@proxy:3128, pw") == f"407 at http://{BLOT}proxy:3128, pw"


def test_parts_of_credentials_are_secrets(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=a;AccountKey={CANARY}==;EndpointSuffix=e")
    monkeypatch.setenv("GOOGLE_CREDENTIALS", json.dumps({"type": "x", "private_key": f"{CANARY}2"}))
    assert blot(f"{CANARY}== and {CANARY}2") == f"{BLOT} and {BLOT}"


def test_secrets_of_the_command_line_are_blotted(monkeypatch):
    signed = f"https://bucket.example.org/x?X-Amz-Signature={CANARY}1&part=1"
    monkeypatch.setattr(sys, "argv", ["labelkit", "pool", f"ftp://bob:{CANARY}@example.org/x", signed])
    said = blot(" ".join(sys.argv))
    assert CANARY not in said
    assert said.endswith(f"?X-Amz-Signature={BLOT}&part=1")


def test_a_key_of_the_keyring_is_one_and_a_keyring_that_others_may_read_stops_no_message(monkeypatch, tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(f'"api.example.org" = "{CANARY}"')
    monkeypatch.setenv("LABELKIT_KEYRING", str(path))
    path.chmod(0o600)
    assert secrets() == {CANARY: f"the key of api.example.org in {path}"}
    path.chmod(0o644)
    assert secrets() == {}
    assert blot("a message") == "a message"


def test_what_other_programs_log_in_with_is_known(monkeypatch, tmp_path):
    """The files stand where the libraries look for them, by default and by their variables."""
    google = '{"client_secret": "canary-google1", "refresh_token": "canary-google2"}'
    written = {
        ".cache/huggingface/token": "canary-hub1\n",
        ".cache/huggingface/stored_tokens": "[mine]\nhf_token = canary-hub2\n",
        ".aws/credentials": "[default]\naws_access_key_id = AKIA123456\naws_secret_access_key = canary/aws1+\n",
        ".config/gcloud/application_default_credentials.json": google,
        ".netrc": "machine api.example.org login bob password canary-netrc1\n",
    }
    for name in ("HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME", "AWS_SHARED_CREDENTIALS_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    canaries = {f"canary-{name}" for name in ("hub1", "hub2", "google1", "google2", "netrc1")} | {"canary/aws1+"}
    assert set(secrets()) == canaries
    assert secrets()["canary-hub1"] == f"a secret of {tmp_path / '.cache/huggingface/token'}"
    assert blot("AKIA123456 is no secret, canary/aws1+ is") == f"AKIA123456 is no secret, {BLOT} is"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    assert "canary-hub1" not in secrets()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".cache/huggingface/token").rename(tmp_path / "elsewhere" / "token")
    assert "canary-hub1" in secrets()


HUB_TOKEN = """
import sys
from huggingface_hub import get_token
from labelkit.storage.credentials import blot
sys.stdout.write(f"{get_token() == sys.argv[1][::-1]} {blot(get_token())}")
"""


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME", None])
def test_the_token_that_the_hubs_client_finds_in_a_file_is_blotted(tmp_path, variable):
    places = {"HF_TOKEN_PATH": "t", "HF_HOME": "t/token", "XDG_CACHE_HOME": "t/huggingface/token"}
    path = tmp_path / places.get(variable, ".cache/huggingface/token")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CANARY)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | (
        {variable: str(tmp_path / "t")} if variable else {}
    )
    command = [sys.executable, "-c", HUB_TOKEN, CANARY[::-1]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"True {BLOT}"


LIBRARY_LOGS = """
import logging, sys
from labelkit.commands import console
def work():
    import huggingface_hub.utils.logging, transformers.utils.logging
    evil = "canary-4b1d7f0e \x1b[2J"
    for logger in (transformers.utils.logging.get_logger("transformers.modeling"),
                   huggingface_hub.utils.logging.get_logger("huggingface_hub.file_download")):
        assert logger.handlers or logger.parent.handlers, "a handler of its own, which none of ours precedes"
        logger.warning("plain %s", evil)
        try:
            raise ValueError(evil)
        except ValueError:
            logger.exception("with a traceback")
    logging.getLogger("somebody").error("to the last resort %s", evil)
    logging.getLogger("somebody").error("a faulty %s %s call", "x")
console.run(work)
"""


def test_the_logs_of_other_libraries_show_no_secret_and_obey_no_control_character(tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_TOKEN": CANARY}
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY_LOGS], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.count(f"plain {BLOT} [2J") == 2
    assert done.stderr.count(f"ValueError: {BLOT} [2J") == 2
    assert f"to the last resort {BLOT} [2J" in done.stderr
    assert "a faulty %s %s call ('x',)" in done.stderr


def test_the_longer_secret_goes_first(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "canary-1234")
    monkeypatch.setenv("B_TOKEN", "canary-12345678")
    assert blot("canary-12345678") == BLOT


def test_a_key_of_any_length_is_blotted_where_it_is_named():
    assert blot("the key is x1", secret_forms("x1")) == f"the key is {BLOT}"
    assert secret_forms("none") == (), "it stands for no key"


def test_a_command_in_a_manifest_has_no_secret(labelkit, beir, tmp_path):
    from labelkit.storage.folders import read_manifest

    human = beir / "qrels" / "test.tsv"
    address = f"https://bob:{CANARY}@example.org/data"
    called = labelkit("mix", "--data", beir, "--human", human, "-o", tmp_path / "dataset", "--revision", address)
    assert called.code == 0, called.err
    manifest = read_manifest(tmp_path / "dataset", "dataset")
    assert f"https://{BLOT}example.org/data" in manifest.command
    for path in (tmp_path / "dataset").iterdir():
        assert CANARY.encode() not in path.read_bytes(), path


def test_a_proxy_that_refuses_shows_nothing_of_its_password(monkeypatch, labelkit, pool, tmp_path):
    from proxy import Proxy

    from labelkit.engines import client

    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.001)
    annotate = ("annotate", pool, "--engine", "openai", "--model", "m", "--limit", 1, "--insecure")
    monkeypatch.setenv("LABELKIT_API_KEY", "key-0123456789")
    with Proxy("bob", CANARY) as proxy:
        for number, scheme in enumerate(("http", "https")):
            monkeypatch.setenv(f"{scheme}_proxy", proxy.address)
            url = f"{scheme}://judge.invalid/v1"
            called = labelkit(*annotate, "-o", tmp_path / f"labels{number}", "--base-url", url)
            assert "407" in called.err or called.code == 0
            assert CANARY not in called.out + called.err
            journal = (tmp_path / f"labels{number}" / "journal.sqlite").read_bytes()
            assert b"407" in journal
            for form in (CANARY, base64.b64encode(f"bob:{CANARY}".encode()).decode()):
                assert form.encode() not in journal
