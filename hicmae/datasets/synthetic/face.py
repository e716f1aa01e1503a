"""Draws a talking face: shaded, smooth shapes in face coordinates, all frames of a clip at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hicmae.datasets.synthetic.person import Expression, Identity, Scene
from hicmae.datasets.synthetic.shapes import (
    Array,
    Canvas,
    Pose,
    column,
    ellipse,
    rounded_box,
    smoothstep,
    stroke,
)

__all__ = ["REGIONS", "render_face"]

EYE_LINE, BROW_LINE, MOUTH_LINE = -0.03, -0.44, 0.56
BROW_TRAVEL, CORNER_TRAVEL = 0.105, 0.21
LID_OPENING = (0.015, 0.22)
"""Heights and ranges in face units: the chin is at 1, the three expression parameters move by these."""

MIDDLE = 0.1
"""Height of the face's origin in the picture; it puts brows, eyes and mouth into different rows of 16-pixel patches in
pictures of 64 and 96 pixels."""

REGIONS = {"brow": (-0.62, -0.62, 0.62, -0.28), "lid": (-0.6, -0.24, 0.6, 0.14), "corner": (-0.6, 0.25, 0.6, 0.9)}
"""Where each expression parameter is seen: left, top, right, bottom in face units."""


def render_face(identity: Identity, scene: Scene, expression: Expression, size: int = 96) -> NDArray[np.uint8]:
    """Draw the person expressing this in that scene: T frames, (T, size, size, 3) uint8."""
    e, unit = expression, scene.unit
    pose = Pose(x=e.x * unit, y=MIDDLE + e.y * unit, roll=e.roll, yaw=e.yaw, nod=e.nod, unit=unit)
    canvas = Canvas(scene.background(size, e.seconds), pose)
    _draw_body(canvas, identity)
    solid = _draw_head(canvas, identity)
    _draw_folds(canvas, identity, e)
    _draw_nose(canvas, identity, scene)
    for side in (-1, 1):
        _draw_eye(canvas, identity, e, side)
    _draw_mouth(canvas, identity, e)
    _draw_fringe(canvas, identity)
    for side in (-1, 1):
        _draw_brow(canvas, identity, e, side)
    _draw_light(canvas, identity, scene, solid)
    if identity.glasses:
        _draw_glasses(canvas, identity)
    picture = np.clip(canvas.rgb * column(e.gain), 0, 1) * 255 + 0.5
    return np.ascontiguousarray(picture.astype(np.uint8).transpose(1, 2, 3, 0))


def _tone(colour: tuple[float, float, float], factor: float) -> Array:
    return np.asarray(colour, np.float32) * factor


def _lens(u: Array, v: Array, top: Array, bottom: Array, half: Array | float) -> Array:
    """Distance, taken vertically, to the area between two curves that meet at u = -half and u = half."""
    return np.maximum(np.maximum(top - v, v - bottom), np.abs(u) - half)


def _head_shape(u: Array, v: Array, identity: Identity, grow: float = 0.0) -> Array:
    """Distance to an egg whose lower half narrows by `jaw`."""
    width = (identity.width + grow) * (1 - identity.jaw * smoothstep(np.maximum(v, 0)))
    return ellipse(u, v, width, 1 + grow)


def _strands(u: Array, v: Array, identity: Identity, rays: float) -> Array:
    """Hair colour with strands that run away from the parting, (3, T, h, w)."""
    angle = np.arctan2(u - identity.part, 1.5 - v)
    return np.asarray(identity.hair, np.float32).reshape(3, 1, 1, 1) * (1 + 0.14 * np.sin(rays * angle)) + 0.015


def _draw_body(canvas: Canvas, identity: Identity) -> None:
    """Hair behind the head, neck, shoulders; they follow the head's sway."""
    style, width = identity.hair_style, identity.width
    if style in ("long", "bob", "curly", "bun"):
        bottom = {"long": 1.5, "bob": 0.75, "curly": 0.5, "bun": -0.2}[style]
        half = width + {"long": 0.14, "bob": 0.15, "curly": 0.26, "bun": 0.0}[style]
        w = canvas.window(-half - 0.1, -1.5, half + 0.1, bottom + 0.1, depth=-0.5)
        middle, reach = (bottom - 1.12) / 2, (bottom + 1.12) / 2
        distance = rounded_box(w.u, w.v - middle, half, reach, min(half, reach) * 0.9)
        if style == "curly":
            distance = distance - 0.04 * np.sin(14 * np.arctan2(w.u, w.v - middle))
        if style == "bun":
            distance = np.minimum(distance, ellipse(w.u, w.v + 1.14, 0.3, 0.28))
        canvas.paint(w, canvas.cover(distance), _strands(w.u, w.v, identity, 60) * 0.75)
    w = canvas.window(-0.42, 0.5, 0.42, 1.6, depth=-0.3)
    shadow = 0.6 + 0.25 * smoothstep((w.v - 0.95) / 0.4)
    canvas.paint(
        w, canvas.cover(np.abs(w.u) - 0.33 - 0.05 * w.v), np.asarray(identity.skin).reshape(3, 1, 1, 1) * shadow
    )
    w = canvas.window(-2.0, 1.05, 2.0, 2.2, depth=-0.6)
    distance = rounded_box(w.u, w.v - 2.2, 1.25, 0.98, 0.6)
    opening = ellipse(w.u, w.v - 1.15, 0.36, 0.3 if identity.collar else 0.2)
    folds = 0.85 + 0.1 * np.sin(9 * w.u + 2 * w.v)
    canvas.paint(
        w, canvas.cover(np.maximum(distance, -opening)), np.asarray(identity.cloth).reshape(3, 1, 1, 1) * folds
    )
    rim = np.maximum(np.abs(opening) - (0.06 if identity.collar else 0.025), distance)
    canvas.paint(w, canvas.cover(rim), _tone(identity.trim, 0.9))


