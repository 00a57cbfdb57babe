"""Seam: vLLM's command line and the start of its server, in this process. Written for vLLM 0.32.

Used: `make_arg_parser`, `validate_parsed_serve_args` (`vllm.entrypoints.launchers.cli_args`),
`ServeSubcommand.cmd` (`vllm.entrypoints.cli.serve`), and `setup_server` and `run_server_worker`
(`vllm.entrypoints.launchers.api_server.entry`). The command `vllm` itself is not: in the CPU wheel it
fails when it looks up its own version.
"""

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

from prompts.errors import ConfigError, UnsupportedError
from prompts.faults import fault, shown
from server.config import PLUGIN_NAME, ServeConfig, find_api_keys, find_trace_endpoint, has_cache_size
from server.engine.plugin import WORKER_EXTENSION
from server.log import logger
from server.starting import address_fault, check_address, comes_to_listen

__all__ = ["cache_bytes", "configure", "parse", "run", "serve_alone"]

BASE_NAME = "base"

_GROUPS = ("vllm.general_plugins", "vllm.endpoint_plugins")
_GIB = 1 << 30
_NO_HOST = "nothing.invalid"
"""The only host that vLLM may fetch from, which RFC 2606 keeps from being one: pictures are fetched by us."""
_MODELS_FOLDER = "models"  # where `passepartout model build` puts models
_SERVERS_WITHOUT_PLUGINS = ("grpc", "data_parallel_multi_port_external_lb")


