"""Pictures of real handwritten digits on real photographs, with the exact mask of every object.

Both come with scikit-learn: `load_digits` (1797 scans of 8 x 8 pixels, from the UCI repository) and
`load_sample_images` (china.jpg and flower.jpg, CC BY 2.0, credited in scikit-learn's
datasets/images/README.txt). An object is a digit, enlarged, tilted and coloured. It is either bare or painted
on a round sign. That makes twenty *kinds*: kind k shows digit k % 10, on a sign from 10 on. All random
numbers come from the generator given.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits, load_sample_images

KINDS = 20
MINIMUM_VISIBLE = 0.4  # share of an object's pixels; a placement that hides more of any object is rejected


@dataclass
class Thing:
    """One object of a scene: `mask` (H, W) bool are its visible pixels, `whole` its pixels before hiding."""

    kind: int
    samples: tuple  # rows of load_digits
    mask: np.ndarray
    whole: int
    faint: bool = False
    truncated: bool = False
    crowd: bool = False

    @property
    def box(self):
        """(x0, y0, x1, y1) in pixels of the visible part, x1 and y1 exclusive."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def occluded(self):
        return not self.truncated and self.mask.sum() < 0.95 * self.whole

    @property
    def difficult(self):
        """Faint against its background, or mostly hidden: VOC's evaluation ignores such objects."""
        return self.faint or self.mask.sum() < 0.6 * self.whole


class Deck:
    """Hands out samples of a digit, each at most once. `pool`: {digit: row numbers}; `used`: rows so far."""

    def __init__(self, pool, generator):
        self.left = {digit: list(generator.permutation(rows)) for digit, rows in pool.items()}
        self.used = []

    def draw(self, digit):
        self.used.append(int(self.left[digit].pop()))
        return self.used[-1]


