# SPDX-License-Identifier: Apache-2.0
"""The second training: the text encoder, alone, on questions about what captions say.

Linear heads read the answers to FACTS (which shape, whose colour, which motion ...) from every row
that the encoder makes of a caption. So each row says what the whole caption says, and the DiT,
which trains on this encoder as it is, finds it wherever it looks. Taught by the DiT's loss alone,
the encoder takes far longer to tell the object's colour from the background's. The heads go after.
"""
from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from loop import (Average, Optimizer, Plan, Rates, Training, as_bf16, compile_parts, load_file,
                  lots, number, result_of, say)
from nets import TextEncoder
from pool import Texts, draw_captions, drop, open_tokenizer, pad
from text import Block
from world import FACTS, caption, facts, sample_scenes

RATES = Rates(adam=2e-3, muon=4e-3)
DROPPED = 0.03  # captions replaced by the empty prompt, which then says nothing
SIZES = [len(answers) for answers in FACTS.values()]


class Reader(nn.Module):
    """The encoder and its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder()
        self.heads = nn.Linear(self.text.config.dim, sum(SIZES))

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Of each question the scores of its answers, [N, L, answers]."""
        return self.heads(self.text(ids, lengths)).split(SIZES, -1)


def read(reader: Reader, ids: Tensor, lengths: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy in nats, a mean over rows and captions, summed over the questions; and which
    of a caption's answers [N, questions] its rows give right on average."""
    at = torch.arange(ids.shape[1], device=ids.device)
    weight = (at[None] < lengths[:, None]) / lengths[:, None]
    loss, right = torch.zeros((), device=ids.device), []
    for scores, answer in zip(reader(ids, lengths), answers.long().unbind(1)):
        surprise = -scores.log_softmax(-1)
        wanted = answer[:, None, None].expand(-1, ids.shape[1], 1)
        loss = loss + (surprise.gather(2, wanted).squeeze(2) * weight).sum(1).mean()
        mean = (surprise.detach() * weight[..., None]).sum(1)
        right.append(mean.argmin(-1) == answer)
    return loss, torch.stack(right, 1)


def reading_loss(reader: Reader, texts: Texts, n: int,
                 generator: torch.Generator) -> dict[str, Tensor]:
    """The loss, and the share of captions of which all answers are right."""
    clip, ids, lengths = draw_captions(texts, n, generator)
    ids, lengths = drop(ids, lengths, texts.empty, DROPPED, generator)
    loss, right = read(reader, ids, lengths, texts.facts[clip])
    return {"loss": loss, "right": right.all(1).float().mean()}


@torch.no_grad()
def examine(plan: Plan, reader: Reader, n: int = 1000) -> None:
    """Held-out captions: what is misread here will be drawn wrongly."""
    words, rng = open_tokenizer(plan.out), random.Random(1)
    scenes = sample_scenes(n, number(plan.seed, "examine"), "held_out")
    ids, lengths = pad([words.encode_for_training(caption(s, rng, "held_out")) for s in scenes])
    answers = torch.tensor([facts(scene) for scene in scenes])
    _, right = read(reader, *(t.to(plan.device) for t in (ids, lengths, answers)))
    shares = [f"{name} {share:.3f}" for name, share in zip(FACTS, right.float().mean(0).tolist())]
    say(f"text: held-out captions all right {right.all(1).float().mean():.3f}, "
        + ", ".join(shares))


def new_optimizer(reader: Reader) -> Optimizer:
    """Muon's are the encoder's linears."""
    matrices = [module.weight for module in reader.text.modules() if isinstance(module, nn.Linear)]
    return Optimizer([reader], RATES, (0.9, 0.98), 0.01, matrices)


def run(plan: Plan, texts: Texts) -> None:
    if result_of(plan, "text").exists():
        return
    torch.manual_seed(number(plan.seed, "text"))
    reader = Reader().to(plan.device)
    optimizer = new_optimizer(reader)
    average = Average(reader)
    training = Training("text", plan, {"reader": reader, "optimizer": optimizer, "mean": average})

    compile_parts(reader, (Block,), plan.compile)

    def losses_of(number_: int) -> dict[str, Tensor]:
        generator = lots(plan.device, plan.seed, "text", number_)
        return reading_loss(reader, texts, plan.sizes.text_batch, generator)

    def step(number_: int, p: float) -> dict[str, Tensor]:
        losses = losses_of(number_)
        optimizer.step(losses["loss"], p)
        average.update(reader, number_)
        return losses

    training.warm_up(lambda: losses_of(0)["loss"].backward())
    training.run(step)
    examine(plan, average.module)
    training.finish({"text": as_bf16(average.module.text)})


def load_text(plan: Plan) -> dict[str, Tensor]:
    return load_file(result_of(plan, "text"))["text"]
