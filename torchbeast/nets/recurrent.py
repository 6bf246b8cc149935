"""Memory that forgets where an episode begins."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

State = tuple[Tensor, Tensor]  # (h, c), each [N, B, H]

ROWS_PER_CALL = 16  # a call of the sequence kernel costs what this many rows of the loop cost


class ResetLSTM(nn.LSTM):
    """An LSTM over rows [T, B, I] whose state is zeroed before each row that begins an episode.

    The environments begin episodes at different rows, so the sequence kernel has to be called
    anew for each stretch between such rows. That is fastest while stretches are few. Where they
    are many, a loop over rows takes their place whose cost does not depend on them, because all
    that can be done for every row at once is done outside it (T80 B8 I519 H256, one thread,
    forward and backward: one stretch 33 ms, 12 stretches 55, 32 stretches 86, the loop 49, one
    call per row 170). It also answers single rows faster than the kernel. A GPU, where small
    operations cost most, always takes the stretches.
    """

    def remember(self, forget_bias: float = 2.0) -> None:
        """Starts the memory long: orthogonal weights, and a forget gate that is mostly open.

        With a bias of 0 half of the state is gone after a step, and what was seen ten steps ago
        reaches no gradient (arXiv:1804.11188).
        """
        for w_ih, w_hh, b_ih, b_hh in self.all_weights:
            for gate in (*w_ih.chunk(4), *w_hh.chunk(4)):
                nn.init.orthogonal_(gate)
            nn.init.zeros_(b_ih)
            nn.init.zeros_(b_hh)
            with torch.no_grad():
                b_ih[self.hidden_size : 2 * self.hidden_size] = forget_bias

    def initial_state(self, batch_size: int) -> State:
        """Returns zeros (h, c), each [N, B, H]."""
        weight = next(self.parameters())
        h, c = torch.zeros(
            (2, self.num_layers, batch_size, self.hidden_size),
            dtype=weight.dtype,
            device=weight.device,
        )
        return h, c

    def unroll(self, x: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
        """Returns outputs [T, B, H] and the state after the last row.

        Args:
            x: inputs [T, B, I].
            first: [T, B] bool, which rows begin an episode.
            state: (h, c) before row 0.
        """
        resets: list[bool] = first.any(1).tolist()
        calls = 1 + sum(resets[1:])
        if x.is_cuda or calls * ROWS_PER_CALL <= len(resets):
            return self._stretches(x, first, resets, state)
        return self._loop(x, first, resets, state)

    def _stretches(
        self, x: Tensor, first: Tensor, resets: list[bool], state: State
    ) -> tuple[Tensor, State]:
        cuts = [0, *(t for t, reset in enumerate(resets) if reset and t > 0), len(resets)]
        outputs = []
        for start, end in itertools.pairwise(cuts):
            if resets[start]:
                mask = first[start].unsqueeze(-1)
                state = (state[0].masked_fill(mask, 0), state[1].masked_fill(mask, 0))
            output, state = self(x[start:end], state)
            outputs.append(output)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), state

    def _loop(
        self, x: Tensor, first: Tensor, resets: list[bool], state: State
    ) -> tuple[Tensor, State]:
        last_h, last_c = [], []
        mask = first.unsqueeze(-1)
        for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(self.all_weights):
            h, c = state[0][layer], state[1][layer]
            gates = functional.linear(x, w_ih, b_ih + b_hh).to(h.dtype)
            x, c = _Layer.apply(gates, w_hh, h, c, mask, resets)
            last_h.append(x[-1])
            last_c.append(c)
        return x, (torch.stack(last_h), torch.stack(last_c))


class _Layer(torch.autograd.Function):
    """One layer, row by row, from the input's share of the gates [T, B, 4H] in order i, f, g, o.

    Autograd would keep a graph of ten operations per row; written out, the gradient needs four
    per row, and the one of the weights is a single product.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, h: Tensor, c: Tensor, mask: Tensor, resets: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Returns outputs [T, B, H] and the cell [B, H] after the last row."""
        size = h.shape[-1]
        gates = torch.empty_like(x)
        outputs, cells = x.new_empty(*x.shape[:2], size), x.new_empty(*x.shape[:2], size)
        ctx.save_for_backward(gates, outputs, cells, weight, h, c, mask)
        ctx.resets = resets
        weight = weight.t()
        for t, reset in enumerate(resets):
            if reset:  # filled, not multiplied: nothing of the old episode stays, not even nan
                h, c = h.masked_fill(mask[t], 0), c.masked_fill(mask[t], 0)
            torch.addmm(x[t], h, weight, out=gates[t])
            i_f, g, o = gates[t].split((2 * size, size, size), -1)
            i, f = i_f.sigmoid_().chunk(2, -1)
            g.tanh_()
            o.sigmoid_()
            c = torch.mul(f, c, out=cells[t]).addcmul_(i, g)
            h = torch.mul(o, c.tanh(), out=outputs[t])
        return outputs, c.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor, d_c: Tensor) -> Any:
        """Returns the gradients of x, weight, h and c."""
        gates, outputs, cells, weight, h, c, mask = ctx.saved_tensors
        previous_h = torch.cat([h.unsqueeze(0), outputs[:-1]]).masked_fill_(mask, 0)
        previous_c = torch.cat([c.unsqueeze(0), cells[:-1]]).masked_fill_(mask, 0)
        i, f, g, o = gates.chunk(4, -1)
        tanh_c = cells.tanh()
        # What the gradient of c, or of h, is multiplied with on its way to each gate.
        c_to_ifg = torch.stack(
            [g * i * (1 - i), previous_c * f * (1 - f), i * (1 - g * g)], 2
        )  # [T, B, 3, H]
        h_to_o = tanh_c * o * (1 - o)
        h_to_c = o * (1 - tanh_c * tanh_c)
        d_x = torch.empty_like(gates)
        d_gates = d_x.unflatten(-1, (4, -1))  # [T, B, 4, H]
        d_h = torch.zeros_like(h)
        for t in reversed(range(len(ctx.resets))):
            d_h = d_h + d_outputs[t]
            d_c = torch.addcmul(d_c, d_h, h_to_c[t])
            torch.mul(c_to_ifg[t], d_c.unsqueeze(1), out=d_gates[t, :, :3])
            torch.mul(h_to_o[t], d_h, out=d_gates[t, :, 3])
            d_h = d_x[t] @ weight
            d_c = d_c * f[t]
            if ctx.resets[t]:
                d_h, d_c = d_h.masked_fill_(mask[t], 0), d_c.masked_fill_(mask[t], 0)
        d_weight = d_x.flatten(0, 1).t() @ previous_h.flatten(0, 1)
        return d_x, d_weight, d_h, d_c, None, None
