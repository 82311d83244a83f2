"""The Kubernetes deployment: each asset's pod (pods), and an executor that sees what becomes of it (diagnosis).

Which settings go together, what a cluster lacks, and what a run left behind lie flat; one asset's pods on several nodes
are multi_node's, and every request goes through api.

Nothing here is imported by the local deployment, and the Kubernetes client only by a process that talks to a cluster.
"""
