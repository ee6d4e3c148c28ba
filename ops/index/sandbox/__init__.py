"""Child processes for strangers' content, with limits of processor time, memory and wall-clock time."""
