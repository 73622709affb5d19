"""Draws JPEG files of every kind, damages most of them, and says what Pillow makes of each.

    jpeg_differential.py FOLDER COUNT SEED [plain]

writes FOLDER/N.jpg, FOLDER/N.rgb where Pillow reads it, and FOLDER/list.json: kind, damage, width,
height or error of each. `plain` leaves them whole. Pillow writes some of the files. Those that it
cannot write come from the encoder below, which draws coefficients instead of transforming pixels:
any sampling factors, names of components, scripts of scans and Huffman tables.
"""

import base64
import io
import json
import math
import random
import struct
import sys
import warnings

from PIL import Image

warnings.simplefilter("ignore")

# What is done to files, some of it more often.
DAMAGES = ["none"] * 6 + ["cut", "bit", "bit", "bit of a scan", "bit of a scan", "byte", "inserted"]
DAMAGES += ["zeros between", "junk between", "removed", "empty segment", "doubled", "end within"]
DAMAGES += ["lost bytes", "no end", "trailing"]


def segment(marker, content=b""):
    return struct.pack(">BBH", 255, marker, len(content) + 2) + content


class Bits:
    """Coded data: bits, bytes of ones stuffed."""

    def __init__(self):
        self.out, self.value, self.count = bytearray(), 0, 0

    def put(self, value, count):
        for at in reversed(range(count)):
            self.value = self.value << 1 | (value >> at & 1)
            self.count += 1
            if self.count == 8:
                self.out.append(self.value)
                if self.value == 255:
                    self.out.append(0)
                self.value = self.count = 0

    def flush(self):
        while self.count:
            self.put(1, 1)

    def restart(self, number):
        self.flush()
        self.out += bytes([255, 0xD0 + number % 8])


def table(rng, symbols):
    """A Huffman table for the symbols: counts, values, and the code of each."""
    symbols = list(symbols)
    rng.shuffle(symbols)
    longest = lambda skewed: skewed + max(1, math.ceil(math.log2(len(symbols) - skewed + 1)))
    choices = [skewed for skewed in range(min(13, len(symbols))) if longest(skewed) <= 16]
    skewed = rng.choice(choices)
    flat = longest(skewed)
    lengths = [at + 1 for at in range(skewed)] + [flat] * (len(symbols) - skewed)
    counts, codes, code, last = [0] * 16, {}, 0, 0
    for symbol, length in zip(symbols, lengths):
        code <<= length - last
        counts[length - 1] += 1
        codes[symbol] = (code, length)
        code, last = code + 1, length
    return bytes(counts) + bytes(symbols), codes


def magnitude(value):
    bits = abs(value).bit_length()
    return bits, value if value >= 0 else value + (1 << bits) - 1


class Recorder:
    """A scan as symbols and bits, before its Huffman tables are known."""

    def __init__(self):
        self.items, self.used = [], {}

    def symbol(self, which, symbol):
        self.used.setdefault(which, set()).add(symbol)
        self.items.append((which, symbol))

    def bits(self, value, count):
        if count:
            self.items.append((None, (value, count)))

    def restart(self):
        self.items.append((None, None))

    def code(self, tables):
        out, number = Bits(), 0
        for which, item in self.items:
            if which is not None:
                out.put(*tables[which][item])
            elif item is None:
                out.restart(number)
                number += 1
            else:
                out.put(*item)
        out.flush()
        return bytes(out.out)


def code_dc(out, scan, block, before, which):
    value = block[0] >> scan["after"]
    if scan["before"]:
        out.bits(value & 1, 1)
        return before
    bits, extra = magnitude(value - before)
    out.symbol(("dc", which), bits)
    out.bits(extra, bits)
    return value


def code_ac(out, block, first, last, after, which, progressive):
    run = 0
    for at in range(first, last + 1):
        value = int(block[at] / (1 << after))
        if value == 0:
            run += 1
            continue
        while run > 15:
            out.symbol(("ac", which), 0xF0)
            run -= 16
        bits, extra = magnitude(value)
        out.symbol(("ac", which), run << 4 | bits)
        out.bits(extra, bits)
        run = 0
    if run:
        out.symbol(("ac", which), 0)


