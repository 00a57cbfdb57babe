"""The minutes before the server listens: a signal ends them, and an address that is taken is a fault.

vLLM loses both. Its handler of SIGTERM raises KeyboardInterrupt in whatever the main thread does, which while
the engine loads is a wait inside `zmq_socket_ctx` (`vllm.utils.network_utils`), and that one drops it. Its
socket is bound without listening, so that two servers may hold one address; where the second cannot listen,
uvloop closes the socket and says nothing.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil  # type: ignore[import-untyped]  # a dependency of vLLM's; the handler must find it imported

from prompts.errors import ConfigError
from prompts.faults import fault

__all__ = ["address_fault", "check_address", "comes_to_listen", "ended_by_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CHILDREN_SECONDS = 2.0
_LOOK_SECONDS = 0.1


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGINT and SIGTERM end this process and all below it; status 130 and 143, as a shell gives.

    Holds until someone else puts up handlers, as vLLM does before it listens. As the first process of a
    container it would not even get a signal that has no handler.
    """
    before = {one: signal.signal(one, _end) for one in _SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    """Leaves by `os._exit`: an exception could be caught by whatever it interrupts."""
    for one in _SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    name = signal.Signals(number).name
    with suppress(OSError):
        os.write(2, f"passepartout serve: {name} during the start, which ends here\n".encode())
    try:
        _end_children()
    finally:
        os._exit(128 + number)


def _end_children() -> None:
    """An engine that loads puts SIGTERM off until it has loaded, so it is killed soon after."""
    children = _children()
    for one in children:
        with suppress(psutil.Error):
            one.terminate()
    _, alive = psutil.wait_procs(children, timeout=_CHILDREN_SECONDS)
    left = {*alive, *_children()}
    for one in left:
        with suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(left, timeout=_CHILDREN_SECONDS)


def _children() -> list[psutil.Process]:
    """All processes below this one but Python's trackers of shared memory.

    Those end by themselves, after they have freed what killed ones left.
    """
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if not any("multiprocessing.resource_tracker" in word for word in one.cmdline()):
                found.append(one)
    return found


def check_address(host: str | None, port: int) -> None:
    """Look whether the address can be had, before a model is loaded.

    Raises:
        ConfigError: another process listens there, or this one may not.
    """
    family = socket.AF_INET6 if ":" in (host or "") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM does
        try:
            trial.bind((host or "", port))
        except OSError as error:
            raise address_fault(host, port, error.strerror or str(error)) from error


def address_fault(host: str | None, port: int, why: str) -> ConfigError:
    """The fault of an address that the server cannot listen on."""
    came = f"{host or '0.0.0.0'}:{port} ({why})"
    cure = "stop the server that has it, or name another with --port"
    text = fault("--port", expected="an address to listen on", came=came, cure=cure)
    return ConfigError("passepartout serve", [text])


async def comes_to_listen(sock: socket.socket) -> bool:
    """Wait until `sock` listens (True), or is closed without it (False)."""
    while sock.fileno() != -1:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False