class Painter:
    """Draws with scikit-learn's digits and photographs. `parts`: the digits' rows, in two without overlap."""

    def __init__(self, seed):
        digits = load_digits()
        self.samples = (digits.images / 16).astype(np.float32)  # (1797, 8, 8), 0-1, ink is 1
        self.photographs = [Image.fromarray(picture) for picture in load_sample_images().images]
        self.parts = {"train": {}, "held out": {}}
        for digit in range(10):
            rows = np.random.default_rng([seed, digit]).permutation(np.flatnonzero(digits.target == digit))
            self.parts["train"][digit] = rows[: len(rows) * 2 // 3]
            self.parts["held out"][digit] = rows[len(rows) * 2 // 3:]

    def background(self, width, height, generator):
        """Draw a random piece of a photograph, (height, width, 3) float32 in 0-255."""
        photograph = self.photographs[generator.integers(len(self.photographs))]
        scale = generator.uniform(0.5, min(photograph.width / width, photograph.height / height))
        size = width * scale, height * scale
        left = generator.uniform(0, photograph.width - size[0])
        top = generator.uniform(0, photograph.height - size[1])
        piece = photograph.resize((width, height), Image.Resampling.BILINEAR,
                                  box=(left, top, left + size[0], top + size[1]))
        pixels = np.asarray(piece, dtype=np.float32)[:, :: generator.choice([1, -1])]
        return pixels * generator.uniform(0.65, 1.0)

    def _digit(self, sample, height, generator):
        """Return the coverage (h, w) in 0-1 of one digit about `height` pixels high."""
        ink = self.samples[sample]
        ink = ink[np.ix_(ink.max(1) > 0.2, ink.max(0) > 0.2)]
        ink = np.pad(ink / ink.max(), 1)
        width = max(6, round(height * ink.shape[1] / ink.shape[0] * generator.uniform(0.85, 1.2)))
        large = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)
        large = large.rotate(generator.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
        slope = max(3.0, height / 10)  # edges of about one pixel at every size
        return np.clip((np.asarray(large) - 0.45) * slope + 0.5, 0, 1)

    def stamp(self, kind, sample, size, light, generator):
        """Return a picture to paste, about `size` pixels high: colours (h, w, 3) in 0-255, coverage (h, w) in
        0-1.

        `light`: whether the object is lighter or darker than what it is pasted on.
        """
        ink_colour, plate_colour = _colour(light, generator), _colour(not light, generator)
        if kind < 10:
            coverage = self._digit(sample, size, generator)
            colours = np.broadcast_to(ink_colour, (*coverage.shape, 3))
        else:
            digit = self._digit(sample, max(8, round(size * 0.66)), generator)
            side = max(size, *digit.shape)
            across = np.abs(np.arange(side) + 0.5 - side / 2)
            coverage = np.clip(side / 2 - np.hypot(across[:, None], across), 0, 1)
            inside = np.zeros((side, side))
            top, left = (side - digit.shape[0]) // 2, (side - digit.shape[1]) // 2
            inside[top: top + digit.shape[0], left: left + digit.shape[1]] = digit
            colours = inside[..., None] * plate_colour + (1 - inside[..., None]) * ink_colour
        shade = np.linspace(generator.uniform(0.85, 1.1), generator.uniform(0.85, 1.1), len(coverage))
        return np.clip(colours * shade[:, None, None], 0, 255), coverage

    def portrait(self, kind, sample, generator):
        """Draw a picture for classification: one object, large. (H, W, 3) uint8, sides of 96 to 160
        pixels."""
        width, height = generator.integers(96, 161, 2)
        height += height == width  # ImageNet's pictures are hardly ever square
        canvas = Canvas(self.background(int(width), int(height), generator))
        size = int(generator.uniform(0.55, 0.9) * min(width, height))
        self._paste(canvas, kind, sample, size, None, generator)
        return canvas.picture()

    def scene(self, kinds, deck, generator, faint=False, crowd=None):
        """Draw a picture for detection: one object of each of `kinds`, and a crowd of the digit `crowd` if
        given.

        Sides of 200 to 320 pixels. `faint` makes the first object hard to see. Returns a Canvas.
        """
        width, height = (int(side) for side in generator.integers(200, 321, 2))
        canvas = Canvas(self.background(width, height, generator))
        if crowd is not None:
            self._crowd(canvas, crowd, deck, generator)
        for number, kind in enumerate(kinds):
            low, high = ((22, 34), (40, 84), (100, 150))[generator.choice(3, p=(0.3, 0.4, 0.3))]
            sample, size = deck.draw(kind % 10), int(generator.integers(low, high + 1))
            neighbour = canvas.things[-1] if canvas.things and generator.random() < 0.4 else None
            while not self._paste(canvas, kind, sample, size, neighbour, generator, faint and number == 0):
                size, neighbour = max(16, int(size * 0.9)), None  # no room: smaller, anywhere
        return canvas

    def _crowd(self, canvas, digit, deck, generator):
        """Paste many small equal digits side by side, annotated as one region as COCO does with iscrowd."""
        rows, columns = generator.integers(2, 4), generator.integers(4, 7)
        height, width = canvas.pixels.shape[:2]
        cell = 24
        top = int(generator.integers(0, height - rows * cell))
        left = int(generator.integers(0, width - columns * cell))
        light = canvas.pixels[top: top + rows * cell, left: left + columns * cell].mean() < 128
        region, samples = np.zeros((height, width), dtype=bool), []
        for place in range(rows * columns):
            samples.append(deck.draw(digit))
            colours, coverage = self.stamp(digit, samples[-1], 18, light, generator)
            colours, coverage = colours[:cell, :cell], coverage[:cell, :cell]
            jitter = generator.integers(0, 3, 2)
            region |= canvas.blend(colours, coverage, top + place // columns * cell + int(jitter[0]),
                                   left + place % columns * cell + int(jitter[1]))
        canvas.things.append(Thing(digit, tuple(samples), region, int(region.sum()), crowd=True))

    def _paste(self, canvas, kind, sample, size, neighbour, generator, faint=False):
        """Put one object on the canvas, over `neighbour` if given. Returns whether it found a place."""
        height, width = canvas.pixels.shape[:2]
        for _ in range(12):
            if neighbour is None:
                centre = generator.uniform(0.5 * size, width - 0.5 * size), \
                    generator.uniform(0.5 * size, height - 0.5 * size)
                if generator.random() < 0.1:  # over the left or right border
                    centre = generator.choice([0.2 * size, width - 0.2 * size]), centre[1]
            else:
                x0, y0, x1, y1 = neighbour.box
                angle, reach = generator.uniform(0, 2 * np.pi), generator.uniform(0.5, 0.9)
                centre = ((x0 + x1) / 2 + np.cos(angle) * reach * (x1 - x0 + size) / 2,
                          (y0 + y1) / 2 + np.sin(angle) * reach * (y1 - y0 + size) / 2)
            top, left = int(centre[1] - size / 2), int(centre[0] - size / 2)
            around = canvas.pixels[max(top, 0): max(top + size, 1), max(left, 0): max(left + size, 1)]
            light = around.size > 0 and around.mean() < 118
            colours, coverage = self.stamp(kind, sample, size, light, generator)
            mask, whole = canvas.outline(coverage, top, left), int((coverage > 0.5).sum())
            if mask.sum() < 0.6 * whole or not canvas.room(mask):
                continue
            canvas.blend(colours, coverage * (0.3 if faint else 1.0), top, left)
            for thing in canvas.things:
                thing.mask &= ~mask
            canvas.things.append(Thing(kind, (sample,), mask, whole, faint, bool(mask.sum() < whole)))
            return True
        return False


class Canvas:
    """A picture in the making: `pixels` (H, W, 3) float32 in 0-255, its `backdrop` and `things` on it."""

    def __init__(self, backdrop):
        self.backdrop, self.pixels, self.things = backdrop, backdrop.copy(), []

    def picture(self):
        """Return the pixels as (H, W, 3) uint8."""
        return np.clip(self.pixels + 0.5, 0, 255).astype(np.uint8)

    def _overlap(self, shape, top, left):
        """Return the slices of the canvas and of a stamp of `shape` whose corner is at (top, left)."""
        bottom, right = min(top + shape[0], len(self.pixels)), min(left + shape[1], self.pixels.shape[1])
        y, x = max(top, 0), max(left, 0)
        return (np.s_[y:max(bottom, y), x:max(right, x)],
                np.s_[y - top:max(bottom, y) - top, x - left:max(right, x) - left])

    def outline(self, coverage, top, left):
        """Return the pixels of the canvas, (H, W) bool, of which `coverage` covers more than half."""
        mask = np.zeros(self.pixels.shape[:2], dtype=bool)
        here, there = self._overlap(coverage.shape, top, left)
        mask[here] = coverage[there] > 0.5
        return mask

    def blend(self, colours, coverage, top, left):
        """Paint `colours` (h, w, 3) by `coverage` (h, w); returns the outline."""
        here, there = self._overlap(coverage.shape, top, left)
        share = coverage[there][..., None]
        self.pixels[here] = (1 - share) * self.pixels[here] + share * colours[there]
        return self.outline(coverage, top, left)

    def room(self, mask):
        """Return whether every object would stay visible enough behind `mask`."""
        return all((thing.mask & ~mask).sum() >= MINIMUM_VISIBLE * thing.whole for thing in self.things)


def _colour(light, generator):
    """Draw a random light or dark colour, (3,) in 0-255."""
    return generator.uniform(170, 255, 3) if light else generator.uniform(0, 75, 3)


def polygons(mask):
    """Return polygons [[x, y, x, y, ...], ...] along pixel borders whose union is exactly `mask` (H, W) bool.

    A polygon of COCO has no holes: a part with a hole is cut in two through it.
    """
    rings = []
    labels, count = ndimage.label(mask)
    for number in range(1, count + 1):
        part = labels == number
        holes = ndimage.binary_fill_holes(part, structure=np.ones((3, 3))) & ~part
        if holes.any():
            cut = int(np.flatnonzero(holes.any(0)).mean())
            left = part.copy()
            left[:, cut + 1:] = False
            rings += polygons(left) + polygons(part & ~left)
        else:
            rings.append(_ring(part))
    return rings


def _ring(part):
    """Return the border of one 4-connected part without holes as [x, y, x, y, ...], its corners only."""
    padded = np.pad(part, 1)
    inner = padded[1:-1, 1:-1]
    steps = {}  # (x, y) -> directions in which a border edge leaves, the part on its right
    for (dy, dx), (sx, sy), direction in (((-1, 0), (0, 0), (1, 0)), ((0, 1), (1, 0), (0, 1)),
                                          ((1, 0), (1, 1), (-1, 0)), ((0, -1), (0, 1), (0, -1))):
        outside = padded[1 + dy: len(padded) - 1 + dy, 1 + dx: padded.shape[1] - 1 + dx]
        for y, x in np.argwhere(inner & ~outside).tolist():
            steps.setdefault((x + sx, y + sy), []).append(direction)
    y, x = np.argwhere(part)[0].tolist()  # the topmost row's first pixel: a corner
    start, direction, corners = (x, y), (0, -1), []
    place = start
    while place != start or not corners:
        right = (-direction[1], direction[0])
        ways = steps[place]
        way = right if right in ways else ways[0]  # where two borders touch, keep to the same pixel
        ways.remove(way)
        if way != direction:
            corners += place
        direction, place = way, (place[0] + way[0], place[1] + way[1])
    assert not any(steps.values()), "a part with a hole has more than one border"
    return corners


def runs(mask):
    """Return COCO's uncompressed run lengths of `mask` (H, W) bool: column by column, zeros first."""
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *changes, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths
