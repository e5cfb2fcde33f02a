"""The door of every command: paths, consoles, signals, full and forbidden places."""

import dataclasses
import errno
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf
from PIL import Image

from fir_tf import messages
from fir_tf.config import Config
from fir_tf.datasets.command_line import Parser
from fir_tf.errors import FirError
from fir_tf.evaluation.pictures import SheetMatch, SheetRow, contact_sheet
from fir_tf.files import open_file, read_json, replacing, without_wildcards, write_json
from fir_tf.options import EvaluateOptions, ExportOptions
from fir_tf.search_options import (
    CompareOptions,
    IndexOptions,
    MeasureOptions,
    MigrateOptions,
    QueryOptions,
    WatchOptions,
    WebOptions,
)
from fir_tf.shell import draw_or_note, explain, given_path, run_command

ROOT = Path(__file__).parent.parent


def start(code, **options):
    """Starts a process that calls `body`, defined by `code`, at the door."""
    door = "\nimport sys\nfrom fir_tf.shell import run_command\nsys.exit(run_command(body))"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT} | options
    return subprocess.Popen([sys.executable, "-c", code + door], **options)


def ended(process):
    """Returns (status, stdout, stderr) of a process when it has ended."""
    out, err = process.communicate(timeout=300)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/runs/a", "/home/me/runs/a"),
        ("~", "/home/me"),
        ("inshop:~/data", "inshop:/home/me/data"),
        ("table:~/a,b.csv, folder:~/c", "table:/home/me/a,b.csv, folder:/home/me/c"),
        ("feed:~/a,table(item=b):~/c", "feed:/home/me/a,table(item=b):/home/me/c"),
        ("faiss+hnsw:~/index", "faiss+hnsw:/home/me/index"),
        ("milvus:~/x.db", "milvus:/home/me/x.db"),
        ("./~", "./~"),
        ("a/~/b", "a/~/b"),
        ("a~b", "a~b"),
        ("table:a,~b", "table:a,~b"),
        ("~no-such-user/x", "~no-such-user/x"),
        ("milvus+http://host:1/~x", "milvus+http://host:1/~x"),
        ("", ""),
    ],
)
def test_a_home_is_expanded_where_a_path_begins(monkeypatch, text, expected):
    monkeypatch.setenv("HOME", "/home/me")
    assert given_path("run", text) == expected


def test_a_value_that_can_be_no_path_is_said():
    for text in ("a\0b", "a\udcff"):
        with pytest.raises(FirError, match="`run` must be a path"):
            given_path("run", text)


