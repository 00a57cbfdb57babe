"""One question to a running Passepartout, with openai-python.

python examples/ask.py --task category                      # draws a held-out picture and asks about it
python examples/ask.py --task category --picture photo.jpg --question "What kind of thing is this?"
"""

import argparse
import base64
import io
import mimetypes
import os
import sys
from pathlib import Path

from openai import OpenAI, OpenAIError
from PIL import Image


def main() -> None:
    options = _parser().parse_args()
    try:
        _ask(options)
    except OpenAIError as error:
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, dict) else None
        sys.exit(f"error: {said or error}")


def _ask(options: argparse.Namespace) -> None:
    url, question = _picture(options)
    client = OpenAI(base_url=options.url + "/v1", api_key=options.key)
    for task in dict.fromkeys([None, options.task]):
        response = client.chat.completions.with_raw_response.create(
            model="base",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "text", "text": question},
                    ],
                }
            ],
            temperature=0.0,
            max_tokens=24,
            extra_body={"task": task} if task else None,
        )
        said = response.parse().choices[0].message.content
        print(
            f"{task or 'base model'}: {said}   (digest: {response.headers.get('x-task-digest', 'none')[:12]})"
        )


def _picture(options: argparse.Namespace) -> tuple[str, str]:
    if options.picture:
        kind = mimetypes.guess_type(options.picture.name)[0] or "image/png"
        return _data_url(kind, options.picture.read_bytes()), options.question or "What is in the picture?"
    from training.pico.tasks import make_source

    example = make_source(options.pico, "test", options.index + 1, 0)[options.index]
    assert isinstance(example.picture, Image.Image)
    example.picture.save("asked.png")
    print(f"asked.png: {example.question} (right: {example.answer})")
    buffer = io.BytesIO()
    example.picture.save(buffer, "PNG")
    return _data_url("image/png", buffer.getvalue()), options.question or example.question


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server (default: %(default)s)")
    key = os.environ.get("OPENAI_API_KEY") or "none"
    parser.add_argument("--key", default=key, help="for a server with keys (default: $OPENAI_API_KEY)")
    parser.add_argument("--task", help="name of a served task")
    parser.add_argument("--picture", type=Path, help="a picture of yours; without it one is drawn")
    parser.add_argument("--question", help="default: the drawn picture's own question")
    parser.add_argument("--pico", default="category", help="what to draw (default: %(default)s)")
    parser.add_argument(
        "--index", type=int, default=0, help="which of the drawn pictures (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    main()
