"""The Kubernetes deployment: every asset runs in its own pod.

pods configures an asset's pod, executor starts it, diagnosis says what happened to it, multi_node runs one asset on
several nodes, and every request goes through api. Beside them, deployment checks which settings go together, preflight
finds what a cluster lacks, and janitor deletes what a run left behind.

The local deployment imports nothing of this package, and only a process that talks to a cluster imports the client.
"""
