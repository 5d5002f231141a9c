"""What a predictor is: it learns scores from evaluated architectures, and says how sure it is of others."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from spaces.base import Encodings, Space


@runtime_checkable
class Composed(Protocol):
    """A predictor that is made of others."""

    def shares(self, params: Any) -> dict[str, float]:
        """What each of them counts, by its name; their sum is 1."""
        ...


@runtime_checkable
class Stepped(Protocol):
    """A predictor whose fit takes far longer for more rows, those that are left out among them."""

    sizes: tuple[int, ...]  # numbers of rows, ascending: a fit has no more than the next of these


def sizes_of(predictor: Any) -> tuple[int, ...]:
    return predictor.sizes if isinstance(predictor, Stepped) else ()


@runtime_checkable
class Predictor(Protocol):
    """A frozen dataclass of hyperparameters with pure functions. Rows may come in any order.

    A target that is NaN (a failed trial) is left out of the fit.
    """

    def fit(self, space: Space, encodings: Encodings, targets: Float[Array, "n"], start: Any = None) -> Any:
        """Parameters, a pytree that also says which space it is of. Deterministic, and can be jitted.

        `start` are the parameters of an earlier fit by the same predictor, of other targets perhaps, to go on from.
        """
        ...

    def predict(self, params: Any, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        """The mean and the standard deviation of the score of each architecture."""
        ...
