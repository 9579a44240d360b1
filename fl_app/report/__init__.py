"""Reports of runs: ``python -m fl_app.report RUN...`` makes one page that opens offline.

- ``page``: the page of one run, and of several.
- ``comparison``: scores and bytes of configurations, over their seeds.
- ``pareto``: which of them no other one beats in both.
- ``significance``: which differences are more than the spread over seeds.
- ``picture``: the Pareto front as a still picture.
"""

from fl_app.report.page import compare, write

__all__ = ["compare", "write"]
