"""The gallery's pictures: landscapes drawn from a few numbers, so that the demo includes no image files.

A scene is a palette, a light, and a seed; `draw` always draws a scene the same way.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

WIDTH, HEIGHT = 1600, 1040

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """One picture. `sky` is read from the top down, `light` is (x, y, radius) as parts of width and height,
    `horizon` a part of the height; `ridges` is the number of hills, `near` is the color of the closest one."""

    album: str
    slug: str
    title: str
    seed: int
    sky: tuple[str, ...]
    near: str
    light: tuple[float, float, float]
    glow: str
    horizon: float
    ridges: int
    roughness: float
    stars: int = 0
    water: bool = False

    @property
    def path(self) -> str:
        """The picture's path under `/pictures/`."""
        return f"{self.album}/{self.slug}.jpg"

    @property
    def small(self) -> str:
        return f"{self.album}/{self.slug}-small.jpg"


SCENES = (
    Scene(
        "coast", "first-light", "First light", 11,
        ("#1d2b53", "#5b4b8a", "#d9748a", "#ffc38b"), "#1b2140",
        (0.62, 0.55, 0.040), "#ffe9c9", 0.58, 3, 0.45, water=True,
    ),
    Scene(
        "coast", "still-water", "Still water", 23,
        ("#7fb5c9", "#b7d8d8", "#f3ead3"), "#2d5560",
        (0.30, 0.36, 0.030), "#fffdf0", 0.55, 4, 0.35, water=True,
    ),
    Scene(
        "coast", "harbour-moon", "Harbour moon", 37,
        ("#070b1f", "#131d43", "#2f4377", "#6b7fae"), "#050916",
        (0.72, 0.24, 0.034), "#f4f1e3", 0.60, 3, 0.40, stars=420, water=True,
    ),
    Scene(
        "coast", "ember-bay", "Ember bay", 41,
        ("#2b1130", "#7b1e3f", "#e2543b", "#ffb55a"), "#20091f",
        (0.44, 0.57, 0.058), "#ffe0a1", 0.60, 4, 0.5, water=True,
    ),
    Scene(
        "mountains", "blue-hour", "Blue hour", 53,
        ("#0c1b3a", "#274b7d", "#7fa3c7", "#f1cdb0"), "#0a1427",
        (0.25, 0.60, 0.030), "#ffe6cf", 0.62, 6, 0.95, stars=160,
    ),
    Scene(
        "mountains", "seven-ridges", "Seven ridges", 67,
        ("#f4d6b0", "#eeb58c", "#d98b72"), "#3a2036",
        (0.70, 0.30, 0.050), "#fff6df", 0.48, 7, 0.75,
    ),
    Scene(
        "mountains", "pine-fog", "Pine fog", 71,
        ("#cfdcd9", "#e3e9e0", "#f6f3e6"), "#16352f",
        (0.52, 0.22, 0.034), "#ffffff", 0.46, 6, 0.70,
    ),
    Scene(
        "mountains", "north-star", "North star", 89,
        ("#04060f", "#0b1d3a", "#17494f", "#4d8a73"), "#03070d",
        (0.80, 0.16, 0.012), "#eafff3", 0.66, 5, 1.0, stars=900,
    ),
)  # fmt: skip


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB image of WIDTH by HEIGHT."""
    dice = random.Random(scene.seed)
    picture = Image.new("RGB", (WIDTH, HEIGHT), _rgb(scene.sky[-1]))
    picture.paste(_gradient([_rgb(c) for c in scene.sky], WIDTH, round(HEIGHT * scene.horizon)))
    if scene.stars:
        picture = _with_stars(picture, scene, dice)
    picture = _with_light(picture, scene)
    for depth, line in _ridge_lines(scene, dice):
        picture = _with_ridge(picture, scene, depth, line)
    if scene.water:
        picture = _with_water(picture, scene, dice)
    grain = Image.frombytes("L", (WIDTH, HEIGHT), dice.randbytes(WIDTH * HEIGHT)).convert("RGB")
    return Image.blend(picture, ImageChops.overlay(picture, grain), 0.07)


def thumbnail(picture: Image.Image, width: int = 720) -> Image.Image:
    return picture.resize((width, width * HEIGHT // WIDTH), Image.Resampling.LANCZOS)


def _rgb(colour: str) -> Colour:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b, the rest of a."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _gradient(stops: list[Colour], width: int, height: int) -> Image.Image:
    column = Image.new("RGB", (1, height))
    for y in range(height):
        at = y / max(height - 1, 1) * (len(stops) - 1)
        low = min(int(at), len(stops) - 2)
        column.putpixel((0, y), _mix(stops[low], stops[low + 1], at - low))
    return column.resize((width, height))


def _with_stars(picture: Image.Image, scene: Scene, dice: random.Random) -> Image.Image:
    layer = Image.new("L", (WIDTH, HEIGHT), 0)
    pen = ImageDraw.Draw(layer)
    for _ in range(scene.stars):
        # The square of a random height concentrates the stars toward the dark top of the sky.
        x, y = dice.uniform(0, WIDTH), dice.random() ** 1.7 * HEIGHT * scene.horizon
        size, shine = dice.choice((0.5, 0.5, 0.5, 0.9, 1.4)), dice.randint(60, 230)
        pen.ellipse((x - size, y - size, x + size, y + size), fill=shine)
    return ImageChops.screen(picture, Image.merge("RGB", (layer, layer, layer)))


def _with_light(picture: Image.Image, scene: Scene) -> Image.Image:
    x, y, radius = scene.light[0] * WIDTH, scene.light[1] * HEIGHT, scene.light[2] * WIDTH
    for reach, strength in ((9.0, 0.42), (3.4, 0.55), (1.0, 1.0)):
        mask = Image.new("L", (WIDTH // 2, HEIGHT // 2), 0)
        r = radius * (reach * 0.5 if reach > 1 else 1)
        box = tuple(v / 2 for v in (x - r, y - r, x + r, y + r))
        ImageDraw.Draw(mask).ellipse(box, fill=round(255 * strength))
        mask = mask.filter(ImageFilter.GaussianBlur(radius * reach / 5 if reach > 1 else 1.2))
        mask = mask.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        glow = Image.new("RGB", (WIDTH, HEIGHT), _rgb(scene.glow))
        picture = Image.composite(glow, picture, mask)
    return picture


def _ridge_lines(scene: Scene, dice: random.Random) -> Iterator[tuple[float, list[float]]]:
    """From the farthest to the closest: the depth (0 to 1] and the height of the line at each 4th pixel."""
    waves = 7
    for n in range(1, scene.ridges + 1):
        depth = n / scene.ridges
        if scene.water:
            base = HEIGHT * (scene.horizon - 0.02 * (1 - depth))
            rise = HEIGHT * 0.10 * (1.15 - depth) * scene.roughness * 2
        else:
            base = HEIGHT * (scene.horizon + (1.02 - scene.horizon) * depth**1.5 * 0.86)
            rise = HEIGHT * (0.06 + 0.10 * depth) * scene.roughness
        parts = [
            (dice.uniform(0.8, 1.25) * 2.05**k, dice.uniform(0, math.tau), 0.52**k) for k in range(waves)
        ]
        shore = dice.uniform(0.1, 0.9)  # where a coast's hill is highest
        line = []
        for step in range(0, WIDTH + 4, 4):
            at = step / WIDTH
            height = sum(share * _fold(at * pace * 2.2 + start) for pace, start, share in parts)
            if scene.water:
                height = max(0.0, height * (1.0 - 2.1 * abs(at - shore)) + 0.12) * 1.2
            line.append(base - rise * height)
        yield depth, line


def _fold(x: float) -> float:
    """A wave with a sharp crest, between -0.5 and 1: hills rather than swell."""
    return 1 - 1.5 * abs(math.sin(x / 2))


def _with_ridge(picture: Image.Image, scene: Scene, depth: float, line: list[float]) -> Image.Image:
    scale = 2
    bottom = HEIGHT * scene.horizon if scene.water else HEIGHT
    mask = Image.new("L", (WIDTH * scale, HEIGHT * scale), 0)
    outline = [(i * 4 * scale, y * scale) for i, y in enumerate(line)]
    ImageDraw.Draw(mask).polygon([*outline, (WIDTH * scale, bottom * scale), (0, bottom * scale)], fill=255)
    mask = mask.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    air = _rgb(scene.sky[-1])
    body = _mix(air, _rgb(scene.near), 0.18 + 0.82 * depth**1.25)
    foot = _mix(body, air, 0.42 * (1 - depth * 0.75))
    top = max(0, int(min(line)))
    shade = Image.new("RGB", (WIDTH, HEIGHT), body)
    shade.paste(_gradient([body, foot], WIDTH, max(2, int(bottom) - top)), (0, top))
    return Image.composite(shade, picture, mask)


def _with_water(picture: Image.Image, scene: Scene, dice: random.Random) -> Image.Image:
    """Below the horizon: the mirrored scene, broken into ripples that widen toward the viewer."""
    shore = int(HEIGHT * scene.horizon)
    deep = HEIGHT - shore
    mirror = ImageOps.flip(picture.crop((0, max(0, shore - deep), WIDTH, shore))).resize((WIDTH, deep))
    mirror = mirror.filter(ImageFilter.GaussianBlur(2.2))
    water = Image.new("RGB", (WIDTH, deep))
    for y in range(deep):
        near = y / deep
        sway = round(math.sin(y / (2.4 + 16 * near) + 0.6 * math.sin(y / 19)) * (1.5 + 15 * near))
        strip = mirror.crop((0, y, WIDTH, y + 1))
        water.paste(ImageChops.offset(strip, sway, 0), (0, y))
    tint = _gradient([_mix(_rgb(scene.sky[-1]), _rgb(scene.near), 0.25), _rgb(scene.near)], WIDTH, deep)
    water = Image.blend(water, tint, 0.34)

    glints = Image.new("L", (WIDTH, deep), 0)
    pen = ImageDraw.Draw(glints)
    for _ in range(260):
        y = dice.random() ** 1.3 * deep
        spread = (0.02 + 0.16 * y / deep) * WIDTH
        x = dice.gauss(scene.light[0] * WIDTH, spread * 0.5)
        long = dice.uniform(4, 14 + 62 * y / deep)
        pen.line((x - long, y, x + long, y), fill=dice.randint(40, 190), width=1 + int(2.4 * y / deep))
    glints = glints.filter(ImageFilter.GaussianBlur(1.1))
    water = Image.composite(Image.new("RGB", (WIDTH, deep), _rgb(scene.glow)), water, glints)
    whole = picture.copy()
    whole.paste(water, (0, shore))
    return whole
