"""Photos at addresses, from servers on loopback that do everything wrong."""

import contextlib
import csv
import dataclasses
import datetime
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from photo_server import PhotoServer, jpeg
from PIL import Image
from stub_encoder import StubEncoder, index_options, stored

from fir_tf.errors import FirError
from fir_tf.files import open_file
from fir_tf.options import FetchOptions
from fir_tf.remote import http
from fir_tf.remote.cache import PhotoCache
from fir_tf.remote.fetch import FetchError, Limits, Validators
from fir_tf.remote.guard import is_public
from fir_tf.remote.http import HttpFetcher
from fir_tf.remote.lanes import Lanes
from fir_tf.remote.objects import ObjectFetcher
from fir_tf.remote.photos import RemotePhotos
from fir_tf.search import encoder as encoder_module
from fir_tf.search import remembered
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import open_engine
from fir_tf.search.index import Index
from fir_tf.search.indexing import build
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.query import _draw_sheet, query
from fir_tf.search.remembered import FileChecksums
from fir_tf.search_options import QueryOptions, ServiceOptions

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def without_patience(monkeypatch):
    monkeypatch.setattr(encoder_module, "Encoder", StubEncoder)
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def server():
    server = PhotoServer({f"/{n}.jpg": jpeg(n) for n in range(12)})
    yield server
    server.stop()


@pytest.fixture
def fetcher():
    made = HttpFetcher(Limits(seconds=20.0, most_bytes=100_000, allow_private=True))
    yield made
    made.close()


@pytest.fixture
def hasty():
    made = HttpFetcher(Limits(seconds=0.7, allow_private=True))
    yield made
    made.close()


@pytest.fixture
def photos(tmp_path):
    limits = Limits(allow_private=True, connections=8, per_host=3)
    made = RemotePhotos(PhotoCache(tmp_path / "cache", 10**9), limits)
    yield made
    made.close()


def fetched(fetcher, address, tmp_path, known=None):
    """Returns (Validators or None, bytes that were written)."""
    with open(tmp_path / "fetched", "w+b") as file:
        found = fetcher.fetch(address, known, file)
        file.seek(0)
        return found, file.read()


def test_a_photo_comes_with_what_tells_its_version(server, fetcher, tmp_path):
    found, contents = fetched(fetcher, f"{server.url}/1.jpg", tmp_path)
    assert contents == jpeg(1) and found.etag and not found.modified
    assert fetched(fetcher, f"{server.url}/1.jpg#top", tmp_path, found) == (None, b"")
    server.photos["/1.jpg"] = jpeg(2)
    assert fetched(fetcher, f"{server.url}/1.jpg", tmp_path, found)[1] == jpeg(2)
    (_, first), (_, second), _ = server.requests
    assert first["User-Agent"] == http.USER_AGENT and first["Accept-Encoding"] == "identity"
    assert "If-None-Match" not in first and second["If-None-Match"] == found.etag


def test_the_time_of_change_where_there_is_no_etag(server, fetcher, tmp_path):
    when = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.faults["/1.jpg"] = [(200, {"Last-Modified": when}), 304]
    found, _ = fetched(fetcher, f"{server.url}/1.jpg", tmp_path)
    assert found == Validators("", when)
    assert fetched(fetcher, f"{server.url}/1.jpg", tmp_path, found)[0] is None
    assert server.requests[1][1]["If-Modified-Since"] == when


def test_an_own_name_is_given(server, tmp_path):
    fetcher = HttpFetcher(Limits(allow_private=True, user_agent="shop/1"))
    fetched(fetcher, f"{server.url}/1.jpg", tmp_path)
    assert server.requests[0][1]["User-Agent"] == "shop/1"
    fetcher.close()


# Fault, what it is counted as, and how often the server is asked.
FAULTS = [
    (403, "403 Forbidden", 1),
    (404, "404 Not Found", 1),
    (410, "410 Gone", 1),
    (206, "206 Partial Content", 1),
    (304, "304 Not Modified", 1),
    (599, "599", 1),
    (500, "500 Internal Server Error", 5),
    (503, "503 Service Unavailable", 5),
    ((429, {"Retry-After": "0"}), "429 Too Many Requests", 5),
    ((503, {"Retry-After": "soon"}), "503 Service Unavailable", 5),
    ((503, {"Retry-After": "-5"}), "503 Service Unavailable", 5),
    ((503, {"Retry-After": "Wed, 99 Oct 2015 07:28:00 GMT"}), "503 Service Unavailable", 5),
    ((301, {}), "301 Moved Permanently", 1),
    ("cut_off", "broken off", 5),
    ("nonsense", "broken off", 5),
    ("huge", "too large", 1),
    ("endless", "too large", 1),
    ("html", "not a photo", 1),
    ("text", "not a photo", 1),
    ("bomb", "packed", 1),
    ("empty", "empty", 1),
    ("circle", "redirects", 6),
    ("to_file", "scheme not allowed", 1),
    ((302, {"Location": "http://[/"}), "no address", 1),
]


@pytest.mark.parametrize(("fault", "kind", "asked"), FAULTS, ids=[str(row[0]) for row in FAULTS])
def test_a_server_that_does_not_give_the_photo(fault, kind, asked, server, fetcher, tmp_path):
    server.faults["/1.jpg"] = fault
    with pytest.raises(FetchError) as caught:
        fetched(fetcher, f"{server.url}/1.jpg", tmp_path)
    assert caught.value.kind == kind and len(server.requests) == asked
    # The next one has its own answer, not what is left of this one.
    assert fetched(fetcher, f"{server.url}/2.jpg", tmp_path)[1] == jpeg(2)


