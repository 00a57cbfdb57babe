"""The demo's server: `passepartout serve` in a process of its own, from start to stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from prompts.errors import ConfigError, EngineError
from prompts.faults import fault

__all__ = ["running_server"]

_START_SECONDS = 600.0
_STOP_SECONDS = 30.0
_LOG_LINES_SHOWN = 25


@contextmanager
def running_server(
    *, model: Path, tasks: Path, port: int, log: Path, options: Sequence[str] = ()
) -> Iterator[str]:
    """Starts the server, yields its address once `/ready` says so, and stops it at the end.

    `options`: more for its command line; they win over those the demo takes.

    Raises:
        ConfigError: something listens on the port already.
        EngineError: it ended, refused a bundle or did not get ready; the message says why.
    """
    if _is_open(port):
        cure = "stop what listens there, or give another --port"
        raise ConfigError("demo", [fault("--port", expected="a free port", came=str(port), cure=cure)])
    command = [sys.executable, "-m", "passepartout", "serve", "--model", str(model), "--tasks", str(tasks)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--max-num-seqs", "16"]
    command.append(
        "--enforce-eager"
    )  # compiling takes longer than the few hundred questions of a demo would gain
    command += options
    offline = {"VLLM_NO_USAGE_STATS": "1", **os.environ}  # on a GPU vLLM would report its use to its makers
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=offline
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, address, log)
        yield address
    finally:
        _stop(process)


def _wait_until_ready(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineError(f"the server ended with status {process.returncode}:\n{_tail(log)}")
        try:
            state = httpx.get(address + "/ready", timeout=5.0).json()
            if state.get("refused"):
                raise EngineError(f"the server refused bundles: {state['refused']}")
            if state["status"] == "ready":
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(1.0)
    raise EngineError(f"the server was not ready after {_START_SECONDS:.0f} s:\n{_tail(log)}")


def _is_open(port: int) -> bool:
    """Whether somebody listens there, whose answers would be taken for ours."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([*lines[-_LOG_LINES_SHOWN:], f"(the whole log: {log})"])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends the server with its engine processes, which share its process group."""
    for signal_number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, signal_number)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue
