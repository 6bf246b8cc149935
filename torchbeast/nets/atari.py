"""Convolutional networks for any image size: IMPALA's two, MinAtar's and DrQ's."""

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
        units: of the linear layer; 0 leaves it to what comes behind.
        full_size_channels: channels of the activations that are as large as the frames.
        layer_norm: a LayerNorm before the activation of the linear layer.
    """

    def __init__(
        self,
        convs: nn.Sequential,
        shape: tuple[int, int, int],
        units: int,
        full_size_channels: int,
        layer_norm: bool = False,
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
        self.linear = nn.Linear(flat_size, units) if units else None
        self.norm = nn.LayerNorm(units) if units and layer_norm else None
        self.out_features = units or flat_size
        frame_bytes = full_size_channels * height * width * 4
        self.chunk = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // frame_bytes))

    def forward(self, frames: Tensor) -> Tensor:
        """Returns features [N, out_features] of frames [N, C, H, W]; bytes count as 0..1."""
        if frames.device.type == "cpu" and frames.shape[0] > self.chunk:
            x = torch.cat([self.convs(chunk).flatten(1) for chunk in frames.split(self.chunk)])
        else:
            x = self.convs(frames).flatten(1)
        if self.linear is None:
            return x
        x = self.linear(x)
        return functional.relu_(x if self.norm is None else self.norm(x))


class FrameConv(nn.Conv2d):
    """A first convolution that takes frames as they are stored; bytes count as 0..1."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns [N, C', H', W'] of frames [N, C, H, W] in any memory format."""
        # Scaling the weights is cheaper than scaling the pixels, and bytes are exact in bfloat16.
        weight = self.weight * (1 / 255) if input.dtype == torch.uint8 else self.weight
        return self._conv_forward(_to_float(input, weight.dtype), weight, self.bias)


class Residual(nn.Module):
    """x plus two convolutions of it; a LayerNorm before each activation if ``layer_norm``."""

    def __init__(self, channels: int, layer_norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = _layer_norm(channels) if layer_norm else None
        self.norm2 = _layer_norm(channels) if layer_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, C, H, W] for [N, C, H, W]."""
        # In place where no gradient needs the old value: these activations fill the memory bus.
        y = functional.relu(x) if self.norm1 is None else functional.relu_(self.norm1(x))
        y = self.conv1(y)
        y = functional.relu_(y if self.norm2 is None else self.norm2(y))
        return self.conv2(y).add_(x)


def shallow_torso(
    channels: int, height: int, width: int, units: int, layer_norm: bool = False
) -> ConvTorso:
    """Returns three convolutions and a linear layer, the network of DQN (Nature, 2015)."""
    convs = nn.Sequential(
        FrameConv(channels, 32, 8, 4),
        *_relu(32, layer_norm),
        nn.Conv2d(32, 64, 4, 2),
        *_relu(64, layer_norm),
        nn.Conv2d(64, 64, 3, 1),
        *_relu(64, layer_norm),
    )
    return ConvTorso(convs, (channels, height, width), units, channels, layer_norm)


def deep_torso(
    channels: int, height: int, width: int, units: int, layer_norm: bool = False
) -> ConvTorso:
    """Returns IMPALA's residual network: sections of 16, 32 and 32 channels, and a linear layer."""
    layers: list[nn.Module] = []
    before = channels
    for after in (16, 32, 32):
        conv = nn.Conv2d if layers else FrameConv
        layers += [
            conv(before, after, 3, padding=1),
            nn.MaxPool2d(3, 2, padding=1),
            Residual(after, layer_norm),
            Residual(after, layer_norm),
        ]
        before = after
    convs = nn.Sequential(*layers, *_relu(before, layer_norm))
    return ConvTorso(convs, (channels, height, width), units, max(channels, 16), layer_norm)


def small_torso(
    channels: int, height: int, width: int, units: int, layer_norm: bool = False
) -> ConvTorso:
    """Returns one convolution and a linear layer, the network of MinAtar (arXiv:1903.03176)."""
    convs = nn.Sequential(FrameConv(channels, 16, 3), *_relu(16, layer_norm))
    return ConvTorso(convs, (channels, height, width), units, max(channels, 16), layer_norm)


def drq_torso(
    channels: int, height: int, width: int, units: int, layer_norm: bool = False
) -> ConvTorso:
    """Returns four convolutions that hardly shrink the picture, the encoder of DrQ.

    arXiv:2004.13649 appendix B; a linear layer behind them only if ``units`` are asked for.
    """
    layers: list[nn.Module] = [FrameConv(channels, 32, 3, 2), *_relu(32, layer_norm)]
    for _ in range(3):
        layers += [nn.Conv2d(32, 32, 3), *_relu(32, layer_norm)]
    convs = nn.Sequential(*layers)
    return ConvTorso(convs, (channels, height, width), units, max(channels, 16), layer_norm)


def _relu(channels: int, layer_norm: bool) -> list[nn.Module]:
    relu = nn.ReLU(inplace=True)
    return [_layer_norm(channels), relu] if layer_norm else [relu]


def _layer_norm(channels: int) -> nn.Module:
    """Returns a LayerNorm over [C, H, W], whose scale and shift are those of a channel."""
    # One group is all channels. nn.LayerNorm must know H and W, and wants channels first in
    # memory: for the shallow network that makes an update a quarter slower.
    return nn.GroupNorm(1, channels)


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
