"""How long the learned frame takes, per task. The frame is put on in this process, by vLLM's picture threads.

`server.engine.processing` puts it on; a thread of vLLM's does not know the request, but the frame's identity
says whose it is.
"""

import time
from collections.abc import Callable
from typing import Any

from server.engine.handles import TaskFrame
from server.service import Service

__all__ = ["timed", "watch_frames"]

PutFrame = Callable[[object, TaskFrame], Any]


def watch_frames(service: Service) -> None:
    """Have every frame that is put on a picture observed."""
    from server.engine import processing  # imports vLLM

    processing._put_frame = timed(processing._put_frame, service)  # type: ignore[assignment]


def timed(put: PutFrame, service: Service) -> PutFrame:
    """`put`, observed under the name of the task whose frame it puts on."""

    def put_timed(picture: object, frame: TaskFrame) -> Any:
        started = time.perf_counter()
        framed = put(picture, frame)
        seconds = time.perf_counter() - started
        for task in service.tasks.tasks.values():
            if task.handle.frame is frame:
                service.metrics.frame(task.name, seconds=seconds)
        return framed

    return put_timed
