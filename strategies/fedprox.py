"""FedProx (Li et al. 2020, https://arxiv.org/abs/1812.06127): a pull to the broadcast model.

A client minimises::

    h_k(w; w_t) = F_k(w) + mu/2 |w - w_t|^2                                             (eq. 2)

by adding mu (w - w_t) to its gradients. The server's half is Flower's own FedProx, a mean.
"""

from fl_app.faults import FaultError
from fl_app.training.hooks.proximal import proximal
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import Hooks

MU = "proximal-mu"  # in the config of Flower's FedProx


class FedProxClient(LocalMethod):
    """Local steps on h_k.

    Parameters
    ----------
    mu : float
        Weight of the pull; 0 is plain training.
    """

    config_keys = (MU,)

    def __init__(self, mu: float) -> None:
        self.mu = float(mu)

    def run(self, given: Assignment) -> Answer:
        """Train with the pull.

        Raises
        ------
        FaultError
            If the server says another mu than the run's configuration.
        """
        if (said := given.config.get(MU, self.mu)) != self.mu:
            raise FaultError("other_value", key=MU, said=str(said), own=str(self.mu))
        pull = [proximal(self.mu, given.model)] if self.mu else []
        trained = given.train(Hooks(gradients=pull))
        return Answer({"model": trained.model}, trained.metrics)