def _draw_head(canvas: Canvas, identity: Identity) -> Array:
    """Ears, skin, cheeks, beard; gives the coverage of head and hair on the whole picture (T, H, W)."""
    for side in (-1, 1):
        at = side * (identity.width + 0.01)
        w = canvas.window(at - 0.14, -0.2, at + 0.14, 0.3, depth=-0.2)
        canvas.paint(w, canvas.cover(ellipse(w.u - at, w.v - 0.05, 0.11, 0.2)), _tone(identity.skin, 0.9))
        canvas.paint(w, canvas.cover(ellipse(w.u - at, w.v - 0.05, 0.06, 0.13)), _tone(identity.skin, 0.72))
    w = canvas.window(-1.0, -1.1, 1.0, 1.1)
    distance = _head_shape(w.u, w.v, identity)
    alpha = canvas.cover(distance)
    canvas.paint(w, alpha, identity.skin)
    if identity.beard:
        jaw = smoothstep((distance + 0.26) / 0.16) * smoothstep((w.v - 0.1) / 0.3)
        chin = smoothstep((w.v - 0.7) / 0.12) * np.exp(-((w.u / 0.4) ** 4))
        canvas.paint(w, alpha * np.maximum(jaw, chin) * identity.beard, _tone(identity.hair, 0.9))
    for side in (-1, 1):
        cheek = canvas.window(side * 0.42 - 0.25, 0.05, side * 0.42 + 0.25, 0.5, depth=0.3)
        glow = np.exp(-(((cheek.u - side * 0.42) / 0.16) ** 2) - ((cheek.v - 0.27) / 0.13) ** 2)
        canvas.paint(cheek, 0.22 * glow, identity.lips)
    solid = np.zeros(canvas.u.shape, np.float32)
    solid[:, w.where[0], w.where[1]] = canvas.cover(_head_shape(w.u, w.v, identity, 0.06))
    return solid


def _draw_folds(canvas: Canvas, identity: Identity, e: Expression) -> None:
    """What skin does around a moving part: raised brows furrow the forehead, raised corners lift the cheeks."""
    raised, smile = column((e.brow + 1) / 2), column((e.corner + 1) / 2)
    w = canvas.window(-0.5, -0.75, 0.5, -0.4, depth=0.4)
    near = np.exp(-((w.u / 0.36) ** 4) - ((w.v + 0.58) / 0.09) ** 2)
    furrows = 0.6 + 0.4 * np.cos(2 * np.pi * (w.v + 0.58 - 0.12 * w.u**2) / 0.075)
    canvas.paint(w, 0.55 * raised * near * furrows, _tone(identity.skin, 0.5))
    for side in (-1, 1):
        at, height = side * 0.4, 0.36 - 0.1 * smile
        w = canvas.window(at - 0.3, 0.0, at + 0.3, 0.65, depth=0.3)
        apple = np.exp(-(((w.u - at) / 0.19) ** 2) - ((w.v - height) / 0.14) ** 2)
        canvas.paint(w, 0.6 * smile * apple, _tone(identity.lips, 0.75))
        fold = stroke(w.u - at, w.v, height + 0.13 - 0.9 * (side * (w.u - at) + 0.1) ** 2, 0.13, 0.012)
        canvas.paint(w, 0.5 * smile * canvas.cover(fold, 1.5), _tone(identity.skin, 0.5))


