"""The entry point of vLLM's group `vllm.endpoint_plugins`: puts the task on vLLM's own server. vLLM 0.32.

vLLM calls `attach_router` while it builds the app and `init_state` when the engine is up, before it listens.
The middleware is appended, so that it stands inside vLLM's authentication, CORS and HTTP metrics, and around
every route.
"""

import asyncio
from argparse import Namespace
from functools import partial
from typing import Any

from fastapi import FastAPI
from opentelemetry.trace import get_tracer
from starlette.datastructures import State
from starlette.middleware import Middleware

from prompts.errors import StoreError
from prompts.remote import Source
from prompts.store import StoreReader
from server.access.access import Access
from server.access.body import Bodies
from server.access.book import KeyBook
from server.access.gate import Gate
from server.access.middleware import AccessMiddleware
from server.access.open_keys import OpenKeys
from server.audit import open_audit
from server.canary import CanaryLoader
from server.config import ServeConfig, cache_secret, find_api_keys
from server.engine.residency import Residency
from server.log import logger
from server.middleware import TaskMiddleware
from server.observe.middleware import ObserveMiddleware
from server.observe.spans import NAME, Tracing
from server.outside.fetch import Fetcher
from server.page.routes import add_page
from server.routes import add_routes
from server.served import Loader
from server.service import Service
from server.sources import FollowedSource
from server.vllm_canary import ServerAsker
from server.vllm_engine import (
    AllEngines,
    find_model_folder,
    is_healthy,
    watch_encode,
    watch_generate,
    watch_shutdown,
)
from server.vllm_models import echo_alias

__all__ = [
    "PassepartoutEndpoints",
    "attach",
    "fill_access",
    "fill_observation",
    "follow_keys",
    "follow_source",
    "follow_store",
    "put_outermost",
    "start",
    "with_canaries",
]


class PassepartoutEndpoints:
    """What vLLM's `EndpointPlugin` protocol asks for."""

    name = "passepartout"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._service = Service()
        self._app: FastAPI | None = None
        self._following: list[asyncio.Task[None]] = []

    def attach_router(self, app: FastAPI) -> None:
        """Add routes and middleware."""
        self._app = app
        attach(app, self._service)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Make every good bundle of the store resident, then let requests name them.

        Raises:
            ConfigError: vLLM was started without `passepartout serve`.
            StoreError, BaseModelError, EngineError: nothing can be served.
        """
        config = ServeConfig.from_namespace(args)
        fill_access(self._service.access, config, args, engine_client.vllm_config)
        fill_observation(self._service, args, engine_client.vllm_config)
        if self._app is not None:
            put_outermost(self._app)
        names = args.served_model_name or [args.model]
        folder = find_model_folder(engine_client.model_config)
        share = args.api_server_count or 1
        engines = AllEngines(engine_client)
        residency = await Residency.connect(engines, folder, pinned=config.pinned, share=share)
        residency.observe_load = self._service.metrics.load
        self._service.engine_is_healthy = partial(is_healthy, engine_client)
        self._service.local_files = bool(args.allowed_local_media_path)
        loader = with_canaries(residency, engine_client, state.online_renderer, config, self._service)
        reader = await start(self._service, config, base_names=tuple(names), loader=loader)
        echo_alias(state)
        watch_generate(engine_client, self._service.metrics)
        watch_encode(engine_client)
        watch_shutdown(engine_client, self._service.access.gate, seconds=config.drain_seconds)
        watch_frames(self._service)
        self._following = []
        if config.source:
            self._service.source = FollowedSource(Source(config.source), config.tasks, config.tasks_lock)
            follow = follow_source(self._service, self._service.source, seconds=config.source_seconds)
            self._following.append(asyncio.create_task(follow))
        if config.store_seconds:
            seconds = config.store_seconds
            following = [follow_store(self._service, reader, loader, seconds=seconds)]
            if self._service.access.book is not None:
                following.append(follow_keys(self._service.access.book, seconds=seconds))
            self._following += [asyncio.create_task(one) for one in following]


def fill_access(access: Access, config: ServeConfig, args: Namespace, engine_config: Any) -> None:
    """Who may ask, and how many at a time, as the options say; `engine_config` is vLLM's.

    Raises:
        ConfigError: the file of keys is not as it should be.
    """
    share = args.api_server_count or 1
    at_a_time = engine_config.scheduler_config.max_num_seqs * args.data_parallel_size // share
    access.gate = Gate(access.clock, running=at_a_time, queued=config.max_queued)
    access.max_body_mb = config.max_body_mb
    access.bodies = Bodies(config.max_bodies_mb)
    access.open_fields = config.open_fields
    access.open_keys = OpenKeys.of(find_api_keys(args.api_key))
    if config.keys is not None:
        access.book = KeyBook.read(config.keys, secret=cache_secret(), clock=access.clock)


def fill_observation(service: Service, args: Namespace, engine_config: Any) -> None:
    """Which requests are logged, and where spans go, as the options say; `engine_config` is vLLM's."""
    service.watch_queue()
    service.has_access_log = getattr(args, "has_access_log", True)
    quiet = args.disable_access_log_for_endpoints or ""
    service.quiet_routes = frozenset(name for one in quiet.split(",") if (name := one.strip()))
    if engine_config.observability_config.otlp_traces_endpoint is not None:
        service.tracing = Tracing(get_tracer(NAME))


