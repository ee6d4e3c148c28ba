"""Work on strangers' content, in a child process with limits of processor time, memory and wall-clock time."""
