"""Many runs at once: variants of settings times seeds, over the slots of a machine or a cluster."""

from torchbeast.runners.sweep.cores import usable_gpus
from torchbeast.runners.sweep.local import LocalSlots, slots_of_machine
from torchbeast.runners.sweep.place import Job, News, Place
from torchbeast.runners.sweep.plan import NOT_VARIED, plan
from torchbeast.runners.sweep.results import write_results
from torchbeast.runners.sweep.schedule import Status, Sweep, conduct
from torchbeast.runners.sweep.table import SweepTable
from torchbeast.runners.sweep.variants import Variant, axis, grid, read_variants

__all__ = [
    "NOT_VARIED",
    "Job",
    "LocalSlots",
    "News",
    "Place",
    "Status",
    "Sweep",
    "SweepTable",
    "Variant",
    "axis",
    "conduct",
    "grid",
    "plan",
    "read_variants",
    "slots_of_machine",
    "usable_gpus",
    "write_results",
]
