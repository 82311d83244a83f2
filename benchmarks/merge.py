"""What merging costs: ours against `cp -r`, PEFT, axolotl and mergekit, in one run, on models of Llama's shapes.

python benchmarks/merge.py [--shapes 1b|3b|8b] [--runs 5] [--folder /dev/shm] [--peft] [--peers PYTHON]

PYTHON is an interpreter that has axolotl and mergekit, whose pinned versions conflict with ours.
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path

from model_shapes import LINEARS, OURS, SHAPES, Programs, compare, generate, python

MERGE = """
import sys
from pathlib import Path
from neuron_ops.weights.merging import WeightedAdapter, merge_adapters
base, adapter, out = map(Path, sys.argv[1:4])
report = merge_adapters(base, [WeightedAdapter(adapter)], out)
if len(sys.argv) > 4:
    from neuron_ops.weights.merge_proof import verify_merge
    verify_merge(base, out, report)
"""

PEFT = """
import sys, warnings
warnings.filterwarnings("ignore")
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:4]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""

# The merge behind `axolotl merge-lora` with lora_merge_method memory_efficient (the default), without its start.
AXOLOTL = """
import sys
from axolotl.cli.utils.lora_merge import merge_lora_sharded_efficient
merge_lora_sharded_efficient(*sys.argv[1:4])
"""

MERGEKIT = "models: [{{model: {base}+{adapter}}}]\nmerge_method: passthrough\ndtype: bfloat16\n"


def peers(interpreter: Path, base: Path, adapter: Path, out: Path) -> Programs:
    """The programs of axolotl and mergekit, on the CPU."""
    recipe = adapter.with_suffix(".yaml")
    recipe.write_text(MERGEKIT.format(base=base, adapter=adapter))
    # Within `out`, so that the files that mergekit keeps of its merge through PEFT are removed with it.
    options = ["--lora-merge-cache", str(out / "cache"), "--no-copy-tokenizer", "--lazy-unpickle"]
    return {
        "axolotl, memory-efficient merge": ([str(interpreter), *python(AXOLOTL, base, adapter, out)[1:]], None),
        "mergekit-yaml": ([str(interpreter.parent / "mergekit-yaml"), str(recipe), str(out), *options], None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="1b")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to put some gigabytes; a tmpfs gives the steadiest numbers")
    parser.add_argument("--peft", action="store_true", help="measure PEFT too (slow, needs the whole model in memory)")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="measure axolotl and mergekit too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        base, out = folder / "base", folder / "out"
        generate("model_shapes.write_base(m.Path(sys.argv[1]), m.SHAPES[sys.argv[2]])", base, arguments.shapes)
        for targets in (("q_proj", "v_proj"), LINEARS):
            adapter = folder / "-".join(targets)
            call = "model_shapes.write_adapter(m.Path(sys.argv[1]), m.SHAPES[sys.argv[2]], sys.argv[3:])"
            generate(call, adapter, arguments.shapes, *targets)
            print(f"\n{arguments.shapes}, bf16, rank 16 on {', '.join(targets)}")
            programs: Programs = {
                "cp -r": (["cp", "-r", str(base), str(out)], None),
                "merge": (python(MERGE, base, adapter, out), OURS),
                "merge and verify": (python(MERGE, base, adapter, out, "verify"), OURS),
            }
            if arguments.peft and importlib.util.find_spec("peft"):
                programs["PEFT merge_and_unload, save"] = (python(PEFT, base, adapter, out), None)
            if arguments.peers:
                programs |= peers(arguments.peers, base, adapter, out)
            compare(programs, out, arguments.runs)


if __name__ == "__main__":
    main()
