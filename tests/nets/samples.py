"""Rows of sampled observations and actions, for tests of networks."""

import numpy as np
import torch

from torchbeast.data import tree_map, zero_rows


def sample_rows(spec, rows, envs, seed=0):
    """Rows [rows, envs] of sampled observations and actions, with a few episodes."""
    rng = np.random.default_rng(seed)
    batch = zero_rows(spec, envs, rows)
    spec.observation.seed(seed)
    spec.action.seed(seed)

    for space, tree in ((spec.observation, batch.obs), (spec.action, batch.prev_action)):
        for place in np.ndindex(rows, envs):
            put_sample(tree, place, as_tree(space.sample()))
    reward = torch.from_numpy(rng.normal(size=(rows, envs)).astype(np.float32) * 2)
    first = torch.from_numpy(rng.random((rows, envs)) < 0.2)
    return batch._replace(reward=reward, first=first)


def put_sample(tree, place, sample):
    tree_map(lambda x, s: x[place].copy_(torch.as_tensor(s)), tree, sample)


def as_tree(sample):
    if isinstance(sample, dict):
        return {key: as_tree(sub) for key, sub in sample.items()}
    return tuple(as_tree(sub) for sub in sample) if isinstance(sample, tuple) else sample