def test_without_any_home_a_tilde_is_said(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(FirError, match="HOME is not set"):
        given_path("run", "~/x")


def test_every_path_among_the_flags_is_known_as_one():
    expected = {
        Config: {"run", "data_dir", "extra_data", "weights", "plugins"},
        EvaluateOptions: {"run", "data_dir", "output", "compare", "plugins"},
        ExportOptions: {"run", "output", "gallery", "data_dir", "plugins"},
        IndexOptions: {
            *("model", "images", "index", "whitening", "plugins"),
            *("photo_cache", "errors"),
        },
        QueryOptions: {
            *("index", "model", "images", "sheet", "json", "plugins", "photo_cache"),
            "locator",
        },
        MeasureOptions: {"index", "json", "plugins"},
        CompareOptions: {
            *("index", "model", "images", "queries", "whitening", "page", "json"),
            *("plugins", "photo_cache"),
        },
        MigrateOptions: {
            *("index", "model", "images", "queries", "whitening", "plugins", "photo_cache"),
        },
        WebOptions: {
            *("index", "model", "images", "plugins", "photo_cache", "access_log", "locator"),
            "keep_queries",
        },
        WatchOptions: {"index", "log", "sheet", "json", "plugins"},
    }
    for options, names in expected.items():
        fields = dataclasses.fields(options)
        assert {field.name for field in fields if field.metadata["path"]} == names


def test_the_commands_of_argparse_expand_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    parser = Parser()
    parser.add_argument("--out")
    parser.add_argument("--layout", choices=["~"])
    options = parser.parse_args(["--out=~/copy", "--layout=~"])
    assert (options.out, options.layout) == ("/home/me/copy", "~")


def test_flags_from_the_command_line_and_from_a_file(tmp_path):
    """--json alone, as before with a value, off; `~` in a flag file."""
    code = (
        "import dataclasses, sys\n"
        "from fir_tf.cli.common import define_flags, read_flags, run_script\n"
        "from fir_tf.search_options import QueryOptions\n"
        "define_flags(dataclasses.fields(QueryOptions))\n"
        "from absl import flags\n"
        "flags.FLAGS.set_gnu_getopt(True)\n"
        "def body(photos):\n"
        "    options = read_flags(QueryOptions)\n"
        "    print([options.index, options.json, options.sheet, photos])\n"
        "run_script(body, '', arguments=True)\n"
    )
    file = tmp_path / "query.flags"
    file.write_text("--index=~/index\n--json\n")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"HOME": "/home/me"},
        )
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    assert run(f"--flagfile={file}", "a.jpg") == (
        0,
        str(["/home/me/index", "-", "", ["a.jpg"]]),
        "",
    )
    for given, found in (
        (["--json=x.json", "--nosheet"], ["i", "x.json", ""]),
        (["--json=-", "--sheet="], ["i", "-", ""]),
        (["--nojson", "--sheet"], ["i", "", "query.png"]),
    ):
        assert run("--index=i", *given)[1] == str([*found, []])
    status, _, error = run("--index=i", "--k=many")
    assert status == 1 and error.startswith("error: flag --k=many") and "\n" not in error
    file.write_bytes(b"--index=\xff\n")
    status, _, error = run(f"--flagfile={file}")
    assert status == 1 and "`flagfile` must be a text file in UTF-8" in error


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (FirError("x"), "error: x", 1),
        (KeyboardInterrupt(), "stopped on request", 130),
        (BrokenPipeError(errno.EPIPE, ""), "nobody reads", 141),
        (MemoryError("9 GiB"), "not enough memory. 9 GiB", 1),
        (OSError(errno.ENOSPC, "", "/x/log.csv"), "/x/log.csv: No space left on device. Make", 1),
        (PermissionError(errno.EACCES, "", "/x"), "/x: Permission denied. Give another", 1),
        (OSError("write failed (errno = 28, error message = 'No'"), "No space left on device", 1),
        (sqlite3.OperationalError("database or disk is full"), "database or disk is full", 1),
        (
            tf.errors.ResourceExhaustedError(
                None, None, "{{node a}} /x/y; No space left on device [Op:S]"
            ),
            "error: /x/y; No space left on device. Make room",
            1,
        ),
        (
            tf.errors.PermissionDeniedError(None, None, "/x; Permission denied"),
            "error: /x; Permission denied. Give another",
            1,
        ),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
            "not enough memory on the device",
            1,
        ),
    ],
)
def test_what_a_person_or_a_machine_causes_is_one_line(error, said, status):
    line, found = explain(error)
    assert said in line and "\n" not in line and found == status


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("x"),
        OSError("no number"),
        OSError(errno.EBADF, "a closed descriptor"),
        sqlite3.OperationalError("no such column: x"),
        tf.errors.InvalidArgumentError(None, None, "shapes differ; see above"),
    ],
)
def test_a_fault_of_the_package_keeps_its_traceback(error):
    def body():
        raise error

    assert explain(error) is None
    with pytest.raises(type(error)):
        run_command(body)


def test_statuses(capsys):
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 2) == 2
    assert run_command(lambda: sys.exit(3)) == 3
    assert run_command(lambda: sys.exit("why")) == 1
    assert capsys.readouterr().err == "why\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_half_written(tmp_path, number, status):
    code = (
        "import time\nfrom fir_tf.files import replacing\n"
        f"def body():\n    with replacing({str(tmp_path / 'x')!r}) as path:\n"
        "        path.write_text('half'); print('ready', flush=True); time.sleep(100)"
    )
    process = start(code)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert ended(process) == (status, "", "stopped on request\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "imported", ["fir_tf.cli", "sys; sys.argv[0] = '-m'; import fir_tf.datasets"]
)
def test_ctrl_c_before_a_command_begins_is_one_line(imported):
    """While modules are imported; `python -m` has -m for its name then."""
    code = f"import {imported}; import signal; signal.raise_signal(signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "stopped on request\n")
    wrong = subprocess.run(
        [sys.executable, "-c", f"import {imported}; 1 / 0"], capture_output=True, cwd=ROOT
    )
    assert b"ZeroDivisionError" in wrong.stderr


