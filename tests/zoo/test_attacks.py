"""Files made to do harm: pickles that run code, archives that inflate or lead out. They are refused with a reason."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hicmae
from hicmae import zoo
from hicmae.configs import UserError
from hicmae.runtime import checkpoint
from hicmae.runtime.archives import check_zip, leads_out
from tests.zoo.conftest import LABELS, described, write_card


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def rewritten(source: Path, target: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> Path:
    """A zip whose members passed through `change`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            change(new, member, old.read(member))
    return target


@pytest.fixture
def small(tmp_path: Path) -> Path:
    torch.save({"model": {"encoder.norm.weight": torch.ones(4)}}, tmp_path / "small.pth")
    return tmp_path / "small.pth"


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("where", ["top", "args", "model"])
def test_a_pickle_that_would_run_a_command_is_refused_and_runs_nothing(
    old_format: bool, where: str, tmp_path: Path
) -> None:
    harm = Harm(f"touch {tmp_path / 'harmed'}")
    content: Any = {"top": harm, "args": {"model": {}, "args": harm}, "model": {"model": {"w": harm}}}[where]
    file = tmp_path / "evil.pth"
    torch.save(content, file, _use_new_zipfile_serialization=not old_format)
    for use in (
        lambda: zoo.convert(file, tmp_path / "out.safetensors"),
        lambda: hicmae.from_pretrained(file),
        lambda: hicmae.load_checkpoint(hicmae.create_model("videomae_base", dim=16, depth=1, heads=2), file),
    ):
        with pytest.raises(UserError, match=r"evil\.pth: refused\. Only tensors and argparse\.Namespace are read"):
            use()
    assert not (tmp_path / "harmed").exists() and not list(tmp_path.glob("out*"))


def test_a_bare_pickle_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Harm(f"touch {tmp_path / 'harmed'}")))
    with pytest.raises(UserError, match=r"evil\.pth: (refused|not a readable checkpoint)"):
        hicmae.from_pretrained(tmp_path / "evil.pth")
    assert not (tmp_path / "harmed").exists()


def test_an_attack_that_is_downloaded_is_refused_on_arrival(tmp_path: Path) -> None:
    torch.save({"model": Harm(f"touch {tmp_path / 'harmed'}")}, tmp_path / "evil.pth")
    file = described((tmp_path / "evil.pth").read_bytes(), "evil.pth", "evil.pth")
    with pytest.raises(UserError, match="refused"):
        zoo.download(write_card(tmp_path / "evil.yaml", [file]))
    assert not (tmp_path / "harmed").exists() and not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_checkpoint_that_inflates_is_refused_before_it_fills_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"model": {"w": torch.zeros(4)}}, tmp_path / "seed.pth")
    bomb = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(tmp_path / "seed.pth") as old,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, True, 9) as new,
    ):
        for member in old.infolist():
            packed = zipfile.ZipInfo(member.filename)
            packed.compress_type = zipfile.ZIP_DEFLATED
            content = bytes(64 << 20) if member.filename.endswith("data/0") else old.read(member)
            new.writestr(packed, content)
    assert bomb.stat().st_size < 200_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=r"refused\. Its .* bytes would become 67,.*made to fill memory"):
        hicmae.from_pretrained(bomb)


def test_members_that_share_their_bytes_are_refused(small: Path, tmp_path: Path) -> None:
    content = bytearray(small.read_bytes())
    # the directory at the end claims more than the file has
    place = content.rfind(b"PK\x01\x02")
    content[place + 20 : place + 28] = (10**9).to_bytes(4, "little") * 2
    (tmp_path / "lie.pth").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"lie\.pth: refused\. Its .* bytes would become 1,000,"):
        check_zip(tmp_path / "lie.pth")


def test_names_in_a_checkpoint_that_lead_out_are_refused(small: Path, tmp_path: Path) -> None:
    def lead(new: zipfile.ZipFile, member: zipfile.ZipInfo, content: bytes) -> None:
        new.writestr("../../../etc/cron.d/evil" if member.filename.endswith("byteorder") else member.filename, content)

    evil = rewritten(small, tmp_path / "evil.pth", lead)
    with pytest.raises(UserError, match=r"The name '\.\./\.\./\.\./etc/cron\.d/evil' in it leads out of its folder"):
        hicmae.from_pretrained(evil)


def test_tensors_that_claim_more_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(100_000, 100_000)  # 40 GB in one number
    torch.save({"model": {"blocks.0.attn.qkv.weight": huge}}, tmp_path / "huge.pth")
    assert (tmp_path / "huge.pth").stat().st_size < 10_000
    with pytest.raises(UserError, match=r"Its tensors would take 40,000,000,000 bytes and the file has"):
        hicmae.from_pretrained(tmp_path / "huge.pth")


@pytest.mark.parametrize("claim", [{"depth": 10**6}, {"size": 10**5, "patch": [2, 8, 8]}, {"dim": 2**17}])
def test_a_small_file_that_asks_for_a_giant_model_is_refused(claim: dict, tmp_path: Path) -> None:
    model = hicmae.create_model("videomae_base", dim=16, depth=1, heads=2, frames=4, size=32)
    described_as = {"name": model.name, "stage": model.stage, "args": {**model.args, **claim}}
    checkpoint.save_weights(tmp_path / "giant.safetensors", model.state_dict(), described_as)
    with pytest.raises(UserError, match=r"giant\.safetensors: refused\. Its .* cannot be the model .* to fill memory"):
        hicmae.from_pretrained(tmp_path / "giant.safetensors")


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "\\\\host\\a", "C:\\a", "..\\a", "a\0b", ""])
def test_a_name_that_leads_out_is_known(name: str) -> None:
    assert leads_out(name) and not leads_out("archive/data/0")


