"""Our options and vLLM's on one command line, and what is put into vLLM's before it starts."""

import argparse
import asyncio
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from prompts.errors import ConfigError, UnsupportedError
from server.cli import add_options
from server.config import ServeConfig
from server.engine.plugin import WORKER_EXTENSION
from server.starting import ended_by_signals
from server.vllm_cli import configure, parse, serve_alone
from tests.server.real import COMMAND, plain_environment

pytestmark = pytest.mark.engine

GIB = 1 << 30


def parsed(tmp_path: Path, *options: str) -> argparse.Namespace:
    return parse(["--tasks", str(tmp_path), *options], prog="passepartout serve", add_options=add_options)


def configured(args: argparse.Namespace, *, is_cpu: bool = False) -> argparse.Namespace:
    configure(args, ServeConfig.from_namespace(args), is_cpu=is_cpu)
    return args


def test_both_kinds_of_options_are_read(tmp_path: Path) -> None:
    args = configured(
        parsed(tmp_path, "--model", "m", "--text-rows", "77", "--port", "8123", "--max-model-len", "2k")
    )
    assert (args.port, args.max_model_len, args.served_model_name) == (8123, 2000, ["base"])
    assert args.worker_extension_cls == WORKER_EXTENSION
    assert args.additional_config["passepartout"]["text_rows"] == 77
    assert ServeConfig.from_namespace(args).tasks == tmp_path


def test_a_yaml_file_may_hold_both(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(f"model: m\ntasks: {tmp_path}\nmax-device-tasks: 3\nport: 8123\n")
    args = parse(["--config", str(file)], prog="passepartout serve", add_options=add_options)
    assert (args.model, args.tasks, args.max_device_tasks, args.port) == ("m", tmp_path, 3, 8123)


def test_logs_ids_and_the_end_are_ours(tmp_path: Path) -> None:
    given = ("m", "--drain-seconds", "7", "--log-format", "json", "--enable-request-id-headers")
    args = configured(parsed(tmp_path, *given))
    assert (args.shutdown_timeout, args.logging_config.formatter) == (0, "json")
    assert configured(parsed(tmp_path, *given, "--api-server-count", "2")).shutdown_timeout == 7
    assert (args.has_access_log, args.disable_uvicorn_access_log) == (True, True)
    assert (args.enable_request_id_headers, args.otlp_traces_endpoint) == (False, None)
    assert configured(parsed(tmp_path, "m", "--disable-uvicorn-access-log")).has_access_log is False


def test_vllm_fetches_from_nowhere_and_has_no_keys_beside_ours(tmp_path: Path) -> None:
    from vllm.multimodal.media import MediaConnector

    assert configured(parsed(tmp_path, "m")).allowed_media_domains == ["nothing.invalid"]
    with pytest.raises(ValueError, match="must be from one of the allowed domains"):
        MediaConnector(allowed_media_domains=["nothing.invalid"]).fetch_image("http://127.0.0.1:1/a.png")
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys: [{{name: a, sha256: {'a' * 64}}}]")
    both = parsed(
        tmp_path, "m", "--keys", str(keys), "--api-key", "x", "--allowed-media-domains", "a.example"
    )
    with pytest.raises(ConfigError) as caught:
        configured(both)
    assert [one.partition(":")[0] for one in caught.value.faults] == ["--keys", "--allowed-media-domains"]
    assert configured(parsed(tmp_path, "m", "--keys", str(keys))).keys == keys


def test_what_the_user_says_is_kept(tmp_path: Path) -> None:
    args = parsed(
        tmp_path, "m", "--served-model-name", "mine", "also", "--additional-config", '{"theirs": 1}'
    )
    configured(args)
    assert args.served_model_name == ["mine", "also"]
    assert args.additional_config["theirs"] == 1


def test_a_cpu_gets_a_cache_it_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert GIB <= configured(parsed(tmp_path, "m"), is_cpu=True).kv_cache_memory_bytes <= 4 * GIB
    assert configured(parsed(tmp_path, "m"), is_cpu=False).kv_cache_memory_bytes is None
    given = parsed(tmp_path, "m", "--kv-cache-memory-bytes", "64M")
    assert configured(given, is_cpu=True).kv_cache_memory_bytes == 64 << 20
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert configured(parsed(tmp_path, "m"), is_cpu=True).kv_cache_memory_bytes is None


def test_every_fault_is_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(parsed(tmp_path, "--worker-extension-cls", "theirs.Extension"))
    assert [one.partition(":")[0] for one in caught.value.faults] == ["--model", "--worker-extension-cls"]


@pytest.mark.parametrize("path", ["/nowhere/llava", "./llava", "models/never-built", "a/b/c"])
def test_a_path_that_leads_nowhere_is_not_asked_of_the_hub(tmp_path: Path, path: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--model: expected a folder with a checkpoint, came nothing at '{path}'"
    ):
        configured(parsed(tmp_path, "--model", path))
    with pytest.raises(ConfigError, match=r"came a folder without config\.json at"):
        configured(parsed(tmp_path, "--model", str(tmp_path)))


def test_engines_side_by_side_have_one_front_end(tmp_path: Path) -> None:
    assert configured(parsed(tmp_path, "m", "--data-parallel-size", "2")).api_server_count == 1
    assert configured(parsed(tmp_path, "m", "--api-server-count", "2")).api_server_count == 2
    with pytest.raises(UnsupportedError, match="--api-server-count: expected 1, came 2"):
        configured(parsed(tmp_path, "m", "--data-parallel-size", "2", "--api-server-count", "2"))


@pytest.mark.parametrize("option", ["--grpc", "--data-parallel-multi-port-external-lb"])
def test_servers_that_load_no_plugins_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(UnsupportedError, match=option):
        configured(parsed(tmp_path, "m", option))


def served_by(worker: Any, args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve_alone` with all of vLLM's server but its engine."""
    from vllm.entrypoints.launchers.api_server import entry

    monkeypatch.setattr(entry, "run_server_worker", worker)
    monkeypatch.setattr("vllm.utils.system_utils.decorate_logs", lambda *args, **options: None)
    with ended_by_signals():
        asyncio.run(serve_alone(args))


def test_our_handlers_stay_while_the_engine_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    async def worker(address: str, sock: socket.socket, args: argparse.Namespace) -> None:
        seen.extend([signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), args.model])
        sock.close()

    args = configured(parsed(tmp_path, "m", "--host", "127.0.0.1", "--port", "0"))
    served_by(worker, args, monkeypatch)
    with ended_by_signals():
        ours = signal.getsignal(signal.SIGTERM)
    assert seen == [ours, ours, "m"]


def test_a_server_that_cannot_listen_ends_with_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    async def worker(address: str, sock: socket.socket, args: argparse.Namespace) -> None:
        sock.close()  # as uvloop does where it cannot listen
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    args = configured(parsed(tmp_path, "m", "--host", "127.0.0.1", "--port", "0"))
    with pytest.raises(ConfigError, match="another server listens there by now"):
        served_by(worker, args, monkeypatch)
    assert ended == [True]


def test_the_command_says_what_is_wrong_and_exits_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "serve", "--tasks", str(tmp_path)],
        capture_output=True,
        text=True,
        env=plain_environment(),
        timeout=200,
    )
    assert done.returncode == 2
    assert "--model: expected a folder or a name of the hub, came nothing" in done.stderr
    assert "Traceback" not in done.stderr


def test_vllms_help_holds_our_section(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "serve", "--help=Passepartout"],
        capture_output=True,
        text=True,
        env=plain_environment(),
        timeout=200,
    )
    assert done.returncode == 0
    assert "--text-rows" in done.stdout
