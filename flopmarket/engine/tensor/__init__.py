"""The lazy tensor a user writes models with: torch's names and semantics over one graph node.

Nothing is computed until ``.numpy()``, ``.item()`` or ``.realize()``. There is no tape: derivatives
are rules on the graph (:func:`flopmarket.engine.grad.grad`). A tensor never changes; there are no
in-place operations. Broadcasting is torch's; dtype promotion is stated in ``compose.py`` (Python
scalars are weak). Integers from Python and sums of integers are int64, as in torch.

The methods stand in one file per family; each family is a class that may use those before it:
``base`` (construction, reading, operands), ``conversion``, ``shape``, ``choice``, ``arithmetic``,
``analysis``, ``elementary``, ``folds``, ``products``, ``indexed``, ``order``.
"""

from __future__ import annotations

from flopmarket.engine.compose import Scalar
from flopmarket.engine.tensor.base import Axes, as_ints, common_device, without
from flopmarket.engine.tensor.folds import Extreme
from flopmarket.engine.tensor.order import OrderMethods

__all__ = ["Axes", "Extreme", "Operand", "Tensor", "as_ints", "common_device", "without"]


class Tensor(OrderMethods):
    """A value of the graph with a shape, a dtype and optionally the device it is computed on.

    ``data`` is a number, nested lists, a numpy array, or a graph Node. Python floats become float32
    and ints int64; an array keeps its dtype. ``device`` is a name such as "PoCL:0" or "reference";
    None means the first device there is. Results inherit it.
    """

    __slots__ = ()


Operand = Tensor | Scalar
