"""Memory that forgets where an episode begins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]  # (h, c), each [N, B, H]


class ResetLSTM(nn.LSTM):
    """An LSTM over rows [T, B, I] whose state is zeroed before each row that begins an episode."""

    def initial_state(self, batch_size: int) -> State:
        """Returns zeros (h, c), each [N, B, H]."""
        zeros = self.weight_hh_l0.new_zeros(self.num_layers, batch_size, self.hidden_size)
        return zeros.detach(), zeros.detach().clone()

    def unroll(self, x: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
        """Returns outputs [T, B, H] and the state after the last row."""
        cuts = [0, *(first[1:].any(1).nonzero().flatten() + 1).tolist(), x.shape[0]]
        outputs = []
        for start, end in zip(cuts[:-1], cuts[1:], strict=True):
            reset = first[start].view(1, -1, 1)
            state = (state[0].masked_fill(reset, 0), state[1].masked_fill(reset, 0))
            output, state = self(x[start:end], state)
            outputs.append(output)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), state
