"""A digit on a card before a camera: scenes, and their rendering to frames.

Training, calibration, the held-out images and the demo's clip all come from ``render``; they differ in their digits
and scenes only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]
Image = NDArray[np.float32]

SCAN_CENTER = 3.5
SCAN_SIDE = 8
MARGIN = 2
SHADOW_SHRINK = 8
ASPECT = 4 / 3


@dataclass(frozen=True)
class Material:
    """Colours of one kind of card and pen, BGR, 0…1."""

    card: Color
    ink: Color


MATERIALS: tuple[Material, ...] = (
    Material(card=(0.90, 0.94, 0.95), ink=(0.16, 0.13, 0.12)),
    Material(card=(0.93, 0.95, 0.96), ink=(0.62, 0.24, 0.10)),
    Material(card=(0.88, 0.93, 0.95), ink=(0.18, 0.16, 0.70)),
    Material(card=(0.55, 0.72, 0.83), ink=(0.14, 0.16, 0.20)),
    Material(card=(0.55, 0.88, 0.97), ink=(0.30, 0.18, 0.14)),
    Material(card=(0.22, 0.24, 0.20), ink=(0.88, 0.92, 0.92)),
)


@dataclass(frozen=True)
class Scene:
    """How the card lies and what the camera does to it. Lengths are fractions of the frame's height.

    Attributes:
        center: (x, y) of the digit's centre from the frame's centre.
        size: side of the scan's 8×8 box.
        angle: clockwise rotation, radians.
        shear: horizontal shift per vertical unit.
        card: (width, height) of the card, in units of ``size``.
        material: colours of card and pen.
        desk: colour behind the card, BGR, 0…1.
        desk_seed: draws the desk's grain; equal seeds give equal desks.
        threshold: ink value at the edge of a stroke, 0…1; lower is bolder.
        softness: half the width of that edge, in ink value.
        light: change of brightness from the centre to the right and to the bottom edge.
        exposure: factor on brightness.
        blur: standard deviation of the lens blur.
        noise: standard deviation of the sensor noise, on the 0…1 scale.
    """

    center: tuple[float, float] = (0.0, 0.0)
    size: float = 0.5
    angle: float = 0.0
    shear: float = 0.0
    card: tuple[float, float] = (1.5, 1.6)
    material: Material = MATERIALS[0]
    desk: Color = (0.30, 0.38, 0.46)
    desk_seed: int = 0
    threshold: float = 0.42
    softness: float = 0.16
    light: tuple[float, float] = (0.0, 0.0)
    exposure: float = 1.0
    blur: float = 0.002
    noise: float = 0.015


def random_scene(random: np.random.Generator, *, spread: float = 1.0) -> Scene:
    """Draw a random scene for training; with full spread, scenes vary more than in the clip.

    Args:
        random: draws it.
        spread: 0 gives nearly the same plain scene each time, 1 all variety.
    """

    def between(low: float, high: float) -> float:
        return (low + high) / 2 + spread * random.uniform(-0.5, 0.5) * (high - low)

    return Scene(
        center=(between(-0.14, 0.14), between(-0.14, 0.14)),
        size=between(0.36, 0.68),
        angle=between(-0.24, 0.24),
        shear=between(-0.16, 0.16),
        card=(between(1.2, 2.6), between(1.3, 2.6)),
        material=_random_material(random, spread),
        desk=(between(0.1, 0.8), between(0.1, 0.8), between(0.1, 0.8)),
        desk_seed=int(random.integers(1 << 31)),
        threshold=between(0.36, 0.48),
        softness=between(0.08, 0.3),
        light=(between(-0.2, 0.2), between(-0.2, 0.2)),
        exposure=between(0.65, 1.15),
        blur=between(0.0, 0.007),
        noise=between(0.0, 0.04),
    )


def _random_material(random: np.random.Generator, spread: float) -> Material:
    plain = random.random() >= spread
    material = MATERIALS[0 if plain else int(random.integers(len(MATERIALS)))]
    if random.random() < 0.15 * spread:
        material = Material(card=material.ink, ink=material.card)
    return jittered(material, random, amount=0.06 * spread)


def jittered(material: Material, random: np.random.Generator, *, amount: float) -> Material:
    """Shift the colours of the material by up to ``amount``."""
    return replace(material, card=_moved(material.card, random, amount), ink=_moved(material.ink, random, amount))


def _moved(color: Color, random: np.random.Generator, amount: float) -> Color:
    blue, green, red = np.clip(np.asarray(color) + random.uniform(-amount, amount, size=3), 0.0, 1.0)
    return (float(blue), float(green), float(red))


def render(scan: NDArray[np.float32], scene: Scene, *, height: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Render the frame that the camera takes of a scene.

    Args:
        scan: ``8×8`` ink, 0…1.
        scene: how it lies.
        height: of the frame in pixels; the width is 4/3 of it.
        random: draws the sensor noise.

    Returns:
        ``H×W×3`` uint8, BGR.
    """
    width = round(height * ASPECT)
    placement = _placement(scene, height, width)
    frame = _grain(scene.desk_seed, height, width)[..., None] * np.asarray(scene.desk, dtype=np.float32)
    card = _card_mask(scene, placement, height, width)
    frame *= 1.0 - 0.45 * _shadow(card, height)[..., None]
    frame = _painted(frame, scene.material.card, card)
    frame = _painted(frame, scene.material.ink, _strokes(scan, scene, placement, height, width))
    return _exposed(frame, scene, random)


