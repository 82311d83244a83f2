"""`prepare` against the usual way, on 15,000 rows like dolly's: `python benchmarks/prepare.py`.

Ours is `prepare_dataset`; the usual way is `datasets.map` with transformers' `apply_chat_template` on one row after the
other (TRL's), which does not pack. Every run is a separate process, in turn, over the same rows and the same
32,000-token tokenizer, which are made first (half a minute). It prints CPU seconds of the whole process and without its
imports, peak memory, the ratios, and how full the sequences are compared with one row per sequence.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEQUENCE_LENGTH = 1024
VOCABULARY = 32_000
SPECIAL_TOKENS = {
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|eot_id|>",
    "pad_token": "<|finetune_right_pad_id|>",
}
HEADER_TOKENS = ["<|start_header_id|>", "<|end_header_id|>"]


def main() -> None:
    """Make the input, or run one of the two ways in this process (as the subprocesses do)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=15_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", choices=sorted(WAYS), help="run this way in this process")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.way:
        measured = WAYS[arguments.way](arguments.folder)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({**measured, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_input(Path(folder), arguments.rows)
        compare(Path(folder), arguments.runs)


def compare(folder: Path, runs: int) -> None:
    """Run all ways in turn and print medians."""
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for way, measured in results.items():
            command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured.append(json.loads(output.splitlines()[-1]))
    print(f"{runs} runs each, medians\n\nway                      CPU s  no imports   peak MB      tokens")
    median = {
        way: {key: statistics.median(run[key] for run in rows) for key in rows[0]} for way, rows in results.items()
    }
    for way, row in median.items():
        print(f"{way:<22} {row['cpu']:>7.2f} {row['work']:>11.2f} {row['rss']:>9.0f} {row['tokens']:>11,.0f}")
    ours, theirs = median["ours"], median["map, row by row"]
    ratios = {key: ours[key] / theirs[key] for key in ("cpu", "work", "rss")}
    print("\nours takes {cpu:.2f} of the CPU ({work:.2f} without imports) and {rss:.2f} of the memory".format(**ratios))
    print(f"density: packed {ours['density']:.4f}, one row per sequence {median['ours, not packed']['density']:.4f}")


def run_ours(folder: Path, packing: bool = True) -> dict[str, float]:
    """The core of `prepare`."""
    from neuron_ops.recipe.schema import DatasetSection
    from neuron_ops.rows.preparation import prepare_dataset

    section = DatasetSection(overlong="drop", max_rejected_fraction=0.2, packing=packing)
    started = time.process_time()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        report = prepare_dataset(folder / "raw", folder / "model", section, SEQUENCE_LENGTH, Path(out))
    work = time.process_time() - started
    return {"work": work, "tokens": report.train.tokens + report.holdout.tokens, "density": report.density}


def run_map(folder: Path) -> dict[str, float]:
    """The usual way, up to token ids and mask; it does not pack."""
    import datasets
    from transformers import AutoTokenizer

    started = time.process_time()
    datasets.disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")

    def tokenize(row: dict[str, str]) -> dict[str, list[int]]:
        question = row["instruction"] + ("\n\n" + row["context"] if row["context"] else "")
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": row["response"]}]
        encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        return {"input_ids": encoded["input_ids"], "assistant_masks": encoded["assistant_masks"]}

    rows = datasets.load_dataset(
        "json", data_files=str(folder / "raw" / "rows.jsonl"), split="train", cache_dir=str(folder / "cache")
    )
    mapped = rows.map(tokenize, remove_columns=rows.column_names, keep_in_memory=False)
    kept = mapped.filter(lambda row: len(row["input_ids"]) <= SEQUENCE_LENGTH)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        kept.save_to_disk(out)
    work = time.process_time() - started
    return {"work": work, "tokens": sum(len(ids) for ids in kept["input_ids"])}


WAYS = {
    "ours": run_ours,
    "ours, not packed": lambda folder: run_ours(folder, packing=False),
    "map, row by row": run_map,
}


def make_input(folder: Path, rows: int) -> None:
    """Rows with dolly's proportions (about 70 % without context, lengths log-normal), and their tokenizer."""
    chance = random.Random(0)
    words = make_words(chance, 60_000)
    (folder / "raw").mkdir()
    with (folder / "raw" / "rows.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(rows):
            row = {
                "instruction": make_text(chance, words, median=10, spread=0.6),
                "context": make_text(chance, words, median=130, spread=0.9) if chance.random() < 0.3 else "",
                "response": make_text(chance, words, median=40, spread=1.0),
                "category": "open_qa",
            }
            file.write(json.dumps(row) + "\n")
    make_tokenizer(folder)


def make_words(chance: random.Random, number: int) -> list[str]:
    """Words of two to four syllables."""
    syllables = [
        first + vowel + last for first in "bcdfghklmnprstvw" for vowel in "aeiou" for last in ("", "n", "r", "s")
    ]
    return ["".join(chance.choices(syllables, k=chance.choice((1, 2, 2, 3, 3, 4)))) for _ in range(number)]


def make_text(chance: random.Random, words: list[str], median: float, spread: float) -> str:
    """Words by a long-tailed distribution, in sentences."""
    length = max(2, min(1200, round(median * chance.lognormvariate(0, spread))))
    picked = [words[int(len(words) * chance.random() ** 4)] for _ in range(length)]
    ends = [word + ("." if index % 12 == 11 else "") for index, word in enumerate(picked)]
    return " ".join(ends).capitalize() + "."


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE in Llama 3's layout."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL_TOKENS.values(), *HEADER_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(folder / "raw" / "rows.jsonl")], trainer)
    (folder / "model").mkdir()
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL_TOKENS}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    template = Path(__file__).parents[1] / "neuron_ops" / "rows" / "formats" / "llama3.jinja"
    (folder / "model" / "chat_template.jinja").write_text(template.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    main()