def _draw_nose(canvas: Canvas, identity: Identity, scene: Scene) -> None:
    """A bridge with the side away from the light in shadow, nostrils, and a highlight on the tip."""
    half, tip = identity.nose_width, 0.02 + identity.nose_length
    away = -1.0 if scene.light[0] > 0 else 1.0
    w = canvas.window(-0.3, -0.2, 0.3, tip + 0.14, depth=0.8)
    along = smoothstep((w.v + 0.15) / (tip + 0.1)) * smoothstep((tip + 0.06 - w.v) / 0.08)
    ridge = (w.u - away * (0.05 + 0.4 * half * along)) / (0.035 + 0.25 * half)
    canvas.paint(w, 0.42 * along * np.exp(-(ridge**2)), _tone(identity.skin, 0.55))
    base = tip + 0.03 - 0.35 * w.u**2 / half
    canvas.paint(w, 0.55 * canvas.cover(stroke(w.u, w.v, base, half, 0.014), 1.6), _tone(identity.skin, 0.5))
    for side in (-1, 1):
        hole = ellipse(w.u - side * 0.45 * half, w.v - tip - 0.01, 0.3 * half, 0.022)
        canvas.paint(w, 0.75 * canvas.cover(hole, 1.3), _tone(identity.skin, 0.3))
    spot = np.exp(-((w.u + away * 0.02) ** 2 + (w.v - tip + 0.07) ** 2) / 0.0025)
    canvas.paint(w, 0.35 * spot, (1.0, 0.97, 0.93))


def _draw_eye(canvas: Canvas, identity: Identity, e: Expression, side: int) -> None:
    """Socket, white, iris, pupil, glint, lashes and crease; the lids open with `lid` and close with `blink`."""
    at, half = side * identity.eye_spacing, identity.eye_width
    low, high = LID_OPENING
    opening = column((low + (high - low) * (e.lid + 1) / 2) * (1 - 0.9 * e.blink))
    w = canvas.window(at - 0.3, EYE_LINE - 0.32, at + 0.3, EYE_LINE + 0.24, depth=0.5)
    u, v = w.u - at, w.v - EYE_LINE
    arch = 1 - (u / half) ** 2
    top, bottom = -1.15 * opening * arch, 0.75 * opening * arch
    socket = np.exp(-((u / 0.22) ** 2) - ((v + 0.06) / 0.14) ** 2)
    canvas.paint(w, 0.28 * socket, _tone(identity.skin, 0.5))
    skin = canvas.cover(_lens(u, v, -0.24 * arch - 0.02, bottom, 1.05 * half))
    canvas.paint(w, skin, _tone(identity.skin, 0.5))
    white = canvas.cover(_lens(u, v, top, bottom, half))
    canvas.paint(w, white, (0.95, 0.95, 0.94))
    iris = ellipse(u, v + 0.01, 0.11, 0.11)
    canvas.paint(w, white * canvas.cover(iris), _tone(identity.iris, 0.55))
    canvas.paint(w, white * canvas.cover(iris + 0.025), identity.iris)
    canvas.paint(w, white * canvas.cover(iris + 0.06), (0.03, 0.03, 0.04))
    canvas.paint(w, white * canvas.cover(ellipse(u + 0.03, v + 0.05, 0.025, 0.025)), (1.0, 1.0, 1.0))
    canvas.paint(w, canvas.cover(stroke(u, v, top, half * 1.02, 0.02)), _tone(identity.hair, 0.25))
    canvas.paint(w, 0.35 * canvas.cover(stroke(u, v, bottom, half * 0.9, 0.006)), _tone(identity.skin, 0.45))
    crease = top - 0.05 * np.maximum(arch, 0)
    canvas.paint(w, 0.4 * canvas.cover(stroke(u, v, crease, half * 0.95, 0.007)), _tone(identity.skin, 0.45))


def _draw_brow(canvas: Canvas, identity: Identity, e: Expression, side: int) -> None:
    """A tapered arc that rises with `brow`, its inner end more than its outer one."""
    at, half = side * (identity.eye_spacing + 0.01), 0.21
    w = canvas.window(at - 0.25, BROW_LINE - 0.22, at + 0.25, BROW_LINE + 0.26, depth=0.5)
    outward = side * (w.u - at) / half
    raised = column(e.brow)
    curve = BROW_LINE - BROW_TRAVEL * raised * (1 - 0.3 * outward) + 0.05 * (outward**2 - 0.4)
    curve = curve + 0.5 * identity.brow_tilt * outward * half
    thickness = identity.brow_thickness * (1 - 0.35 * outward)
    colour = np.minimum(_tone(identity.hair, 0.7), _tone(identity.skin, 0.35))  # dark enough to be seen on any skin
    canvas.paint(w, canvas.cover(stroke(w.u - at, w.v, curve, half, thickness)), colour)


