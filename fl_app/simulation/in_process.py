"""A whole run in this process: the real server and clients, without SuperLink and Ray."""

import logging
import os
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import datasets
import numpy as np
import torch
import transformers
from flwr.serverapp import Grid

from fl_app.build import PARALLEL_TOKENIZERS, forget_session, open_session
from fl_app.config import joined
from fl_app.files import RESULTS, kept_private
from fl_app.preflight import check_built, configured
from fl_app.runs.node_state import default_state_dir
from fl_app.runs.read import Run, read
from fl_app.server_app import MESSAGE_ONLY, Experiment, flower
from fl_app.session import Session
from fl_app.simulation.loopback import Loopback


def run_experiment(overrides: str | Sequence[str] = "") -> Run:
    """Run an experiment in this process, and return its results.

    Server and clients are the real ones; every message is serialized as if it were sent, and the
    run leaves the same folder as ``thinwire run``, below the current one, which also prints the
    same table. Random generators and settings of this process are afterwards as they were. Clients
    train one after the other. For many clients at once, and for processes that cannot disturb each
    other, use ``thinwire run``.

    Parameters
    ----------
    overrides : str or sequence of str
        See `compose`. ``resume=FOLDER`` resumes an interrupted run.

    Returns
    -------
    Run
        Configuration, scores, ledger and summary of the run, and the path of its folder.

    Raises
    ------
    ConfigError
        If an override is wrong; nothing has been started or written.
    FileExistsError
        If ``output.name`` is taken.
    RuntimeError
        If the run fails, for example if every client of a round fails. Its folder has the results
        so far, and status "failed". Errors of loading the model or the data are raised as they are.

    Examples
    --------
    >>> import fl_app
    >>> run = fl_app.run_experiment(
    ...     "rounds=1 local_epochs=1 federation.clients=2 output.name=example "
    ...     "data.providers_per_client=1 data.documents_per_provider=1 data.test_documents=1 "
    ...     "data.unseen_providers=1 data.unseen_documents_per_provider=1 data.public_documents=1 "
    ...     "data.validation_documents=0"
    ... )  # doctest: +ELLIPSIS
    nf4_single: seed 0, ...
    >>> run.status, run.path.name, sorted(run.curve)
    ('completed', 'example', [0, 1])
    """
    with _results_here():
        words, cfg = configured(joined(overrides))
        check_built(cfg)
        began = time.perf_counter()
        with opened(words) as session:
            return run_session(session, words, setup_seconds=time.perf_counter() - began)


@contextmanager
def opened(overrides: str) -> Iterator[Session]:
    """Build a session for one run, which is forgotten afterwards: a run changes its model.

    What the run sets for its whole process is restored as well.
    """
    with _undisturbed():
        forget_session()
        try:
            yield open_session(overrides)
        finally:
            forget_session()


def run_session(
    session: Session, overrides: str, setup_seconds: float, sends_theta0: bool = False
) -> Run:
    """Run the experiment of ``session``, which `opened` has built from these overrides.

    Parameters
    ----------
    sends_theta0 : bool
        See ``fl_app.server.coded.Coded``.

    Raises
    ------
    RuntimeError
        If the run fails.
    """
    cfg = session.cfg
    grid = Loopback(
        overrides,
        nodes=cfg.federation.clients,
        run_id=secrets.randbits(62) + 1,
        state_dir=default_state_dir(cfg.output.dir),
    )
    experiment = Experiment(session, cast(Grid, grid), overrides, setup_seconds)
    experiment.strategy.sends_theta0 = sends_theta0
    experiment.start()
    return read(experiment.folder.path)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restore afterwards what a run sets for its whole process."""
    level = flower.level
    flower.setLevel(logging.WARNING)
    flower.addFilter(MESSAGE_ONLY)
    try:
        with (
            kept_private(),
            _kept_variable(PARALLEL_TOKENIZERS),
            _kept_settings(),
            _kept_generators(),
        ):
            yield
    finally:
        flower.removeFilter(MESSAGE_ONLY)
        flower.setLevel(level)


@contextmanager
def _results_here() -> Iterator[None]:
    """Send results below the current folder, where ``find_runs`` looks."""
    with _kept_variable(RESULTS):
        os.environ.setdefault(RESULTS, str(Path.cwd()))
        yield


@contextmanager
def _kept_variable(name: str) -> Iterator[None]:
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextmanager
def _kept_settings() -> Iterator[None]:
    threads = torch.get_num_threads()
    bars = not datasets.are_progress_bars_disabled()
    transformers_bars = transformers.logging.is_progress_bar_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if bars:
            datasets.enable_progress_bars()
        if transformers_bars:
            transformers.logging.enable_progress_bar()


@contextmanager
def _kept_generators() -> Iterator[None]:
    """Restore the state of the global random generators."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
