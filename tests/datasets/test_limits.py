"""What a hostile or absurd file could take of memory or reach on the machine, it is refused, in words."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import http.server
import io
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hicmae.configs import ConfigError
from hicmae.datasets.coding import Coder
from hicmae.datasets.frames import JpegStrip, SampleError, VideoFrames
from hicmae.datasets.images import read_image
from hicmae.datasets.limits import MediaLimits
from hicmae.datasets.media import MediaError, open_video, read_audio, read_frames
from tests.media_files import moving, video

SIDE = 10_000


def png(side: int) -> bytes:
    """A black picture of one bit per pixel."""
    row = b"\0" + bytes(side // 8)
    packed = zlib.compressobj()
    parts = [packed.compress(row * 100) for _ in range(side // 100)] + [packed.flush()]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = struct.pack(">2I5B", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"".join(parts)) + chunk(b"IEND", b"")


def jpeg(claimed: int | None = None) -> bytes:
    """A picture of 32 x 32 pixels, and what it claims to be."""
    buffer = io.BytesIO()
    Image.fromarray(moving(1, 32, 32)[0]).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    if claimed:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">2H", claimed, claimed)
    return bytes(data)


def packed(path: Path, codec: str, side: int, packets: list[bytes], rate: Fraction = Fraction(25), **how: str) -> Path:
    """A video of compressed pictures that are given, said to be `side` x `side` pixels."""
    with av.open(str(path), "w", options=how) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width = stream.height = side
        stream.pix_fmt = {"png": "monob", "mjpeg": "yuvj420p"}[codec]
        for i, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, 1 / rate
            out.mux(packet)
    return path


def claimed_in_container(path: Path) -> Path:
    """A small H.264 video whose container says that it is huge."""
    data = bytearray(video(path, sound=False).read_bytes())
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    assert data[at : at + 4] == struct.pack(">2H", 64, 48)
    data[at : at + 4] = struct.pack(">2H", SIDE, SIDE)
    path.write_bytes(data)
    return path


def h264(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "threads": "1"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(SIDE, SIDE, "yuv420p")
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


LARGE: dict[str, Callable[[Path], Path]] = {
    "h264": lambda folder: h264(folder / "a.mp4"),
    "png packets": lambda folder: packed(folder / "a.mov", "png", SIDE, [png(SIDE)] * 2),
    "png packets said to be small": lambda folder: packed(folder / "a.mov", "png", 64, [png(SIDE)] * 2),
    "claimed by a jpeg's head": lambda folder: packed(folder / "a.avi", "mjpeg", 64, [jpeg(SIDE)] * 2),
    "grows midway": lambda folder: packed(folder / "a.mkv", "mjpeg", 32, [jpeg()] * 3 + [jpeg(SIDE)] * 3),
}

READ = """
import sys
from hicmae.datasets.media import MediaError, open_video, read_frames
from hicmae.datasets.images import is_image, read_image
from pathlib import Path

def peak():
    return int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM"))) / 1024

list(read_frames(sys.argv[1]))  # libraries are loaded
for path in sys.argv[2:]:
    before = peak()
    try:
        if is_image(Path(path)):
            read_image(Path(path))
        else:
            open_video(path), list(read_frames(path, threads=0))
        words = "was read"
    except MediaError as error:
        words = str(error)
    print(f"{peak() - before:.1f} {words}")
"""


def told(*paths: Path, **setting: str) -> list[tuple[float, str]]:
    """(MB by which the peak of memory rose, what was said) of each file, read in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **setting},
    )
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return [(float(grown), words) for grown, _, words in lines]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's peak of memory from /proc")
def test_a_hundred_million_pixels_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    files = []
    for name, make in LARGE.items():
        (tmp_path / name).mkdir()
        files.append(make(tmp_path / name))
    (tmp_path / "a.png").write_bytes(png(SIDE))
    (tmp_path / "a.jpg").write_bytes(jpeg(SIDE))
    files += [tmp_path / "a.png", tmp_path / "a.jpg"]
    assert all(path.stat().st_size < 400_000 for path in files)
    small = video(tmp_path / "small.mp4")
    for path, (grown, words) in zip(files, told(small, *files), strict=True):
        assert "was read" not in words and "\n" not in words
        told_late = path.parent.name in ("claimed by a jpeg's head", "grows midway")  # the decoder says no more
        assert " is damaged" in words if told_late else re.search("is too large.*50,000,000 pixels", words), words
        assert grown < 60, (path, grown)  # one picture in colour takes 300
    (grown, words), *_ = told(small, tmp_path / "a.png", HICMAE_MAX_PIXELS=str(SIDE**2))
    assert words == "was read" and grown > 200  # so that the measure would have seen it


