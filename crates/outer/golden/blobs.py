"""Reference encoder for the blobs, written from the documentation alone: prints blobs.txt. Of the low-rank
blobs, made by `cargo test -p atoll-outer --test golden -- --ignored`, it is the reference decoder.

Each line: codec, bytes of the blob, BLAKE3 of the blob, BLAKE3 of the decoded values as f32. The
input is `values(P, 1)` of tests/common/mod.rs, the layout and the base are those of that file.

    pip install numpy blake3 && python blobs.py > blobs.txt
"""
import struct
import sys
from pathlib import Path

import blake3
import numpy as np

F32 = np.float32
TENSORS = [(100, 70, False), (70, 1, True), (129, 65, False), (3, 201, False), (70, 1, False), (66, 150, False),
           (33, 1, True)]
NF4 = np.array([-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0, 0.0795803,
                0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0], dtype=F32)
MIDDLES = (NF4[:-1] + NF4[1:]) * F32(0.5)
MASK = (1 << 64) - 1


def values(count, seed):
    out = []
    for index in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
        out.append(0.0 if index % 97 == 0 else ((z >> 40) - (1 << 23)) * 2.0 ** -(24 + (z & 7)))
    return np.array(out, dtype=F32)


def to_bf16(x):
    bits = int(np.array(x, dtype=F32).view(np.uint32))
    low, high = bits & 0xFFFF, bits >> 16
    return high + (low > 0x8000 or (low == 0x8000 and high & 1))


def from_bf16(bits):
    return np.array(bits << 16, dtype=np.uint32).view(F32)


def dense(x):
    return x.astype("<f4").tobytes(), x


def bf16(x):
    halves = [to_bf16(v) for v in x]
    return struct.pack(f"<{len(x)}H", *halves), np.array([from_bf16(h) for h in halves], dtype=F32)


def int4(x):
    out, back = b"", []
    for start in range(0, len(x), 128):
        block = x[start:start + 128]
        scale = np.abs(block).max()
        codes = [int((y > MIDDLES).sum()) for y in block / scale] if scale else [7] * len(block)
        back += [NF4[c] * scale for c in codes]
        pairs = codes + [0] * (len(codes) % 2)
        out += struct.pack("<f", scale) + bytes(a | b << 4 for a, b in zip(pairs[::2], pairs[1::2]))
    return out, np.array(back, dtype=F32)


def int8(x):
    out, back, unit = b"", [], F32(1) / F32(127)
    for start in range(0, len(x), 128):
        block = x[start:start + 128]
        scale = np.abs(block).max()
        codes = np.rint(block / scale * F32(127)).astype(np.int8) if scale else np.zeros(len(block), dtype=np.int8)
        back += list(codes.astype(F32) * unit * scale)
        out += struct.pack("<f", scale) + codes.tobytes()
    return out, np.array(back, dtype=F32)


def pack(bits):
    bits = bits + [0] * (-len(bits) % 8)
    return bytes(sum(bit << i for i, bit in enumerate(bits[at:at + 8])) for at in range(0, len(bits), 8))


def low_first(number, count):
    return [number >> i & 1 for i in range(count)]


def divide(magnitudes):
    """(least large magnitude, level of small, level of large), by trying every division."""
    m = sorted(float(x) for x in magnitudes)
    best = None
    for split in range(1, len(m)):
        if m[split - 1] == m[split]:
            continue
        below, above = sum(m[:split]), sum(m) - sum(m[:split])
        score = below * below / split + above * above / (len(m) - split)
        if best is None or score > best[0]:
            best = score, m[split], to_bf16(below / split), to_bf16(above / (len(m) - split))
    if best and best[2] < best[3]:
        return best[1:]
    return float("inf"), to_bf16(sum(m) / len(m)) if m else 0, 0


