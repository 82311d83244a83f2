"""Every number of a plan that is not computed from the recipe, the model or the data, with its source.

This project has not run on Trainium yet, so times and prices are ranges from what others published. A finished training
in the store replaces the assumed rate by its own. Facts about an instance type belong to backends/instances.py, the
memory of a backend's runtime to the backend.
"""

from neuron_ops.planning.quantities import Range

UTILIZATION = Range(0.05, 0.20)
UTILIZATION_SOURCE = (
    "assumed, for a large model, 5 to 20 % of the cores' bfloat16 peak: AWS published 41.99 sequences/s of 8,192 "
    "tokens for pretraining Llama 3.1 8B on 32 trn1.32xlarge, which is 21 % of theirs; short sequences and eager "
    "attention reach less. Not run on Trainium"
)

COMPILATION = Range(30 * 60, 60 * 60)
COMPILATION_SOURCE = "30 to 60 min for a large model's first compilation, optimum-neuron's guide. Not run on Trainium"

CPU_FLOPS = Range(5e9, 80e9)
"""Operations per second of one thread in a large matrix product: bfloat16 without and with instructions for it.

79e9 was measured with AVX-512 on a shared core; without such instructions, torch converts on the fly.
"""

# Dolly's English with a vocabulary like Llama 3's of 128,256 tokens: 4.4, measured.
BYTES_PER_TOKEN = Range(3.5, 5.0)
TEMPLATE_TOKENS = Range(10, 40)
"""Tokens that a chat template adds to a question and its answer."""
