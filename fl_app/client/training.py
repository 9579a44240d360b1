"""A client's local training: the plain loop, or DP-SGD where rows are private."""

from dataclasses import dataclass, field

from datasets import Dataset
from flwr.app import ConfigRecord, Context

from fl_app import augment
from fl_app.client import rows as node_data
from fl_app.client import shown
from fl_app.faults import FaultError
from fl_app.privacy import is_example_level
from fl_app.privacy.spent import SPENT
from fl_app.session import Session
from fl_app.training.local import Trained
from fl_app.training.loop import Hooks, StepWatch, train
from fl_app.training.turns import of_round


@dataclass
class LocalTraining:
    """Trains the session's model on a client's rows, as the configuration says.

    Attributes
    ----------
    spent : dict
        With example-level privacy, the record of what the rows have spent with this turn.
    """

    session: Session
    context: Context
    client: int
    server_round: int
    seed: int
    spent: dict[str, ConfigRecord] = field(default_factory=dict)

    def rows(self) -> Dataset:
        """Return the client's rows, for a method that reads them itself.

        Raises
        ------
        FaultError
            If they are private: what is sent may depend on them through the noised training alone.
        """
        if is_example_level(self.session.cfg):
            raise FaultError("private_rows")
        return node_data.rows(self.session, self.context, self.client)

    def __call__(self, hooks: Hooks, rows: Dataset | None = None) -> Trained:
        """Train from the model as it is, with ``hooks``; return the trained tensors and metrics.

        Parameters
        ----------
        hooks : Hooks
            The method's.
        rows : Dataset or None
            Those of `rows` that are trained on; None: all.

        Raises
        ------
        FaultError
            If there are no rows, or the budget of private ones has no room for the turn.
        """
        here, cfg = self.session, of_round(self.session.cfg, self.server_round)
        rows = node_data.rows(here, self.context, self.client) if rows is None else rows
        turn_shown = shown.current()
        turn_shown.begin(self.client, self.server_round, cfg)
        if is_example_level(cfg):
            metrics = self._train_privately(rows, hooks, turn_shown.step)
        else:
            turn = train(
                here.model,
                rows,
                here.task,
                cfg.optimizer,
                epochs=cfg.local_epochs,
                batch_size=cfg.batch_size,
                gradient_accumulation=cfg.gradient_accumulation,
                seed=self.seed,
                hooks=hooks,
                augment=augment.build(cfg),
                watch=turn_shown.step,
            )
            metrics = {"num-examples": turn.examples, "loss": turn.loss}
        return Trained(here.adapter.get(here.model), metrics)

    def _train_privately(self, rows: Dataset, hooks: Hooks, watch: StepWatch) -> dict[str, float]:
        # Both need an extra that not every node has.
        from fl_app.client import budget
        from fl_app.privacy import dp_sgd

        here, cfg = self.session, self.session.cfg
        if rows:
            spent = budget.begin(self.context, cfg, self.client, self.server_round, rows)
            self.spent[SPENT] = spent.record()
        turn = dp_sgd.train(
            here.model, rows, here.task, cfg, seed=self.seed, hooks=hooks, watch=watch
        )
        return {"num-examples": turn.examples}
