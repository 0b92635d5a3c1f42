"""A stand-in for the Hugging Face Hub's HTTP API, as far as a dataset repository needs it.

The unmodified huggingface_hub and datasets clients talk to it through HF_ENDPOINT. It answers: whoami, create a
repository, repository info (also at a revision), refs, tree, paths-info, preupload, validate-yaml, the LFS batch API
with single-part upload and verification, commit, tag, and resolve (HEAD and GET, with ranges). Content is kept by its
hash, a commit is a whole tree, a private repository answers 401 without the token, and a commit on an outdated parent
answers 412, as on the Hub. It does not speak Xet: clients run with HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_standin"
REPO = r"(?P<repo>[^/]+/[^/]+)"


class File(NamedTuple):
    """A file of a commit."""

    oid: str
    """Hash of its git blob."""
    size: int
    content: str
    """Key of the content: the sha256 for LFS, the oid else."""
    lfs: bool


class Repo:
    """Commits from old to new, each a whole tree."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: list[tuple[str, dict[str, File]]] = []
        self.tags: dict[str, str] = {}

    def at(self, revision: str) -> tuple[str, dict[str, File]] | None:
        if revision in ("main", "HEAD", "refs/heads/main"):
            return self.commits[-1]
        sha = self.tags.get(revision.removeprefix("refs/tags/"), revision)
        return next((commit for commit in self.commits if commit[0] == sha), None)

    def commit(self, files: dict[str, File]) -> str:
        sha = hashlib.sha1(json.dumps([len(self.commits), sorted(files.items())]).encode()).hexdigest()
        self.commits.append((sha, files))
        return sha


