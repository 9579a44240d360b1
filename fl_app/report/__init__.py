"""Reports of runs: ``python -m fl_app.report RUN...`` makes one page that opens offline.

- ``page``: the page of one run, or of several.
- ``comparison``: scores and bytes of configurations, over their seeds.
- ``pareto``: which configurations no other one beats in both.
- ``significance``: which differences are larger than the spread over seeds.
- ``plotly``: the script that draws the charts, in a page or shared by those of a sweep's runs.
- ``picture``: the Pareto front as a still picture. ``palette``: colours and symbols.
"""
