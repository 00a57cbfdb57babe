"""Pictures in requests: found in every shape, refused by name before or after the engine saw them."""

import base64
import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from prompts.errors import InputError, PictureError
from server.pictures import Picture, find_broken, find_pictures, require_readable
from tests.server.conftest import Site
from tests.server.fake import picture_url

CHAT = "/v1/chat/completions"


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def huge_png() -> bytes:
    """60,000 × 60,000 pixels by its header, 100 bytes by its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def deep(mode: str, kind: str) -> bytes:
    """More than 8 bits per value: vLLM would cut them off at 255, no trainer does."""
    data = io.BytesIO()
    Image.new(mode, (8, 8)).save(data, kind)
    return data.getvalue()


def cut(url: str) -> str:
    """The same picture without its last third."""
    data = base64.b64decode(url.partition(",")[2])
    return data_url(data[: len(data) * 2 // 3])


def ask(site: Site, *urls: Any, **body: Any) -> Any:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return site.client.post(CHAT, json={"messages": [{"role": "user", "content": parts}]} | body)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (
            {"messages": [{"content": "a"}, {"content": [{"text": "b"}, {"image_url": {"url": "data:,x"}}]}]},
            ["messages[1].content[1].image_url"],
        ),
        ({"messages": [[{"content": [{"image_url": "data:,x"}]}]]}, ["messages[0][0].content[0].image_url"]),
        (
            {"input": [{"content": [{"type": "input_image", "image_url": "http://x"}]}]},
            ["input[0].content[0].image_url"],
        ),
        (
            {"messages": [{"content": [{"type": "image", "source": {"type": "base64", "data": "x"}}]}]},
            ["messages[0].content[0].source"],
        ),
        (
            {"messages": [{"content": [{"type": "tool_result", "content": [{"image_url": "data:,"}]}]}]},
            ["messages[0].content[0].content[0].image_url"],
        ),
        (
            {"messages": [{"content": [{"image_url": None, "uuid": "a"}]}]},
            ["messages[0].content[0].image_url"],
        ),
        (
            {"messages": [{"content": [{"type": "image", "image_url": "http://x", "source": {"url": "y"}}]}]},
            ["messages[0].content[0].image_url", "messages[0].content[0].source"],
        ),
        ({"messages": "image_url", "prompt": "image_url"}, []),
    ],
)
def test_pictures_are_found_in_every_shape(body: dict[str, Any], fields: list[str]) -> None:
    assert [picture.field for picture in find_pictures(body)] == fields


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (data_url(b"no picture at all"), "17 bytes that are none"),
        (data_url(huge_png()), "at most 64000000 pixels"),
        (data_url(deep("I;16", "PNG")), "expected 8 bits per value, came 16 or 32 bits"),
        (data_url(deep("F", "TIFF")), "expected 8 bits per value, came 32-bit floats"),
        (picture_url((101, 1)), "sides within 100:1 of each other, came 101 × 1"),
        (picture_url((1, 5000)), "came 1 × 5000"),
        ("data:image/png;base64,####", "base64"),
        ("data:image/png,plain", "data:image/…;base64,…"),
        ("data:image/png", "data:image/…;base64,…"),
        ("file:///etc/passwd", "'file:///etc/pass'"),
        ("ftp://x/y.png", "expected a data: address"),
    ],
)
@pytest.mark.parametrize("task", [None, "framed"])
def test_what_is_no_picture_is_400_by_name(site: Site, url: str, said: str, task: str | None) -> None:
    reached = len(site.server.seen)
    response = ask(site, picture_url(), url, task=task)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "picture_invalid", "messages")
    assert "messages[0].content[1].image_url" in error["message"]
    assert said in error["message"]
    assert len(site.server.seen) == reached


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("task", [None, "framed"])
def test_a_picture_that_breaks_off_is_named_after_vllm_refused_it(
    site: Site, kind: str, task: str | None
) -> None:
    reached = len(site.server.seen)
    response = ask(site, picture_url(), cut(picture_url((300, 200), kind)), task=task)
    error = response.json()["error"]
    assert len(site.server.seen) == reached + 1
    assert (response.status_code, error["code"]) == (400, "picture_invalid")
    assert "messages[0].content[1].image_url" in error["message"]
    assert "0x" not in error["message"]
    assert response.headers.get("X-Task") == task


def test_a_file_that_cannot_be_read_is_the_requests_fault(site: Site) -> None:
    service = site.server.service
    service.local_files = True
    try:
        response = ask(site, picture_url(), "file:///a.png", task="framed")
    finally:
        service.local_files = False
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "picture_invalid")
    assert "messages[0].content[1].image_url" in error["message"]
    assert "/srv" not in error["message"]
    assert response.headers["X-Task"] == "framed"


def test_an_error_that_is_not_the_pictures_stays_vllms(site: Site) -> None:
    response = ask(site, picture_url(), model="other")
    assert response.json()["error"]["message"] == "The model `other` does not exist."


@pytest.mark.parametrize("task", [None, "plain", "framed"])
def test_a_request_does_not_choose_how_pictures_are_prepared(site: Site, task: str | None) -> None:
    """Pixels of another size than the tower's end vLLM's engine."""
    reached = len(site.server.seen)
    response = ask(site, picture_url(), task=task, mm_processor_kwargs={"do_center_crop": False})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_input")
    assert error["message"].startswith("mm_processor_kwargs: expected null, came {'do_center_crop': False}")
    assert len(site.server.seen) == reached
    assert ask(site, picture_url(), task=task, mm_processor_kwargs=None).status_code == 200


def test_a_body_nested_beyond_reason_is_400(site: Site) -> None:
    """Python 3.13 parses what its own frames could not walk through."""
    reached = len(site.server.seen)
    messages: list[Any] = []
    for _ in range(100):
        messages = [messages]
    response = site.client.post(CHAT, json={"messages": messages})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_input")
    assert response.json()["error"]["message"].startswith("messages: expected at most 64 levels")
    assert len(site.server.seen) == reached
    with pytest.raises(InputError, match="input: expected at most"):
        find_pictures({"input": messages})


def test_the_operator_may_allow_files() -> None:
    picture = Picture("x", "file:///pictures/a.png")
    require_readable([picture], max_pixels=9, local_files=True)
    with pytest.raises(PictureError):
        require_readable([picture], max_pixels=9, local_files=False)


def test_the_cap_counts_pixels() -> None:
    picture = Picture("x", picture_url((30, 10)))
    require_readable([picture], max_pixels=300, local_files=False)
    with pytest.raises(PictureError, match="30 × 10"):
        require_readable([picture], max_pixels=299, local_files=False)


def test_whole_pictures_are_not_broken() -> None:
    assert find_broken([Picture("x", picture_url()), Picture("y", "http://x")], max_pixels=999) is None


def test_a_task_that_is_a_frame_alone_wants_a_picture(site: Site) -> None:
    response = site.client.post(CHAT, json={"messages": [{"role": "user", "content": "?"}], "task": "framed"})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "picture_required")
    assert "add an image_url part" in error["message"]
    completion = site.client.post("/v1/completions", json={"prompt": "?", "task": "framed"})
    error = completion.json()["error"]
    assert (error["code"], error["param"]) == ("picture_required", "prompt")
    assert error["message"].startswith("prompt: ")
    assert "ask at /v1/chat/completions" in error["message"]
