"""A page to try a model in a browser: `hicmae serve`."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hicmae.configs.errors import UserError

__all__ = ["serve"]


def serve(
    checkpoint: str | Path,
    *,
    pretrained: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_mb: float = 100,
    max_seconds: int = 60,
    work_seconds: float = 180,
    upload_seconds: float = 120,
    allow_network: bool = False,
    names: Sequence[str] = (),
    device: str = "auto",
    say: Callable[[str], object] = print,
) -> None:
    """Serve a page to which a clip is given, or on which one is recorded, until Ctrl-C.

    It shows the people of the clip with their faces, what the model makes of them over time, and a reconstruction.
    Nothing of a clip is kept: it lies in a folder of its own while it is looked at. One clip is looked at at a time, by
    a process that is ended when it takes too long. The page needs no network.

    Args:
        checkpoint: of a fine-tuned model; whatever `load_model` takes.
        pretrained: of a pretrained model, which draws reconstructions.
        host: address to listen at; only this machine reaches the default.
        port: 0 takes a free one.
        max_mb: largest clip in megabytes (10^6 bytes).
        max_seconds: longest clip.
        work_seconds: time that a clip is looked at, at most.
        upload_seconds: time that an upload takes, at most; a pause in it, at most a sixth of this.
        allow_network: listen at an address that other machines reach. There is no password and no encryption.
        names: by which the page is reached beside addresses and this machine's own name, as that of a proxy.
        device: where the models are put.
        say: is told the address.

    Raises:
        UserError: a checkpoint cannot be used, the address is taken, or other machines reach it unasked; or what is
            needed is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        raise UserError('the page needs a web server: pip install "hicmae[demo]"') from None
    from hicmae.inference.serving.app import Limits, application
    from hicmae.inference.serving.uploads import base_folder
    from hicmae.inference.serving.worker import Job, Worker

    for name, value in (("max-mb", max_mb), ("max-seconds", max_seconds), ("work-seconds", work_seconds)):
        if not value > 0:
            raise UserError(f"--{name} must be positive, not {value}")
    limits = Limits(max_mb=max_mb, max_seconds=max_seconds, work_seconds=work_seconds, upload_seconds=upload_seconds)
    job = Job(
        checkpoint=str(checkpoint),
        pretrained=None if pretrained is None else str(pretrained),
        device=device,
        max_seconds=max_seconds,
    )
    listening = _listening(host, port, allow_network)
    with _on_signals(_interrupt), listening as door, base_folder() as folder:
        worker = Worker(job, folder)
        try:
            about = worker.start()
            app = application(worker, about, limits, folder, names)
            settings = uvicorn.Config(
                app,
                log_level="error",
                access_log=False,  # who asked for what is nobody's business
                server_header=False,
                ws="none",
                lifespan="off",
                limit_concurrency=64,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
            )
            address = _address(host, door.getsockname()[1])
            say(f"{about['model']} at {address} (Ctrl-C ends it). Nothing of what is uploaded is kept.")
            if not _loopback(host):
                sys.stderr.write(
                    "warning: other machines can reach this page, without a password and unencrypted. Tell everyone "
                    "whom a camera or clip shows; see docs/responsible-use.md\n"
                )
            server = uvicorn.Server(settings)

            def end() -> None:
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # uploads that this cuts off are no error
                server.should_exit = True
                worker.close()

            server.capture_signals = lambda: _on_signals(end)  # type: ignore[method-assign]  # its own raise them again
            server.run(sockets=[door])
        except KeyboardInterrupt:
            pass
        finally:
            worker.close()
            worker.end()


@contextlib.contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    """What Ctrl-C, a closed terminal and `kill` do: end in order, so that nothing is left; that is no error."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {kind: signal.signal(kind, lambda *_: act()) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _interrupt() -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _listening(host: str, port: int, allow_network: bool) -> Iterator[socket.socket]:
    if not _loopback(host) and not allow_network:
        raise UserError(
            f"--host {host}: other machines would reach this page, which has no password and no encryption; "
            "say --allow-network if that is meant"
        )
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        door = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen at {host}, port {port} ({words}); try another one: --port 0") from None
    with door:
        yield door


def _loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _address(host: str, port: int) -> str:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
