"""A hub on this machine: the few answers that huggingface_hub's client needs to list and download a repository."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "x" * 34


@dataclass
class FakeHub:
    """Repositories of one commit each, and what was asked of them."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revision: str = "c" * 40
    gated: bool = False
    cuts: list[int] = field(default_factory=list)
    """End the next connections after so many bytes of a large file."""
    lie: bytes = b""
    """Send this in place of the next large file."""
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)

    def downloads(self) -> list[str]:
        return [line.split("/")[-1] for line in self.requests if line.startswith("GET") and "/resolve/" in line]


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve on a free port of the loopback interface."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            parts = path.strip("/").removeprefix("api/models/").split("/")
            repository = "/".join(parts[:2])
            files = hub.repositories.get(repository)
            if files is None:
                return self.refuse(404, "RepoNotFound")
            if hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.refuse(401 if "Authorization" not in self.headers else 403, "GatedRepo")
            revision = parts[3] if len(parts) > 3 else "main"
            if revision not in ("main", hub.revision):
                return self.refuse(404, "RevisionNotFound")
            if path.startswith("/api/"):
                return self.send(json.dumps(self.listing(repository, files)).encode(), {}, body=body)
            content = files.get("/".join(parts[4:]))
            if content is None:
                return self.refuse(404, "EntryNotFound")
            return self.send_file(content, body=body)

        def listing(self, repository: str, files: dict[str, bytes]) -> dict[str, object]:
            siblings = []
            for name, content in files.items():
                sibling: dict[str, object] = {"rfilename": name, "size": len(content)}
                if large(content):
                    sha256 = hashlib.sha256(content).hexdigest()
                    sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
                siblings.append(sibling)
            return {"id": repository, "modelId": repository, "sha": hub.revision, "siblings": siblings, "tags": []}

        def send_file(self, content: bytes, *, body: bool) -> None:
            etag = hashlib.sha256(content).hexdigest() if large(content) else hashlib.sha1(content).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": hub.revision, "Accept-Ranges": "bytes"}
            if body and large(content) and hub.lie:
                content, hub.lie = hub.lie, b""
            self.send(content, headers, body=body)

        def send(self, content: bytes, headers: dict[str, str], *, body: bool) -> None:
            begin = 0
            if body and (asked := self.headers.get("Range")):
                hub.ranges.append(asked)
                begin = int(asked.removeprefix("bytes=").split("-")[0])
                headers = {**headers, "Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
            self.send_response(206 if begin else 200)
            for name, value in {**headers, "Content-Length": str(len(content) - begin)}.items():
                self.send_header(name, value)
            self.end_headers()
            if body and large(content) and hub.cuts:
                content = content[: begin + hub.cuts.pop(0)]
                self.close_connection = True
            if body:
                self.wfile.write(content[begin:])

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def large(content: bytes) -> bool:
    """Whether the hub keeps a file in its large file storage, and so knows its SHA-256."""
    return len(content) > 4096
