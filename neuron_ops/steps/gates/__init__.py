"""The gates of `evaluation`: checks that a merged model must pass before anyone uses it.

A gate is a file here and a line in GATES. Its verdict is a function of the metrics that `evaluate` publishes, so it
also judges models that were evaluated before the gate existed.
"""

from neuron_ops.steps.checks import Check
from neuron_ops.steps.gates import better_than_base

GATES: tuple[Check, ...] = (better_than_base.GATE,)