def test_ctrl_c_in_a_terminal_while_workers_start_is_one_line(tmp_path):
    """It goes to the whole group of processes; the workers are still importing."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, sys, time\n"
        "if '--multiprocessing-fork' in sys.orig_argv:\n"
        f"    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    time.sleep(2)\n"
    )
    code = (
        "import os.path\nfrom fir_tf import parallel\n"
        "def body(): print(list(parallel.run(os.path.basename, ['a/b'] * 99, 2, 'x')))"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = start(code, start_new_session=True, env=env)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    status, out, err = ended(process)
    assert (status, out) == (130, "")
    # Behind what the progress bar has drawn.
    assert err.endswith("stopped on request\n") and "Traceback" not in err


def test_a_reader_that_leaves_is_one_line():
    process = start("def body():\n    print('line')\n    for n in range(100000): print(n)")
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    status, _, err = ended(process)
    assert status == 141 and err == "stopped, for nobody reads the output any more\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        status, _, err = ended(start("def body(): print('x')", stdout=full))
    assert status == 1 and err.count("\n") == 1 and "No space left on device" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["search.py"], ["-m", "fir_tf.datasets"]])
def test_help_that_cannot_be_written_is_one_line(command):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *command, "--help"], stdout=full, stderr=subprocess.PIPE, cwd=ROOT
        )
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


def test_any_console_takes_any_name():
    code = "def body(): print('Rück \\u8863 \\udcff')"
    for encoding, shown in (("ascii", "R\\xfcck \\u8863 \\udcff"), ("cp1252", "Rück \\u8863")):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        process = start(code, env=environment)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and not err
        assert shown in out.decode(encoding)


def test_closed_streams_are_no_files_in_waiting(tmp_path):
    """The first file that is opened must not become descriptor 1 or 2."""
    code = (
        "import os\n"
        "def body():\n"
        f"    with open({str(tmp_path / 'x')!r}, 'w') as file:\n"
        "        assert file.fileno() > 2\n"
        "        print('lost'); os.write(2, b'lost')"
    )

    def close():
        for number in (0, 1, 2):
            os.close(number)

    assert start(code, preexec_fn=close).wait(timeout=300) == 0
    assert (tmp_path / "x").read_text() == ""


def test_a_full_disk_names_the_final_file(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("before")
    with pytest.raises(OSError) as caught, replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_device_or_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        write_json(path, {"a": 1})
        assert json.loads(os.read(reader, 100)) == {"a": 1}
        os.close(reader)
        assert stat.S_ISFIFO(os.stat(path).st_mode)
    assert sorted(tmp_path.iterdir()) == [link, pipe]


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "zero"):
        with pytest.raises(FileNotFoundError, match="a folder, a pipe or a device"):
            open_file(path)
    (tmp_path / "x").write_bytes(b"abc")
    with open_file(tmp_path / "x") as file:
        assert file.read() == b"abc"


def test_json_keeps_names_that_are_no_unicode(tmp_path):
    value = {"a\udcff": "Rück"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json", "") == value


def test_what_should_be_json_is_named(tmp_path):
    path = tmp_path / "labels.json"
    for text, message in (
        (None, "labels.json is missing. Do that"),
        ("{", "labels.json must be JSON. .* Do that"),
        ("[" * 100_000, "labels.json must be JSON"),
        ("null", "must be a JSON object. Received: null"),
        ("\xff", "labels.json must be JSON"),
    ):
        if text is not None:
            path.write_text(text, encoding="latin1")
        with pytest.raises(FirError, match=message):
            read_json(path, "Do that")


def test_a_picture_that_cannot_be_drawn_is_a_note(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    matches = [SheetMatch(tmp_path / "a.png", 1.0, None, "a")] * 100
    rows = [SheetRow(tmp_path / "a.png", "a", matches)]
    # 100 tiles of 168 pixels: more than WebP's 16,383.
    for name, reason in (
        ("sheet.webp", "cannot hold"),
        ("sheet.bmp", "must end in"),
        ("a.png/sheet.png", "exists|Not a directory"),
    ):
        path = tmp_path / name
        assert draw_or_note(path, lambda path=path: contact_sheet(rows, path)) == []
        out, err = capsys.readouterr()
        assert err.startswith(f"note: {path} was not drawn: ") and err.count("\n") == 1
        assert any(part in err for part in reason.split("|")) and not out
    path = tmp_path / "sheet.png"
    assert draw_or_note(path, lambda: contact_sheet(rows, path)) == [path]
    with Image.open(path) as sheet:
        assert sheet.size[0] > 16_383
    with pytest.raises(FirError, match="pixels is too large"):
        contact_sheet(rows * 200, path)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.png", path]


def test_a_bug_in_drawing_is_no_note():
    with pytest.raises(KeyError):
        draw_or_note("x", lambda: {}["a"])


@pytest.mark.parametrize("name", ["[a]", "a*", "a?", "a\\b", "plain %20 ü"])
def test_tensorflow_reads_back_checkpoints_in_any_folder(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    variable = tf.Variable(7.0)
    with without_wildcards(folder) as place:
        tf.train.Checkpoint(v=variable).write(str(place / "ckpt"))
    assert (folder / "ckpt.index").is_file()
    restored = tf.Variable(0.0)
    with without_wildcards(folder) as place:
        tf.train.Checkpoint(v=restored).read(str(place / "ckpt")).assert_consumed()
    assert float(restored) == 7


def test_the_scripts_say_in_which_folder_nothing_may_be_written(tmp_path):
    """A command as a user gives it, below a file instead of a folder."""
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "boutique"
    done = subprocess.run(
        [sys.executable, "-m", "fir_tf.datasets", "boutique", f"--out={out}", "--items=4"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ") and str(tmp_path / "file") in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 seconds"),
        (89.4, "89 seconds"),
        (90, "2 minutes"),
        (360, "6 minutes"),
        (5400, "1.5 hours"),
        (100_000, "27.8 hours"),
    ],
)
def test_a_time_is_told_as_people_say_it(seconds, told):
    assert messages.duration(seconds) == told
