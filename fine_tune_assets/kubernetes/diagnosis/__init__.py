"""What becomes of a pod: what its status means, when that has gone on for too long, and asking for all of a run's."""
