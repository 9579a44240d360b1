"""The worked examples of docs/extending.md work."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from fl_app import models
from fl_app.codecs import from_spec, registry
from fl_app.config import compose
from fl_app.training.local import Assignment, LocalMethod, Trained

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


def example(path: str) -> dict[str, Any]:
    """Return what the example for a file defines, or holds where it is YAML."""
    if path.endswith(".yaml"):
        (block,) = re.findall(rf"(?s)```yaml\n# {re.escape(path)}\n(.*?)```", PAGE)
        return yaml.safe_load(block)
    (block,) = re.findall(rf'(?s)```python\n("""{re.escape(path)}.*?)```', PAGE)
    names: dict[str, Any] = {"__name__": "example"}
    exec(block, names)
    return names


def test_a_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    example("fl_app/codecs/half_scale.py")
    spec = example("conf/codec/half_scale.yaml")["down"]
    codec = from_spec(spec)
    assert codec.spec == spec
    ref = {"w": np.ones((3, 5), np.float32)}
    tree = {"w": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)}
    wire, _ = codec.encode(tree, codec.init(ref, 0), ref)
    assert sum(map(len, wire.sections)) == 4 * 15
    np.testing.assert_allclose(codec.decode(wire, ref)["w"], tree["w"], rtol=0, atol=1e-6)


def test_an_adapter() -> None:
    adapter = example("fl_app/adapters/norms.py")
    conf = example("conf/adapter/norms.yaml")
    assert {*conf} == {"id", "recipe"}
    assert {*conf["recipe"]} == {"embedded", "pretrained"}
    cfg = compose("")
    model = adapter["attach"](models.load_vt5(cfg.model, 0)[0], OmegaConf.create(), 0)
    tree = adapter["get"](model)
    assert tree
    assert all(x.ndim == 1 for x in tree.values())
    adapter["set"](model, {name: x + 1 for name, x in tree.items()})
    assert all(np.array_equal(x, tree[name] + 1) for name, x in adapter["get"](model).items())


def test_a_method() -> None:
    method = example("strategies/every_other.py")["EveryOtherClient"]()
    assert isinstance(method, LocalMethod)
    model = {"w": np.ones(3, np.float32)}
    sent = [
        method.run(
            Assignment(
                {"model": model}, model, {}, {}, "default", client, 1, 0,
                model=None, rows=lambda: None, train=lambda hooks: Trained(model, {"loss": 1.0}),
                decoded=lambda parts: parts,
            )
        ).parts
        for client in (0, 1)
    ]  # fmt: skip
    assert sent == [{}, {"model": model}]
