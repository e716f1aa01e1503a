"""Archives from elsewhere: what they would become is looked at before anything is unpacked or loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hicmae.configs.errors import UserError

__all__ = ["check_tensors", "check_zip", "leads_out"]

_MEMBERS = 100_000


def leads_out(name: str) -> bool:
    """Whether the name of an archive's member could lead out of the folder it is unpacked to."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0] or "\0" in name


def check_zip(path: Path) -> None:
    """Refuse a zip (as `.pth` files are) that would inflate, or whose names lead out. Others pass.

    `torch.save` packs without compression, so that no honest file becomes larger than it is.

    Raises:
        UserError: names the member and the reason.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({error})") from None
    if len(members) > _MEMBERS:
        raise UserError(f"{path}: refused. It has {len(members):,} members; no checkpoint has so many")
    size = path.stat().st_size
    total = sum(member.file_size for member in members)
    packed = next((member for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    if total > size or packed is not None:
        what = f"{packed.filename!r} is compressed" if packed is not None else "its members overlap"
        raise UserError(
            f"{path}: refused. Its {size:,} bytes would become {total:,} ({what}), which a file of torch.save never "
            "does: it may be made to fill memory. If you trust its source, load and save it again with torch there"
        )
    for member in members:
        if leads_out(member.filename):
            raise UserError(f"{path}: refused. The name {member.filename!r} in it leads out of its folder")


def check_tensors(path: Path, sizes: Iterable[int]) -> None:
    """Refuse tensors that claim to be far larger than the file they are from (views that repeat what is stored).

    Args:
        path: the file.
        sizes: bytes of each tensor, were it written out.

    Raises:
        UserError: says how large they would be.
    """
    total, size = sum(sizes), path.stat().st_size
    if total > 4 * size + (1 << 20):  # layers that are shared are counted several times
        raise UserError(
            f"{path}: refused. Its tensors would take {total:,} bytes and the file has {size:,}: it may be made to "
            "fill memory"
        )
