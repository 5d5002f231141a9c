"""Where a run was begun: versions and machine, as its store keeps them."""

import importlib.metadata
import os
import platform

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "ray")


def environment() -> dict[str, str | int]:
    """Plain facts of this process, without names of users or machines."""
    import jax

    devices = jax.devices()
    facts: dict[str, str | int] = {"python": platform.python_version()}
    facts |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    facts |= {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count() or 1}
    return facts | {"devices": f"{len(devices)} x {devices[0].device_kind}"}
