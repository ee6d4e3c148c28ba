"""A fake of Modal's control plane, to which the unmodified ``modal`` client and container runtime speak.

Start one with :class:`tests.standin.control_plane.ControlPlane`, or by hand with ``python -m tests.standin``.

What it does not model: builds of images (a container runs the interpreter of the tests, or one that was asked for),
CPU, memory and disk limits, regions and clouds, schedules, sandboxes, GPUs, queues, memory snapshots, websockets,
TLS, ``@app.server`` and ``@modal.web_server``, Volumes v2, the 7-day life of Dict entries, permissions of workspace
members, and what Modal does with a request whose container dies (here: 500). Custom domains, and
scaling that was set since a deployment, are told as they were asked for and not acted upon. Times are this machine's.

Where Modal's word leaves room, the fake takes the harsher reading: a Volume looks empty during an explicit commit as
during a reload, a reload commits what was written before it, and a background commit may take any half-written file.
"""