def put_outermost(app: FastAPI) -> None:
    """vLLM puts its own middleware around that of plugins; what it refuses is to have a line in the log."""
    ours: object = ObserveMiddleware
    app.user_middleware.sort(key=lambda one: one.cls is not ours)


def with_canaries(
    residency: Residency, engine: Any, renderer: Any, config: ServeConfig, service: Service
) -> Loader:
    """The loader that asks each bundle's canary, or `residency` itself where they are switched off."""
    if config.canary == "off":
        return residency
    asker = ServerAsker(engine, renderer)
    return CanaryLoader(
        residency,
        asker,
        base=residency.base,
        only_warn=config.canary == "warn",
        observe=service.metrics.canary,
    )


def watch_frames(service: Service) -> None:
    """Have the time that each frame takes reported; vLLM's picture threads put frames on in this process."""
    from server.engine.processing import FRAME_OBSERVERS  # imports vLLM

    FRAME_OBSERVERS.append(lambda handle, seconds: service.metrics.frame(handle.name, seconds=seconds))


def attach(app: FastAPI, service: Service) -> None:
    """Put the middleware, our routes and the page on `app`: who asks is asked first."""
    app.user_middleware.append(Middleware(ObserveMiddleware, service=service))
    app.user_middleware.append(Middleware(AccessMiddleware, access=service.access))
    app.user_middleware.append(Middleware(TaskMiddleware, service=service))
    add_routes(app, service)
    add_page(app)


async def start(
    service: Service, config: ServeConfig, *, base_names: tuple[str, ...], loader: Loader
) -> StoreReader:
    """Fill `service` from the store; returns what reads it.

    Raises:
        StoreError: the store cannot be read.
        ConfigError: the audit log cannot be written.
    """
    service.base_names = base_names
    service.max_picture_pixels, service.max_pictures = config.max_picture_pixels, config.max_pictures
    service.fetcher = Fetcher(
        config.hosts_of_pictures, max_mb=config.max_picture_mb, seconds=config.picture_seconds
    )
    open_audit(config.audit_log)
    reader = StoreReader(config.tasks)
    service.store, service.loader = config.tasks, loader
    service.look = partial(_look, service, reader, loader)
    await service.look()
    return reader


async def _look(service: Service, reader: StoreReader, loader: Loader) -> None:
    """Bring the tasks to what the store holds, one look at a time."""
    async with service.looking:
        await service.tasks.reconcile(await asyncio.to_thread(reader.scan), loader)
        service.publish()


async def follow_keys(book: KeyBook, *, seconds: float) -> None:
    """Look every `seconds` whether the file of keys has changed, for ever."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await book.look()
        except Exception:  # the next look may well succeed; without it no key would ever be withdrawn
            logger.exception("the file of keys was not followed")


async def follow_source(service: Service, source: FollowedSource, *, seconds: float) -> None:
    """Look now and every `seconds` what the source of the store holds, for ever."""
    while True:
        try:
            if await source.look():
                await service.look()
        except Exception:  # the next look may well succeed; without it the source would be followed no more
            logger.exception("the source was not followed")
        await asyncio.sleep(seconds)


async def follow_store(service: Service, reader: StoreReader, loader: Loader, *, seconds: float) -> None:
    """Bring the tasks to what the store holds every `seconds`, for ever.

    A store that cannot be read changes nothing: what is resident goes on being served.
    """
    is_readable = True
    while True:
        await asyncio.sleep(seconds)
        try:
            await _look(service, reader, loader)
        except StoreError as error:
            if is_readable:
                logger.error("the store cannot be read, its tasks stay as they are: %s", error)
            is_readable = False
        except Exception:  # the next look may well succeed; without it the store would be followed no more
            logger.exception("the store was not followed")
        else:
            if not is_readable:
                logger.info("the store can be read again")
            is_readable = True
