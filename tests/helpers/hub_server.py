"""A hub in this process, on 127.0.0.1: as much of the protocol as huggingface_hub speaks, and faults by plan.

Two servers share one state: the hub, and the storage that it redirects large files to, which must never see a
token. What was asked of them is in `log`. Large files are those that are no text, as on the real hub.

    with running() as hub:
        hub.fault("PUT /lfs/", "500", "", "cut")     the first such request fails, the third is cut off

    500, 401, ...    an error with that status, which says the Authorization header back wherever it can
    429              the same, with Retry-After: 7
    null, list, text    status 200 and that in JSON, in place of the answer
    html             status 200 and a page of a proxy in place of the answer
    cut              half of the body, then the end of the connection
    short            half of the body, as if that were all
    wrong            the body with a flipped bit
    long             the body and some more
    whole            all of the body, whatever range was asked for
    gone             404
    lost             of a commit: its last file is not taken
    kill             half of the body, then SIGKILL for the process `victim`
"""

import base64
import hashlib
import json
import os
import re
import signal
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_QkV7xR2mZp9sLt4YbN1cWd8e"
ODD = {"null": b"null", "list": b'[{"type": "file"}]', "text": b'"a text"'}
PAGE = 5  # entries of a list of files
RETRY_AFTER = 7  # seconds


@dataclass(frozen=True)
class Asked:
    """A request."""

    what: str  # such as `PUT /lfs/0123...`
    came: int  # bytes of its body
    has_token: bool
    to_storage: bool
    start: int  # of the Range that was asked for


@dataclass
class Repo:
    private: bool
    # branch -> file -> (is large, content; of a large file its sha256)
    branches: dict[str, dict[str, tuple[bool, bytes]]] = field(default_factory=lambda: {"main": {}})
    commits: dict[str, dict[str, tuple[bool, bytes]]] = field(default_factory=dict)  # id -> files
    heads: dict[str, str] = field(default_factory=dict)  # branch -> commit

    def commit(self, branch: str) -> str:
        name = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[name] = dict(self.branches[branch])
        self.heads[branch] = name
        return name