def _placement(scene: Scene, height: int, width: int) -> NDArray[np.float64]:
    """Return the 2×3 affine map from pixels of the scan to pixels of the frame."""
    scale = scene.size * height / SCAN_SIDE
    cosine, sine = math.cos(scene.angle), math.sin(scene.angle)
    linear = scale * np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[1.0, -scene.shear], [0.0, 1.0]])
    target = np.array([width / 2 + scene.center[0] * height, height / 2 + scene.center[1] * height]) - 0.5
    offset = target - linear @ np.full(2, SCAN_CENTER)
    return np.column_stack([linear, offset])


@lru_cache(maxsize=1)
def _grain(seed: int, height: int, width: int) -> Image:
    """Render the brightness of the desk; all frames of a clip share it."""
    random = np.random.default_rng(seed)
    patches = random.normal(size=(5, 7)).astype(np.float32)
    fibres = random.normal(size=(90, 6)).astype(np.float32)
    return 1.0 + 0.06 * _stretched(patches, height, width) + 0.05 * _stretched(fibres, height, width)


def _stretched(texture: Image, height: int, width: int) -> Image:
    return np.asarray(cv2.resize(texture, (width, height), interpolation=cv2.INTER_CUBIC))


def _card_mask(scene: Scene, placement: NDArray[np.float64], height: int, width: int) -> Image:
    half = np.array(scene.card) * SCAN_SIDE / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half + SCAN_CENTER
    points = corners @ placement[:, :2].T + placement[:, 2]
    mask = np.zeros((height, width), dtype=np.uint8)
    fraction_bits = 4
    cv2.fillConvexPoly(mask, np.round(points * (1 << fraction_bits)).astype(np.int32), 255, cv2.LINE_AA, fraction_bits)
    return mask.astype(np.float32) / 255.0


def _shadow(card: Image, height: int) -> Image:
    """Render the blurred shadow of the card, slightly down and to the right, at low resolution: it is smooth."""
    full = (card.shape[1], card.shape[0])
    small = cv2.resize(card, (full[0] // SHADOW_SHRINK, full[1] // SHADOW_SHRINK), interpolation=cv2.INTER_AREA)
    shift = 0.02 * height / SHADOW_SHRINK
    moved = cv2.warpAffine(small, np.array([[1.0, 0.0, shift], [0.0, 1.0, shift]]), (small.shape[1], small.shape[0]))
    blurred = cv2.GaussianBlur(moved, (0, 0), max(0.3, shift))
    return np.asarray(cv2.resize(blurred, full, interpolation=cv2.INTER_LINEAR))


def _strokes(scan: NDArray[np.float32], scene: Scene, placement: NDArray[np.float64], height: int, width: int) -> Image:
    """Compute the opacity of the ink: the interpolated scan, cut off at the edge of the stroke."""
    padded = np.pad(scan, MARGIN)
    moved = placement.copy()
    moved[:, 2] -= placement[:, :2] @ np.full(2, float(MARGIN))
    ink = cv2.warpAffine(padded, moved, (width, height), flags=cv2.INTER_CUBIC)
    ramp = np.clip((ink - scene.threshold) / (2 * scene.softness) + 0.5, 0.0, 1.0)
    return np.asarray(ramp * ramp * (3.0 - 2.0 * ramp), dtype=np.float32)


def _painted(frame: Image, color: Color, opacity: Image) -> Image:
    return frame + opacity[..., None] * (np.asarray(color, dtype=np.float32) - frame)


def _exposed(frame: Image, scene: Scene, random: np.random.Generator) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    across = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None, None]
    lit = frame * (scene.exposure * (1.0 + scene.light[0] * across + scene.light[1] * down)).astype(np.float32)
    if scene.blur > 0:
        lit = cv2.GaussianBlur(lit, (0, 0), max(0.2, scene.blur * height))
    lit += scene.noise * random.standard_normal((height, width, 1), dtype=np.float32)
    return np.asarray(np.clip(lit * 255.0 + 0.5, 0, 255), dtype=np.uint8)
