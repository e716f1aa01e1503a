"""What a file is and whether all of it is there, told by its structure alone: no decoding, no trust in its name.

A file that was cut off can still open and play (Matroska ends without a word), so the sizes that the container itself
declares are compared with the bytes that are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

__all__ = ["FORMATS", "declared_bytes", "describe", "sniff", "sniff_image", "sniff_sound"]

FORMATS = {"mov": "mov", "matroska": "matroska", "avi": "avi", "flv": "flv", "m4a": "mov", "wav": "wav"}
"""Containers that are read -> FFmpeg's demuxer, which is forced: playlists and pictures never reach a demuxer."""

_MOV_BOXES = {
    b"ftyp",
    b"moov",
    b"mdat",
    b"wide",
    b"free",
    b"skip",
    b"pnot",
    b"moof",
    b"styp",
    b"sidx",
    b"mfra",
    b"uuid",
}
_SOUND_BRANDS = {b"M4A ", b"M4B ", b"M4P "}
_PICTURE_BRANDS = {b"heic", b"heix", b"mif1", b"avif"}
_LOOKS_LIKE = [
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"ID3", "an MP3 sound file"),
    (b"OggS", "an Ogg file"),
    (b"fLaC", "a FLAC sound file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x00\x00\x01\xba", "an MPEG program stream"),
    (b"\x30\x26\xb2\x75", "a Windows Media file"),
]


def sniff(head: bytes) -> str | None:
    """Container of a file from its first 16 bytes: `mov` (mp4 too), `matroska` (webm too), `avi`, `flv`, or None."""
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"FLV\x01":
        return "flv"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[4:8] == b"ftyp" and head[8:12] in _SOUND_BRANDS | _PICTURE_BRANDS:
        return None
    return "mov" if len(head) >= 8 and head[4:8] in _MOV_BOXES else None


def sniff_sound(head: bytes) -> str | None:
    """As `sniff`, for a file of which only the sound is wanted: `m4a` and `wav` as well."""
    if head[4:8] == b"ftyp" and head[8:12] in _SOUND_BRANDS:
        return "m4a"
    return "wav" if head[:4] == b"RIFF" and head[8:12] == b"WAVE" else sniff(head)


def sniff_image(head: bytes) -> str | None:
    """Kind of a picture from its first 16 bytes: `png`, `jpeg`, or None."""
    return "png" if head.startswith(b"\x89PNG\r\n\x1a\n") else "jpeg" if head.startswith(b"\xff\xd8\xff") else None


def describe(head: bytes) -> str:
    """In words, what a file that `sniff` refuses seems to be."""
    for start, words in _LOOKS_LIKE:
        if head.startswith(start):
            return words
    if head[4:8] == b"ftyp":
        return "an MPEG-4 sound file" if head[8:12] in _SOUND_BRANDS else "an HEIF picture"
    if head[:4] == b"RIFF":
        return "a WAV sound file" if head[8:12] == b"WAVE" else "a RIFF file"
    if head[:1] == b"\x47":
        return "an MPEG transport stream"
    if head and all(byte in b"\t\n\r" or byte >= 32 for byte in head):
        return "text"
    return "of an unknown kind"


def declared_bytes(path: Path, container: str) -> int | None:
    """Bytes the file should have according to its own structure; None where it does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if container in ("mov", "m4a"):
            return _mov_end(file, size)
        if container in ("avi", "wav"):
            return _riff_end(file, size)
        return _flv_end(file, size) if container == "flv" else _matroska_end(file)


def _mov_end(file: BinaryIO, size: int) -> int | None:
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return at + 8
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            if len(head) < 16:
                return at + 16
            length = int.from_bytes(head[8:16], "big")
        if length == 0 or kind not in _MOV_BOXES:  # reaches to the end of the file; or bytes appended by somebody else
            return None
        at += max(length, 8)
    return at


def _riff_end(file: BinaryIO, size: int) -> int | None:
    at = 0
    while at + 12 <= size:  # files above 1 GB hold several RIFF lists
        file.seek(at)
        head = file.read(12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or length == 0:
            return None
        at += 8 + length + length % 2
    return at - 1 if at == size + 1 else at  # the last padding byte is often left out


def _flv_end(file: BinaryIO, size: int) -> int | None:
    file.seek(5)
    at = int.from_bytes(file.read(4), "big") + 4
    while at < size:
        file.seek(at)
        head = file.read(11)
        if head[0] & 0x1F not in (8, 9, 18):  # sound, pictures, data; else bytes appended by somebody else
            return None
        at += 11 + int.from_bytes(head[1:4].ljust(3, b"\0"), "big") + 4
    return at - 4  # each tag is followed by its size, which is often left out after the last


def _matroska_end(file: BinaryIO) -> int | None:
    at, segment = 0, b"\x18S\x80g"
    for _ in range(4):  # the EBML header, perhaps a void, the segment
        file.seek(at)
        head = file.read(12)
        marker = _vint_bytes(head[:1])
        if marker is None or marker > 4:
            return None
        length_bytes = _vint_bytes(head[marker : marker + 1])
        if length_bytes is None or len(head) < marker + length_bytes:
            return None
        mask = (1 << (7 * length_bytes)) - 1
        length = int.from_bytes(head[marker : marker + length_bytes], "big") & mask
        end = at + marker + length_bytes + length
        if head[:4] == segment:
            return None if length == mask else end  # all ones: a live recording of unknown length
        at = end
    return None


def _vint_bytes(first: bytes) -> int | None:
    return 9 - first[0].bit_length() if first and first[0] else None
