"""Recipe, stage 2: the projector and low-rank updates of the language model, taught to name what is shown.

The tower stays as stage 1 left it (pico-llava's is the tiny CLIP's as well). Every tenth step answers plain
text questions as the untouched language model would, so that it does not forget how to chat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaForCausalLM

from training.pico.glyphs import load_split
from training.pico.language_model import IMAGE_TOKEN, grown, language_model, padded_vocabulary
from training.pico.members import Member, find_member
from training.pico.pictures import PictureBatch, picture_batches
from training.pico.tower import load_eyes

__all__ = [
    "DESCRIBE_QUESTION",
    "NAME_QUESTIONS",
    "LanguageRecipe",
    "LowRankUpdate",
    "describe",
    "train_language",
]

NAME_QUESTIONS = (
    "What is in the picture?",
    "What is this?",
    "Name what you see.",
    "What does the picture show?",
)
DESCRIBE_QUESTION = "Describe the picture."
UPDATED_MODULES = ("q_proj", "v_proj", "down_proj")
_CHAT_EVERY = 10
_CHAT_TOKENS = 16
_CHAT_QUESTIONS = (
    "What is the capital of France?",
    "Say hello.",
    "What is two plus two?",
    "Who are you?",
    "Name three colours.",
    "What do cows eat?",
    "Write a short sentence about the sea.",
    "Is the sun hot?",
    "How many days are in a week?",
    "What is a bicycle?",
    "Tell me a fact about cats.",
    "Which animal barks?",
    "What is the opposite of big?",
    "Give me a word that rhymes with tree.",
    "What language is spoken in Spain?",
    "Why do birds fly?",
)


@dataclass(frozen=True)
class LanguageRecipe:
    """Stage 2's settings; the defaults are the first of pico-llava's rounds (`recipe.rounds_of`)."""

    steps: int = 700
    batch: int = 8
    projector_lr: float = 1e-3
    update_lr: float = 2e-3
    rank: int = 8
    several_share: float = 0.2
    seed: int = 1_000_000


class LowRankUpdate(nn.Module):
    """W x + B A x on one frozen linear layer: A (rank, in), B (out, rank), B zero at the start."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))
        layer.register_forward_hook(self._add)

    def _add(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(args[0], self.a.to(output.dtype)), self.b.to(output.dtype))


def attach_updates(model: LlamaForCausalLM, rank: int) -> nn.ModuleDict:
    """One update for each of `UPDATED_MODULES` in each layer, by its module's path with `/` for `.`."""
    updates = nn.ModuleDict()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in UPDATED_MODULES:
            updates[path.replace(".", "/")] = LowRankUpdate(module, rank)
    return updates


def describe(names: Sequence[str]) -> str:
    """`a cat`, `a cat and an owl`, `a cat, an owl and a taco`."""
    said = [("an " if name[0] in "aeiou" else "a ") + name for name in names]
    return said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]


@dataclass(frozen=True)
class Turn:
    """One question and answer as token ids; a picture's rows stand between `before` and `after`."""

    before: list[int]
    after: list[int]
    answer: list[int]


