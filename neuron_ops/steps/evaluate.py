"""`evaluate` makes `evaluation`: the merged model against its base, on rows that training never saw.

It writes losses, answers side by side, and the proof that the merged weights compute what base and adapter compute. The
check `better_than_base` decides whether the model may be used.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from neuron_ops.backends import find_backend
from neuron_ops.models.config import read_config
from neuron_ops.recipe.schema import EvaluationSection, Recipe
from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.checks import Verdict
from neuron_ops.store.manifest import Scalar
from neuron_ops.training.batches import Batch, Rows, Schedule
from neuron_ops.weights.safetensors_io import read_model_folder

log = logging.getLogger(__name__)

PROBE_ROWS = 2
"""Held-out sequences whose logits are compared between merged and base + adapter."""

# The root mean square, not the largest difference: on the demo model, a correct merge moves the logits by 0.1 %
# (computed in float32) to 0.5 % (in bfloat16) of their size, a scale of 2 by 40 %, a missing projection by 14 %. The
# largest difference would be 0.3 to 2 % for a correct merge, but only 5 % for a weak adapter merged at twice its scale.
LOGIT_TOLERANCE_ULPS = 4
FLOAT32_NOISE = 1e-4
"""Relative difference that the order of float32 sums alone may make."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A held-out conversation up to the assistant's answer."""

    text: str
    """What a person asked."""
    rendered: str
    """The whole prompt as the model reads it, with its special tokens."""
    reference: str
    """The answer in the dataset."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer, and whether the model ended it on its own."""

    text: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """One model on the held-out rows."""

    losses: torch.Tensor
    """Summed loss of each sequence in nats, float64, shape (sequences,)."""
    answers: tuple[Answer, ...]


def build(lineage: Lineage, out: Path) -> program.StepResult:
    """Evaluate base and merged model and write report.json and report.md."""
    recipe = lineage.recipe
    with (
        lineage.require("tokenized_dataset").local() as data,
        lineage.require("base_model").local() as base,
        lineage.require("consolidated_weights").local() as adapter,
        lineage.require("merged_model").local() as merged,
    ):
        rows, prompts = Rows(data / "holdout"), _read_prompts(data, recipe.evaluation)
        evaluator = Evaluator(recipe, rows, prompts)
        base_model = evaluator.load(base)
        tokenizer = AutoTokenizer.from_pretrained(merged)
        before = evaluator.evaluate(base_model, tokenizer)
        expected = evaluator.logits(PeftModel.from_pretrained(base_model, str(adapter)))
        del base_model
        merged_model = evaluator.load(merged)
        after = evaluator.evaluate(merged_model, tokenizer)
        proof = _compare_logits(expected, evaluator.logits(merged_model), _epsilon(merged, recipe.graph.dtype))
    comparison = _compare_models(before, after, rows, recipe.evaluation)
    _write_report(out, comparison, prompts, before, after)
    log.info("held-out loss: base %.4f, tuned %.4f", comparison["base_loss"], comparison["tuned_loss"])
    metrics: dict[str, Scalar] = {**comparison, "min_improvement": recipe.evaluation.min_improvement}
    return program.StepResult(metrics=metrics, verdicts={"merged_equals_base_plus_adapter": proof})


class Evaluator:
    """The same rows and prompts for every model."""

    def __init__(self, recipe: Recipe, rows: Rows, prompts: Sequence[Prompt]) -> None:
        self._recipe, self._rows, self._prompts = recipe, rows, prompts
        torch.set_num_threads(recipe.evaluation.threads)
        self._device = torch.device(find_backend(recipe.hardware).inference_device())

    def load(self, folder: Path) -> PreTrainedModel:
        """A model in the recipe's number format, on the device, for inference.

        Raises:
            InvalidInput: the model's architecture is not supported.
            CorruptArtifact: its config.json cannot be read.
        """
        read_config(folder)  # transformers would fail with a traceback, or load an unsupported model
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, self._recipe.graph.dtype), local_files_only=True
        )
        return model.to(self._device).eval()

    @torch.no_grad()
    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> ModelEvaluation:
        """Loss of every held-out sequence, and an answer to every prompt."""
        schedule = Schedule(seed=0, micro_batch=1, accumulation=1, ranks=1, rank=0)
        losses = [self._summed_loss(model, batch) for batch in schedule.evaluation(self._rows)]
        answers = tuple(self._answer(model, tokenizer, prompt) for prompt in self._prompts)
        return ModelEvaluation(torch.tensor(losses, dtype=torch.float64), answers)

    def _summed_loss(self, model: PreTrainedModel, batch: Batch) -> float:
        placed = {name: value.to(self._device) for name, value in batch.items()}
        # With a cache, even an empty one, transformers drops the mask between the rows of a packed sequence.
        return float(model(**placed, num_items_in_batch=1, use_cache=False).loss)

    @torch.no_grad()
    def logits(self, model: torch.nn.Module) -> torch.Tensor:
        """Float32 logits of the first held-out sequences, shape (rows, sequence length, vocabulary)."""
        probe = self._rows.first(PROBE_ROWS)
        placed = {name: probe[name].to(self._device) for name in ("input_ids", "position_ids")}
        logits: torch.Tensor = model(**placed, use_cache=False).logits.float().cpu()
        return logits

    def _answer(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> Answer:
        ids = tokenizer(prompt.rendered, add_special_tokens=False, return_tensors="pt")["input_ids"].to(self._device)
        ends = _end_tokens(model, tokenizer)
        # Greedy, so that two reports of one model are the same.
        generated = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self._recipe.evaluation.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
        )[0, ids.shape[1] :]
        text = tokenizer.decode(generated, skip_special_tokens=True)
        return Answer(text=text.strip(), stopped=bool(len(generated)) and int(generated[-1]) in ends)


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({int(token) for token in [*ends, tokenizer.eos_token_id] if token is not None})


