"""Turn attention that a model writes out by itself (product, softmax, product) into one `kvforge::attend`.

For such a model the cache hands out stand-ins for its keys and values. The model's code runs on as it is; each stand-in
records what is done to it: a factor on the scores, numbers added to them, a mask, a softmax. The product with the
values then is `attend` over the buffers. An operation that has no place in this form raises UnknownForm.

Shapes are those that the model's code expects, [batch, heads, ...] or with both as one axis, [batch * heads, ...].
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch

from pipeline.model import operators

# operations without effect on numbers: a change of type is left to `attend`, and nothing is dropped in inference
UNCHANGED = {"to", "float", "type", "type_as", "contiguous", "dropout", "clone", "detach"}
SOFTMAX = {"softmax", "_softmax"}
PRODUCTS = {"matmul", "bmm", "__matmul__", "__rmatmul__"}
MAXIMA = {"max", "maximum"}

S = TypeVar("S", bound="StandIn")


class UnknownForm(Exception):  # noqa: N818  # says what it is; it becomes a UserError
    """What a model does with its keys, scores or values that `attend` cannot."""


class Step(Protocol):
    """What a stand-in must know of the running forward; pipeline.model.cache.StaticCache has it."""

    length: torch.Tensor
    causal_mask: torch.Tensor | None

    def attend(self, module: None, keys: torch.Tensor) -> None:
        """Note that these keys are attended over."""


@dataclass(frozen=True, eq=False)
class StandIn:
    """A tensor that is not computed. keys, values: [batch, kv_heads, cache_size, head_dim]."""

    step: Step
    keys: torch.Tensor
    joined: bool = field(default=False, kw_only=True)  # batch and heads are one axis

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch for a function of it that is given a stand-in."""
        name, kwargs = func.__name__, kwargs or {}
        given = [*args, *kwargs.values()]
        stand_in = next(x for x in given if isinstance(x, StandIn))
        if name in PRODUCTS and len(given) == 2:
            return _product(*given)
        if name == "baddbmm":
            return _baddbmm(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            return _whole(*args, **kwargs)
        if name == "where":
            seen, scores, _ = given  # the third is the lowest number
            return scores if not seen.ndim else scores.add(torch.where(seen, 0.0, torch.finfo(scores.dtype).min))
        if name in MAXIMA and len(given) == 2:
            name = "maximum"
        if name in ("add", "__add__", "__radd__") and len(given) == 2:
            return stand_in.add(given[1] if given[0] is stand_in else given[0])
        return getattr(stand_in, name)(*(x for x in args if x is not stand_in), **_without(kwargs, stand_in))

    def __getattr__(self, name: str) -> Any:
        if name in UNCHANGED:
            return self._unchanged
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnknownForm(f"it writes attention out by itself, with {name} on its {self._name}")

    @property
    def _name(self) -> str:
        return type(self).__name__.lower()

    def _unchanged(self: S, *_: Any, **__: Any) -> S:
        return self

    @property
    def full(self) -> tuple[Any, ...]:
        """The shape with batch and heads as two axes."""
        return tuple(self.keys.shape)

    @property
    def shape(self) -> tuple[Any, ...]:
        batch, heads, *rest = self.full
        return (batch * heads, *rest) if self.joined else (batch, heads, *rest)

    @property
    def ndim(self) -> int:
        return 3 if self.joined else 4

    @property
    def dtype(self) -> torch.dtype:
        return self.keys.dtype

    @property
    def device(self) -> torch.device:
        return self.keys.device

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def dim(self) -> int:
        return self.ndim

    def reshape(self: S, *shape: Any) -> S:
        """Join batch and heads, or part them; the two other axes stay."""
        wanted = shape[0] if len(shape) == 1 else shape
        return replace(self, joined=len(wanted) == 3)

    view = reshape

    def split(self, tensor: torch.Tensor) -> torch.Tensor:
        """[batch * heads, ...] as [batch, heads, ...], where batch and heads are joined."""
        if not self.joined or tensor.ndim != 3:
            return tensor
        return tensor.reshape(*self.full[:2], *tensor.shape[1:])


@dataclass(frozen=True, eq=False)
class Keys(StandIn):
    """The keys, or their transpose."""

    swapped: bool = False

    @property
    def full(self) -> tuple[Any, ...]:
        batch, heads, slots, width = self.keys.shape
        return (batch, heads, width, slots) if self.swapped else (batch, heads, slots, width)

    def transpose(self, *axes: int) -> "Keys":
        """Swap the last two axes."""
        if {axis % self.ndim for axis in axes} != {self.ndim - 2, self.ndim - 1}:
            raise UnknownForm(f"it transposes axes {axes} of its keys")
        return replace(self, swapped=not self.swapped)

    swapaxes = transpose

    def permute(self, *axes: Any) -> "Keys":
        """Swap the last two axes."""
        order = tuple(axes[0] if len(axes) == 1 else axes)
        if order not in ((0, 1, 3, 2), (0, 2, 1)):
            raise UnknownForm(f"it permutes its keys by {order}")
        return replace(self, swapped=not self.swapped)


@dataclass(frozen=True, eq=False)
class Values(StandIn):
    """The values, under the name `keys` that all stand-ins have."""


@dataclass(frozen=True, eq=False)
class Scores(StandIn):
    """Scores of a query [batch, heads, sequence, head_dim] over all slots, before the softmax or after it."""

    query: torch.Tensor
    scale: float = 1.0
    added: tuple[torch.Tensor, ...] = ()
    is_softmax: bool = False

    @property
    def full(self) -> tuple[Any, ...]:
        return (*self.query.shape[:3], self.keys.shape[2])

    @property
    def dtype(self) -> torch.dtype:
        return self.query.dtype

    def _before_softmax(self) -> None:
        if self.is_softmax:
            raise UnknownForm("it changes its attention weights after the softmax")

    def mul(self, factor: Any) -> "Scores":
        """Multiply by a number. A mask stays as it is: what it hides stays hidden."""
        self._before_softmax()
        if not isinstance(factor, int | float):
            raise UnknownForm("it multiplies its attention scores by a tensor")
        added = tuple(t if t is self.step.causal_mask else t * factor for t in self.added)
        return replace(self, scale=self.scale * factor, added=added)

    def div(self, divisor: Any) -> "Scores":
        """Divide by a number."""
        if not isinstance(divisor, int | float):
            raise UnknownForm("it divides its attention scores by a tensor")
        return self.mul(1.0 / divisor)

    def add(self, tensor: torch.Tensor) -> "Scores":
        """Add numbers, a mask for example, that broadcast to the scores."""
        self._before_softmax()
        if not isinstance(tensor, torch.Tensor):
            raise UnknownForm("it adds a number to its attention scores")
        return replace(self, added=(*self.added, self.split(tensor)))

    def masked_fill(self, hidden: torch.Tensor, _: float) -> "Scores":
        """Hide slots; the number is the lowest one."""
        return self.add(torch.where(self.split(hidden), torch.finfo(self.dtype).min, 0.0))

    def maximum(self, least: torch.Tensor) -> "Scores":
        """Keep scores from falling below the lowest number: it changes none of a seen slot."""
        if least.ndim:
            raise UnknownForm("it compares its attention scores with a tensor")
        return self

    __mul__ = __rmul__ = __imul__ = mul
    __truediv__ = __itruediv__ = div
    __add__ = __radd__ = __iadd__ = add

    def softmax(self, axis: int | None = None, dim: int | None = None, **_: Any) -> "Scores":
        """Mark the softmax over the slots."""
        if (axis if dim is None else dim) not in (-1, self.ndim - 1):
            raise UnknownForm("the softmax of its attention is not over the keys")
        self._before_softmax()
        return replace(self, is_softmax=True)

    def __matmul__(self, values: Any) -> torch.Tensor:
        out: torch.Tensor = _product(self, values)
        return out

    def attend(self, values: torch.Tensor) -> torch.Tensor:
        """Return [batch, heads, sequence, head_dim]."""
        self.step.attend(None, self.keys)
        mask = None
        if len(self.added) != 1 or self.added[0] is not self.step.causal_mask:
            terms = [term.to(self.keys.dtype) for term in self.added]
            mask = functools.reduce(torch.add, terms)
            mask = mask.expand(*([1] * (4 - mask.ndim)), *mask.shape[:-2], *self.full[2:])
        query = self.query.to(self.keys.dtype)
        out: torch.Tensor = operators.attend(query, self.keys, values, self.step.length, mask, self.scale, 0.0)
        return out


def _product(left: Any, right: Any) -> Any:
    """Query @ keys, or softmax of scores @ values."""
    if isinstance(right, Keys) and right.swapped and isinstance(left, torch.Tensor):
        return Scores(right.step, right.keys, _heads(left, right), joined=right.joined)
    if isinstance(left, Scores) and left.is_softmax and isinstance(right, Values) and left.added:
        out = left.attend(right.keys)
        return out.flatten(0, 1) if right.joined else out
    raise UnknownForm("it writes attention out by itself, in a form that is not known")


def _heads(query: torch.Tensor, keys: Keys) -> torch.Tensor:
    """[batch, heads, sequence, head_dim] of a query that has the form of the keys."""
    return query.reshape(*keys.keys.shape[:2], *query.shape[1:]) if keys.joined else query


def _baddbmm(added: torch.Tensor, batch1: Any, batch2: Any, *, beta: float = 1.0, alpha: float = 1.0) -> Any:
    """Alpha * query @ keys + beta * added."""
    return _product(batch1, batch2).mul(float(alpha)).add(added if beta == 1 else added * beta)


def _whole(
    query: torch.Tensor,
    key: Keys,
    value: Values,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """PyTorch's own attention, given a mask that is added."""
    if attn_mask is None or is_causal:
        raise UnknownForm("its attention takes no mask")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return Scores(key.step, key.keys, query, factor).add(attn_mask).attend(value.keys)


def _without(kwargs: dict[str, Any], stand_in: StandIn) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if value is not stand_in}
