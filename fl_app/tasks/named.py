"""The columns that the options of a task name: known before a model or a row is read."""

from omegaconf import DictConfig

from fl_app.tasks.template import Template


def columns(cfg_task: DictConfig) -> dict[str, str]:
    """Return the columns that every row needs -> the first option that names each.

    Parameters
    ----------
    cfg_task : DictConfig
        The group ``task`` of the configuration.
    """
    found: dict[str, str] = {}
    for key in ("prompt", "response"):
        if key in cfg_task:
            for column in Template(f"task.{key}", cfg_task[key]).columns:
                found.setdefault(column, f"task.{key}")
    for column in cfg_task.get("texts") or ():
        found.setdefault(str(column), "task.texts")
    for key in ("messages", "text", "reference", "label", "average_over"):
        if cfg_task.get(key) is not None:
            found.setdefault(str(cfg_task[key]), f"task.{key}")
    return found


def optional(cfg_task: DictConfig) -> set[str]:
    """Return the columns of the templates' sections, which a row may lack."""
    templates = [
        Template(f"task.{key}", cfg_task[key]) for key in ("prompt", "response") if key in cfg_task
    ]
    return {column for template in templates for column in template.optional}