def _read_prompts(data: Path, section: EvaluationSection) -> list[Prompt]:
    lines = (data / "holdout_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    # Spread evenly over the split, so that one kind of row does not fill the report.
    chosen = lines[:: max(1, len(lines) // section.prompts)][: section.prompts]
    rows = [json.loads(line) for line in chosen]
    return [Prompt(text=_question(row), rendered=row["prompt"], reference=row["reference"]) for row in rows]


def _question(row: dict[str, list[dict[str, str]]]) -> str:
    return next(message["content"] for message in reversed(row["messages"]) if message["role"] == "user")


def _compare_models(
    before: ModelEvaluation, after: ModelEvaluation, rows: Rows, section: EvaluationSection
) -> dict[str, float]:
    """Losses in nats per token; the error is the standard error of their paired difference over sequences."""
    tokens = torch.from_numpy(rows.supervised).double()
    total = float(tokens.sum())
    difference = before.losses - after.losses
    improvement = float(difference.sum()) / total
    residuals = difference - improvement * tokens
    return {
        "base_loss": float(before.losses.sum()) / total,
        "tuned_loss": float(after.losses.sum()) / total,
        "improvement": improvement,
        "improvement_standard_error": float(residuals.square().sum().sqrt()) / total,
        "tuned_perplexity": math.exp(min(float(after.losses.sum()) / total, 700.0)),
        "base_answers_stopped": sum(answer.stopped for answer in before.answers),
        "tuned_answers_stopped": sum(answer.stopped for answer in after.answers),
        "answers": len(after.answers),
        "held_out_tokens": int(total),
    }


def _compare_logits(expected: torch.Tensor, actual: torch.Tensor, epsilon: float) -> Verdict:
    scale, difference = float(expected.square().mean().sqrt()), float((expected - actual).square().mean().sqrt())
    rounding = max(LOGIT_TOLERANCE_ULPS * epsilon, FLOAT32_NOISE) * scale
    return Verdict(
        passed=difference <= rounding,
        description=(
            f"logits of the merged model differ by {difference:.3g} (root mean square) from base + adapter through "
            f"PEFT; rounding explains up to {rounding:.3g}"
        ),
        values={"difference": difference, "bound": rounding, "logits": scale},
    )


def _epsilon(folder: Path, computed: str) -> float:
    """Relative spacing of the coarsest number format that weights are stored or computed in."""
    formats = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    stored = {entry.dtype for _, entry in read_model_folder(folder).places.values()}
    dtypes = [getattr(torch, computed), *(formats[name] for name in stored if name in formats)]
    return max(torch.finfo(dtype).eps for dtype in dtypes)


def _write_report(
    out: Path, comparison: dict[str, float], prompts: Sequence[Prompt], before: ModelEvaluation, after: ModelEvaluation
) -> None:
    answers = [
        {"question": prompt.text, "reference": prompt.reference, "base": old.text, "tuned": new.text}
        for prompt, old, new in zip(prompts, before.answers, after.answers, strict=True)
    ]
    report = {"losses": comparison, "answers": answers}
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["| | base | tuned |", "|---|---|---|"]
    lines += [f"| held-out loss (nats per token) | {comparison['base_loss']:.4f} | {comparison['tuned_loss']:.4f} |"]
    for index, answer in enumerate(answers, 1):
        lines += ["", f"**Prompt {index}**", "", _quote(answer["question"])]
        lines += ["", f"*base:* {_inline(answer['base'])}", "", f"*tuned:* {_inline(answer['tuned'])}"]
        lines += ["", f"*dataset:* {_inline(answer['reference'])}"]
    (out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _quote(text: str) -> str:
    return "\n>\n".join(f"> {_inline(line)}" for line in text.splitlines() if line.strip())


def _inline(text: str) -> str:
    """The text of a model or a row, as one line of Markdown that cannot break the page."""
    return "`" + " ".join(text.split()).replace("`", "'") + "`" if text.strip() else "(nothing)"


if __name__ == "__main__":
    program.main("evaluate", build)
