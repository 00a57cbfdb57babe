"""The time before the server listens: signals that end it, an address that is taken."""

import asyncio
import signal
import socket
import subprocess
import sys
from contextlib import closing

import psutil
import pytest
import uvloop

from prompts.errors import ConfigError
from server.starting import check_address, comes_to_listen, ended_by_signals

# A server that loads: its child puts SIGTERM off, as engines do, and it drops exceptions, as vLLM does.
LOADING = """
import subprocess, sys, time
import server.starting

STUBBORN = '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
time.sleep(600)
'''
server.starting._CHILDREN_SECONDS = 0.2
with server.starting.ended_by_signals():
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_start_and_its_children(number: signal.Signals, status: int) -> None:
    loading = subprocess.Popen(
        [sys.executable, "-c", LOADING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert loading.stdout is not None
        child = psutil.Process(int(loading.stdout.readline()))
        loading.send_signal(number)
        _, said = loading.communicate(timeout=60)
    finally:
        loading.kill()
    assert loading.returncode == status
    assert said == f"passepartout serve: {number.name} during the start, which ends here\n"
    assert not child.is_running()


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ended_by_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_address_that_is_taken_is_a_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"--port: .* came 127\.0\.0\.1:{port} \(Address already in use\)"
        ):
            check_address("127.0.0.1", port)
        with pytest.raises(ConfigError, match=r"came 0\.0\.0\.0:"):
            check_address(None, port)
    check_address("127.0.0.1", port)


def bound(port: int = 0) -> socket.socket:
    """A socket as vLLM makes it, which does not listen yet."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_socket_that_cannot_listen_is_noticed(is_taken: bool) -> None:
    async def start(sock: socket.socket) -> bool:
        noticed = asyncio.create_task(comes_to_listen(sock))
        await asyncio.sleep(0)
        assert not noticed.done()
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, sock=sock)
        listens = await noticed
        server.close()
        return listens

    with closing(bound()) as ours, closing(bound(ours.getsockname()[1])) as theirs:
        if is_taken:
            theirs.listen()
        assert uvloop.run(start(ours)) is not is_taken
