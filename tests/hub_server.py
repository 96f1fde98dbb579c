"""A stand-in for the Hugging Face Hub, over HTTP on this machine: repos, revisions and commits.

It answers what `huggingface_hub` asks for files: to look at one, to send one, to list a repo, to
create it and to commit to it. It has one account, whose token is `TOKEN`.

    python tests/hub_server.py        serves until its input ends, after it has printed its address
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_the_tests"
USER = "anna"
"""Whose account it is: others' repos are read-only."""

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """The repos, each a list of commits, and who may see them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, Files]] = {}
        """Repo -> commit -> path -> content; the last commit is that of main."""
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, files: Files) -> str:
        """Make `files` all that the repo's main branch holds, and return the commit."""
        commits = self.repos.setdefault(repo, {})
        digest = hashlib.sha1(f"{repo}{len(commits)}".encode()).hexdigest()
        commits[digest] = dict(files)
        return digest

    def files(self, repo: str, revision: str = "main") -> tuple[str, Files] | None:
        """Return a commit and its files; None where the revision does not exist."""
        commits = self.repos[repo]
        if revision == "main":
            return next(reversed(commits.items()), ("0" * 40, {}))
        return (revision, commits[revision]) if revision in commits else None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._start()
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?.*", self.place):
            if found := self._revision(match[1], unquote(match[2])):
                files = found[1].items()
                self._json(
                    [
                        {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
                        for path, data in files
                    ]
                )
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.place):
            if found := self._revision(match[1], unquote(match[2] or "main")):
                siblings = [{"rfilename": path} for path in found[1]]
                self._json({"id": match[1], "sha": found[0], "siblings": siblings})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.place):
            self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        else:
            self._error(404, "NotFound")

    def do_POST(self) -> None:
        self._start()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.place == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._error(401, "", "Invalid credentials in Authorization header")
        elif self.place == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/.+", self.place):
            files = json.loads(body)["files"]
            answer = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": each["path"], **answer} for each in files]})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.place):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._error(404, "NotFound")

    def _start(self) -> None:
        url = urlsplit(self.path)
        self.place, self.query = url.path, parse_qs(url.query)
        self.server.requests.append(f"{self.command} {self.place}")

    def _revision(self, repo: str, revision: str) -> tuple[str, Files] | None:
        """Return a commit and its files, or send the error of what is missing."""
        is_own = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo not in self.server.repos or (repo in self.server.private and not is_own):
            self._error(401, "RepoNotFound", "Repository not found")
        elif repo in self.server.gated:
            self._error(403, "GatedRepo", "Access to this model is restricted")
        elif (found := self.server.files(repo, revision)) is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return found
        return None

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        found = self._revision(repo, revision)
        if found is None:
            return
        commit, files = found
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            self._error(404, "EntryNotFound", "Entry not found", headers)
            return
        self._send(200, files[path], {**headers, "ETag": f'"{_oid(files[path])}"'})

    def _create(self, options: dict[str, Any]) -> None:
        owner = options.get("organization") or USER
        repo = f"{owner}/{options['name']}"
        if owner != USER:
            self._error(403, "", f"You don't have the rights to create a model under {owner!r}")
        elif repo in self.server.repos:
            self._json({"url": f"{self.server.address}/{repo}"}, status=409)
        else:
            self.server.repos[repo] = {}
            if options.get("visibility") == "private":
                self.server.private.add(repo)
            self._json({"url": f"{self.server.address}/{repo}", "name": repo})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.server.files(repo)[1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        digest = self.server.commit(repo, files)
        url = f"{self.server.address}/{repo}/commit/{digest}"
        self._json({"success": True, "commitOid": digest, "commitUrl": url})

    def _json(self, data: Any, *, status: int = 200) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _error(
        self, status: int, code: str, message: str = "", headers: dict[str, str] | None = None
    ) -> None:
        about = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        body = json.dumps({"error": message}).encode()
        kind = {"Content-Type": "application/json"}
        self._send(status, body, {key: each for key, each in about.items() if each} | kind)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve in a thread of this process."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


if __name__ == "__main__":
    with serving() as served:
        print(served.address, flush=True)
        sys.stdin.read()
