"""How long each layer of a step waits, after SIGTERM, for the layer that it started.

    Kubernetes ─60 s─▶ pod: the asset's process ─45 s─▶ the step, or its node groups ─40 s─▶ torchrun ─30 s─▶ ranks

Each layer waits longer than the layer below it. Otherwise it would be killed first, and the processes that it started
would stay behind and hold the accelerator.
"""

RANKS_SECONDS = 30.0
"""torchrun's default for its ranks; older releases have no setting for it."""
NODE_GROUPS_SECONDS = 40.0
"""Time for torchrun to end after the program that started the node groups is told to end."""
STEP_SECONDS = 45.0
"""Time for a step's program to end after the process that launched it is interrupted."""
POD_SECONDS = 60
"""terminationGracePeriodSeconds of every pod that runs a step, or one node of it."""
