"""A spy on the operations of torch."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

READS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique2", "aten.equal")


class Spy(TorchDispatchMode):
    """Around a piece of work: the names of all operations in it."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ran.append(str(func))
        return func(*args, **(kwargs or {}))

    @property
    def waited(self) -> list[str]:
        """Those whose result Python has to wait for, as a number or as a size."""
        return [name for name in self.ran if name.startswith(READS)]
