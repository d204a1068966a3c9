"""A hub on this machine: enough of one for the real client to list, inspect and download a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _handler(repositories: dict[str, Path], refusals: dict[str, tuple[int, str]]) -> type[BaseHTTPRequestHandler]:
    class Hub(BaseHTTPRequestHandler):
        requests: list[str]

        def do_GET(self) -> None:
            path = self.path.split("?")[0].strip("/")
            parts = path.removeprefix("api/models/").split("/")
            name, rest = "/".join(parts[:2]), parts[2:]
            if name in refusals:
                status, code = refusals[name]
                self._answer(status, b"", {"X-Error-Code": code})
            elif name not in repositories:
                self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif rest[1:2] not in (["main"], [COMMIT]):
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif rest[0] == "revision":
                self._answer(200, json.dumps(self._info(name)).encode(), {"Content-Type": "application/json"})
            elif rest[0] == "tree":
                self._answer(200, json.dumps(self._tree(name)).encode(), {"Content-Type": "application/json"})
            else:
                self._file(repositories[name] / rest[2])

        do_HEAD = do_GET

        def _info(self, name: str) -> dict[str, object]:
            names = sorted(path.name for path in repositories[name].iterdir())
            return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in names]}

        def _tree(self, name: str) -> list[dict[str, object]]:
            files = sorted(repositories[name].iterdir())
            return [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": COMMIT} for file in files]

        def _file(self, path: Path) -> None:
            if not path.is_file():
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            content = path.read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            wanted = self.headers.get("Range")
            if wanted:
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                self._answer(206, content[int(start) : int(end) + 1 if end else None], headers)
            else:
                self._answer(200, content, headers)

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    return Hub


@contextmanager
def hub(repositories: dict[str, Path], refusals: dict[str, tuple[int, str]]) -> Iterator[str]:
    """The address of a hub that holds these repositories and refuses these."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(repositories, refusals))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
