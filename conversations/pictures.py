"""Images as people bring them, made fit for a model: checked, upright, small, and written anew.

What comes out was written by this module, pixel by pixel: nothing else of the file is left (no
place where a photo was taken, no second file hidden behind the image).
"""

import io
from dataclasses import dataclass
from typing import IO, Final

from PIL import Image, ImageOps

FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP")
# Of a photo, which is decoded in a smaller size at once, and of what is decoded: up to 300 MB.
MOST_PIXELS: Final = 50_000_000
MOST_DECODED: Final = 36_000_000
QUALITY: Final = 85
# A drawing or a screenshot is smaller than this as a PNG, and keeps its edges; a photo is not.
PNG_BYTES: Final = 1024**2

UNREADABLE: Final = "This is no image that can be read. Attach a PNG, JPEG, GIF or WebP file."
TOO_MANY_PIXELS: Final = "This image has too many pixels. Make it smaller first."


class BadPicture(ValueError):
    """A file that is no usable image; the message says why, to people."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that every model can take: `data` is a PNG or a JPEG."""

    media_type: str
    width: int
    height: int
    data: bytes


def prepared(file: IO[bytes], side: int) -> Picture:
    """The image in `file`, its longer side at most `side` pixels; of an animation the first frame.

    What it is, its bytes say, whatever it is called. It takes up to seconds: call it in a thread.
    Raises BadPicture.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            _check(opened, MOST_PIXELS)
            opened.draft(None, (side, side))  # makes a large JPEG smaller while it is decoded
            _check(opened, MOST_DECODED)
            is_photo = opened.format in ("JPEG", "MPO")
            image = _plain(opened)
            image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
            image = ImageOps.exif_transpose(image)
            image.info.clear()  # some of it would be written again
            return _written(image, is_photo=is_photo)
    except BadPicture:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadPicture(TOO_MANY_PIXELS) from None
    except Exception:  # broken files raise almost anything, down in each format's decoder
        raise BadPicture(UNREADABLE) from None


def _check(image: Image.Image, most: int) -> None:
    if image.width * image.height > most:
        raise BadPicture(TOO_MANY_PIXELS)


def _plain(image: Image.Image) -> Image.Image:
    """In one of the modes that can be made smaller well: L, RGB, and RGBA."""
    if image.mode in ("L", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):  # grey with 16 bits
        return image.convert("I").point(lambda value: value / 256).convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _written(image: Image.Image, *, is_photo: bool) -> Picture:
    """PNG and JPEG are what every provider takes: some local servers know no WebP."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema()[0] == 255:
        image = image.convert("RGB")  # nothing shows through
    if not is_photo:
        data = _bytes(image, "PNG")
        if len(data) <= PNG_BYTES:
            return Picture("image/png", image.width, image.height, data)
    if image.mode == "RGBA":
        opaque = Image.new("RGB", image.size, "white")
        opaque.paste(image, mask=image.getchannel("A"))
        image = opaque
    data = _bytes(image, "JPEG", quality=QUALITY, optimize=True)
    return Picture("image/jpeg", image.width, image.height, data)


def _bytes(image: Image.Image, format: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
