"""The origin's files: pictures in two sizes, and two downloads."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from examples.gallery.pictures import SCENES, draw, thumbnail

_COMPLETE = "complete"


@dataclass(frozen=True)
class Download:
    """A download. `name` is the file's name under `/downloads/`."""

    name: str
    title: str
    about: str


DOWNLOADS = (
    Download("portfolio.pdf", "The portfolio", "all pictures, one a page (PDF)"),
    Download("prints.zip", "The prints", "all pictures in full size (ZIP)"),
)


def fill(folder: Path) -> None:
    """Draw everything into `folder` (`pictures/…`, `downloads/…`), unless an earlier start has already done so.

    A marker file is written last, so interrupted drawing starts over.
    """
    if (folder / _COMPLETE).exists():
        return
    drawn: list[Image.Image] = []
    for scene in SCENES:
        picture = draw(scene)
        place = folder / "pictures" / scene.path
        place.parent.mkdir(parents=True, exist_ok=True)
        picture.save(place, quality=88, progressive=True)
        thumbnail(picture).save(folder / "pictures" / scene.small, quality=84, progressive=True)
        drawn.append(picture)
    downloads = folder / "downloads"
    downloads.mkdir(exist_ok=True)
    drawn[0].save(
        downloads / DOWNLOADS[0].name,
        save_all=True,
        append_images=drawn[1:],
        resolution=150,
        quality=88,
        title="A private gallery",
    )
    with zipfile.ZipFile(downloads / DOWNLOADS[1].name, "w") as archive:
        for scene in SCENES:
            archive.write(folder / "pictures" / scene.path, f"{scene.title}.jpg")
    (folder / _COMPLETE).touch()
