"""The parts of JAX's runtime for several processes that have no public name.

`jax.distributed` connects processes; whether a job has several, and the key-value store by which
they exchange messages, are in `jax._src`, which any version may change. So no other file imports
`jax._src`, and tests/process/test_coordinator.py uses all of it and fails where it moves.
"""

from typing import Any

from jax._src import clusters
from jax._src.distributed import global_state


def count() -> int:
    """Returns how many processes the run has; touches no device."""
    return global_state.num_processes or 1


def index() -> int:
    """Returns the index of this process, from 0."""
    return global_state.process_id or 0


def store() -> Any:
    """Returns the key-value store of all processes, after `jax.distributed.initialize`.

    Of its methods imgjax calls `key_value_set(key, text, allow_overwrite=False)`,
    `blocking_key_value_get(key, milliseconds)`, `key_value_delete(folder)` and
    `wait_at_barrier(name, milliseconds)`.
    """
    return global_state.client


def count_of_environment() -> int:
    """Returns how many processes Slurm, Open MPI, Kubernetes or a TPU VM says there are, else 1.

    They are asked in the order in which `jax.distributed.initialize` without arguments asks them.
    """
    found = next((environment for environment in clusters.ClusterEnv._cluster_types
                  if not environment.opt_in_only_method and environment.is_env_present()), None)
    return found.get_process_count() if found else 1
