"""What flows between acting and learning, and where it waits."""

from torchbeast.data.rollout import Rollout, Tree, tree_leaves, tree_map
from torchbeast.data.spec import ArraySpec, EnvSpec, array_specs, rollout_spec, zero_rows

__all__ = [
    "ArraySpec",
    "EnvSpec",
    "Rollout",
    "Tree",
    "array_specs",
    "rollout_spec",
    "tree_leaves",
    "tree_map",
    "zero_rows",
]
