"""``python -m fl_app.sweep -m KEY=VALUE,VALUE ...``: see ``fl_app.sweep.job``."""

import sys

from fl_app.sweep.job import main  # Hydra's launchers import the job from that module

if __name__ == "__main__":
    sys.exit(main())
