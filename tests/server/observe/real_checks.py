"""What the started real server is asked about its logs, its spans and its end."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from tests.server.observe.collector import Collector, attributes
from tests.server.real_asking import CHAT, question

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def find_line(log: Path, seconds: float = 20, **wanted: Any) -> dict[str, Any]:
    """The log's first line that says all this, once it is there."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for line in log.read_text().splitlines():
            said = json.loads(line) if line.startswith("{") else {}
            if wanted.items() <= said.items():
                return said
        time.sleep(0.1)
    raise AssertionError(f"no line of the log says {wanted}")


def require_spans_and_lines(client: httpx.Client, collector: Collector, log: Path) -> None:
    """The client's span is the parent of ours, ours that of vLLM's; a line of the log names them."""
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "of-the-test"}
    answer = client.post(CHAT, json=question(task="texty"), headers=headers)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    assert "of-the-test" in answer.json()["id"]
    line = find_line(log, request_id="of-the-test")
    ours = collector.find(lambda span: span.parent_span_id.hex() == PARENT)
    vllms = collector.find(lambda span: span.parent_span_id == ours.span_id)
    assert {ours.trace_id.hex(), vllms.trace_id.hex(), line["trace_id"]} == {TRACE}
    assert (ours.name, vllms.name) == (f"POST {CHAT}", "llm_request")
    said = attributes(ours)
    for told in (said, attributes(vllms)):
        assert told["gen_ai.usage.prompt_tokens"] == usage["prompt_tokens"]
        assert told["gen_ai.usage.completion_tokens"] == usage["completion_tokens"] == 8
    digest = answer.headers["X-Task-Digest"]
    assert (said["passepartout.task"], said["passepartout.digest"]) == ("texty", digest)
    assert (line["route"], line["status"], line["task"], line["digest"]) == (CHAT, 200, "texty", digest)
    assert (line["key"], line["completion_tokens"]) == ("boss", 8)
    _require_json(log)


def _require_json(log: Path) -> None:
    """vLLM's lines and uvicorn's are objects too, and nobody's address is in one."""
    lines = log.read_text().splitlines()
    read = [json.loads(line) for line in lines if line.startswith("{")]
    names = {one["name"].partition(".")[0] for one in read}
    assert {"uvicorn", "vllm"} <= names
    assert [one for one in lines if "uvicorn.access" in one] == []
    assert [one for one in read if one["name"].endswith(".access") and "127.0.0.1" in json.dumps(one)] == []


def require_drain(client: httpx.Client, log: Path) -> None:
    """Told to stop, the server ends the stream that it began, says so meanwhile, and is gone."""
    pid = find_line(log, request_id="of-the-test")["process"]
    body = question(task="texty", stream=True) | {"max_tokens": 300}
    with client.stream("POST", CHAT, json=body) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: {")
        os.kill(pid, signal.SIGTERM)
        words = [wait_for_word(client, "draining")]
        told = [line for line in lines if line.startswith("data: ")]
    assert words == ["draining"]
    assert told[-1] == "data: [DONE]"
    assert json.loads(told[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


def wait_for_word(client: httpx.Client, word: str, seconds: float = 10) -> str:
    """What /ready says once it says `word`, or at the end."""
    ends, said = time.monotonic() + seconds, ""
    while said != word and time.monotonic() < ends:
        said = client.get("/ready").json()["status"]
    return said