@pytest.mark.parametrize("fault", ["drip", "drip_until_closed", "drip_header"])
def test_a_server_that_drips_is_ended(fault, server, hasty, tmp_path):
    """A byte comes in time for each of the socket's timeouts, for 50 seconds."""
    server.faults["/1.jpg"] = fault
    start = time.monotonic()
    with pytest.raises(FetchError) as caught:
        fetched(hasty, f"{server.url}/1.jpg", tmp_path)
    assert caught.value.kind == "timeout" and time.monotonic() - start < 5


def test_a_server_that_stalls_is_asked_again(server, fetcher, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "READ_SECONDS", 0.3)
    server.faults["/1.jpg"] = ["stall"]
    assert fetched(fetcher, f"{server.url}/1.jpg", tmp_path)[1] == jpeg(1)
    assert len(server.requests) >= 2


@pytest.mark.parametrize("first", [500, "cut_off", "nonsense", (429, {"Retry-After": "1"})])
def test_what_goes_wrong_once_is_asked_again(first, server, fetcher, tmp_path):
    server.faults["/1.jpg"] = [first]
    start = time.monotonic()
    assert fetched(fetcher, f"{server.url}/1.jpg", tmp_path)[1] == jpeg(1)
    assert (time.monotonic() - start >= 1) == isinstance(first, tuple)


def test_a_pause_that_a_server_asks_for_has_a_bound(server, fetcher, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "PAUSE_MAX", 0.2)
    server.faults["/1.jpg"] = [(503, {"Retry-After": "86400"})]
    start = time.monotonic()
    assert fetched(fetcher, f"{server.url}/1.jpg", tmp_path)[1] == jpeg(1)
    assert 0.2 <= time.monotonic() - start < 20


def test_a_pause_is_kept_by_all_connections_to_the_host(server, fetcher, tmp_path):
    server.faults["/1.jpg"] = [(503, {"Retry-After": "1"})]
    host = fetcher._hosts[f"127.0.0.1:{server.server_port}"]
    first = threading.Thread(target=fetched, args=(fetcher, f"{server.url}/1.jpg", tmp_path))
    first.start()
    while not host.rests_until:
        time.sleep(0.001)
    until = host.rests_until
    with open(tmp_path / "other", "w+b") as file:
        fetcher.fetch(f"{server.url}/2.jpg", None, file)
    assert time.monotonic() >= until
    first.join()


def test_more_than_was_said_is_no_part_of_the_photo_or_of_the_next(server, fetcher, tmp_path):
    server.faults["/1.jpg"] = "more_than_said"
    assert fetched(fetcher, f"{server.url}/1.jpg", tmp_path)[1] == jpeg(0)[:100]
    assert fetched(fetcher, f"{server.url}/2.jpg", tmp_path)[1] == jpeg(2)


