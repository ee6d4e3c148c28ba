"""Child processes for strangers' content, with limits on processor time, memory and wall-clock time."""