def _draw_mouth(canvas: Canvas, identity: Identity, e: Expression) -> None:
    """Lips around a cavity with teeth and tongue; corners move with `corner`, the jaw opens with `mouth`."""
    full, half = identity.lip_fullness, column(identity.mouth_width * (1 + 0.1 * e.corner))
    reach = identity.mouth_width * 1.1 + 0.1
    w = canvas.window(-reach, MOUTH_LINE - 0.32, reach, MOUTH_LINE + 0.42, depth=0.4)
    x = w.u / half
    arch = 1 - x * x
    middle = MOUTH_LINE - CORNER_TRAVEL * column(e.corner) * (x * x + 0.3)
    gape = column(0.19 * e.mouth) * arch
    bow = full * (1 - 0.25 * np.exp(-((x / 0.16) ** 2)))
    upper, lower = middle - 0.2 * gape, middle + 0.8 * gape
    canvas.paint(w, canvas.cover(_lens(w.u, w.v, upper - bow * arch, lower + 1.25 * full * arch, half)), identity.lips)
    inside = canvas.cover(_lens(w.u, w.v, upper, lower, half))
    canvas.paint(w, inside, (0.2, 0.06, 0.07))
    canvas.paint(w, inside * canvas.cover(ellipse(w.u, w.v - middle - 0.19, 0.17, 0.09)), (0.72, 0.33, 0.34))
    canvas.paint(w, inside * canvas.cover(w.v - upper - 0.06 * arch), (0.94, 0.93, 0.9))
    line = canvas.cover(stroke(w.u, w.v, upper, half * 1.04, 0.02))
    canvas.paint(w, 0.8 * line, _tone(identity.lips, 0.35))
    for side in (-1, 1):
        corner = MOUTH_LINE - CORNER_TRAVEL * 1.3 * column(e.corner)
        canvas.paint(w, 0.6 * canvas.cover(ellipse(w.u - side * half, w.v - corner, 0.04, 0.035), 1.5),
                     _tone(identity.skin, 0.5))  # fmt: skip


def _draw_fringe(canvas: Canvas, identity: Identity) -> None:
    """The hair in front: everything of the enlarged head above the hairline."""
    style = identity.hair_style
    if style == "bald":
        return
    bend, part = {"parted": (0.75, identity.part), "bun": (0.35, 0.0)}.get(style, (0.5, 0.3 * identity.part))
    w = canvas.window(-1.1, -1.3, 1.1, 0.2, depth=0.15)
    line = -identity.hairline + bend * (w.u - part) ** 2
    distance = np.maximum(_head_shape(w.u, w.v + 0.03, identity, 0.07), w.v - np.minimum(line, 0.05))
    if style == "curly":
        distance = distance - 0.025 * np.sin(22 * np.arctan2(w.u, -w.v))
    canvas.paint(w, canvas.cover(distance), _strands(w.u, w.v, identity, 45))


def _draw_light(canvas: Canvas, identity: Identity, scene: Scene, solid: Array) -> None:
    """Lambert's law on an ellipsoid: `solid` is the coverage of what the head's light falls on."""
    x, y = canvas.u / (identity.width + 0.1), canvas.v / 1.12
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0.08))
    right, down, out = scene.light
    lit = np.maximum((right * x + down * y + out * z + 0.25) / 1.25, 0)  # wrapped round the edge, as skin does
    ambient, glow = np.asarray(scene.ambient, np.float32), np.asarray(scene.glow, np.float32)
    for channel in range(3):
        light = ambient[channel] + glow[channel] * lit
        canvas.rgb[channel] *= 1 + solid * (light - 1)


def _draw_glasses(canvas: Canvas, identity: Identity) -> None:
    w = canvas.window(-0.75, EYE_LINE - 0.3, 0.75, EYE_LINE + 0.3, depth=0.7)
    v = w.v - EYE_LINE - 0.02
    rings = np.abs(rounded_box(np.abs(w.u) - identity.eye_spacing, v, 0.26, 0.24, 0.16)) - 0.014
    bridge = stroke(w.u, v, -0.06 + 0 * w.u, identity.eye_spacing - 0.26, 0.014)
    canvas.paint(w, 0.85 * canvas.cover(np.minimum(rings, bridge)), (0.12, 0.11, 0.13))