def test_a_host_that_never_answers_is_given_up(server, fetcher, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "GIVE_UP", 3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        kinds = []
        for number in range(5):
            with pytest.raises(FetchError) as caught:
                fetched(fetcher, f"{dead}/{number}.jpg", tmp_path)
            kinds.append(caught.value.kind)
        monkeypatch.setattr(http, "GIVEN_UP_SECONDS", 0.0)
        with pytest.raises(FetchError, match="no connection"):
            fetched(fetcher, f"{dead}/5.jpg", tmp_path)
    assert kinds == ["no connection"] * 3 + ["host given up"] * 2
    assert fetched(fetcher, f"{server.url}/2.jpg", tmp_path)[1] == jpeg(2)


NO_ADDRESSES = [
    *(
        "http://",
        "http:///1.jpg",
        "http://[/1.jpg",
        "http://[::1/1.jpg",
        "http://127.0.0.1:x/1.jpg",
    ),
    *("http://127.0.0.1:99999/1.jpg", "http://" + "a" * 300 + ".com/1.jpg", "http://a..b/1.jpg"),
    *(
        "http://\u2603.\u2603\ud800/1.jpg",
        "http://a b/1.jpg",
        "http://127.0.0.1\0/1.jpg",
        "HTTPS://?",
    ),
]


@pytest.mark.parametrize("address", NO_ADDRESSES, ids=range(len(NO_ADDRESSES)))
def test_what_is_no_address(address, fetcher, photos, tmp_path):
    with pytest.raises(FetchError) as caught:
        fetched(fetcher, address, tmp_path)
    assert caught.value.kind in ("no address", "no connection", "unknown host")
    (found,) = photos.look({address: ""}, 0.0)
    assert found.error.kind in ("no address", "no connection", "unknown host")


def test_addresses_as_people_write_them(server, fetcher, tmp_path):
    server.photos |= {"/a%20b/%C3%A9.jpg": jpeg(5), "/q?size=9&x=%5B1%5D": jpeg(6)}
    assert fetched(fetcher, f"{server.url}/a b/\xe9.jpg", tmp_path)[1] == jpeg(5)
    address = f"HTTP{server.url[4:]}/q?size=9&x=[1]#part"
    assert fetched(fetcher, address, tmp_path)[1] == jpeg(6)


@pytest.fixture
def secure_server(server, tmp_path):
    """The server by TLS, and the file of its certificate."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "photos")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path / "certificate.pem"
    file.write_bytes(made.public_bytes(pem) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server, file


@pytest.mark.slow
def test_tls(secure_server, tmp_path, monkeypatch):
    server, certificate = secure_server
    address = f"https://localhost:{server.server_port}"
    limits = Limits(allow_private=True)
    fetcher = HttpFetcher(limits)
    with pytest.raises(FetchError) as caught:
        fetched(fetcher, f"{address}/1.jpg", tmp_path)
    assert caught.value.kind == "certificate"
    fetcher.close()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetcher = HttpFetcher(limits)
    for _ in range(2):
        assert fetched(fetcher, f"{address}/1.jpg", tmp_path)[1] == jpeg(1)
    fetcher.close()
    server.faults["/2.jpg"] = "drip"
    hasty = HttpFetcher(dataclasses.replace(limits, seconds=0.7))
    for _ in range(2):
        with pytest.raises(FetchError, match="timeout"):
            fetched(hasty, f"{address}/2.jpg", tmp_path)
    hasty.close()
    refusing = HttpFetcher(Limits())
    with pytest.raises(FetchError, match="private address"):
        fetched(refusing, f"{address}/1.jpg", tmp_path)
    refusing.close()


PUBLIC = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "239.1.1.1", "255.255.255.255", "::1", "::", "fe80::1%eth0"),
    *("fd00::1", "ff02::1", "ff0e::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1"),
    *("64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1"),
]


def test_which_addresses_are_public():
    assert [each for each in PUBLIC if not is_public(each)] == []
    assert [each for each in PRIVATE if is_public(each)] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1"])
def test_private_addresses_are_refused_however_they_are_written(host, server, tmp_path):
    fetcher = HttpFetcher(Limits())
    with pytest.raises(FetchError, match="private address.*--allow_private"):
        fetched(fetcher, f"http://{host}:{server.server_port}/1.jpg", tmp_path)
    fetcher.close()
    assert server.requests == []


def test_a_redirect_and_a_name_that_lead_to_a_private_address(server, tmp_path, monkeypatch):
    """One of two loopback addresses is called public; names lead to either."""
    monkeypatch.setattr("fir_tf.remote.guard.is_public", lambda address: address == "127.0.0.2")
    front = PhotoServer({"/1.jpg": jpeg(1)}, "127.0.0.2")
    leads = {"shop.example": "127.0.0.2"}
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest: real(leads.get(host, host), *rest)
    )
    shop = f"http://shop.example:{front.server_port}"
    front.faults["/to"] = (302, {"Location": f"{server.url}/1.jpg"})
    fetcher = HttpFetcher(Limits())
    assert fetched(fetcher, f"{shop}/1.jpg", tmp_path)[1] == jpeg(1)
    with pytest.raises(FetchError, match="private address: 127.0.0.1"):
        fetched(fetcher, f"{shop}/to", tmp_path)
    # The name was looked up for a public address, and means another one later.
    leads["shop.example"] = "127.0.0.1"
    with pytest.raises(FetchError, match="private address: 127.0.0.1"):
        fetched(fetcher, f"http://shop.example:{server.server_port}/1.jpg", tmp_path)
    assert server.requests == [] and front.asked() == ["/1.jpg", "/to"]
    fetcher.close()
    front.stop()


def test_lanes_keep_their_limits_and_no_host_waits_for_another():
    lanes, lock = Lanes(4, 2), threading.Lock()
    busy, most = {"all": 0, "a": 0, "b": 0, "c": 0}, {}
    gate = threading.Event()

    def work(host):
        with lock:
            for name in ("all", host):
                busy[name] += 1
                most[name] = max(most.get(name, 0), busy[name])
        if host == "a":
            gate.wait(10)
        time.sleep(0.005)
        with lock:
            busy["all"] -= 1
            busy[host] -= 1
        return host

    slow = [lanes.submit("a", work, "a") for _ in range(20)]
    quick = [lanes.submit(host, work, host) for host in "bc" * 20]
    # While the first host hangs, with twenty calls that came before.
    assert [future.result(10) for future in quick] == list("bc" * 20)
    gate.set()
    assert [future.result(10) for future in slow] == ["a"] * 20
    assert most["a"] == 2 and most["b"] <= 2 and most["c"] <= 2 and most["all"] <= 4
    with pytest.raises(ZeroDivisionError):
        lanes.submit("a", lambda: 1 / 0).result(10)
    lanes.close()


def urls(server, count=12):
    return [f"{server.url}/{n}.jpg" for n in range(count)]


def looked(photos, before, max_age=3600.0, again=False):
    """Returns {address: (checksum, bytes or None)} and lets go of all."""
    found = list(photos.look(before, max_age, again))
    assert [each.address for each in found] == list(before)
    read = {each.address: each.file.read_bytes() if each.file else None for each in found}
    photos.let_go(found)
    return {each.address: (each.checksum, read[each.address]) for each in found}


def test_a_second_look_asks_nothing_and_a_later_one_fetches_nothing(server, photos):
    new = dict.fromkeys(urls(server), "")
    found = looked(photos, new)
    assert [contents for _, contents in found.values()] == [jpeg(n) for n in range(12)]
    sums = {hashlib.blake2b(contents, digest_size=16).hexdigest() for _, contents in found.values()}
    assert sums == {total for total, _ in found.values()}
    assert sorted(server.asked()) == sorted(f"/{n}.jpg" for n in range(12))
    had = {address: total for address, (total, _) in found.items()}
    server.requests.clear()
    assert looked(photos, new) == found and server.requests == []
    same = {address: (total, None) for address, total in had.items()}
    assert looked(photos, had) == same and server.requests == []
    server.photos["/3.jpg"] = jpeg(33)
    changed = looked(photos, had, max_age=0.0)
    assert changed.pop(urls(server)[3])[1] == jpeg(33)
    assert all(value == same[address] for address, value in changed.items())
    assert all("If-None-Match" in headers for _, headers in server.requests)
    server.requests.clear()
    looked(photos, had, again=True)
    assert len(server.requests) == 12
    assert not any("If-None-Match" in headers for _, headers in server.requests)


def test_servers_that_lie_about_versions(server, photos):
    address = urls(server)[1]
    server.etags = False
    total, _ = looked(photos, {address: ""})[address]
    # Without an ETag the photo comes again, and is found to be the same.
    assert looked(photos, {address: total}, max_age=0.0) == {address: (total, None)}
    # "Not modified" of what nobody has is no photo.
    server.faults["/2.jpg"] = 304
    (found,) = photos.look({urls(server)[2]: ""}, 0.0)
    assert found.error.kind == "304 Not Modified" and not found.file


def test_no_more_than_a_few_at_a_time_of_one_host(server, photos):
    server.delay = 0.02
    looked(photos, dict.fromkeys(urls(server), ""))
    assert server.most_at_a_time == 3


def test_a_cache_smaller_than_the_catalogue(server, tmp_path):
    size = len(jpeg(0))
    cache = PhotoCache(tmp_path / "cache", 3.5 * size)
    photos = RemotePhotos(cache, Limits(allow_private=True, connections=1))
    found = list(photos.look(dict.fromkeys(urls(server), ""), 3600.0))
    files = [each.file for each in found]
    # What is held stays, whatever the bound says.
    assert all(file.is_file() for file in files)
    photos.let_go(found)
    assert [file.is_file() for file in files] == [False] * 9 + [True] * 3
    had = {each.address: each.checksum for each in found}
    server.requests.clear()
    # What has left is still known: the server is asked, and nothing is fetched.
    looked(photos, had, max_age=0.0)
    assert len(server.requests) == 12
    assert all("If-None-Match" in headers for _, headers in server.requests)
    server.requests.clear()
    assert looked(photos, had) == {address: (total, None) for address, total in had.items()}
    assert server.requests == []
    # What has left and is wanted is fetched, without a condition.
    assert looked(photos, {urls(server)[0]: ""})[urls(server)[0]][1] == jpeg(0)
    assert "If-None-Match" not in server.requests[0][1]
    photos.close()
    assert sum(path.stat().st_size for path in (tmp_path / "cache/photos").rglob("*")) < 10**5


def test_two_processes_share_a_cache_and_a_killed_one_holds_nothing(server, tmp_path):
    folder, size = tmp_path / "cache", len(jpeg(0))
    program = """
import sys, time
from fir_tf.remote.cache import PhotoCache
from fir_tf.remote.fetch import Limits
from fir_tf.remote.photos import RemotePhotos

photos = RemotePhotos(PhotoCache(sys.argv[1], 10**9), Limits(allow_private=True))
found = list(photos.look(dict.fromkeys(sys.argv[2:], ""), 3600.0))
print(*[each.file for each in found], flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(folder), *urls(server, 6)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        theirs = [Path(file) for file in other.stdout.readline().split()]
        assert len(theirs) == 6
        photos = RemotePhotos(PhotoCache(folder, size), Limits(allow_private=True))
        looked(photos, dict.fromkeys(urls(server), ""))
        assert sorted(server.asked()) == sorted(f"/{n}.jpg" for n in range(12))
        assert all(file.is_file() for file in theirs)
        photos.close()
        other.kill()
    photos = RemotePhotos(PhotoCache(folder, size), Limits(allow_private=True))
    looked(photos, dict.fromkeys(urls(server, 1), ""))
    assert sum(file.is_file() for file in theirs) <= 1
    photos.close()
    assert list((folder / "work").iterdir()) == []


def test_a_cache_whose_files_were_deleted(server, photos, tmp_path):
    new = dict.fromkeys(urls(server, 3), "")
    looked(photos, new)
    for path in (tmp_path / "cache/photos").rglob("*/*"):
        path.unlink()
    assert [contents for _, contents in looked(photos, new).values()] == [jpeg(n) for n in range(3)]


def test_a_cache_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FirError, match="`photo_cache` must be a folder.*file"):
        PhotoCache(tmp_path / "file", 1)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/photos.sqlite").write_bytes(b"no table" * 1000)
    with pytest.raises(FirError, match="`photo_cache` must be a folder.*not a database"):
        PhotoCache(tmp_path / "cache", 1)


def test_closing_ends_what_hangs(server, tmp_path):
    server.faults = {f"/{n}.jpg": "stall" for n in range(12)}
    photos = RemotePhotos(
        PhotoCache(tmp_path / "cache", 10**9), Limits(allow_private=True, seconds=60.0)
    )
    found = photos.look(dict.fromkeys(urls(server), ""), 0.0)
    threading.Timer(0.2, photos.close).start()
    start = time.monotonic()
    assert next(found).error.kind == "stopped" and time.monotonic() - start < 5


def mean_colours(images):
    return np.array([np.asarray(image, float).mean(axis=(0, 1)) for image in images])


def write_feed(folder, rows):
    """Writes a table of (path, item); returns its path."""
    folder.mkdir(exist_ok=True)
    table = folder / "feed.csv"
    table.write_text("path,item\n" + "".join(f"{path},{item}\n" for path, item in rows))
    return table


def sync(table, address, **changes):
    cache = os.fspath(table.parent / "cache")
    return build(index_options(table, address, allow_private=True, photo_cache=cache, **changes))


def errors_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers(counts):
    return {name: counts[name] for name in ("embedded", "kept", "relabelled", "removed")}


def test_a_feed_of_addresses_becomes_an_index_and_stays_one(server, tmp_path, monkeypatch):
    monkeypatch.setattr("fir_tf.search.indexing.PIECE", 5)
    monkeypatch.setattr("fir_tf.remote.photos.AHEAD", 4)
    rows = [(address, f"item{n}") for n, address in enumerate(urls(server))]
    (tmp_path / "own.jpg").write_bytes(jpeg(40))
    table = write_feed(tmp_path, [*rows, ("own.jpg", "own")])
    counts = sync(table, tmp_path / "index", photo_cache_gb=1e-6)
    assert numbers(counts) == {"embedded": 13, "kept": 0, "relabelled": 0, "removed": 0}
    assert not (tmp_path / "index/errors.csv").exists()
    alone = tmp_path / "alone"
    for n in range(12):
        (alone / f"item{n}").mkdir(parents=True)
        (alone / f"item{n}/{n}.jpg").write_bytes(jpeg(n))
    build(index_options(alone, tmp_path / "files"))
    found = {record.item: vector for record, vector in stored(tmp_path / "index").values()}
    own = found.pop("own")
    assert own and len(found) == 12
    local = stored(tmp_path / "files")
    assert all(found[f"item{n}"] == local[f"item{n}/{n}.jpg"][1] for n in range(12))
    server.requests.clear()
    assert sync(table, tmp_path / "index")["kept"] == 13 and server.requests == []
    # A label, a photo, one more and one less; a day later.
    server.photos |= {"/4.jpg": jpeg(44), "/new.jpg": jpeg(99)}
    rows = [*rows[1:3], (rows[3][0], "other"), *rows[4:], (f"{server.url}/new.jpg", "new")]
    table = write_feed(tmp_path, [*rows, ("own.jpg", "own")])
    counts = sync(table, tmp_path / "index", photo_max_age=0.0)
    assert numbers(counts) == {"embedded": 2, "kept": 10, "relabelled": 1, "removed": 1}
    assert len(server.requests) == 12
    assert sum("If-None-Match" not in headers for _, headers in server.requests) == 1
    assert {path: record.item for path, (record, _) in stored(tmp_path / "index").items()} == dict(
        [*rows, ("own.jpg", "own")]
    )


def test_rows_that_fail_are_listed_and_what_the_index_has_of_them_stays(server, tmp_path, capsys):
    rows = [(address, f"item{n}") for n, address in enumerate(urls(server))]
    table, index = write_feed(tmp_path, rows), tmp_path / "index"
    sync(table, index)
    before = stored(index)
    capsys.readouterr()
    server.faults = {"/0.jpg": 404, "/1.jpg": "html", "/2.jpg": "cut_off"}
    server.photos["/broken.jpg"] = jpeg(1)[:200]
    bad = [(f"{server.url}/broken.jpg", "x"), ("file:///etc/passwd", "x"), ("ftp://a/b.jpg", "x")]
    table = write_feed(tmp_path, [*rows, *bad, ("gone.jpg", "x"), (f"{server.url}/no.jpg", "x")])
    counts = sync(table, index, photo_max_age=0.0, max_removed=0.5)
    assert stored(index) == before and counts["unopened"] == 7
    assert sorted(counts["held"]) == urls(server, 3)
    found = errors_of(index / "errors.csv")
    reasons = {
        "/0.jpg": (2, "404 Not Found"),
        "/1.jpg": (3, "not a photo: it begins as text"),
        "/2.jpg": (4, "broken off"),
        "/broken.jpg": (14, "cannot be decoded"),
        "file:///etc/passwd": (15, "scheme not allowed"),
        "ftp://a/b.jpg": (16, "scheme not allowed"),
        "gone.jpg": (17, "cannot be opened: No such file"),
        "/no.jpg": (18, "404 Not Found"),
    }
    assert len(found) == len(reasons)
    for row in found:
        line, reason = reasons[row["photo"].removeprefix(server.url)]
        assert row["row"] == str(line) and row["reason"].startswith(reason)
    said = capsys.readouterr().out
    assert "2 404 Not Found, 2 scheme not allowed, 1 " in said and "errors.csv" in said
    with pytest.raises(FirError, match="7 of 17 photos cannot be opened or fetched"):
        sync(table, index, photo_max_age=0.0)
    # All well again: so says the file.
    server.faults.clear()
    sync(write_feed(tmp_path, rows), index, photo_max_age=0.0)
    assert errors_of(index / "errors.csv") == [] and stored(index) == before


def test_the_library_takes_photos_at_addresses(server, tmp_path, monkeypatch, caplog):
    """In a feed, or in a list with others: as from files of the same contents."""
    monkeypatch.setattr(encoder_module, "Encoder", Encoder)
    monkeypatch.setattr("fir_tf.search.filling._AHEAD", 5)
    fetch = FetchOptions(
        photo_cache=str(tmp_path / "cache"), photo_cache_gb=1e-6, allow_private=True
    )
    files = {number: tmp_path / f"{number}.jpg" for number in range(12)}
    for number, file in files.items():
        file.write_bytes(jpeg(number))
    where = urls(server)
    table = write_feed(
        tmp_path, [*zip(where, range(12), strict=True), (f"{server.url}/no", "none")]
    )
    server.faults["/7.jpg"] = [503]
    with Index.from_model(mean_colours, table, fetch=fetch) as index:
        ((found, vectors),) = index.engine.scan(vectors=True)
    assert [record.item for record in found] == [str(number) for number in files]
    assert f"1 images cannot be read and were left out:\n  {server.url}/no: 404" in caplog.text
    mixed = [where[1], files[2], jpeg(3), np.asarray(Image.open(files[4])), where[5], where[1]]
    names = {"path": list("abcdef")}
    with Index.from_model(mean_colours, mixed, names, fetch=fetch) as index:
        ((_, some),) = index.engine.scan(vectors=True)
        hits = index.search([where[5], files[2]], 1, fetch=fetch)
        assert [found[0].record.path for found in hits] == ["e", "b"]
        assert index.search(where[5], 1, fetch=fetch)[0].record.path == "e"
        with pytest.raises(FirError, match="/no is no photo that can be read: 404 Not Found"):
            index.search([where[5], f"{server.url}/no"], fetch=fetch)
        with pytest.raises(FirError, match="private address: 127.0.0.1"):
            index.search(where[5])
        with pytest.raises(FirError, match="`connections` must be"):
            index.search(where[5], fetch=FetchOptions(connections=0))
    with Index.from_model(mean_colours, list(files.values())) as index:
        ((_, expected),) = index.engine.scan(vectors=True)
    np.testing.assert_array_equal(vectors, expected)
    # An array was decoded by Pillow, to other roundings.
    np.testing.assert_allclose(some, expected[[1, 2, 3, 4, 5, 1]], atol=5e-3)
    with pytest.raises(
        FirError, match="must have a photo that can be read.*private address: 127.0.0.1"
    ):
        Index.from_model(mean_colours, where[:1])
    with pytest.raises(FirError, match="`connections` must be"):
        Index.from_model(mean_colours, where, fetch=FetchOptions(connections=0))


def test_a_query_by_address_is_answered_as_the_file_is(server, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stub").mkdir()
    where = urls(server)
    sync(write_feed(tmp_path, [(address, f"item{n}") for n, address in enumerate(where)]), "index")
    (tmp_path / "3.jpg").write_bytes(jpeg(3))
    cache = str(tmp_path / "cache")
    options = QueryOptions(index="index", k=3, allow_private=True, photo_cache=cache)
    by_file, by_address = query(options, ["3.jpg", where[3]])
    assert by_address == {**by_file, "photos": [where[3]]} and by_file["results"]
    assert by_file["results"][0]["item"] == "item3"
    for photo, sheet in (("3.jpg", "file.png"), (where[3], "address.png")):
        query(dataclasses.replace(options, sheet=sheet), [photo])
    assert Path("file.png").read_bytes() == Path("address.png").read_bytes()
    with pytest.raises(FirError, match=f"1 of 2 photos cannot be read:\n  {where[0]}x: 404"):
        query(options, [f"{where[0]}x", where[3]])
    with pytest.raises(FirError, match="private address: 127.0.0.1"):
        query(dataclasses.replace(options, allow_private=False), [f"{where[1]}?new"])
    with pytest.raises(FirError, match="`connections` must be"):
        query(dataclasses.replace(options, connections=0), ["3.jpg"])


def test_errors_go_where_they_are_told_to(server, tmp_path):
    table = write_feed(tmp_path, [(f"{server.url}/1.jpg", "a"), (f"{server.url}/no.jpg", "b")])
    place = tmp_path / "lists" / "bad.csv"
    sync(table, tmp_path / "index", errors=str(place), max_removed=1.0)
    assert errors_of(place) == [
        {"row": "3", "photo": f"{server.url}/no.jpg", "reason": "404 Not Found"}
    ]
    assert not (tmp_path / "index/errors.csv").exists()


def test_a_feed_from_others_does_not_reach_inside(server, tmp_path):
    table = write_feed(tmp_path, [(address, "a") for address in urls(server)])
    with pytest.raises(FirError, match="12 of 12 photos cannot be opened or fetched"):
        build(index_options(table, tmp_path / "index", photo_cache=str(tmp_path / "cache")))
    assert server.requests == []
    assert {row["reason"][:30] for row in errors_of(tmp_path / "index/errors.csv")} == {
        "private address: 127.0.0.1 is "
    }


_INDEXING = """
import sys
from stub_encoder import StubEncoder, index_options
from fir_tf.search import encoder, indexing
from fir_tf.shell import run_command

encoder.Encoder, indexing.PIECE = StubEncoder, 8
table, address, cache = sys.argv[1:]
options = index_options(
    table, address, photo_cache=cache, allow_private=True, connections=4, host_connections=4
)
sys.exit(run_command(lambda: indexing.build(options) and None))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_goes_on_and_fetches_nothing_twice(stop, server, tmp_path):
    server.photos, server.delay = {f"/{n}.jpg": jpeg(n) for n in range(120)}, 0.02
    rows = [(address, f"item{n}") for n, address in enumerate(urls(server, 120))]
    table = write_feed(tmp_path, rows)
    places = [str(table), str(tmp_path / "index"), str(tmp_path / "cache")]
    command = [sys.executable, "-c", _INDEXING, *places]
    with subprocess.Popen(command, cwd=HERE, stderr=subprocess.PIPE, text=True) as run:
        while len(server.requests) < 60 and run.poll() is None:
            time.sleep(0.01)
        start = time.monotonic()
        run.send_signal(stop)
        if stop == signal.SIGINT:
            # Behind it TensorFlow takes its time to leave.
            assert any("stopped on request" in line for line in run.stderr)
        assert time.monotonic() - start < 2
    assert run.returncode == (130 if stop == signal.SIGINT else -stop)
    server.delay = 0.0
    before = len(server.requests)
    assert before < 120
    counts = sync(table, tmp_path / "index")
    assert counts["embedded"] + counts["kept"] == 120 and counts["kept"] >= 8
    # Twice only what was under way.
    assert len(server.requests) <= 120 + 4


@pytest.fixture(scope="module")
def moto_server():
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(moto_server, monkeypatch, tmp_path):
    """A client of an object store with a bucket `shop`, which the environment leads to."""
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    client = boto3.client("s3")
    client.create_bucket(Bucket="shop")
    yield client
    for found in client.list_objects_v2(Bucket="shop").get("Contents", ()):
        client.delete_object(Bucket="shop", Key=found["Key"])
    client.delete_bucket(Bucket="shop")


@pytest.mark.slow
def test_photos_in_an_object_store(bucket, tmp_path):
    pytest.importorskip("s3fs")
    for n in range(6):
        bucket.put_object(Bucket="shop", Key=f"photos/nr {n}.jpg", Body=jpeg(n))
    bucket.put_object(Bucket="shop", Key="empty.jpg", Body=b"")
    bucket.put_object(Bucket="shop", Key="large.jpg", Body=bytes(2**20))
    rows = [(f"s3://shop/photos/nr {n}.jpg", f"item{n}") for n in range(6)]
    table = write_feed(tmp_path, rows)
    assert sync(table, tmp_path / "index")["embedded"] == 6
    bucket.put_object(Bucket="shop", Key="photos/nr 2.jpg", Body=jpeg(22))
    table = write_feed(tmp_path, [*rows, ("s3://shop/no.jpg", "x"), ("s3://elsewhere/1.jpg", "x")])
    counts = sync(table, tmp_path / "index", photo_max_age=0.0, max_removed=0.5)
    assert numbers(counts) == {"embedded": 1, "kept": 5, "relabelled": 0, "removed": 0}
    assert [row["reason"] for row in errors_of(tmp_path / "index/errors.csv")] == [
        "404 Not Found: there is no such object"
    ] * 2
    fetcher = ObjectFetcher("s3", Limits(most_bytes=2**19))
    for name, kind in (("empty.jpg", "empty"), ("large.jpg", "too large")):
        with pytest.raises(FetchError) as caught:
            fetched(fetcher, f"s3://shop/{name}", tmp_path)
        assert caught.value.kind == kind
    found, contents = fetched(fetcher, "s3://shop/photos/nr 0.jpg", tmp_path)
    assert contents == jpeg(0)
    assert fetched(fetcher, "s3://shop/photos/nr 0.jpg", tmp_path, found) == (None, b"")
    fetcher.close()
    with pytest.raises(FetchError, match="stopped"):
        fetched(fetcher, "s3://shop/photos/nr 0.jpg", tmp_path)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    table = write_feed(tmp_path, [("s3://shop/1.jpg", "a")])
    with pytest.raises(FirError, match=r"s3fs is needed.*fir_tf\[remote\]"):
        sync(table, tmp_path / "index")
    assert stored(tmp_path / "index") == {}


def test_an_object_store_that_does_not_answer(tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        fetcher = ObjectFetcher("s3", Limits(seconds=0.5))
        start = time.monotonic()
        with pytest.raises(FetchError, match="timeout"):
            fetched(fetcher, "s3://shop/1.jpg", tmp_path)
        assert time.monotonic() - start < 5


def test_pictures_of_an_index_of_addresses(server, tmp_path):
    rows = [(address, f"item{n}") for n, address in enumerate(urls(server, 3))]
    (tmp_path / "own.jpg").write_bytes(jpeg(40))
    options = FetchOptions(allow_private=True, photo_cache=str(tmp_path / "cache"))
    paths = ["own.jpg", *dict(rows), f"{server.url}/no.jpg", "file:///etc/passwd"]
    with PhotoFiles(tmp_path, options) as files:
        for _ in range(2):
            with files.pictures(paths) as found:
                there = {path: file.read_bytes() for path, file in found.items() if file.exists()}
            assert there == {"own.jpg": jpeg(40)} | {
                address: jpeg(n) for n, (address, _) in enumerate(rows)
            }
    # What cannot be had is asked for each time, the others once.
    assert sorted(server.asked()) == ["/0.jpg", "/1.jpg", "/2.jpg", "/no.jpg", "/no.jpg"]


@pytest.mark.slow
def test_the_page_and_the_sheet_show_them(server, tmp_path):
    pytest.importorskip("fir_tf.search.web.app", exc_type=FirError)
    from fir_tf.search.web.metrics import NoMetrics
    from fir_tf.search.web.service import HTTPException, Service

    rows = [(address, f"item{n}") for n, address in enumerate(urls(server, 2))]
    sync(write_feed(tmp_path, rows), tmp_path / "index")
    options = QueryOptions(
        index="x",
        allow_private=True,
        photo_cache=str(tmp_path / "cache"),
        sheet=str(tmp_path / "sheet.png"),
    )
    with open_engine(tmp_path / "index") as engine, PhotoFiles(tmp_path, options) as files:
        generation = SimpleNamespace(engine=engine, root=tmp_path)
        index = SimpleNamespace(held=lambda: contextlib.nullcontext(generation))
        page = Service(index, ServiceOptions(), files, NoMetrics())
        assert page._picture(rows[1][0])[:2] == b"\xff\xd8"
        # Only what the index names is fetched.
        with pytest.raises(HTTPException) as refused:
            page._picture(f"{server.url}/5.jpg")
        assert refused.value.status_code == 404
        hits = engine.search(np.ones((1, 4), np.float32), 2)
    (tmp_path / "query.jpg").write_bytes(jpeg(5))
    _draw_sheet([([str(tmp_path / "query.jpg")], hits[0])], tmp_path, options)
    with Image.open(options.sheet) as sheet:
        shown = np.asarray(sheet.convert("RGB"), int)
    for n in range(2):
        colour = np.asarray(Image.open(BytesIO(jpeg(n))), int).mean(axis=(0, 1))
        assert (np.abs(shown - colour).max(axis=2) < 8).sum() > 1000
    assert "/5.jpg" not in server.asked()


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that checksums were made of, of files that may be remembered at once."""
    names = []

    def note(path):
        names.append(Path(path).name)
        return open_file(path)

    monkeypatch.setattr(remembered, "open_file", note)
    monkeypatch.setattr(remembered, "_SETTLED", 0)
    return names


def sums(table, files, again=False):
    with contextlib.closing(FileChecksums(table, again)) as checksums:
        return list(checksums.of(files))


def test_files_that_have_not_changed_are_not_read_again(tmp_path, opened):
    table, files = tmp_path / "cache/files.sqlite", [tmp_path / f"{n}.jpg" for n in range(1000)]
    for n, path in enumerate(files):
        path.write_bytes(b"%03d" % n)
    expected = [hashlib.blake2b(b"%03d" % n, digest_size=16).hexdigest() for n in range(1000)]
    time.sleep(0.02)
    assert sums(table, files) == expected and len(opened) == 1000
    opened.clear()
    assert sums(table, files) == expected and opened == []
    assert sums(table, files[:3], again=True) == expected[:3] and len(opened) == 3
    opened.clear()
    # Size and time of change are as they were; what cannot be set back says it.
    was = files[1].stat()
    files[1].write_bytes(b"xyz")
    os.utime(files[1], ns=(was.st_atime_ns, was.st_mtime_ns))
    files[2].unlink()
    files[3].unlink()
    files[3].mkdir()
    (tmp_path / "other").write_bytes(b"0004")
    (tmp_path / "other").replace(files[4])
    time.sleep(0.02)
    found = sums(table, [*files[:6], Path("a\0b"), Path("\ud800")])
    assert found[0] == expected[0] and found[5] == expected[5] and found[2:4] == ["", ""]
    assert found[6:] == ["", ""]
    assert found[1] == hashlib.blake2b(b"xyz", digest_size=16).hexdigest()
    assert found[4] == hashlib.blake2b(b"0004", digest_size=16).hexdigest()
    assert {"1.jpg", "4.jpg"} <= set(opened) and not {"0.jpg", "5.jpg"} & set(opened)


def test_a_file_that_was_just_written_is_read_again(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(remembered, "_SETTLED", 10**12)
    path = tmp_path / "1.jpg"
    path.write_bytes(b"one")
    for _ in range(2):
        sums(tmp_path / "files.sqlite", [path])
    assert opened == ["1.jpg", "1.jpg"]


@pytest.mark.parametrize("place", ["file/files.sqlite", "damaged.sqlite", None])
def test_without_a_memory_all_files_are_read(place, tmp_path, opened):
    (tmp_path / "file").write_text("")
    (tmp_path / "damaged.sqlite").write_bytes(b"no table" * 1000)
    (tmp_path / "1.jpg").write_bytes(b"one")
    table = tmp_path / place if place else None
    found = {tuple(sums(table, [tmp_path / "1.jpg"])) for _ in range(2)}
    assert found == {(hashlib.blake2b(b"one", digest_size=16).hexdigest(),)}
    assert opened == ["1.jpg", "1.jpg"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("photo_timeout", 0.0),
        ("connections", 0),
        ("host_connections", 0),
        ("photo_cache_gb", -1.0),
        ("user_agent", "a\r\nb: c"),
    ],
)
def test_options_that_cannot_be(name, value):
    with pytest.raises(FirError, match=f"`{name}` must be"):
        index_options("images", "index", **{name: value})
