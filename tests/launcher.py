"""``python -m tests.launcher``: start a SuperLink for simulations, and keep it until stdin ends.

It prints the environment in which ``flwr run`` uses it, as JSON.
"""

import json
import sys

from fl_app.files import keep_private
from fl_app.simulation.superlink import superlinks

if __name__ == "__main__":
    keep_private()
    with superlinks() as (environment,):
        print(json.dumps(environment), flush=True)
        sys.stdin.read()