class Hub:
    """The state of both servers."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.stored: dict[str, bytes] = {}  # sha256 -> content
        self.log: list[Asked] = []
        self.url = self.storage_url = ""
        self.lock = threading.Lock()
        self.victim: int | None = None
        self.plans: list[tuple[str, list[str]]] = []

    def fault(self, where: str, *faults: str) -> None:
        """What befalls the next requests whose `METHOD /path` contains `where`, in order; "" is no fault."""
        self.plans.append((where, list(faults)))

    def next_fault(self, what: str) -> str:
        for where, faults in self.plans:
            if where in what and faults:
                return faults.pop(0)
        return ""

    def asked(self, where: str) -> list[Asked]:
        return [one for one in self.log if where in one.what]

    def forget(self) -> None:
        """What was asked until now."""
        self.log.clear()

    def repo(self, name: str, kind: str = "dataset") -> Repo:
        return self.repos[(kind, name)]

    def content(self, name: str, kind: str = "dataset", branch: str = "main") -> dict[str, bytes]:
        """The files of a repository."""
        files = self.repo(name, kind).branches[branch]
        return {path: self.bytes_of(one) for path, one in files.items()}

    def bytes_of(self, one: tuple[bool, bytes]) -> bytes:
        return self.stored[one[1].decode()] if one[0] else one[1]

    def put(self, name: str, files: dict[str, bytes], kind: str = "dataset", private: bool = False) -> None:
        """Have a repository with these files, whatever their names; large ones where they are no text."""
        repo = self.repos.setdefault((kind, name), Repo(private))
        for path, data in files.items():
            large = is_large(data)
            if large:
                self.stored[sha256(data)] = data
            repo.branches["main"][path] = (large, sha256(data).encode() if large else data)
        repo.commit("main")


def is_large(data: bytes) -> bool:
    try:
        return "\0" in data.decode() or not data
    except UnicodeDecodeError:
        return True


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: of two the second would wait for the first one's receipt
    disable_nagle_algorithm = True
    hub: Hub
    is_storage = False

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_one()

    def do_POST(self) -> None:
        self.handle_one()

    def do_PUT(self) -> None:
        self.handle_one()

    def handle_one(self) -> None:
        path, _, query = self.path.partition("?")
        what = f"{self.command} {urllib.parse.unquote(path)}"
        with self.hub.lock:
            self.trouble = self.hub.next_fault(what)
        length = int(self.headers.get("Content-Length", 0))
        if self.trouble in ("cut", "kill") and self.command != "GET":
            self.note(what, len(self.rfile.read(length // 2)))
            self.break_off()
            return
        body = self.body(length)
        self.note(what, len(body))
        if self.trouble.isdecimal():
            self.refuse(int(self.trouble))
        elif self.trouble == "html":
            self.answer(200, b"<html>a proxy's page</html>", {"Content-Type": "text/html"})
        elif self.trouble in ODD:
            self.answer(200, ODD[self.trouble])
        elif self.trouble == "gone":
            self.answer(404, {"error": "gone"}, {"X-Error-Code": "EntryNotFound"})
        elif self.is_storage or path.startswith("/lfs/"):
            self.storage(path, body)
        elif self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            self.refuse(401, "Invalid credentials in Authorization header")
        else:
            self.route(what, path, urllib.parse.parse_qs(query), body)

    def break_off(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        if self.trouble == "kill":
            os.kill(self.hub.victim, signal.SIGKILL)

    def body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(length)
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def note(self, what: str, came: int) -> None:
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        has_token = "Authorization" in self.headers
        with self.hub.lock:
            self.hub.log.append(Asked(what, came, has_token, self.is_storage, start))

    def refuse(self, status: int, why: str = "") -> None:
        """With the token wherever a client may read it."""
        said = f"{why or status}, says the hub to {self.headers.get('Authorization')}"
        headers = {
            "X-Error-Message": why or said,
            "X-Request-Id": f"r-{self.headers.get('Authorization')}",
            "X-HF-Warning": f"topic-{len(self.hub.log)}; {said}",
        }
        if status == 429:
            headers["Retry-After"] = str(RETRY_AFTER)
        self.answer(status, {"error": said, "errors": [{"message": said}]}, headers)

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        if self.trouble == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif self.trouble == "short":
            data = data[: len(data) // 2]
        elif self.trouble == "long":
            data += b"\0" * 100
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.trouble in ("cut", "kill"):
            self.wfile.write(data[: len(data) // 2])
            self.break_off()
        else:
            self.wfile.write(data)

    def storage(self, path: str, body: bytes) -> None:
        name = path.removeprefix("/lfs/")
        if self.command == "PUT":
            if sha256(body) != name:
                self.answer(400, {"error": "not the content that was announced"})
                return
            self.hub.stored[name] = body
            self.answer(200, b"")
        else:
            self.content(self.hub.stored[name])

    def content(self, data: bytes) -> None:
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found and self.trouble != "whole" else 0
        if start and start >= len(data):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        elif start:
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], {"Content-Range": span})
        else:
            self.answer(200, data)

    def route(self, what: str, path: str, query: dict[str, list[str]], body: bytes) -> None:
        if path == "/api/repos/create":
            self.create(json.loads(body))
            return
        if path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": [{"message": "not sure"}]})
            return
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+?)\.git/info/lfs/objects/batch", path):
            self.batch(json.loads(body))
            return
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, name, rest = "dataset" if found[1] else "model", found[2], f"resolve/{found[3]}/{found[4]}"
        else:
            found = re.fullmatch(r"/api/(dataset|model)s/([^/]+/[^/]+)/?(.*)", path)
            if found is None:
                self.answer(404, {"error": "no such thing"})
                return
            kind, name, rest = found[1], found[2], found[3]
        repo = self.hub.repos.get((kind, name))
        may = self.headers.get("Authorization") or not (repo and repo.private)
        if repo is None or not may:
            self.answer(401 if not may else 404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        verb, _, rest = rest.partition("/")
        rest = urllib.parse.unquote(rest)
        with self.hub.lock:
            getattr(self, f"on_{verb or 'revision'}")(repo, name, rest or "main", query, body)

    def create(self, asked: dict) -> None:
        key = (asked.get("type", "model"), f"{asked['organization']}/{asked['name']}")
        if not self.headers.get("Authorization"):
            self.refuse(401)
            return
        there = key in self.hub.repos
        if not there:
            self.hub.repos[key] = Repo(asked.get("visibility") == "private")
            self.hub.repos[key].commit("main")
        self.answer(409 if there else 200, {"url": f"{self.hub.url}/{key[1]}"})

    def batch(self, asked: dict) -> None:
        objects = []
        for one in asked["objects"]:
            found = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.stored:
                found["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
            objects.append(found)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def on_revision(self, repo: Repo, name: str, rest: str, query: dict, body: bytes) -> None:
        commit = repo.heads.get(rest, rest)
        if commit not in repo.commits:
            self.answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
            return
        self.answer(200, {"id": name, "sha": commit, "private": repo.private, "tags": [], "siblings": []})

    def on_branch(self, repo: Repo, name: str, rest: str, query: dict, body: bytes) -> None:
        if rest in repo.branches:
            self.answer(409, {"error": "there already"})
            return
        repo.branches[rest] = dict(repo.branches["main"])
        repo.commit(rest)
        self.answer(200, {})

    def on_tree(self, repo: Repo, name: str, rest: str, query: dict, body: bytes) -> None:
        if rest not in repo.branches:
            self.answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
            return
        entries: list[dict] = [{"type": "directory", "path": "folder", "oid": "0" * 40, "size": 0}]
        for path, one in sorted(repo.branches[rest].items()):
            data = self.hub.bytes_of(one)
            entry = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if one[0]:
                entry["lfs"] = {"oid": one[1].decode(), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            path = self.path.partition("?")[0]
            headers["Link"] = f'<{self.hub.url}{path}?recursive=True&cursor={start + PAGE}>; rel="next"'
        self.answer(200, entries[start : start + PAGE], headers)

    def on_preupload(self, repo: Repo, name: str, rest: str, query: dict, body: bytes) -> None:
        files = []
        for one in json.loads(body)["files"]:
            large = is_large(base64.b64decode(one["sample"])) and one["size"] > 0
            there = repo.branches[rest].get(one["path"])
            oid = None if there is None else there[1].decode() if there[0] else git_sha1(there[1])
            mode = "lfs" if large else "regular"
            files.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": files})

    def on_commit(self, repo: Repo, name: str, rest: str, query: dict, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        if self.trouble == "lost":
            lines.pop()
        files = dict(repo.branches[rest])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = (False, base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    self.answer(400, {"error": f"{value['oid']} was never sent"})
                    return
                files[value["path"]] = (True, value["oid"].encode())
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        repo.branches[rest] = files
        commit = repo.commit(rest)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def on_resolve(self, repo: Repo, name: str, rest: str, query: dict, body: bytes) -> None:
        revision, _, path = rest.partition("/")
        files = repo.commits.get(repo.heads.get(revision, revision), {})
        if path not in files:
            self.answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
            return
        large, content = files[path]
        if large:
            self.answer(302, b"", {"Location": f"{self.hub.storage_url}/lfs/{content.decode()}"})
        else:
            self.content(content)


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    servers = []
    for is_storage in (False, True):
        handler = type("Bound", (Handler,), {"hub": hub, "is_storage": is_storage})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
