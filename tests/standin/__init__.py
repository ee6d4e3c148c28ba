"""A fake of Modal's control plane for the unmodified ``modal`` client and container runtime.

Start one with :class:`tests.standin.control_plane.ControlPlane`, or by hand with ``python -m tests.standin``.

What it does not model: builds of images (a container runs the interpreter of the tests, or a requested one),
CPU, memory and disk limits, regions and clouds, schedules, sandboxes, GPUs, queues, memory snapshots, websockets,
TLS, ``@app.server`` and ``@modal.web_server``, Volumes v2, the 7-day life of Dict entries, permissions of workspace
members, and what Modal does with a request whose container dies (here: 500). Custom domains, and
scaling set since a deployment, are reported as requested but have no effect. Times are this machine's.

Where Modal's documentation is ambiguous, the fake is strict: a Volume looks empty during an explicit commit as well as
during a reload, a reload first commits written files, and a background commit may include half-written files.
"""