def test_pictures_inside_a_strange_shard_are_refused_before_memory_is_taken() -> None:
    good, evil = jpeg(), jpeg(SIDE)
    hidden = evil[:2] + b"no marker" + evil[2:]  # a decoder would skip to the next marker; sizes are not looked for
    strip = JpegStrip(good + evil + hidden, np.cumsum([0, len(good), len(evil), len(hidden)]).tolist(), np.arange(3.0))
    assert strip.take([0]).shape == (1, 3, 32, 32)
    with pytest.raises(SampleError, match=r"frame 1 is too large \(10,000 x 10,000 pixels.*HICMAE_MAX_PIXELS"):
        strip.take([1])
    with pytest.raises(SampleError, match="frame 2 is no JPEG"):
        strip.take([2])


def test_video_inside_a_strange_shard_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder = Coder("mp4", 90)
    for frame in moving(2, 64, 64):
        coder.add(frame)
    coded = coder.finish(25.0)
    head = base64.b64decode(coded.meta["head"])
    frames = VideoFrames(coded.data, coded.meta["packets"], head, np.arange(2.0))
    assert frames.take([1]).shape == (1, 3, 64, 64)
    monkeypatch.setenv("HICMAE_MAX_PIXELS", "4095")
    with pytest.raises(SampleError, match="cannot be decoded"):
        frames.take([1])


def test_a_size_claimed_by_the_container_alone_takes_nothing(tmp_path: Path) -> None:
    """What is in the file counts: it is read as the small video that it is, or refused."""
    path = claimed_in_container(tmp_path / "a.mp4")
    try:
        assert {frame.shape for _, frame in read_frames(path)} == {(48, 64, 3)}
    except MediaError as error:
        assert error.reason.startswith("is too large")


def test_limits_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video(tmp_path / "a.mp4", frames=25)
    for variable, value, reason in [
        ("HICMAE_MAX_PIXELS", "1000", r"is too large \(64 x 48 pixels; up to 1,000 "),
        ("HICMAE_MAX_FPS", "24", r"has too many frames per second \(25; up to 24 "),
        ("HICMAE_MAX_TRACKS", "1", r"holds too many tracks \(more than 1\)"),
    ]:
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(MediaError, match=reason) as caught:
                open_video(path)
            assert variable in caught.value.remedy
    assert open_video(path).fps == 25
    for wrong in ("0", "many", "-3", ""):
        monkeypatch.setenv("HICMAE_MAX_PIXELS", wrong)
        with pytest.raises(ConfigError, match="HICMAE_MAX_PIXELS must be a whole number above 0"):
            open_video(path)


def test_absurd_rates_lengths_and_numbers_of_tracks_are_refused(tmp_path: Path) -> None:
    fast = packed(tmp_path / "fast.mp4", "mjpeg", 32, [jpeg()] * 4, rate=Fraction(60_000))
    with pytest.raises(MediaError, match=r"too many frames per second \(60,000;"):
        open_video(fast)
    packed(tmp_path / "long.mp4", "mjpeg", 32, [jpeg()] * 20, rate=Fraction(1, 3600))
    with pytest.raises(MediaError, match=r"is too long \(72,000 s; up to 21,600 "):
        open_video(tmp_path / "long.mp4")
    for name in ("many.mp4", "many.mkv"):
        with av.open(str(tmp_path / name), "w") as out:
            streams = [out.add_stream("mpeg4", rate=25) for _ in range(70)]
            for stream in streams:
                stream.width = stream.height = 32
            for stream in streams:
                out.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
                out.mux(stream.encode(None))
        with pytest.raises(MediaError, match=r"too many tracks \(more than 64\)"):
            open_video(tmp_path / name)


def test_frames_and_sound_beyond_the_limit_are_noticed_while_they_come(tmp_path: Path) -> None:
    """The length that a live recording declares is none."""
    path = tmp_path / "live.mkv"
    packed(path, "mjpeg", 32, [jpeg()] * 8, Fraction(1, 3600), live="1")
    times = []
    with pytest.raises(MediaError, match=r"is too long \(25,200 s"):
        for time, _ in read_frames(path):
            times.append(time)
    assert times == [3600.0 * hour for hour in range(7)]


def wav(path: Path, rate: int, samples: int) -> Path:
    data = bytes(samples)
    head = struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", 36 + samples, b"WAVEfmt ", 16, 1, 1, rate, rate, 1, 8, b"data", samples
    )
    path.write_bytes(head + data)
    return path


def test_sound_that_would_grow_many_times_over_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match=r"too few samples \(10 per second\)"):
        read_audio(wav(tmp_path / "slow.wav", 10, 100_000))
    monkeypatch.setenv("HICMAE_MAX_SECONDS", "3600")
    with pytest.raises(MediaError, match=r"is too long \(\d,\d+ s; up to 3,600 s"):
        read_audio(wav(tmp_path / "long.wav", 1000, 4_000_000))
    sound = read_audio(wav(tmp_path / "short.wav", 8000, 8000))
    assert sound is not None and len(sound[0]) == 16_000


