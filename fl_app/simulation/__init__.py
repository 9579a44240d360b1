"""Flower's processes, started by this project: their imports are done before they are needed.

- ``superlink``: a SuperLink for simulations. ``private_superlink``: serves only its own user.
- ``superexec``: the process that starts the tasks of a SuperLink or SuperNode; ``executor``: how it
  starts them; ``ray_workers``: how it starts simulations; ``preload``: what they import.
- ``bundle``: what a run brings to these processes. ``processes``: signals and descendants.
- ``loopback``: nodes within one process, without Flower's processes; ``in_process``: a whole run.
"""