def tile(x, k):
    n = x.size
    flat = x.reshape(-1)
    order = sorted((i for i in range(n) if flat[i] != 0), key=lambda i: (-abs(flat[i]), i))
    kept = sorted(order[:max(1, k * n // 4096)])
    out, back = struct.pack("<H", len(kept)), np.zeros(n, dtype=F32)
    if not kept:
        return out, back.reshape(x.shape)
    books = [divide([abs(flat[i]) for i in kept if (flat[i] < 0) == side]) for side in (False, True)]
    levels = [*books[0][1:], *(h | 0x8000 if h else 0 for h in books[1][1:])]
    code_bits, gap_bits, next_index = [], [], 0
    b = (n // len(kept)).bit_length() - 1
    for i in kept:
        negative = bool(flat[i] < 0)
        code = int(abs(flat[i]) >= books[negative][0]) | negative << 1
        back[i] = from_bf16(levels[code])
        code_bits += low_first(code, 2)
        gap = i - next_index
        gap_bits += [1] * (gap >> b) + [0] + low_first(gap, b)
        next_index = i + 1
    return out + struct.pack("<4H", *levels) + pack(code_bits) + pack(gap_bits), back.reshape(x.shape)


def sparse(x, k):
    out, back = b"", np.zeros_like(x)
    for row in range(0, x.shape[0], 64):
        for column in range(0, x.shape[1], 64):
            piece = np.s_[row:row + 64, column:column + 64]
            data, back[piece] = tile(x[piece], k)
            out += data
    return out, back


def blob(x, codec, parameter):
    table, payloads, decoded, at = b"", b"", [], 0
    for rows, columns, is_vector in TENSORS:
        part = x[at:at + rows * columns]
        at += rows * columns
        if codec == 0:
            data, back = dense(part)
        elif is_vector:
            data, back = bf16(part)
        elif codec == 1:
            data, back = int4(part)
        elif codec == 3:
            data, back = int8(part)
        else:
            data, back = sparse(part.reshape(rows, columns), parameter)
        table += struct.pack("<IIQ", rows, columns, len(data))
        payloads += data
        decoded.append(back.reshape(-1))
    head = b"ATPG" + struct.pack("<HBBII", 1, codec, 0, parameter, len(TENSORS)) + b"\7" * 32
    return head + table + payloads, np.concatenate(decoded)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        fields = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return fields

    def bf16(self, count):
        return np.array([from_bf16(h) for h in self.take(f"{count}H")], dtype=F32)

    def int8(self, count):
        out = []
        for start in range(0, count, 128):
            (scale,) = self.take("f")
            codes = np.array(self.take(f"{min(128, count - start)}b"), dtype=F32)
            out += list(codes * (F32(1) / F32(127)) * F32(scale))
        return np.array(out, dtype=F32)

    def int4(self, count):
        out = []
        for start in range(0, count, 128):
            (scale,) = self.take("f")
            n = min(128, count - start)
            codes = [half for byte in self.take(f"{(n + 1) // 2}B") for half in (byte & 15, byte >> 4)]
            out += list(NF4[codes[:n]] * F32(scale))
        return np.array(out, dtype=F32)


def low_rank_decoded(data, rank):
    """Rank r below both sides and bytes below int4's: P and Q; other matrices and the embedding: int4."""
    head = b"ATPG" + struct.pack("<HBBII", 1, 4, 0, rank, len(TENSORS)) + b"\7" * 32
    assert data.startswith(head)
    reader, decoded = Reader(data), []
    reader.at = len(head) + 16 * len(TENSORS)
    int4_bytes = lambda n: sum(4 + (min(128, n - at) + 1) // 2 for at in range(0, n, 128))
    int8_bytes = lambda n: n + 4 * -(-n // 128)
    for index, (rows, columns, is_vector) in enumerate(TENSORS):
        start, bands = reader.at, [min(64, rows - at) for at in range(0, rows, 64)]
        factored = rank * int4_bytes(columns) + sum(int8_bytes(band * rank) for band in bands)
        if is_vector:
            decoded.append(reader.bf16(rows * columns))
        elif index == 0 or rank >= min(rows, columns) or factored >= int4_bytes(rows * columns):
            decoded.append(reader.int4(rows * columns))
        else:
            q = [reader.int4(columns) for _ in range(rank)]
            for band in bands:
                p = reader.int8(band * rank).reshape(band, rank)
                m = np.zeros((band, columns), dtype=F32)
                for k in range(rank):
                    m = m + p[:, k:k + 1] * q[k][None, :]
                decoded.append(m.reshape(-1))
        entry = struct.unpack_from("<IIQ", data, len(head) + 16 * index)
        assert entry == (rows, columns, reader.at - start)
    assert reader.at == len(data)
    return np.concatenate(decoded)


print(f"# blobs.py: numpy {np.__version__}, blake3 {blake3.__version__}, python {sys.version.split()[0]}")
x = values(sum(rows * columns for rows, columns, _ in TENSORS), 1)
for name, codec, parameter in [("dense", 0, 0), ("int8", 3, 128), ("int4", 1, 128), ("sparse-1", 2, 1), ("sparse-64", 2, 64),
                               ("sparse-4096", 2, 4096)]:
    data, back = blob(x, codec, parameter)
    print(name, len(data), blake3.blake3(data).hexdigest(), blake3.blake3(back.astype("<f4").tobytes()).hexdigest())
for rank in [3, 20]:
    data = (Path(__file__).parent / f"lowrank-{rank}.bin").read_bytes()
    back = low_rank_decoded(data, rank)
    print(f"lowrank-{rank}", len(data), blake3.blake3(data).hexdigest(), blake3.blake3(back.astype("<f4").tobytes()).hexdigest())
    lost = float((((x - back).astype(np.float64)) ** 2).sum() / (x.astype(np.float64) ** 2).sum())
    assert lost < 0.7, lost