# --- a file is never a reason to open another one ---


@pytest.fixture
def visits() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


class Watch:
    """How often a file was opened, by whatever code of this process or another (Linux)."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.handle = libc.inotify_init1(os.O_NONBLOCK)
        assert self.handle >= 0
        assert libc.inotify_add_watch(self.handle, os.fsencode(path), 0x20) >= 0  # IN_OPEN

    def opened(self) -> bool:
        try:
            return bool(os.read(self.handle, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self.handle)


def gab2(path: Path, playlist: bytes) -> Path:
    """An AVI with a subtitle track that holds a playlist, which FFmpeg once followed."""
    data = bytearray(video(path, sound=False).read_bytes())
    text = b"GAB2\0" + struct.pack("<HIHHI", 2, 0, 0, 4, len(playlist)) + playlist
    text += b"\0" * (len(text) % 2)
    head = b"strh" + struct.pack("<I4s4sIHH8I4H", 56, b"txts", b"\0" * 4, 0, 0, 0, 0, 1, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0)
    track = head + b"strf" + struct.pack("<I", 0)
    track = b"LIST" + struct.pack("<I", len(track) + 4) + b"strl" + track
    hdrl = data.index(b"hdrl")
    end = hdrl + struct.unpack("<I", data[hdrl - 4 : hdrl])[0]
    data[hdrl - 4 : hdrl] = struct.pack("<I", end - hdrl + len(track))
    data[end:end] = track
    count = data.index(b"avih") + 8 + 24
    data[count : count + 4] = struct.pack("<I", 2)
    movi = data.index(b"movi")
    chunk = b"01tx" + struct.pack("<I", len(text)) + text
    data[movi - 4 : movi] = struct.pack("<I", struct.unpack("<I", data[movi - 4 : movi])[0] + len(chunk))
    data[movi + 4 : movi + 4] = chunk
    data[4:8] = struct.pack("<I", len(data) - 8)
    index = data.index(b"idx1")  # its offsets no longer hold; frames are found without it
    data[index : index + 4] = b"JUNK"
    path.write_bytes(data)
    return path


def referring(path: Path, target: Path) -> Path:
    """An mp4 that says its pictures lie in another file."""
    data = bytearray(video(path, sound=False).read_bytes())
    at = data.index(b"url \0\0\0\1")
    data[at + 7] = 0  # not in this file
    url = f"file://{target}".encode() + b"\0"
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref", b"url "):
        start = data.index(kind) - 4
        data[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + len(url)).to_bytes(4, "big")
    data[at + 8 : at + 8] = url
    path.write_bytes(data)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="watches files by inotify")
@pytest.mark.parametrize(
    "name", ["hls.mp4", "hls.ts.mp4", "concat.mp4", "ffconcat.mp4", "xml.mp4", "sdp.mp4", "gab2.avi", "dref.mp4"]
)
def test_a_file_is_no_reason_to_open_another(name: str, tmp_path: Path, visits: tuple[str, list[str]]) -> None:
    address, asked = visits
    secret = video(tmp_path / "secret.mp4")
    playlist = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/a.ts\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    )
    path = tmp_path / name
    contents = {
        "hls.mp4": playlist,
        "hls.ts.mp4": playlist.replace("#EXTM3U", "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0"),
        "concat.mp4": f"file '{secret}'\nfile '{address}/a.mp4'\n",
        "ffconcat.mp4": f"ffconcat version 1.0\nfile '{secret}'\nfile '{address}/a.mp4'\n",
        "xml.mp4": f'<?xml version="1.0"?><MPD><BaseURL>{address}/</BaseURL></MPD>',
        "sdp.mp4": f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=control:{address}\n",
    }
    if name in contents:
        path.write_text(contents[name], encoding="utf-8")
    elif name == "gab2.avi":
        gab2(path, playlist.encode())
    else:
        referring(path, secret)
    watch = Watch(secret)
    try:
        with pytest.raises(MediaError) if name in contents else contextlib.suppress(MediaError):
            open_video(path), list(read_frames(path)), read_audio(path)
        assert not watch.opened() and not asked
        open_video(secret)
        assert watch.opened()  # so that it would have been seen
    finally:
        watch.close()


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:9/a.mp4", "concat:a.mp4|b.mp4", "file:a.mp4", "data:video/mp4,x", "pipe:0"]
)
def test_a_name_that_reads_as_an_address_is_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    video(tmp_path / "a.mp4")
    for read in (open_video, read_audio, lambda path: list(read_frames(path))):
        with pytest.raises(MediaError, match="does not exist"):
            read(name)  # type: ignore[operator]


def test_a_picture_that_is_large_but_allowed_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(4000))
    assert read_image(tmp_path / "a.png")[1].shape == (4000, 4000, 3)
    assert MediaLimits().too_large(7680, 4320) is None  # 8K video