# --- bundles ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "mine.safetensors").write_bytes(b"weights" * 1000)
    file = described(b"weights" * 1000, "mine.safetensors", "mine.safetensors", labels=list(LABELS))
    return zoo.bundle([write_card(tmp_path / "mine.yaml", [file])], tmp_path / "good.tar")


def altered(good: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """A bundle whose members were changed."""
    with tarfile.open(good) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    change(members)
    evil = good.with_name("evil.tar")
    with tarfile.open(evil, "w") as tar:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return evil


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found, b"evil" if kind == tarfile.REGTYPE else b""


def told(members: list[tuple[tarfile.TarInfo, bytes]], **changes: Any) -> None:
    """Change the list at the bundle's begin."""
    values = json.loads(members[0][1])
    members[0] = members[0][0], json.dumps({**values, **changes}).encode()


def first_file(size: int = 7000, name: str = "mine.safetensors", sha: str = "0" * 64) -> dict[str, Any]:
    return {"x": {"name": name, "size": size, "sha256": sha}}


EVIL: dict[str, tuple[Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any], str]] = {
    "a name that leads out": (
        lambda m: m.append(member("../../evil")),
        r"The name '../../evil' in it leads out of its folder",
    ),
    "an absolute name": (lambda m: m.append(member("/etc/evil")), "'/etc/evil' in it leads out"),
    "a symbolic link": (lambda m: m.append(member("files/x", tarfile.SYMTYPE, "/etc")), "'files/x' in it is a link"),
    "a hard link": (lambda m: m.append(member("files/x", tarfile.LNKTYPE, "/etc/passwd")), "'files/x' in it is a link"),
    "a device": (
        lambda m: m.append(member("files/x", tarfile.CHRTYPE)),
        "'files/x' in it is a link, a folder, a device",
    ),
    "a file that is not listed": (
        lambda m: m.append(member("evil.py")),
        "'evil.py' is in it, and its list does not name",
    ),
    "a file twice": (lambda m: m.append(m[-1]), "is in it twice"),
    "no list": (lambda m: m.pop(0), "does not begin with bundle.json"),
    "a list that is none": (lambda m: told(m, files=3), "its bundle.json cannot be used"),
    "a listed name that leads out": (
        lambda m: told(m, files=first_file(name="../../evil")),
        "'../../evil' is not the name of a file here",
    ),
    "a card's name that leads out": (lambda m: told(m, cards=["../../evil"]), "is not the name of a file here"),
    "other content": (
        lambda m: m.append((m.pop()[0], b"weighty" * 1000)),
        "has sha256 .* was expected; it was not kept",
    ),
    "more than announced": (lambda m: m.append((m[-1][0], m.pop()[1] * 2)), "14,000 bytes, and 7,000 were announced"),
    "a file that is missing": (lambda m: m.pop(), "is cut off: it lacks mine: mine.safetensors"),
    "a card that is none": (lambda m: m.__setitem__(1, (m[1][0], b"name: mine\n")), "its card mine cannot be used"),
    "a card of another name": (
        lambda m: m.__setitem__(1, (m[1][0], m[1][1].replace(b"name: mine\n", b"name: other\n"))),
        "says that it is other",
    ),
}


@pytest.mark.parametrize("what", EVIL)
def test_a_bundle_with_something_wrong_is_refused(what: str, good: Path, tmp_path: Path, cache: Path) -> None:
    change, message = EVIL[what]
    evil = altered(good, change)
    for old in (cache / "files").rglob("*"):  # the bundle was made here
        if old.is_file():
            old.unlink()
    before = {path for path in tmp_path.rglob("*") if cache not in path.parents}
    with pytest.raises(UserError, match=message) as error:
        zoo.unbundle(evil)
    assert str(evil) in str(error.value) or "was not kept" in str(error.value)
    assert not (cache / "cards" / "mine.yaml").exists() and not list((cache / "cards").glob("*"))
    assert {path for path in tmp_path.rglob("*") if cache not in path.parents} == before
    whole = [path for path in (cache / "files").rglob("*") if path.is_file() and path.suffix not in (".lock", ".part")]
    assert all(path.read_bytes() == b"weights" * 1000 for path in whole)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_bundle_is_refused_unread(kind: str, good: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar", f"w:{kind}") as tar:
        tar.add(good, "bundle.json")
    with pytest.raises(UserError, match="is no bundle, or a damaged one"):
        zoo.unbundle(tmp_path / "packed.tar")


def test_a_bundle_that_was_cut_is_refused(good: Path, tmp_path: Path, cache: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good.read_bytes()[:-15_000])
    with pytest.raises(UserError, match="copy it again"):
        zoo.unbundle(cut)
    assert not (cache / "cards" / "mine.yaml").exists()
    with pytest.raises(UserError, match="no such bundle"):
        zoo.unbundle(tmp_path / "nowhere.tar")
