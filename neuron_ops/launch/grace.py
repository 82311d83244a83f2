"""How long each layer of a step waits, after SIGTERM, for the layer that it started.

    Kubernetes ─60 s─▶ pod: the asset's process ─45 s─▶ the step, or its node groups ─40 s─▶ torchrun ─30 s─▶ ranks

Each layer outlasts the one it waits for. Otherwise it would be killed first, and what it started would be left behind
and hold the accelerator.
"""

RANKS_SECONDS = 30.0
"""torchrun gives its ranks this long by default; older releases cannot be told otherwise."""
NODE_GROUPS_SECONDS = 40.0
"""For torchrun to end, once the program that started the node groups was told to end."""
STEP_SECONDS = 45.0
"""For a step's program to end, once the process that launched it was interrupted."""
POD_SECONDS = 60
"""terminationGracePeriodSeconds of every pod that runs a step, or one node of it."""
