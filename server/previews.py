"""Tasks' frames as people see them, drawn once for each version."""

import asyncio
import io
from collections import OrderedDict

from prompts.bundle import Bundle
from prompts.frame import preview

__all__ = ["Previews"]

_MOST = 32


class Previews:
    """PNGs by digest; of very many those that were asked for last are kept."""

    def __init__(self) -> None:
        self._drawn: OrderedDict[str, bytes] = OrderedDict()
        self._turn = asyncio.Lock()

    async def png(self, bundle: Bundle) -> bytes:
        """The frame around a grey picture, clipped to 8 bits; one is drawn at a time.

        Raises:
            NoFrameError: the task has none.
        """
        async with self._turn:
            if bundle.digest not in self._drawn:
                self._drawn[bundle.digest] = await asyncio.to_thread(_draw, bundle)
            self._drawn.move_to_end(bundle.digest)
            while len(self._drawn) > _MOST:
                self._drawn.popitem(last=False)
            return self._drawn[bundle.digest]


def _draw(bundle: Bundle) -> bytes:
    png = io.BytesIO()
    preview(bundle).save(png, "PNG")
    return png.getvalue()
