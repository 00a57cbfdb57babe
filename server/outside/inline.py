"""Puts the bytes in the place of the address: vLLM is handed pictures, and fetches none itself."""

import asyncio
import base64
import json
from copy import deepcopy
from dataclasses import replace

from prompts.errors import TooLargeError
from prompts.faults import fault
from server.outside.fetch import Budget
from server.pictures import Picture, find_pictures
from server.prepare import Asked
from server.service import Service
from server.surface import Route

__all__ = ["fetch_pictures"]

_AT_A_TIME = 4
"""Pictures of one request that are fetched at once."""


async def fetch_pictures(asked: Asked, route: Route | None, service: Service) -> Asked:
    """The request with every picture in it; the very one that came, where there was nothing to fetch.

    Raises:
        InputError: it is nested deeper than any API's bodies are.
        PictureError: an address that may not be fetched, or could not.
        TooLargeError: too many pictures, or too large ones.
    """
    if route is None or route.shape is None:
        return asked
    pictures = find_pictures(asked.body)
    if len(pictures) > service.max_pictures:
        expected, came = f"at most {service.max_pictures} pictures", str(len(pictures))
        raise TooLargeError(fault("pictures", expected=expected, came=came, cure="send fewer of them"))
    if not any(picture.is_distant for picture in pictures):
        return asked
    body = deepcopy(asked.body)
    await _fetch_all([picture for picture in find_pictures(body) if picture.is_distant], service)
    return replace(asked, raw=json.dumps(body).encode(), body=body)


async def _fetch_all(pictures: list[Picture], service: Service) -> None:
    """The first that fails ends the others."""
    places, budget = asyncio.Semaphore(_AT_A_TIME), Budget(service.access.max_body_mb)

    async def fetch(picture: Picture) -> None:
        async with places:
            data = await service.fetcher.fetch(str(picture.url), place=picture.field, budget=budget)
        picture.put("data:image/*;base64," + base64.b64encode(data).decode())

    under_way = [asyncio.create_task(fetch(picture)) for picture in pictures]
    try:
        await asyncio.gather(*under_way)
    finally:
        for one in under_way:
            one.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
