"""What happened to a pod: what its status means, when it has waited too long, and watching all pods of a run."""
