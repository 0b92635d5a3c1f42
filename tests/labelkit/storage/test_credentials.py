"""Secrets of this process are found wherever they stand, and blotted in every form that gives them away."""

import base64
import json
import os
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