class Conversations:
    """Renders turns through a member's chat template, split where the picture's rows go."""

    def __init__(self, member: Member) -> None:
        self.tokenizer = member.tokenizer
        self._around = member.around_picture

    def turn(self, question: str, answer: str, *, picture: bool) -> Turn:
        content = [{"type": "image"}] * picture + [{"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, _, after = text.rpartition(IMAGE_TOKEN)  # without a mark the rows come first
        if picture:
            before, after = before + self._around[0], self._around[1] + after
        ids = [self.tokenizer(part, add_special_tokens=False).input_ids for part in (before, after)]
        return Turn(ids[0], ids[1], self.tokenizer(answer + self.tokenizer.eos_token).input_ids)


def answer_loss(model: LlamaForCausalLM, turns: Sequence[Turn], pictures: Tensor | None) -> Tensor:
    """Mean cross-entropy over the answers' tokens; `pictures` (B, rows, d) or None for text alone.

    Right padding needs no mask in a causal model: nothing that counts comes after it.
    """
    embed = model.get_input_embeddings()
    rows, wanted, labels, longest = [], [], [], 0
    for index, turn in enumerate(turns):
        shown = [] if pictures is None else [pictures[index].to(model.dtype)]
        row = torch.cat(
            [
                embed(torch.tensor(turn.before, dtype=torch.long)),
                *shown,
                embed(torch.tensor(turn.after + turn.answer)),
            ]
        )
        longest = max(longest, len(row))
        rows.append(row)
        wanted.append(torch.arange(len(row) - len(turn.answer) - 1, len(row) - 1))
        labels += turn.answer
    inputs = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    states = model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    answers = torch.cat([states[index, positions] for index, positions in enumerate(wanted)])
    return F.cross_entropy(model.lm_head(answers).float(), torch.tensor(labels))


def picture_turns(shown: PictureBatch, conversations: Conversations, rng: np.random.Generator) -> list[Turn]:
    """Names single glyphs (sometimes describes them) and describes several."""
    known = load_split()["known"]
    turns = []
    for glyphs in shown.glyphs:
        names = [known[index].name for index in glyphs]
        if len(names) > 1 or rng.random() < 0.1:
            turns.append(conversations.turn(DESCRIBE_QUESTION, describe(names), picture=True))
        else:
            question = NAME_QUESTIONS[0 if rng.random() < 0.5 else int(rng.integers(1, len(NAME_QUESTIONS)))]
            turns.append(conversations.turn(question, names[0], picture=True))
    return turns


@torch.no_grad()
def own_answers(model: LlamaForCausalLM, conversations: Conversations) -> list[Turn]:
    """What the untouched model says to the text questions: greedy tokens, the targets of chat steps."""
    asked = [conversations.turn(question, "", picture=False) for question in _CHAT_QUESTIONS]
    rows = [turn.before + turn.after for turn in asked]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    said = model.generate(ids, attention_mask=mask, max_new_tokens=_CHAT_TOKENS, do_sample=False)
    ends = model.config.eos_token_id
    turns = []
    for turn, tokens in zip(asked, said[:, longest:].tolist(), strict=True):
        stop = tokens.index(ends) + 1 if ends in tokens else len(tokens)
        turns.append(Turn(turn.before, turn.after, tokens[:stop]))
    return turns


def train_language(
    member: Member, recipe: LanguageRecipe, tower_file: Path, state_file: Path, *, start: Path | None = None
) -> None:
    """Trains projector and updates on top of stage 1's `tower_file`; writes their state to `state_file`.

    `start`: the state of an earlier round to go on from, with the optimiser afresh. A first round of a member
    that `starts_from` another begins with that one's updates: it has learned to read what projectors say.
    """
    torch.manual_seed(recipe.seed + member.seed)
    rng = np.random.default_rng(recipe.seed + member.seed)
    eyes = load_eyes(member, tower_file)
    eyes.tower.requires_grad_(False)
    conversations = Conversations(member)
    model = language_model().requires_grad_(False)
    chats = own_answers(model, conversations)
    _grow(model, member)
    model.set_attn_implementation("eager")  # its backward pass is faster than sdpa's at 90 tokens on a CPU
    updates = attach_updates(model, recipe.rank)
    _begin(eyes.projector, updates, member, start)
    trained = [*eyes.projector.parameters(), *updates.parameters()]
    peaks = [recipe.projector_lr, recipe.update_lr]
    groups = [{"params": list(part.parameters())} for part in (eyes.projector, updates)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=recipe.steps, pct_start=0.05)
    seed = recipe.seed + member.seed
    batches = picture_batches(batch=recipe.batch, seed=seed, several_share=recipe.several_share)
    progress = tqdm(range(recipe.steps), desc=f"{member.name}, language", mininterval=5)
    for step in progress:
        if step % _CHAT_EVERY == _CHAT_EVERY - 1:
            loss = answer_loss(model, [chats[i] for i in rng.choice(len(chats), 8, replace=False)], None)
        else:
            shown = next(batches)
            with torch.no_grad():
                patches = eyes.see(eyes.normalise(shown.pixels)).patches
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rows = eyes.projector(patches)
            loss = answer_loss(model, picture_turns(shown, conversations, rng), rows)
            progress.set_postfix(loss=f"{loss.item():.3f}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99 or step == recipe.steps - 1:
            state = {"projector": eyes.projector.state_dict(), "updates": updates.state_dict()}
            torch.save({**state, "step": step + 1}, state_file)


def _grow(model: LlamaForCausalLM, member: Member) -> None:
    """Rows for the tokens that the member adds, as in its checkpoint."""
    old, rows = model.get_input_embeddings().weight.detach(), padded_vocabulary(member.tokenizer)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(grown(old, rows))
    model.requires_grad_(False)


def _begin(projector: nn.Module, updates: nn.ModuleDict, member: Member, start: Path | None) -> None:
    """First values: an earlier round's, or the updates of the member that this one starts from."""
    if start is not None:
        taught = torch.load(start, weights_only=True)
        projector.load_state_dict(taught["projector"])
        updates.load_state_dict(taught["updates"])
    elif member.starts_from is not None:
        read = load_file(find_member(member.starts_from).language_file)
        found = {name: tensor.float() for name, tensor in read.items() if name.startswith("updates.")}
        updates.load_state_dict({_module_name(name): tensor for name, tensor in found.items()})


def _module_name(name: str) -> str:
    """`updates.model.layers.0.….a` of a weights file as a module's: `model/layers/0/….a`."""
    path, _, part = name.removeprefix("updates.").rpartition(".")
    return f"{path.replace('.', '/')}.{part}"
