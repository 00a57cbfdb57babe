"""A small server with the routes, errors and engine protocol of vLLM 0.32, without vLLM.

What it fakes is the model alone: `FakeEngine.generate` has vLLM's signature and outputs, the handlers read
bodies and make answers in vLLM's shapes (integer error codes, object reprs in picture errors, SSE). An answer
says which task rendered it and what was asked, so that a wrong task cannot be mistaken for the right one.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from prometheus_client import CollectorRegistry

from prompts.bundle import Bundle
from prompts.errors import CapacityError, PassepartoutError, StaleBundleError
from server.app import attach
from server.canary_result import CanaryResult
from server.engine.handles import CURRENT_TASK, TaskFrame, TaskHandle
from server.service import Service
from server.vllm_engine import watch_generate
from server.vllm_models import echo_alias

Body = dict[str, Any]


@dataclass
class FakeEngine:
    """`EngineClient` as far as the server uses it: whole answers come at once, streamed ones word by word."""

    is_dead: bool = False
    aborted: list[str] = field(default_factory=list)
    prompts: list[Body] = field(default_factory=list)
    """What was given to it, in order."""
    pause_seconds: float = 0.0
    hold_after: int | None = None
    """So many chunks of an answer come, the others when this is None again."""

    async def generate(
        self, prompt: Body, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        self.prompts.append(prompt)
        words = prompt["answer"].split(" ")
        is_delta = sampling_params.output_kind.name == "DELTA"
        chunks = [[word] for word in words] if is_delta else [words]
        try:
            for index, chunk in enumerate(chunks):
                await asyncio.sleep(self.pause_seconds)
                while self.hold_after is not None and index >= self.hold_after:
                    await asyncio.sleep(0.01)
                yield _output(prompt, chunk)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise


@dataclass
class FakeLoader:
    """`Residency` without workers: a handle for every bundle but those named in `refuses`."""

    refuses: dict[str, PassepartoutError] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    """Digests, in the order they were discarded."""
    unpinned: list[str] = field(default_factory=list)
    rooms: int = 100
    pinned: set[str] = field(default_factory=set)
    is_busy: bool = False
    """Nothing more comes to the device."""
    stuck: set[str] = field(default_factory=set)
    """Digests that take for ever to come."""
    coming: list[str] = field(default_factory=list)
    """Names on their way to the device."""
    stale: set[str] = field(default_factory=set)
    """Digests that the store does not hold any more."""
    _handles: dict[str, TaskHandle] = field(default_factory=dict)

    def check(self, bundle: Bundle) -> None:
        if bundle.name in self.refuses:
            raise self.refuses[bundle.name]

    def is_on_device(self, digest: str) -> bool:
        return digest in self._handles

    def is_pinned(self, bundle: Bundle) -> bool:
        return bundle.name in self.pinned

    def has_room(self, bundle: Bundle) -> bool:
        return len(self._handles) + len(self.coming) < self.rooms

    def is_unproven(self, bundle: Bundle) -> bool:
        return False

    def canary_result(self, bundle: Bundle) -> CanaryResult:
        return CanaryResult("none")

    def unpin(self, digest: str) -> None:
        self.unpinned.append(digest)

    async def discard(self, digest: str) -> None:
        self._handles.pop(digest, None)
        self.discarded.append(digest)

    @asynccontextmanager
    async def using(
        self, bundle: Bundle, *, is_held: bool = False, is_patient: bool = True
    ) -> AsyncIterator[TaskHandle]:
        if bundle.name in self.refuses:
            raise self.refuses[bundle.name]
        if bundle.digest in self.stale:
            raise StaleBundleError("/srv/tasks/x changed")
        if bundle.digest not in self._handles:
            await self._come(bundle, is_patient=is_patient)
            self.loaded.append(bundle.name)
            self._handles[bundle.digest] = _handle(bundle, slot=len(self.loaded))
        yield self._handles[bundle.digest]

    async def _come(self, bundle: Bundle, *, is_patient: bool) -> None:
        self.coming.append(bundle.name)
        try:
            while self.is_busy or bundle.digest in self.stuck:
                if self.is_busy and not is_patient:
                    raise CapacityError("no room on the device: all of it is in use")
                await asyncio.sleep(0.01)
        finally:
            self.coming.remove(bundle.name)


def _handle(bundle: Bundle, *, slot: int) -> TaskHandle:
    manifest, delta = bundle.manifest, bundle.frame_delta
    has_frame = manifest.frame is not None and delta is not None
    return TaskHandle(
        name=bundle.name,
        digest=bundle.digest,
        slot=slot,
        text_length=manifest.text.length if manifest.text else 0,
        frame=TaskFrame(spec=manifest.frame, delta=delta) if has_frame else None,
    )


class FakeModels:
    """`OpenAIServingModels`: the list and the name of the base model."""

    def __init__(self, name: str) -> None:
        self._name = name

    def model_name(self, lora_request: object = None) -> str:
        return self._name

    async def show_available_models(self) -> Any:
        card = {"id": self._name, "object": "model", "owned_by": "vllm", "root": "m", "parent": None}
        listed = {"object": "list", "data": [card]}
        return SimpleNamespace(model_dump=lambda: json.loads(json.dumps(listed)))


@dataclass
class FakeServer:
    """The app and what went on inside it: the bodies that reached vLLM's side, in order."""

    app: FastAPI
    engine: FakeEngine
    service: Service
    registry: CollectorRegistry
    seen: list[Body] = field(default_factory=list)
    seen_raw: list[bytes] = field(default_factory=list)


