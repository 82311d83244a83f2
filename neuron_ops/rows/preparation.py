"""Raw rows -> token sequences of one length, ready for training: the core of the `prepare` step.

The order of the work and the decision to stop belong here: read, format, reject, split, tokenize, place, write. Each of
these has its own module. Finding the inputs and publishing the folder belong to the step that calls this.
"""

import json
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path

from neuron_ops.recipe.schema import DatasetSection
from neuron_ops.rows.chat import Chat, open_chat
from neuron_ops.rows.conversation import Conversation
from neuron_ops.rows.datasets_folder import DatasetWriter
from neuron_ops.rows.holdout import is_held_out
from neuron_ops.rows.packing import build_sequences, plan_packed, plan_unpacked
from neuron_ops.rows.reading import read_rows
from neuron_ops.rows.report import PrepareReport, SplitReport, length_histogram
from neuron_ops.rows.screening import (
    NUM_OVERLONG_SHOWN,
    OVERLONG,
    Screening,
    check_overlong,
    check_rejected,
    check_splits,
)
from neuron_ops.rows.token_rows import IGNORED, TokenRow, TokenRows

log = logging.getLogger(__name__)

# Rows tokenized at once, and sequences written at once: a few megabytes of memory each.
BATCH_ROWS = 512
BATCH_SEQUENCES = 256
# About 5,000 rows, a few seconds.
PROGRESS_BATCHES = 10
NUM_SAMPLES = 3
MAX_SAMPLE_CHARACTERS = 800


def prepare_dataset(
    raw: Path,
    tokenizer_folder: Path,
    section: DatasetSection,
    sequence_length: int,
    out: Path,
    progress: Callable[[str], None] = log.info,
) -> PrepareReport:
    """Fill the folder `out`; the same input gives the same bytes.

    The files are train/ and holdout/ (open them with `datasets.load_from_disk`), holdout_prompts.jsonl,
    chat_template.jinja, special_tokens.json, report.json and report.md. After an error, the files in `out` are useless.

    Raises:
        InvalidInput: a person has to change rows, tokenizer, template or limits.
    """
    chat = open_chat(tokenizer_folder, section)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        intake = _Intake(chat, section, sequence_length, out, stack)
        for number, batch in enumerate(_batches(intake.screening.conversations(read_rows(raw))), start=1):
            intake.tokenize(batch)
            if number % PROGRESS_BATCHES == 0:
                progress(f"read {intake.screening.rows_read:,} rows, tokenized {len(intake.lengths):,}")
        intake.check()
        report = intake.write(out)
        samples = [_marked(chat, intake.train[index]) for index in range(min(NUM_SAMPLES, len(intake.train)))]
    _write_text(out / "chat_template.jinja", chat.template.source)
    _write_text(out / "special_tokens.json", json.dumps(asdict(chat.special), indent=2, ensure_ascii=False) + "\n")
    _write_text(out / "report.md", report.to_markdown(samples))
    _write_text(out / "report.json", report.to_json())
    progress(
        f"kept {report.rows_kept:,} of {report.rows_read:,} rows in {report.train.sequences:,} training and "
        f"{report.holdout.sequences:,} held-out sequences, density {report.density:.1%}"
    )
    return report


class _Intake:
    """Sorts rows from the raw files into the two splits, and keeps all counts."""

    def __init__(self, chat: Chat, section: DatasetSection, sequence_length: int, out: Path, stack: ExitStack) -> None:
        self.chat = chat
        self.section = section
        self.sequence_length = sequence_length
        self.screening = Screening(section, chat)
        self.lengths = array("i")
        self.first_overlong: list[str] = []
        self.train = stack.enter_context(TokenRows(out))
        self.holdout = stack.enter_context(TokenRows(out))
        self._prompts = stack.enter_context((out / "holdout_prompts.jsonl").open("w", encoding="utf-8"))

    def tokenize(self, conversations: Sequence[Conversation]) -> None:
        """Give each conversation to its split, unless it is too long for a sequence."""
        for conversation, row in zip(conversations, self.chat.encode(conversations), strict=True):
            self.lengths.append(len(row.ids))
            if len(row.ids) > self.sequence_length:
                self.screening.rejected[OVERLONG] += 1
                if len(self.first_overlong) < NUM_OVERLONG_SHOWN:
                    self.first_overlong.append(f"{conversation.where} ({len(row.ids):,} tokens)")
            elif is_held_out(conversation, self.section.holdout_fraction):
                self.holdout.append(row)
                self._prompts.write(self._prompt_line(conversation))
            else:
                self.train.append(row)

    def _prompt_line(self, conversation: Conversation) -> str:
        """The data to generate and compare an answer: the turns, the same turns as the model's prompt, the answer."""
        line = {
            "messages": [asdict(message) for message in (*self.chat.system, *conversation.prompt)],
            "prompt": self.chat.prompt(conversation),
            "reference": conversation.answer,
        }
        # In ASCII: a U+2028 inside a text must not look like the end of the line to a reader.
        return json.dumps(line) + "\n"

    def check(self) -> None:
        """Refuse data that cannot be trained on.

        Raises:
            InvalidInput: overlong rows, too many rejected ones, or a split without rows.
        """
        rows_read, rejected = self.screening.rows_read, self.screening.rejected
        longest = max(self.lengths, default=0)
        check_overlong(self.section, self.sequence_length, rows_read, rejected[OVERLONG], self.first_overlong, longest)
        check_rejected(self.section, rows_read, rejected)
        check_splits(self.section, len(self.train), len(self.holdout))

    def write(self, out: Path) -> PrepareReport:
        """Place the rows of both splits and write them."""
        return PrepareReport(
            rows_read=self.screening.rows_read,
            rejected=dict(sorted(self.screening.rejected.items())),
            train=self._write_split(self.train, out / "train"),
            holdout=self._write_split(self.holdout, out / "holdout"),
            sequence_length=self.sequence_length,
            packed=self.section.packing,
            longest_row=max(self.lengths),
            histogram=length_histogram(self.lengths),
        )

    def _write_split(self, rows: TokenRows, folder: Path) -> SplitReport:
        packing = self.section.packing
        plan = plan_packed(rows.lengths, self.sequence_length) if packing else plan_unpacked(rows.lengths)
        with DatasetWriter(folder, self.sequence_length) as writer:
            for start in range(0, len(plan), BATCH_SEQUENCES):
                sequences = [[rows[index] for index in indices] for indices in plan[start : start + BATCH_SEQUENCES]]
                writer.write(build_sequences(sequences, self.sequence_length, self.chat.special.pad.id))
        return SplitReport(len(rows), len(plan), rows.num_tokens, rows.num_supervised)


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    iterator = iter(conversations)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch


def _marked(chat: Chat, row: TokenRow) -> str:
    """The row as the model sees it, decoded from its tokens, with the learned part between ⟦ and ⟧."""
    parts = []
    for learned, group in groupby(range(len(row.ids)), key=lambda index: row.labels[index] != IGNORED):
        text = chat.tokenizer.decode(row.ids[list(group)].tolist(), skip_special_tokens=False)
        if len(text) > MAX_SAMPLE_CHARACTERS:
            half = MAX_SAMPLE_CHARACTERS // 2
            text = f"{text[:half]} […] {text[-half:]}"
        parts.append(f"⟦{text}⟧" if learned else text)
    return "".join(parts)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")
