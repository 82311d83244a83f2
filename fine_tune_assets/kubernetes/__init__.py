"""The Kubernetes deployment: each asset's pod, and an executor that sees what becomes of it.

Nothing here is imported by the local deployment, and the Kubernetes client only by a process that talks to a cluster.
"""
