"""A strategy of one's own: change one decision of the best architecture so far.

    python run_search.py --strategy examples/my_strategy.py:Greedy --trials 50
    nas compare --task table:nb201.npz --strategies random,examples/my_strategy.py:Greedy

Limits are kept, and nothing is proposed twice, by what `strategies.region` and `strategies.archive` offer.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from spaces.base import mutate
from strategies.archive import Archive, add, best, draw_new, empty, seen
from strategies.base import Proposals
from strategies.region import Region, pick, region, repeat


@struct.dataclass
class State:
    region: Region  # the architectures that keep the limits
    archive: Archive  # what was observed


@dataclasses.dataclass(frozen=True)
class Greedy:
    initial: int = 10
    """Random architectures before the first change."""
    generation = 1  # asked at once, after all earlier ones were told

    def init(self, space, limits=()):
        return State(region(space, limits), empty(space, memory=512))

    def ask(self, state, key, n, pending):
        key_random, key_mutate, key_pick = jax.random.split(key, 3)
        known = seen(state.archive, pending)
        parents = jnp.repeat(best(state.archive, 1), n, axis=0)
        changed = repeat(lambda k: mutate(state.region.space, k, parents), key_mutate, 16)
        rows = jnp.where(
            state.archive.count < self.initial,
            draw_new(state.region, key_random, n, known),
            pick(state.region, changed, key_pick, known),  # the first that is legal and new
        )
        return Proposals(rows, jnp.zeros(n, jnp.int32))

    def tell(self, state, observed):
        return dataclasses.replace(state, archive=add(state.archive, observed))
