"""The message in which a whole rollout travels between machines: never pickled, always checked.

All numbers are little-endian::

    0   magic            4 bytes, "TBRo"
    4   version          u16, of this format: 1
    6   codec            u16: 0 none, 1 zlib, 2 lz4 (a block without its size)
    8   schema           u64, of names, shapes and types, T, B and k: both sides must have the same
    16  unroll_length    u32, T
    20  batch_size       u32, B
    24  worker           u64
    32  incarnation      u64
    40  sequence         u64
    48  raw_bytes        u64, of the payload when it is decompressed
    56  payload_bytes    u64
    64  checksum         u32, CRC-32 of the payload
    68  header_checksum  u32, CRC-32 of what is above
    72  payload

A decompressed payload holds the arrays of a slot one after the other, in the order of its leaves,
each padded with zeros to 8 bytes. Where observations are stacks of k > 1 frames, they are not among
them but come last, each frame once::

    newest   [T+1, B, *frame]   the last frame of every stack, XOR the one before it
    older    [n, k-1, *frame]   of the n stacks that do not go on with the stack of the row before:
                                the oldest frame, then each XOR the one before it
    whole    (T+1) * B bits     which stacks these are, row by row; those of row 0 always
"""

from torchbeast.data.message.codecs import installed
from torchbeast.data.message.fence import Fence
from torchbeast.data.message.format import RolloutFormat
from torchbeast.data.message.header import MessageError, Stamp
from torchbeast.data.message.probe import choose_codec

__all__ = ["Fence", "MessageError", "RolloutFormat", "Stamp", "choose_codec", "installed"]
