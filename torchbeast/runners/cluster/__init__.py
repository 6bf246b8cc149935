"""Acting and learning on the machines of a Ray cluster; see ``docs/cluster.md``."""

from torchbeast.runners.cluster.pool import ClusterPool
from torchbeast.runners.cluster.remote import workers_of
from torchbeast.runners.cluster.weights import ObjectWeights

__all__ = ["ClusterPool", "ObjectWeights", "workers_of"]