class Hub:
    """The stand-in; use it with `with`. `url` is what HF_ENDPOINT must say."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.reset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def reset(self) -> None:
        """Forget everything."""
        self.repos: dict[str, Repo] = {}
        self.content: dict[str, bytes] = {}
        self.ledger: list[tuple[str, str, int]] = []
        """Method, path and status of every request."""
        self.uploads: list[str] = []
        """sha256 of every LFS upload, as often as it came."""
        self.on_upload: Callable[[int], None] = lambda number: None
        """Called with the number of LFS uploads before one more is taken; may block."""
        self.on_commit: Callable[[], None] = lambda: None

    def __enter__(self) -> "Hub":
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which clients talk to the stand-in and may write to it."""
        offline = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, **offline}

    def put(self, name: str, files: Mapping[str, bytes]) -> str:
        """Add files to a public repository, which is made if it does not exist; return its address.

        Parquet and compressed files are LFS files.
        """
        repo = self.repos.setdefault(name, Repo(private=False))
        tree = dict(repo.commits[-1][1]) if repo.commits else {}
        for path, content in files.items():
            if path.endswith((".parquet", ".gz")):
                digest = hashlib.sha256(content).hexdigest()
                self.content[digest] = content
                tree[path] = self.lfs(digest, len(content))
            else:
                tree[path] = self.blob(content)
        repo.commit(tree)
        return f"hf://datasets/{name}"

    def blob(self, content: bytes) -> File:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self.content[oid] = content
        return File(oid, len(content), oid, False)

    def lfs(self, sha256: str, size: int) -> File:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return File(hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest(), size, sha256, True)


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    """One request: the first route that matches answers it."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        # What the client sent is read before anything is answered: the connection is used again.
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self.read_chunks()
        try:
            for methods, pattern, route in ROUTES:
                found = re.fullmatch(pattern, parts.path)
                if found and self.command in methods:
                    route(self, **{name: unquote(value or "") for name, value in found.groupdict().items()})
                    return
            raise Refusal(404, "", f"no route for {self.command} {parts.path}")
        except Refusal as refusal:
            self.send(refusal.status, {"error": refusal.message or refusal.code}, {"X-Error-Code": refusal.code})

    def read_chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline().strip(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.hub.ledger.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def writes(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "", "Invalid username or password.")

    def repo_of(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        if repo.private:
            self.writes()
        return repo

    def tree_of(self, name: str, revision: str) -> tuple[str, dict[str, File]]:
        found = self.repo_of(name).at(revision)
        if found is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def whoami(self) -> None:
        self.writes()
        self.send(200, {"type": "user", "name": "somebody", "orgs": []})

    def create(self) -> None:
        self.writes()
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
        url = f"{self.hub.url}/datasets/{name}"
        with self.hub.lock:
            if name in self.hub.repos:
                self.send(409, {"error": "You already created this dataset repo", "url": url})
                return
            repo = self.hub.repos[name] = Repo(asked.get("visibility") == "private" or asked.get("private") is True)
            repo.commit({".gitattributes": self.hub.blob(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")})
        self.send(200, {"url": url, "name": name, "id": name})

    def info(self, repo: str, revision: str = "main") -> None:
        sha, files = self.tree_of(repo, revision or "main")
        private = self.hub.repos[repo].private
        siblings = [{"rfilename": path} for path in files]
        about = {"id": repo, "author": repo.split("/")[0], "sha": sha, "private": private, "gated": False}
        dates = dict.fromkeys(("lastModified", "createdAt"), "2026-01-01T00:00:00.000Z")
        more = {"disabled": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
        self.send(200, {**about, **dates, **more})

    def refs(self, repo: str) -> None:
        found = self.repo_of(repo)
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.commits[-1][0]}
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": sha} for n, sha in found.tags.items()]
        self.send(200, {"branches": [main], "tags": tags, "converts": []})

    def tree(self, repo: str, revision: str, path: str = "") -> None:
        _, files = self.tree_of(repo, revision)
        inside = path.strip("/") + "/" if path.strip("/") else ""
        shown: dict[str, dict[str, Any]] = {}
        for name, file in files.items():
            if not name.startswith(inside):
                continue
            rest = name.removeprefix(inside)
            folders = rest.split("/")[:-1]
            recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
            for depth in range(1, len(folders) + 1 if recursive else min(1, len(folders)) + 1):
                folder = inside + "/".join(folders[:depth])
                shown.setdefault(folder, {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40})
            if recursive or not folders:
                shown[name] = entry(name, file)
        if inside and not shown:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        self.send(200, list(shown.values()))

    def paths_info(self, repo: str, revision: str) -> None:
        _, files = self.tree_of(repo, revision)
        kind = self.headers.get("Content-Type", "")
        asked = json.loads(self.body) if "json" in kind else parse_qs(self.body.decode())
        found = []
        for path in asked.get("paths", []):
            if path in files:
                found.append(entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                found.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        self.send(200, found)

    def preupload(self, repo: str, revision: str) -> None:
        self.writes()
        _, files = self.tree_of(repo, revision)
        answers = []
        for asked in json.loads(self.body)["files"]:
            sample = base64.b64decode(asked["sample"])
            binary = asked["path"].endswith(".parquet") or b"\0" in sample or asked["size"] > 10_000_000
            there = files.get(asked["path"])
            mode = "lfs" if binary else "regular"
            oid = there and (there.content if there.lfs else there.oid)
            answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send(200, {"files": answers})

    def batch(self, repo: str) -> None:
        self.writes()
        self.repo_of(repo)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.content:
                url = f"{self.hub.url}/lfs/{asked['oid']}"
                answer["actions"] = {"upload": {"href": url}, "verify": {"href": f"{url}/verify"}}
            objects.append(answer)
        self.send(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        self.hub.on_upload(len(self.hub.uploads))
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "", "the content has another hash")
        self.hub.uploads.append(oid)
        self.hub.content[oid] = self.body
        self.send(200, {})

    def verify(self, oid: str) -> None:
        if len(self.hub.content.get(oid, b"")) != json.loads(self.body)["size"]:
            raise Refusal(404, "", "not there")
        self.send(200, {})

    def commit(self, repo: str, revision: str) -> None:
        self.writes()
        self.hub.on_commit()
        with self.hub.lock:
            sha, files = self.tree_of(repo, revision)
            files = dict(files)
            for line in self.body.split(b"\n"):
                if not line.strip():
                    continue
                step = json.loads(line)
                key, value = step["key"], step["value"]
                if key == "header" and value.get("parentCommit") not in (None, sha):
                    raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
                if key == "file":
                    files[value["path"]] = self.hub.blob(base64.b64decode(value["content"]))
                elif key == "lfsFile":
                    if value["oid"] not in self.hub.content:
                        raise Refusal(400, "", f"{value['path']}: no such LFS object")
                    files[value["path"]] = self.hub.lfs(value["oid"], value["size"])
                elif key == "deletedFile":
                    del files[value["path"]]
            sha = self.hub.repos[repo].commit(files)
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/datasets/{repo}/commit/{sha}"})

    def tag(self, repo: str, revision: str) -> None:
        self.writes()
        sha, _ = self.tree_of(repo, revision)
        name = json.loads(self.body)["tag"]
        if name in self.hub.repos[repo].tags:
            raise Refusal(409, "", "Tag reference exists already")
        self.hub.repos[repo].tags[name] = sha
        self.send(200, {})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        sha, files = self.tree_of(repo, revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        file = files[path]
        content = self.hub.content[file.content]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.content}"', "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self.send(206, content[first : last + 1], headers)
        else:
            self.send(200, content, headers)

    def validate(self) -> None:
        self.send(200, {"errors": [], "warnings": []})


def entry(path: str, file: File) -> dict[str, Any]:
    """A file as tree and paths-info show it."""
    shown: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
    return shown | ({"lfs": {"oid": file.content, "size": file.size, "pointerSize": 134}} if file.lfs else {})


ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("GET",), "/api/whoami-v2", Handler.whoami),
    (("POST",), "/api/repos/create", Handler.create),
    (("POST",), "/api/validate-yaml", Handler.validate),
    (("GET",), f"/api/datasets/{REPO}/refs", Handler.refs),
    (("GET",), f"/api/datasets/{REPO}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", Handler.tree),
    (("POST",), f"/api/datasets/{REPO}/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
    (("POST",), f"/api/datasets/{REPO}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    (("POST",), f"/api/datasets/{REPO}/commit/(?P<revision>[^/]+)", Handler.commit),
    (("POST",), f"/api/datasets/{REPO}/tag/(?P<revision>[^/]+)", Handler.tag),
    (("GET",), f"/api/datasets/{REPO}(?:/revision/(?P<revision>[^/]+))?", Handler.info),
    (("POST",), rf"/datasets/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (("PUT",), "/lfs/(?P<oid>[0-9a-f]{64})", Handler.put),
    (("POST",), "/lfs/(?P<oid>[0-9a-f]{64})/verify", Handler.verify),
    (("GET", "HEAD"), f"/datasets/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]
"""Methods, path and what answers."""


def mteb_card(splits: Iterable[str]) -> str:
    """The card of a repository of `mteb`: JSONL for all parts, and a file of qrels for each split."""
    listed = "\n".join(f"  - split: {split}\n    path: qrels/{split}.jsonl" for split in splits)
    return f"""---
configs:
- config_name: default
  data_files:
{listed}
- config_name: corpus
  data_files:
  - split: corpus
    path: corpus.jsonl
- config_name: queries
  data_files:
  - split: queries
    path: queries.jsonl
---
"""


def nano_card() -> str:
    """The card of a repository of NanoBEIR: Parquet for all parts, each with the split train."""
    parts = "".join(
        f"- config_name: {part}\n  data_files:\n  - split: train\n    path: {part}/train-*\n"
        for part in ("corpus", "qrels", "queries")
    )
    return f"---\nconfigs:\n{parts}---\n"
