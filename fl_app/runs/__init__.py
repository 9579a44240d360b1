"""What a run leaves: its folder, and how it is read again."""

from fl_app.runs.catalog import find, table

__all__ = ["find", "table"]
