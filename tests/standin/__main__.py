"""``python -m tests.standin``: a fake control plane to try a deployment on, for at most an hour."""

from tests.standin.control_plane import main

main()
