"""What a model's modules keep beside their weights, put back after a row's pass.

Running statistics are such, and the frequencies of dynamic rotary embeddings: of a row longer than
any before they are made anew, and later rows are then turned by them.
"""

from torch import Tensor, nn


class ModuleState:
    """The attributes and buffers of a model's modules, as they are now.

    What a module changes within an attribute (a list, an object) is not seen; `ClippedSum.check`
    is for that.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (module, {**vars(module)}, {**module._buffers}) for module in model.modules()
        ]
        buffers = {id(buffer): buffer for buffer in model.buffers()}.values()
        self._values: list[tuple[Tensor, Tensor]] = [(one, one.clone()) for one in buffers]

    def put_back(self) -> None:
        """Give every module what it had: no attribute more, and buffers of the same values."""
        for module, attributes, buffers in self._modules:
            for new in vars(module).keys() - attributes.keys():
                del vars(module)[new]
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, values in self._values:
            buffer.data.copy_(values)
