"""Beam search over the oracle's logprobs."""

from PIL import Image

from prompts.bundle import Bundle
from tests.engine.oracle import Oracle

__all__ = ["search_beams"]


def search_beams(
    oracle: Oracle, text: str, pictures: list[Image.Image], bundle: Bundle | None, *, width: int, length: int
) -> list[tuple[list[int], float]]:
    """The `width` best answers of `length` tokens, each with its summed logprob; no token ends an answer.

    As vLLM's with a length penalty of 0: with another it ranks an answer that ends in EOS as a shorter one.
    """
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(length):
        longer = []
        for tokens, score in beams:
            best = oracle.logprobs(text, pictures, bundle, tokens)[-1].topk(2 * width)
            steps = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            longer += [([*tokens, token], score + logprob) for token, logprob in steps]
        beams = sorted(longer, key=lambda beam: -beam[1])[:width]
    return beams
