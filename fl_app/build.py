"""Build the session of a run, once per process."""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

import datasets
import torch
import transformers

from fl_app import models, tasks
from fl_app.adapters import ADAPTERS
from fl_app.config import compose, joined, plain
from fl_app.faults import during
from fl_app.models.limits import check_causal, check_tables
from fl_app.preflight import check_node, federation
from fl_app.privacy import is_client_level
from fl_app.secure_aggregation.settings import is_on as is_secure
from fl_app.session import Session
from fl_app.training.local import local_method
from fl_app.tree import manifest
from fl_app.wire.conventions import alias_bytes
from fl_app.wire.forms import forms

FEW = 64  # rows of a ragged part on which its codec is compiled
PARALLEL_TOKENIZERS = "TOKENIZERS_PARALLELISM"  # environment variable of the package tokenizers
_BUILDING = threading.Lock()


def open_session(overrides: str | Sequence[str] = "") -> Session:
    """Build the session of a run, or return the one that this process has already built.

    Parameters
    ----------
    overrides : str or sequence of str
        See `compose`.

    Returns
    -------
    Session
        Model, tokenizer, adapter, task, data, codecs and the client's half of the method.

    Raises
    ------
    ConfigError
        If an override is wrong.
    FileNotFoundError, ValueError
        If the model is missing, or does not fit the configuration.

    Examples
    --------
    >>> import fl_app
    >>> session = fl_app.open_session("adapter.r=2 federation.clients=2")
    >>> name, start = next(iter(session.theta0.items()))  # what is trained and sent
    >>> start.shape[0], start.dtype
    (2, dtype('float32'))
    """
    with _BUILDING:
        here = _build_session(joined(overrides))
    torch.set_num_threads(here.cfg.federation.torch_threads)  # applies to the calling thread
    return here


def forget_session() -> None:
    """Make the next call of ``open_session`` build a new one."""
    _build_session.cache_clear()


def prepare(overrides: str) -> None:
    """Start building the session and its data in a thread, while the process waits."""

    def build() -> None:
        with suppress(Exception):  # ``open_session`` raises it again
            _ = open_session(overrides).data

    threading.Thread(target=build, daemon=True).start()


@lru_cache(maxsize=1)
def _build_session(overrides: str) -> Session:
    cfg = compose(overrides)
    check_node(cfg)
    device = torch.device(federation.device(cfg))
    torch.set_num_threads(cfg.federation.torch_threads)
    os.environ.setdefault(PARALLEL_TOKENIZERS, "false")
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    with during("model"):
        base, tokenizer = models.load(cfg.model, cfg.seed, cfg.task)
    adapter = ADAPTERS[cfg.adapter.id]
    with during("configuration"):
        task = tasks.build(cfg, tokenizer, base.config)
        model = adapter.attach(base, cfg.adapter, cfg.seed)
        if hasattr(adapter, "virtual_tokens"):
            check_tables(cfg.model, cfg.task, base, adapter.virtual_tokens(model))
    theta0 = adapter.get(model)  # before any move to a GPU
    model = model.to(device)
    if cfg.task.id == "causal_lm":  # with the adapter, which makes sure that 4 bits stay trainable
        with during("configuration"):
            check_causal(model, cfg.model.path)
    with during("configuration"):
        known = forms(plain(cfg.codec), plain(cfg.strategy.get("forms")))
        method = local_method(plain(cfg.strategy.get("local")))
        method.prepare(model)
    here = Session(
        cfg=cfg,
        device=device,
        model=model,
        tokenizer=tokenizer,
        task=task,
        adapter=adapter,
        theta0=theta0,
        manifest=manifest(theta0, adapter.fixed(model) if hasattr(adapter, "fixed") else b""),
        forms=known,
        method=method,
        alias_bytes=alias_bytes(model),
    )
    check_session(here)
    compile_codecs(here)
    return here


def compile_codecs(here: Session) -> None:
    """Compile the codecs' kernels now, so that the first transfer is not slower."""
    parcels = [p for form in here.forms.values() for p in (form.up, form.down)]
    for parcel in {one.whole.fingerprint: one for one in parcels}.values():
        codec, like = parcel.whole, here.references(parcel, length=FEW)
        codec.decode(codec.encode(like, codec.init(like), like)[0], like)


def check_session(here: Session) -> None:
    """Check the properties of the built method.

    Raises
    ------
    ValueError
        If the method cannot train the tensors of the model; or if clients may stay silent, but
        secure aggregation or client-level privacy needs all updates: silence would reveal what
        privacy hides, or a sum would be incomplete.
    """
    here.method.check(here.theta0)
    whole = is_secure(here.cfg) or is_client_level(here.cfg)
    if here.method.may_be_silent and whole:
        raise ValueError(
            f"strategy.local={type(here.method).__name__} lets clients stay silent, but secure "
            "aggregation and client-level privacy need an update of every client that was asked"
        )