def make_server(base_name: str = "base") -> FakeServer:
    """The routes of vLLM with ours on top; load a store into `service` to have tasks."""
    registry = CollectorRegistry()
    app, engine = FastAPI(), FakeEngine()
    service = Service(registry=registry)
    server = FakeServer(app, engine, service, registry)
    app.state.openai_serving_models = FakeModels(base_name)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize"):
        app.add_api_route(path, _handler(server), methods=["POST"])
    for path in ("/v1/embeddings", "/inference/v1/generate", "/invocations"):
        app.add_api_route(path, _handler(server), methods=["POST"])
    attach(app, service)
    echo_alias(app.state)
    watch_generate(engine, service.metrics)
    return server


def picture_url(size: tuple[int, int] = (20, 16), kind: str = "PNG") -> str:
    """A picture as clients send it."""
    data = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(data, kind)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _handler(server: FakeServer) -> Any:
    async def handle(request: Request) -> Response:
        raw = await request.body()
        server.seen_raw.append(raw)
        if int(request.headers["Content-Length"]) != len(raw):
            return _error(400, "the body is not as long as it says")
        try:
            body = json.loads(raw)
        except ValueError:
            return _error(400, "JSON decode error")
        if not isinstance(body, dict):
            return _error(400, "1 validation error")
        server.seen.append(body)
        if body.get("model") not in (None, server.service.base_names[0]):
            return _error(404, f"The model `{body['model']}` does not exist.")
        if "secrets" in body:
            return _error(422, str(body["secrets"]))
        if "explode" in body:
            raise RuntimeError("engine core died at 0x7f00")
        try:
            answer = _answer(body)
        except FileNotFoundError:  # vLLM lets it through
            raise
        except OSError as error:  # what vLLM says of a picture that is none
            return _error(400, f"Failed to load image: {error} <_io.BytesIO object at 0x7f2f>")
        return await _respond(server, request, body, answer)

    return handle


async def _respond(server: FakeServer, request: Request, body: Body, answer: str) -> Response:
    name = request.app.state.openai_serving_models.model_name()
    prompt: Body = {"answer": answer, "prompt_token_ids": [1, 2, 3, 4, 5], "cached": 4}
    if body.get("cache_salt"):
        prompt["cache_salt"] = body["cache_salt"]
    kind = SimpleNamespace(name="DELTA" if body.get("stream") else "FINAL_ONLY")
    outputs = server.engine.generate(prompt, SimpleNamespace(output_kind=kind), "request-1")
    if body.get("stream"):
        events = _events(outputs, name, body, request.url.path)
        return StreamingResponse(events, media_type="text/event-stream")
    text = " ".join([word async for output in outputs for word in output.outputs[0].token_ids])
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return JSONResponse(
        {"id": "c", "object": "chat.completion", "created": 0, "model": name, "choices": [choice]}
    )


async def _events(outputs: Any, name: str, body: Body, path: str) -> AsyncGenerator[str, None]:
    wanted, tokens = body.get("stream_options") or {}, 0
    counts = wanted.get("continuous_usage_stats")
    async for output in outputs:
        if body.get("stream_breaks") and path == "/v1/messages":
            said = {"type": "internal_error", "message": f"broke: {body['stream_breaks']}"}
            event = json.dumps({"type": "error", "error": said}, separators=(",", ":"))
            yield f"event: error\ndata: {event}\n\n"
            return
        if body.get("stream_breaks"):
            broken = {
                "error": {
                    "message": f"broke: {body['stream_breaks']}",
                    "type": "InternalServerError",
                    "param": None,
                    "code": 500,
                }
            }
            yield f"data: {json.dumps(broken)}\n\n"
            break
        choice = {"index": 0, "delta": {"content": output.outputs[0].token_ids[0] + " "}}
        tokens += 1
        yield _event(name, [choice], usage={"completion_tokens": tokens} if counts else None)
    if wanted.get("include_usage"):
        yield _event(name, [], usage={"completion_tokens": tokens})
    yield "data: [DONE]\n\n"


def _event(name: str, choices: list[Body], *, usage: Body | None) -> str:
    event = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": name, "choices": choices}
    return f"data: {json.dumps(event | ({'usage': usage} if usage else {}))}\n\n"


def _answer(body: Body) -> str:
    """`<task> says <choice or text>`."""
    handle = CURRENT_TASK.get()
    for message in body.get("messages") or []:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if "image_url" in part and part["image_url"]["url"].startswith("file:"):
                raise FileNotFoundError("[Errno 2] No such file: '/srv/pictures/a.png'")
            if "image_url" in part:
                with Image.open(
                    io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))
                ) as image:
                    image.load()
    choices = (body.get("structured_outputs") or {}).get("choice")
    return f"{handle.name if handle else 'nobody'} says {choices[0] if choices else 'anything'}"


def _output(prompt: Body, words: list[str]) -> Any:
    return SimpleNamespace(
        prompt_token_ids=prompt["prompt_token_ids"],
        num_cached_tokens=prompt["cached"],
        outputs=[SimpleNamespace(token_ids=words)],
        metrics=SimpleNamespace(first_token_latency=0.25),
    )


def _error(status: int, message: str) -> JSONResponse:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return JSONResponse({"error": error}, status_code=status)
