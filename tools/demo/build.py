"""Make everything that the demo ships, from this package alone: `python -m tools.demo.build`.

It makes a tokenizer, a small Llama pretrained on the world's prose, and the raw datasets. Only this module of the demo
computes with a model; fine-tuning belongs to the platform's steps.
"""

import argparse
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.demo import instructions
from tools.demo.tokenizer import END_OF_TEXT, END_OF_TURN, VOCABULARY_SIZE, train_tokenizer
from tools.demo.world import documents

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[2] / "neuron_ops" / "demo"
SEED = 0
TOKENIZER_DOCUMENTS = 20_000
TOKENS_PER_STEP = 1024
PEAK_LEARNING_RATE = 1.5e-3
WARMUP = 0.02
"""Share of the time in which the learning rate rises to its peak."""


@dataclass(frozen=True, slots=True)
class Pretraining:
    """The facts about the run in the model card."""

    num_steps: int
    minutes: float
    final_loss: float
    """Mean over the last hundred steps; every step reads new text, so this is a loss on unseen text."""


def build(out: Path, minutes: float) -> Pretraining:
    """Write raw/ and model/ under `out`, each file in one move."""
    write_raw(out / "raw")
    tokenizer = train_tokenizer(_tokenizer_texts())
    log.info("tokenizer has %d tokens", len(tokenizer))
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(model_config(tokenizer))
    pretraining = pretrain(model, tokenizer, minutes)
    with tempfile.TemporaryDirectory(dir=out) as staging:
        write_model(Path(staging), model, tokenizer, pretraining)
        _move(Path(staging), out / "model")
    return pretraining


def _tokenizer_texts() -> Iterator[str]:
    """Prose, and the instructions too, because the model will be asked them and needs their words as tokens."""
    yield from islice(documents(SEED), TOKENIZER_DOCUMENTS)
    for row in instructions.rows(instructions.VERSIONS[0]):
        yield row.instruction


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=_end_tokens(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )


def _end_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The end of a text and the end of a turn: generation stops at either."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[END_OF_TEXT], vocabulary[END_OF_TURN]]


def batches(tokenizer: PreTrainedTokenizerFast, length: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches of packed documents, TOKENS_PER_STEP tokens each, in rows of `length`."""
    end = _end_tokens(tokenizer)[0]
    waiting: list[int] = []
    for document in documents(seed):
        waiting += [*tokenizer.encode(document), end]
        if len(waiting) >= TOKENS_PER_STEP:
            yield torch.tensor(waiting[:TOKENS_PER_STEP]).view(-1, length)
            waiting = waiting[TOKENS_PER_STEP:]


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, minutes: float) -> Pretraining:
    """Next-token prediction for `minutes`; the learning rate follows the clock, so it always completes its cosine."""
    optimizer = _optimizer(model)
    # Short rows first, because attention costs less; the last fifth teaches the positions up to the model's end.
    short, long = batches(tokenizer, 256, SEED + 1), batches(tokenizer, 512, SEED + 2)
    start, losses = time.monotonic(), list[float]()
    while (passed := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(passed)
        losses.append(_step(model, optimizer, next(short if passed < 0.8 else long)))
        if len(losses) % 100 == 0:
            log.info("step %d loss %.4f time %.0f %%", len(losses), sum(losses[-100:]) / 100, 100 * passed)
    last = losses[-100:]
    return Pretraining(len(losses), minutes, sum(last) / len(last))


def learning_rate(passed: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak; `passed` goes from 0 to 1."""
    if passed < WARMUP:
        return PEAK_LEARNING_RATE * (0.02 + passed / WARMUP)
    return PEAK_LEARNING_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (passed - WARMUP) / (1 - WARMUP))))


def _optimizer(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95))


def _step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=batch, labels=batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def write_model(
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pretraining: Pretraining
) -> None:
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=_end_tokens(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = (Path(__file__).parent / "model_card.md").read_text()
    facts = {
        "steps": f"{pretraining.num_steps:,}",
        "batch": f"{TOKENS_PER_STEP:,}",
        "tokens": f"{pretraining.num_steps * TOKENS_PER_STEP / 1e6:.1f} million",
        "minutes": f"{pretraining.minutes:g}",
        "seed": str(SEED),
        "loss": f"{pretraining.final_loss:.3f}",
    }
    for name, value in facts.items():
        card = card.replace(f"[[{name}]]", value)
    (folder / "README.md").write_text(card)


def write_raw(folder: Path) -> None:
    """Write each dataset version's rows, and then the empty file that marks them as complete."""
    for version in instructions.VERSIONS:
        target = folder / version.name
        target.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row.as_dict()) for row in instructions.rows(version)]
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            (Path(staging) / "rows.jsonl").write_text("\n".join(lines) + "\n")
            _move(Path(staging), target)
        (target / "_SUCCESS").touch()


def _move(staging: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for file in staging.iterdir():
        file.chmod(0o644)
        os.replace(file, target / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.demo.build", description="Make the demo's material.")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where model/ and raw/ go (default: neuron_ops/demo)")
    parser.add_argument("--minutes", type=float, default=25.0, help="how long to pretrain (default: 25)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    pretraining = build(arguments.out, arguments.minutes)
    sys.stdout.write(f"{arguments.out / 'model'}: {pretraining.num_steps} steps, loss {pretraining.final_loss:.3f}\n")


if __name__ == "__main__":
    main()