def refine_ac(out, block, first, last, after, which):
    values = [abs(block[at]) >> after for at in range(first, last + 1)]
    end = max((at for at, value in enumerate(values) if value == 1), default=-1)
    run, corrections = 0, []
    for at, value in enumerate(values):
        if value == 0:
            run += 1
            continue
        while run > 15 and at <= end:
            out.symbol(("ac", which), 0xF0)
            for bit in corrections:
                out.bits(bit, 1)
            run, corrections = run - 16, []
        if value > 1:
            corrections.append(value & 1)
            continue
        out.symbol(("ac", which), run << 4 | 1)
        out.bits(int(block[first + at] > 0), 1)
        for bit in corrections:
            out.bits(bit, 1)
        run, corrections = 0, []
    if run or corrections:
        out.symbol(("ac", which), 0)
        for bit in corrections:
            out.bits(bit, 1)


def script(rng, count, progressive):
    """Scans that together hold everything, or nearly: components, band, bits before and after."""
    everyone = list(range(count))
    if not progressive:
        style = rng.random()
        groups = [everyone]
        if style < 0.2:
            groups = [[one] for one in everyone]
        elif style < 0.25 and count > 2:
            groups = [everyone[:1], everyone[1:]]
        return [dict(of=group, first=0, last=63, before=0, after=0) for group in groups]
    scans, todo = [], []
    low = rng.choice([0, 0, 1, 2])
    two = [everyone[:1], everyone[1:]] if count > 1 else [everyone]
    for group in rng.choice([[everyone], [[one] for one in everyone], two]):
        scans.append(dict(of=group, first=0, last=0, before=0, after=low))
    finer = [(bit + 1, bit) for bit in reversed(range(low))]
    todo += [[dict(of=everyone, first=0, last=0, before=b, after=a) for b, a in finer]]
    for one in everyone:
        edges = sorted(rng.sample(range(2, 64), rng.choice([0, 1, 2])))
        for first, last in zip([1] + edges, [edge - 1 for edge in edges] + [63]):
            low = rng.choice([0, 0, 1, 2])
            bits = [(0, low)] + [(bit + 1, bit) for bit in reversed(range(low))]
            band = dict(of=[one], first=first, last=last)
            todo.append([dict(band, before=b, after=a) for b, a in bits])
    while todo := [scans_left for scans_left in todo if scans_left]:
        scans.append(rng.choice(todo).pop(0))
    if rng.random() < 0.15:
        del scans[rng.randrange(1, len(scans) + 1) :]
    return scans


