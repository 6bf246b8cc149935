"""Convolutional networks for any image size: IMPALA's two (arXiv:1802.01561), and a small one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Larger blocks bypass malloc's heap, and their pages are faulted in anew for every update. Chunks
# of frames whose largest activation stays below are also closer to the cache: deep network, one
# thread, 1.5 times the frames per second.
CHUNK_BYTES = 30_000_000
CHUNK_FRAMES = 128


class ConvTorso(nn.Module):
    """Convolutions and one linear layer; frames [N, C, H, W] to features [N, out_features].

    Args:
        convs: the convolutions, of which the first is a FrameConv.
        shape: (C, H, W) of the frames.
        out_features: units of the linear layer.
        full_size_channels: channels of the activations that are as large as the frames.
    """

    def __init__(
        self,
        convs: nn.Sequential,
        shape: tuple[int, int, int],
        out_features: int,
        full_size_channels: int,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.convs = convs
        # Weights that lie channels last make every convolution behind them do so, too.
        for parameter in convs.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            flat_size = convs(torch.zeros(1, channels, height, width)).numel()
        self.linear = nn.Linear(flat_size, out_features)
        self.out_features = out_features
        frame_bytes = full_size_channels * height * width * 4
        self.chunk = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // frame_bytes))

    def forward(self, frames: Tensor) -> Tensor:
        """Returns features [N, out_features] of frames [N, C, H, W]; bytes count as 0..1."""
        if frames.device.type == "cpu" and frames.shape[0] > self.chunk:
            x = torch.cat([self.convs(chunk).flatten(1) for chunk in frames.split(self.chunk)])
        else:
            x = self.convs(frames).flatten(1)
        return functional.relu_(self.linear(x))


class FrameConv(nn.Conv2d):
    """A first convolution that takes frames as they are stored; bytes count as 0..1."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns [N, C', H', W'] of frames [N, C, H, W] in any memory format."""
        # Scaling the weights is cheaper than scaling the pixels, and bytes are exact in bfloat16.
        weight = self.weight * (1 / 255) if input.dtype == torch.uint8 else self.weight
        return self._conv_forward(_to_float(input, weight.dtype), weight, self.bias)


class Residual(nn.Module):
    """x plus two convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, C, H, W] for [N, C, H, W]."""
        # In place where no gradient needs the old value: these activations fill the memory bus.
        y = functional.relu_(self.conv1(functional.relu(x)))
        return self.conv2(y).add_(x)


def shallow_torso(channels: int, height: int, width: int) -> ConvTorso:
    """Returns three convolutions and 512 units, the network of DQN (Nature, 2015)."""
    convs = nn.Sequential(
        FrameConv(channels, 32, 8, 4),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 4, 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, 1),
        nn.ReLU(inplace=True),
    )
    return ConvTorso(convs, (channels, height, width), 512, channels)


def deep_torso(channels: int, height: int, width: int) -> ConvTorso:
    """Returns IMPALA's residual network: sections of 16, 32 and 32 channels, and 256 units."""
    layers: list[nn.Module] = []
    before = channels
    for after in (16, 32, 32):
        conv = nn.Conv2d if layers else FrameConv
        layers += [
            conv(before, after, 3, padding=1),
            nn.MaxPool2d(3, 2, padding=1),
            Residual(after),
            Residual(after),
        ]
        before = after
    convs = nn.Sequential(*layers, nn.ReLU(inplace=True))
    return ConvTorso(convs, (channels, height, width), 256, max(channels, 16))


def small_torso(channels: int, height: int, width: int) -> ConvTorso:
    """Returns one convolution and 128 units, the network of MinAtar (arXiv:1903.03176)."""
    convs = nn.Sequential(FrameConv(channels, 16, 3), nn.ReLU(inplace=True))
    return ConvTorso(convs, (channels, height, width), 128, max(channels, 16))


def _to_float(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns frames [N, C, H, W] in ``dtype``, channels last in memory."""
    if frames.device.type == "cpu" and frames.is_contiguous() and frames.shape[1] <= 16:
        # One channel at a time takes half the time of the transposing copy below.
        x = torch.empty(
            frames.shape, dtype=dtype, memory_format=torch.channels_last, device=frames.device
        )
        for channel in range(frames.shape[1]):
            x[:, channel].copy_(frames[:, channel])
        return x
    return frames.to(dtype, memory_format=torch.channels_last)
