"""`examples/ask.py`: the key it sends, and errors of the server in one line."""

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from examples.ask import main

SENT: list[str | None] = []


class Refusing(BaseHTTPRequestHandler):
    """Writes down the key and lets nobody in."""

    def do_POST(self) -> None:
        SENT.append(self.headers.get("Authorization"))
        self.rfile.read(int(self.headers["Content-Length"]))
        said = json.dumps({"error": {"message": "Authorization: expected a good key"}}).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("options", "held", "sent"),
    [(["--key", "mine"], "other", "mine"), ([], "held", "held"), ([], "", "none")],
)
def test_the_key_is_sent_and_a_refusal_is_one_line(
    url: str, options: list[str], held: str, sent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setenv("OPENAI_API_KEY", held)
    monkeypatch.setattr(sys, "argv", ["ask.py", "--url", url, "--picture", str(tmp_path / "a.png"), *options])
    SENT.clear()
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == "error: Authorization: expected a good key"
    assert [f"Bearer {sent}"] == SENT