def groups_of(frame, scan):
    """The blocks of each coding unit of a scan, as (component, row, column)."""
    width, height, factors = frame
    across, down = max(h for h, _ in factors), max(v for _, v in factors)
    if len(scan["of"]) == 1:
        one = scan["of"][0]
        h, v = factors[one]
        columns, rows = (-(-(-(-width * h // across)) // 8), -(-(-(-height * v // down)) // 8))
        return [[(one, y, x)] for y in range(rows) for x in range(columns)]
    columns, rows = -(-width // (8 * across)), -(-height // (8 * down))
    unit = lambda y, x: [
        (one, y * factors[one][1] + j, x * factors[one][0] + i)
        for one in scan["of"] for j in range(factors[one][1]) for i in range(factors[one][0])
    ]
    return [unit(y, x) for y in range(rows) for x in range(columns)]


def draw_block(rng):
    block = [rng.randrange(-60, 60)] + [0] * 63
    for _ in range(rng.choice([0, 1, 3, 8, 30])):
        at = min(63, 1 + int(rng.expovariate(0.15)))
        block[at] = int(rng.gauss(0, 1 + 12 / at))
    return block


def adobe(transform):
    return segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def drawn(rng):
    """A file of the encoder's own: its kind, and its bytes."""
    width, height = rng.randint(1, 40), rng.randint(1, 40)
    count = rng.choices([1, 3, 4, 2], [2, 10, 3, 0.2])[0]
    style = rng.random()
    factor = lambda: (rng.randint(1, 4), rng.randint(1, 4))
    if style < 0.4:
        usual = [(1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (1, 4), (4, 2)]
        factors = [rng.choice(usual)] + [(1, 1)] * (count - 1)
        if count == 4 and rng.random() < 0.5:
            factors[3] = factors[0]
    elif style < 0.6:
        factors = [rng.choice([(1, 1), (1, 1), (2, 1), (1, 2), (2, 2)])] * count
    elif style < 0.8:
        factors = [(rng.choice([1, 2]), rng.choice([1, 2])) for _ in range(count)]
    else:
        factors = [factor() for _ in range(count)]
    names = rng.choice([[1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3], [82, 71, 66, 65], [7, 3, 200, 9]])
    progressive = rng.random() < 0.4
    head = b""
    if rng.random() < 0.5:
        head += segment(0xE0, b"JFIF\0" + bytes([1, 1, 0, 0, 1, 0, 1, 0, 0]))
    if rng.random() < 0.4:
        head += adobe(rng.choice([0, 1, 2, 2, 3]))
    for _ in range(rng.choice([0, 0, 1, 3])):
        marker = rng.choice([0xE1, 0xE2, 0xE5, 0xED, 0xFE])
        contents = [b"", b"Exif\0\0II", rng.randbytes(9), b"\xff\xd9\xff\xda"]
        head += segment(marker, rng.choice(contents))
    which = [rng.choice([0, 0, 1, 3]) for _ in range(count)]
    for one in sorted(set(which)):
        # Within what blocks of 8 bits a color can have: docs/data.md has the exception.
        deep = rng.random() < 0.2
        values = [rng.randint(1, 16)] + [rng.randint(1, 60 if deep else 24) for _ in range(63)]
        values = struct.pack(">64H", *values) if deep else bytes(values)
        head += segment(0xDB, bytes([deep << 4 | one]) + values)
    frame = struct.pack(">BHHB", 8, height, width, count)
    for name, (h, v), one in zip(names, factors, which):
        frame += bytes([name, h << 4 | v, one])
    head += segment(0xC2 if progressive else rng.choice([0xC0, 0xC1]), frame)
    blocks, body = {}, b""
    for scan in script(rng, count, progressive):
        interval = rng.choice([0, 0, 1, 2, 5])
        body += segment(0xDD, struct.pack(">H", interval))
        body += code_scan(rng, (width, height, factors), scan, blocks, names, interval, progressive)
    kind = f"drawn {'progressive' if progressive else 'sequential'} {count}: "
    return kind + " ".join(f"{h}x{v}" for h, v in factors), b"\xff\xd8" + head + body + b"\xff\xd9"


def code_scan(rng, frame, scan, blocks, names, interval, progressive):
    out, before = Recorder(), {}
    uses = {one: (rng.randint(0, 1), rng.randint(0, 1)) for one in scan["of"]}
    for number, unit in enumerate(groups_of(frame, scan)):
        if interval and number and number % interval == 0:
            out.restart()
            before = {}
        for one, y, x in unit:
            if (one, y, x) not in blocks:
                blocks[one, y, x] = draw_block(rng)
            block = blocks[one, y, x]
            if scan["first"] == 0:
                before[one] = code_dc(out, scan, block, before.get(one, 0), uses[one][0])
            first = max(1, scan["first"])
            if scan["before"] and scan["first"]:
                refine_ac(out, block, first, scan["last"], scan["after"], uses[one][1])
            elif scan["last"]:
                code_ac(out, block, first, scan["last"], scan["after"], uses[one][1], progressive)
    text, codes = b"", {}
    for one in scan["of"]:
        out.used.setdefault(("dc", uses[one][0]), {0})
        out.used.setdefault(("ac", uses[one][1]), {0})
    for (kind, which), symbols in sorted(out.used.items()):
        content, codes[kind, which] = table(rng, sorted(symbols))
        text += segment(0xC4, bytes([(kind == "ac") << 4 | which]) + content)
    header = bytes([len(scan["of"])])
    for one in scan["of"]:
        header += bytes([names[one], uses[one][0] << 4 | uses[one][1]])
    header += bytes([scan["first"], scan["last"], scan["before"] << 4 | scan["after"]])
    text += segment(0xDA, header)
    return text + out.code(codes)


def written(rng):
    """A file of Pillow's: its kind, and its bytes."""
    width, height = rng.randint(1, 40), rng.randint(1, 40)
    mode = rng.choice(["RGB", "RGB", "RGB", "L", "CMYK"])
    picture = Image.frombytes(mode, (3, 3), rng.randbytes(9 * {"L": 1, "RGB": 3, "CMYK": 4}[mode]))
    picture = picture.resize((width, height), rng.choice([Image.NEAREST, Image.BICUBIC]))
    options = dict(quality=rng.choice([1, 10, 50, 75, 90, 100]))
    options |= dict(progressive=rng.random() < 0.4, optimize=rng.random() < 0.3)
    if mode == "RGB":
        options["subsampling"] = rng.choice(["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
        options["keep_rgb"] = rng.random() < 0.15
    if options.get("keep_rgb"):
        del options["subsampling"]
    if rng.random() < 0.3:
        options["restart_marker_blocks"] = rng.choice([1, 2, 5])
    elif rng.random() < 0.2:
        options["restart_marker_rows"] = 1
    if rng.random() < 0.2:
        options["comment"] = b"a comment \xff\xd9"
    if rng.random() < 0.1:
        options["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
    out = io.BytesIO()
    picture.save(out, "JPEG", **options)
    kind = f"Pillow's {mode} {'progressive' if options['progressive'] else 'sequential'} "
    return kind + options.get("subsampling", ""), out.getvalue()


# Two files of arithmetic codes, sequential and progressive, of 19 × 13 pixels: no encoder for them
# is at hand.
ARITHMETIC = [
    base64.b64decode(text)
    for text in (
        """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRk
xOUlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09P
T09PT09PT09PT0//yQARCAANABMDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD7whZ8OXwsA2IOlsFAjkkO9O
CHDmC0yQk1Clb7hJMPi2ZNn2cBTObTm26LyoAsjMYbX1kSFEhrRmz+nSDKjevHpGHbJZ7Chg668aOL/TdkqotWJnfN1oh4btKX
HBxA/9k=
""",
        """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRk
xOUlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09P
T09PT09PT09PT0//ygARCAANABMDASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAAAfa4LBvKgp0vgf/MAAQQBf/aAAgBAQ
ABBQIXikTsrT/lLf/MAAQRBf/aAAgBAwEBPwEVKT5QgZqA/8wABBEF/9oACAECAQE/AZq9qPoS/v/MAAQQBf/aAAgBAQAGPwLO
/8wABBAF/9oACAEBAAE/IS2A2hd7O6BlraeW/9oADAMBAAIAAwAAABCUwP/MAAQRBf/aAAgBAwEBPxBCiFbECiOq/8wABBEF/9
oACAECAQE/ECNUhp4GJ839Z6GQ/8wABBAF/9oACAEBAAE/EFAd02o+K7EawMPNmR2McG2sMc5KYl3UjhzA/9k=
""",
    )
]


def made(rng):
    """A file: its kind, and its bytes."""
    who = rng.random()
    if who < 0.03:
        return "arithmetic", rng.choice(ARITHMETIC)
    return drawn(rng) if who < 0.6 else written(rng)


def markers(data):
    """Where the segments before the first scan begin and end."""
    at, found = 2, []
    while at + 4 <= len(data) and data[at] == 255 and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((at, end))
        at = end
    return found, at


def damaged(rng, data):
    """What is done to a file, and the outcome."""
    at = rng.randrange(2, len(data))
    segments, scan = markers(data)
    what = rng.choice(DAMAGES)
    if what == "cut":
        return what, data[:at]
    if what == "bit of a scan":
        at = rng.randrange(min(scan, len(data) - 1), len(data))
    if what.startswith("bit"):
        return what, data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if what == "byte":
        return what, data[:at] + rng.choice([b"\0", b"\xff", rng.randbytes(1)]) + data[at + 1 :]
    if what == "inserted":
        more = rng.choice([b"\0", b"\xff", b"\xff\0", b"\xff\xd3", rng.randbytes(3)])
        return what, data[:at] + more + data[at:]
    if what in ("removed", "doubled") and segments:
        begin, end = rng.choice(segments)
        return what, data[:begin] + data[begin:end] * (2 if what == "doubled" else 0) + data[end:]
    if what in ("zeros between", "junk between", "empty segment"):
        here = rng.choice([begin for begin, _ in segments] + [scan])
        stray = [b"\xff\0\xff\0", b"\xff\xff", rng.randbytes(3), b"\xff\x01", b"\xff\xd0"]
        stray, kind = rng.choice(stray), rng.choice([0xE0, 0xE7, 0xFE, 0xEE])
        between = {
            "zeros between": b"\0\0",
            "junk between": stray,
            "empty segment": bytes([255, kind, 0, rng.randrange(3)]),
        }
        return what, data[:here] + between[what] + data[here:]
    if what == "end within":
        return what, data[:at] + b"\xff\xd9" + rng.choice([b"", data[at:]])
    if what == "lost bytes":
        return what, data[:at] + data[at + rng.randint(1, 20) :]
    if what == "no end":
        return what, data[:-2]
    if what == "trailing":
        return what, data + rng.choice([b"\0\0", b"\xff\xd9", data, rng.randbytes(20)])
    return "none", data


def main():
    folder, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    entries = []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        kind, data = made(rng)
        damage = "none"
        if "plain" not in sys.argv[4:]:
            damage, data = damaged(rng, data)
        open(f"{folder}/{number}.jpg", "wb").write(data)
        entry = dict(kind=kind, damage=damage)
        try:
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            entry |= dict(width=picture.width, height=picture.height)
            open(f"{folder}/{number}.rgb", "wb").write(picture.tobytes())
        except Exception as error:
            entry |= dict(error=f"{type(error).__name__}: {error}")
        entries.append(entry)
    json.dump(entries, open(f"{folder}/list.json", "w"))


main()
