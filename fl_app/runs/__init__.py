"""The results of runs: their folders, and how they are read again.

- ``folder``: the folder of a run while it runs. ``summary``: its summary.json. ``selection``: which
  scores select a round. ``machine``: what its seconds were measured on. ``checkpoint``, ``resume``:
  how an interrupted run is resumed. ``exported``: its trained models. ``tracking``, ``loggers``:
  other tools.
- ``console``, ``text``: what a run prints. ``model_card``, ``submission``: its model for others.
- ``read``: one stored run. ``configurations``: runs that differ only in the seed. ``catalog``: runs
  by path or pattern, as a table. ``spreadsheet``: tables as CSV.
- ``result``: a run as one small JSON that outlives its folder.
- ``node_state``: what nodes on this machine keep for a resumed run.
"""

from fl_app.runs.catalog import find_runs, runs_table

find, table = find_runs, runs_table

__all__ = ["find", "find_runs", "runs_table", "table"]
