"""Arrays that people look at: part colours, overlays, points and grids, as uint8 (H, W, 3)."""

import io

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion, maximum_filter, minimum_filter

from ganseg import files
from ganseg.figures.colors import part_colors


def to_uint8(images):
    """Images (N, 3, H, W), uint8 or float in [-1, 1] -> (N, H, W, 3) uint8 array."""
    images = images.detach().cpu()
    if images.is_floating_point():
        images = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return images.permute(0, 2, 3, 1).numpy()


def overlay(pictures, labels, n_parts, strength=0.6):
    """Parts painted over pictures: (N, H, W, 3) uint8 and (N, H, W) with 0 background or below -> (N, H, W, 3)."""
    palette = np.concatenate([np.zeros((1, 3), np.uint8), part_colors(n_parts)])
    painted = (1 - strength) * pictures + strength * palette[np.maximum(labels, 0)]
    return np.where((labels > 0)[..., None], painted, pictures).astype(np.uint8)


def outlined(photo, labels):
    """A PIL photo with the edges of its parts, labels (H, W) uint8: white, and black on the background's side.

    A fill of the photo's own colour shows nothing, and a line of two colours is seen on any.
    """
    size = 1 + 2 * max(1, round((labels.size**0.5) / 700))  # about a pixel on a screen
    edge = maximum_filter(labels, size) != minimum_filter(labels, size)
    photo.paste("white", mask=Image.fromarray(edge & (labels > 0)))
    photo.paste("black", mask=Image.fromarray(edge & (labels == 0)))
    return photo


def indexed(labels, n_parts):
    """Labels (H, W) uint8 as a PIL image with a palette: pixel value = part, 0 background."""
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, *part_colors(n_parts).ravel().tolist()])
    return image


def enlarge(pictures, smallest=96):
    """Repeat pixels until the pictures are at least so wide: (N, H, W, 3) -> (N, f H, f W, 3)."""
    f = -(-smallest // pictures.shape[2])
    return pictures.repeat(f, axis=1).repeat(f, axis=2)


def draw_points(pictures, points, radius=2, colors=None):
    """Dots on enlarged pictures, coloured by part: points (N, K, n, 2) in [-1, 1] -> (N, H, W, 3)."""
    drawn, colors = [], part_colors(points.shape[1] if colors is None else colors).tolist()
    for picture, parts in zip(pictures, np.asarray(points), strict=True):
        image = Image.fromarray(picture)
        draw = ImageDraw.Draw(image)
        for part, color in zip(parts, colors, strict=True):
            # -1 and 1 are the outer pixel centres of the small picture; the difference is under one of its pixels
            for x, y in (part[np.isfinite(part).all(axis=-1)] + 1) / 2 * (image.width - 1):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(color), outline="black")
        drawn.append(np.asarray(image))
    return np.stack(drawn)


def number_parts(picture, centers, there=None, colors=None):
    """Discs with the parts' numbers: picture (H, W, 3), centers (K, 2) in [-1, 1], there (K,) bool or None for all."""
    colors = part_colors(len(centers) if colors is None else colors).tolist()
    image = Image.fromarray(picture)
    draw, radius = ImageDraw.Draw(image), max(7, image.width // 32)
    for k, (color, (x, y)) in enumerate(zip(colors, np.asarray(centers), strict=True)):
        if there is None or there[k]:
            x, y = ((v + 1) / 2 * (side - 1) for v, side in zip((x, y), image.size, strict=True))
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(color), outline="black")
            ink = "black" if sum(color) > 300 else "white"
            draw.text((x, y), str(k + 1), fill=ink, anchor="mm", font_size=1.4 * radius)
    return np.asarray(image)


def grid(pictures, n_columns, gap=2):
    """Pictures (N, H, W, 3) side by side on white -> one (H', W', 3)."""
    missing = -len(pictures) % n_columns
    padded = np.pad(pictures, ((0, missing), (0, gap), (0, gap), (0, 0)), constant_values=255)
    _, H, W, _ = padded.shape
    rows = padded.reshape(-1, n_columns, H, W, 3).swapaxes(1, 2).reshape(-1, n_columns * W, 3)
    return rows[: len(rows) - gap, : n_columns * W - gap]


def pairs(left, right):
    """Each left picture beside its right one: twice (N, H, W, 3) -> (N, H, 2 W, 3)."""
    return np.concatenate([left, right], axis=2)


def samples_sheet(generated, n_columns=10, parts=None):
    """A grid of generated pictures, each beside itself with points and part masks drawn on, as part_names' Parts say.
    """
    images = to_uint8(generated.image)
    labels = generated.masks.argmax(dim=1).cpu().numpy()
    colors = part_colors(generated.masks.shape[1] - 1)
    if parts:
        labels, colors = parts.apply(labels), parts.colors
    points = generated.points.detach().cpu().numpy()
    masked = draw_points(enlarge(overlay(images, labels, colors)), points, colors=colors)
    return grid(pairs(enlarge(images), masked), n_columns)


def save(sheet, path, kind="PNG"):
    """Write (H, W, 3) uint8 or a PIL image as a picture file, whole or not at all."""
    with files.whole(path, "wb") as file:
        (sheet if isinstance(sheet, Image.Image) else Image.fromarray(sheet)).save(file, kind)


def png(picture):
    """(H, W, 3) uint8 as the bytes of a PNG, packed quickly rather than tightly."""
    return encoded(Image.fromarray(picture), "PNG", compress_level=1)


def encoded(image, kind, **options):
    """A PIL image as the bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read_picture(path):
    """A picture file as (H, W, 3) uint8."""
    return np.asarray(Image.open(path).convert("RGB"))


def outline(picture, mask, color, width=2):
    """The inner edge of a mask, width pixels thick, drawn on a picture.

    picture  (H, W, 3) uint8
    mask     (H, W) bool; the border of the picture counts as its edge
    color    three numbers 0 to 255
    Returns a new (H, W, 3) uint8.
    """
    edge = mask & ~binary_erosion(mask, iterations=width)
    return np.where(edge[..., None], np.asarray(color, np.uint8), picture)
