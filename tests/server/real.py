"""Starts `passepartout serve` as a user does: the installed command, a plain environment, a socket."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

COMMAND = Path(sys.executable).with_name("passepartout")

# What a plain shell has, and what keeps this machine's cores and memory to the tests.
_KEPT = (
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "PYTHONPATH",
    "OMP_NUM_THREADS",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_OMP_THREADS_BIND",
    "HF_HUB_OFFLINE",
)
_START_SECONDS = 300
_STOP_SECONDS = 60


def plain_environment() -> dict[str, str]:
    """The environment without anything that was set for tests or for vLLM."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


@contextmanager
def running_server(
    model: Path, store: Path, log: Path, *options: str, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serve `store` on `model`; gives the server's URL once it answers, and stops it at the end.

    `variables`: put into its environment.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [str(COMMAND), "serve", "--model", str(model), "--tasks", str(store)]
    arguments += ["--host", "127.0.0.1", "--port", str(port), *options]
    environment = plain_environment() | dict(variables or {})
    with log.open("wb") as out:
        process = subprocess.Popen(
            arguments, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=log.parent
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            httpx.get(f"{url}/health", timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            return
    tail = log.read_text(errors="replace")[-6000:]
    raise AssertionError(f"the server does not answer (status {process.poll()}):\n{tail}")