def parse(
    argv: list[str], *, prog: str, add_options: Callable[[argparse.ArgumentParser], None]
) -> argparse.Namespace:
    """Read a command line of vLLM's options and ours; prints help or a fault and exits as argparse does."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog=prog)
    add_options(parser)
    args: argparse.Namespace = make_arg_parser(parser).parse_args(argv)
    return args


def run(args: argparse.Namespace, config: ServeConfig) -> None:
    """Serve until stopped.

    Raises:
        ConfigError, UnsupportedError: as `configure`; or the server cannot listen where it is told to.
    """
    import uvloop
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.platforms import current_platform

    cli_env_setup()
    configure(args, config, is_cpu=current_platform.is_cpu())
    configure_logging_from_args(args)
    ServeSubcommand().validate(args)
    if not args.headless and args.uds is None:
        check_address(args.host, args.port)
    if current_platform.is_cpu() and not args.enforce_eager:
        logger.info("the first start on a store compiles, minutes on a CPU; --enforce-eager leaves it out")
    if args.headless or args.api_server_count not in (None, 1):
        ServeSubcommand.cmd(args)
    else:
        uvloop.run(serve_alone(args))


async def serve_alone(args: argparse.Namespace) -> None:
    """What `ServeSubcommand.cmd` does for one API server, in this process, but for its handler of SIGTERM.

    vLLM's would stand in place of ours until it listens (`server/starting.py`).

    Raises:
        ConfigError: another server came to listen on the address meanwhile.
    """
    from vllm.entrypoints.launchers.api_server import entry
    from vllm.utils.system_utils import decorate_logs

    args.model, args.api_server_count = args.model_tag or args.model, None
    decorate_logs("APIServer", skip_if_decorated=True)
    address, sock = entry.setup_server(args, reuse_port=False)
    serving = asyncio.create_task(entry.run_server_worker(address, sock, args))
    listening = asyncio.create_task(comes_to_listen(sock))
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done() and not listening.result():
        serving.cancel()
        await asyncio.wait({serving})
        raise address_fault(args.host, args.port, "another server listens there by now")
    listening.cancel()
    await serving


def configure(args: argparse.Namespace, config: ServeConfig, *, is_cpu: bool) -> None:
    """Put into vLLM's options what tasks need, and our defaults.

    Raises:
        ConfigError: no model, no place for our worker extension, or a package half installed.
        UnsupportedError: a server of vLLM's that loads no plugins.
    """
    import vllm.envs
    from vllm.engine.arg_utils import EngineArgs

    faults = _missing_plugins()
    if args.model_tag is None and args.model == EngineArgs.model:
        cure = "name the model: --model M"
        faults.append(fault("--model", expected="a folder or a name of the hub", came="nothing", cure=cure))
    faults += _model_faults(args.model_tag or args.model)
    if args.worker_extension_cls not in ("", WORKER_EXTENSION):
        cure = "leave the option out: a worker takes one extension, and tasks need it"
        came = args.worker_extension_cls
        faults.append(fault("--worker-extension-cls", expected=WORKER_EXTENSION, came=came, cure=cure))
    if config.keys is not None and find_api_keys(args.api_key):
        came, cure = "both", "leave out --api-key (and VLLM_API_KEY), or --keys"
        faults.append(fault("--keys", expected="no --api-key beside it", came=came, cure=cure))
    if args.allowed_media_domains:
        came, cure = "hosts that vLLM would fetch from", "name them with --picture-hosts"
        faults.append(fault("--allowed-media-domains", expected="nothing", came=came, cure=cure))
    if faults:
        raise ConfigError("passepartout serve", faults)
    for name in _SERVERS_WITHOUT_PLUGINS:
        if getattr(args, name, False):
            raise UnsupportedError(_without_plugins("--" + name.replace("_", "-")))
    if vllm.envs.VLLM_USE_RUST_FRONTEND:
        raise UnsupportedError(_without_plugins("VLLM_USE_RUST_FRONTEND"))
    if args.data_parallel_size > 1:
        args.api_server_count = _one_front_end(args.api_server_count)
    args.worker_extension_cls = WORKER_EXTENSION
    args.allowed_media_domains = [_NO_HOST]
    args.additional_config = config.additional_config(
        args.additional_config, front_ends=args.api_server_count or 1
    )
    args.served_model_name = args.served_model_name or [BASE_NAME]
    args.enable_prompt_tokens_details = True  # clients see how much of a prompt was cached
    _observe(args, config)
    if is_cpu and args.kv_cache_memory_bytes is None and not has_cache_size():
        args.kv_cache_memory_bytes = cache_bytes()


def _observe(args: argparse.Namespace, config: ServeConfig) -> None:
    """Logs, spans and the end. Access lines and request ids are ours: vLLM's would be a second one each.

    `args.has_access_log`: what the user said of vLLM's. `shutdown_timeout` is how long vLLM's first process
    lets several front ends live; one alone drains before anything of vLLM's stops.
    """
    from vllm.config.logging import LoggingConfig

    args.has_access_log = not args.disable_uvicorn_access_log
    args.disable_uvicorn_access_log = True
    args.enable_request_id_headers = False
    args.otlp_traces_endpoint = find_trace_endpoint(args.otlp_traces_endpoint)
    if (args.api_server_count or 1) > 1:
        args.shutdown_timeout = max(args.shutdown_timeout, config.drain_seconds)
    if config.log_format == "json":
        args.logging_config = replace(
            getattr(args, "logging_config", None) or LoggingConfig(), formatter="json"
        )


def _one_front_end(count: int | None) -> int:
    """Engines number their tasks in the order they hear of them: with one API server it is the same in all.

    Raises:
        UnsupportedError: more were asked for.
    """
    if count in (None, 1):
        return 1
    cure = "leave it out with --data-parallel-size, or start servers of one engine each"
    raise UnsupportedError(fault("--api-server-count", expected="1", came=str(count), cure=cure))


def _model_faults(model: str) -> list[str]:
    """A path that leads nowhere is no name of the hub, though vLLM would ask the hub for it."""
    path = Path(model)
    begins_as_path = path.is_absolute() or model.startswith((".", "~")) or path.parts[:1] == (_MODELS_FOLDER,)
    is_path = begins_as_path or path.exists() or len(path.parts) > 2  # a name of the hub is `owner/name`
    if not is_path or "://" in model or (path / "config.json").is_file():
        return []
    came = "a folder without config.json" if path.is_dir() else "a file" if path.exists() else "nothing"
    cure = "correct the path (`passepartout model build pico-llava` makes models/pico-llava)"
    expected = "a folder with a checkpoint"
    return [fault("--model", expected=expected, came=f"{came} at {shown(model)}", cure=cure)]


def _missing_plugins() -> list[str]:
    """vLLM passes over a plugin that it cannot load, and would serve the base model alone: so look first."""
    faults = []
    for group in _GROUPS:
        found = [one for one in entry_points(group=group) if one.name == PLUGIN_NAME]
        if not found:
            cure = "install the package again: pip install -e ."
            faults.append(fault(f"entry point {group}", expected=PLUGIN_NAME, came="none", cure=cure))
        for one in found:
            one.load()
    return faults


def _without_plugins(option: str) -> str:
    return fault(
        option, expected="vLLM's HTTP server", came="a server that takes no tasks", cure="leave it out"
    )


def cache_bytes() -> int:
    """Room for the KV cache on a CPU where nobody said how much: a quarter of the free memory, 1 to 4 GiB."""
    import psutil  # type: ignore[import-untyped]  # a dependency of vLLM's

    quarter: int = psutil.virtual_memory().available // 4
    return min(max(quarter, _GIB), 4 * _GIB)
