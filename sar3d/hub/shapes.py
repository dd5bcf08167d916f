"""What the shapes of a checkpoint's tensors tell."""

from sar3d.errors import UserError
from sar3d.hub.files import Tensors
from sar3d.hub.names import count


class Shapes:
    """Shapes of a checkpoint's tensors; a missing one is the user's error.

    Args:
        tensors: under their published names.
        source: named in errors.
        what: the checkpoint should be, in errors.
    """

    def __init__(self, tensors: Tensors, source: str, what: str) -> None:
        self.tensors = tensors
        self.source = source
        self.what = what

    def __call__(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Shape of a tensor of so many dimensions, none of them empty."""
        if name not in self.tensors:
            raise UserError(f"{self.source} lacks the tensor {name}: it is incomplete or no {self.what}")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise UserError(
                f"{self.source} has the tensor {name} as {list(shape)}, where {dimensions} dimensions belong: "
                f"it is no {self.what}"
            )
        return shape

    def rows(self, name: str, of: int, dimensions: int) -> int:
        """First dimension of a tensor in units of `of`."""
        size = self(name, dimensions)[0]
        if size % of:
            raise UserError(
                f"{self.source} has the tensor {name} with {size} rows, no multiple of {of}: it is no {self.what}"
            )
        return size // of

    def layers(self, prefix: str) -> int:
        """How many layers of a list there are."""
        found = count(self.tensors, prefix)
        if not found:
            raise UserError(f"{self.source} has no tensor {prefix}.0: it is incomplete or no {self.what}")
        return found
