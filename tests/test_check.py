"""The checker is checked: by servers that are wrong in one thing each.

Right ones pass: ours, odd ones, one in node, one of a library. Servers that
make no sense at all are told so, in plain words and in time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

import handshake
from lessons import check
from lessons.checker import STAGES
from lessons.checker.room import Address, NobodyError, Room
from lessons.checker.wire import PATIENCE
from tests.support import DEADLINE, ROOT, WINDOWS, reset, serving
from tests.wrong_servers import RIGHT, WRONG, make_server

SHORT = 1.0  # seconds of silence; wrong servers are on this machine
ROOM = f'"{sys.executable}" "{ROOT / "server.py"}" {{port}}'
NODE = f"node '{ROOT / 'tests' / 'echo.js'}' {{port}}"
LIBRARY = f"""'{sys.executable}' -c '
import asyncio, sys, websockets.asyncio.server as ws
async def say(me):
    async for message in me:
        ws.broadcast(me.server.connections, message)
async def main():
    async with ws.serve(say, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()
asyncio.run(main())' {{port}}"""

# Seconds for one that is right: so many at once are slow under Wine.
LONG = 30.0 if WINDOWS else PATIENCE
POOL = ThreadPoolExecutor(24)
STARTED = {}  # what is to be seen, by what is wrong (or odd) there


def setUpModule():
    """Start all checks side by side: mostly they wait."""
    for _, _, wrong in WRONG:
        STARTED[wrong] = POOL.submit(check_made, wrong, patience=SHORT)
    for command in (ROOM, NODE, LIBRARY):
        STARTED[command] = POOL.submit(check_program, command)
    for odd in RIGHT:
        STARTED[odd] = POOL.submit(check_made, odd, patience=LONG)
    for act in HOSTILE:
        STARTED[act] = POOL.submit(check_acting, act)


def tearDownModule():
    POOL.shutdown()


def check_made(wrong, **options):
    """Check a server of ours, with something else in one place."""
    with serving(make_server(wrong)) as running:
        return check_all(running.port, **options)


def check_program(command):
    """Check a server that is started by a command."""
    port = check.free_port()
    address = check.parse_address(f"ws://127.0.0.1:{port}/")
    with check.Program(command, port) as program:
        first = check.reach(address, DEADLINE, program.is_running)
        return list(check.results(address, first, 1, STAGES, False, 5.0))


def check_acting(act):
    """Check a server that is no more than a function of a socket."""
    with acting(act) as port:
        return check_all(port, stages=[3], patience=0.3)[-1]


def check_all(port, **options):
    return check.check(f"ws://127.0.0.1:{port}/", seed=1, **options)


class Verdicts(unittest.TestCase):
    def assert_readable(self, result):
        """Assert that a class can read what is said of a failure."""
        for line in result.text.split("\n"):
            self.assertLess(len(line), 80, line)
            self.assertRegex(line, r"\A[ -~]*\Z")
        failure = result.failure
        self.assertTrue(failure.expected)
        self.assertTrue(failure.got)
        self.assertRegex(failure.rule, r"\A(s\d+(\.\d+)*: |none of the RFC's)")
        self.assertRegex(failure.question, r"\?\Z")
        self.assert_can_be_read(failure.read)

    def assert_can_be_read(self, read):
        """Assert that what a hint points at is there."""
        names = re.findall(r"(\w+\.py)|(\w+(?:\.\w+)*)\(\)", read)
        self.assertTrue(names, read)
        text = ""
        for file, function in names:
            if file:
                text = (ROOT / file).read_text("utf-8")
            else:
                name = function.rpartition(".")[2]
                self.assertIn(f"def {name}(", text, read)


class Wrong(Verdicts):
    def test_each_fails_the_stage_that_is_named_for_it(self):
        for stage, rule, wrong in WRONG:
            with self.subTest(getattr(wrong, "__name__", wrong)):
                results = STARTED[wrong].result()
                passed = [result.passed for result in results]
                self.assertEqual(passed, [True] * (stage - 1) + [False])
                self.assertEqual(results[-1].stage, stage)
                self.assertEqual(results[-1].rule[: len(rule)], rule)
                self.assert_readable(results[-1])

    def test_all_stages_have_wrong_ones(self):
        self.assertGreaterEqual(len(WRONG), 25)
        self.assertEqual({row[0] for row in WRONG}, set(STAGES))


class Right(Verdicts):
    def assert_passes(self, results):
        for result in results:
            self.assertTrue(result.passed, result.text)
        self.assertEqual([result.stage for result in results], list(STAGES))
        seconds = sum(result.seconds for result in results)
        self.assertLess(seconds, 60 if WINDOWS else 20)  # Wine: takes longer

    def test_ours_and_odd_ones(self):
        for odd in RIGHT:
            with self.subTest(odd):
                self.assert_passes(STARTED[odd].result())

    def test_the_chat_room(self):
        self.assert_passes(STARTED[ROOM].result())

    def test_one_in_node(self):
        if not shutil.which("node"):
            self.skipTest("node is not installed: https://nodejs.org")
        self.assert_passes(STARTED[NODE].result())

    def test_one_of_a_library(self):
        if not importlib.util.find_spec("websockets"):
            self.skipTest("websockets is not installed: pip install websockets")
        self.assert_passes(STARTED[LIBRARY].result())


def run(*arguments):
    """Run the program here; return (status, what it printed, errors)."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = check.main(arguments)
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), errors.getvalue()


# ---- what no server should do -----------------------------------------------


def opened(sock):
    """Answer a handshake, as is right."""
    request, _ = handshake.take_request(sock.recv(65536))
    sock.sendall(handshake.switching_protocols(request))


def until_gone(sock, data):
    """Send the same again and again."""
    while True:
        sock.sendall(data)


def answer_html(sock):
    sock.recv(65536)
    sock.sendall(b"<!doctype html><title>Hi</title>\n" * 9)


def answer_a_page(sock):
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xfc\0\n")


def answer_in_lf(sock):
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n")


def answer_in_latin_1(sock):
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 500 \xe4\xff\x80\r\nServer: \xfc\x1b[1m\r\n\r\n")


def say_more_and_more(sock):
    sock.recv(65536)
    until_gone(sock, b"X-More: and more\r\n" * 99)


def dribble(sock):
    sock.recv(65536)
    for byte in b"HTTP/1.1 101 Switching Protocols\r\n" * 99:
        sock.sendall(bytes((byte,)))
        select.select([], [], [sock], 0.1)


def flood_texts(sock):
    opened(sock)
    until_gone(sock, b"\x81\x02hi" * 5000)


def flood_megabytes(sock):
    opened(sock)
    until_gone(sock, b"\x82\x7f\0\0\0\0\0\x10\0\0" + bytes(2**20))


def flood_pings(sock):
    opened(sock)
    until_gone(sock, b"\x89\0" * 5000)


def flood_one_frame(sock):
    opened(sock)
    sock.sendall(b"\x82\x7f\0\0\0\0\0\xf0\0\0")
    until_gone(sock, bytes(65536))


def garbage(sock):
    opened(sock)
    dice = random.Random(str(sock.getpeername()))
    until_gone(sock, bytes(dice.getrandbits(8) for _ in range(999)))


def huge_length(sock):
    opened(sock)
    sock.sendall(b"\x81\x7f\x7f" + b"\xff" * 7 + b"Hello")
    sock.recv(65536)


def not_utf8(sock):
    opened(sock)
    sock.sendall(b"\x81\x05Hell\xff")


def wrong_close(sock):
    opened(sock)
    sock.sendall(b"\x88\x04\x03\xe8\xff\xff")


def strange_close(sock):
    opened(sock)
    sock.sendall("\x88\x08\x03\xf3\u2028\x1b[".encode("latin-1", "replace"))


def never_read(sock):
    threading.Event().wait(DEADLINE)


def reset_it(sock):
    sock.recv(65536)
    reset(sock)


def open_and_reset(sock):
    opened(sock)
    sock.recv(4096)
    reset(sock)


def raw_text(sock):
    opened(sock)
    sock.recv(65536)
    sock.sendall(b"Hello")


HOSTILE = [
    answer_html, answer_a_page, answer_in_lf, answer_in_latin_1,
    say_more_and_more, dribble, flood_texts, flood_pings, flood_megabytes,
    flood_one_frame, garbage, huge_length, not_utf8, wrong_close,
    strange_close, never_read, reset_it, open_and_reset, raw_text,
    lambda sock: None,
]  # fmt: skip


class Hostile(Verdicts):
    def test_each_is_told_in_words_and_in_time(self):
        for act in HOSTILE:
            with self.subTest(act.__name__):
                result = STARTED[act].result()
                self.assertFalse(result.passed)
                self.assertLess(result.seconds, DEADLINE)
                self.assert_readable(result)

    def test_one_that_ends(self):
        with acting(answer_html) as port:
            address = Address("127.0.0.1", port, "/")
            first = check.reach(address, SHORT)
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))  # nobody listens there
            room = Room(
                address._replace(port=other.getsockname()[1]), 1, SHORT, first
            )
            result = check.go_through(2, room)
            room.leave()
        self.assertFalse(result.passed)
        with acting(answer_a_page) as port:
            listening = check_all(port, stages=[1], patience=0.3)
        self.assertIn("200", listening[0].failure.got)


@contextlib.contextmanager
def acting(act):
    """Serve each connection by a function of its socket; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):  # the end
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=one, args=[sock], daemon=True).start()

    def one(sock):
        with sock, contextlib.suppress(OSError):
            sock.settimeout(DEADLINE)
            act(sock)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):  # wakes accept() everywhere
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE)


# ---- the program ------------------------------------------------------------


def typed(*arguments):
    """Return what one types here to run Python with these arguments."""
    command = [sys.executable, *arguments]
    return (subprocess.list2cmdline if WINDOWS else shlex.join)(command)


class Commands(unittest.TestCase):
    def test_wrong_ones_cost_one_line(self):
        for arguments in (
            [],
            ["http://127.0.0.1/"],
            ["ws://"],
            ["ws://a..b/"],
            ["ws://127.0.0.1:99999/"],
            ["ws://127.0.0.1:x/"],
            ["ws://[::1/"],
            ["ws://127.0.0.1/\xe4"],
            ["wss://127.0.0.1/"],
            ["ws://127.0.0.1/", "--stage", "0"],
            ["ws://127.0.0.1/", "--stage", "11"],
            ["ws://127.0.0.1/", "--seed", "x"],
            ["ws://127.0.0.1/", "ws://127.0.0.1/"],
            ["--run", "python mine.py"],
            ["--run", ""],
            ["--run", "no-such-program {port}"],
            ["--run", "'{port}"],
            ["--nonsense" + "e" * 99],
        ):
            with self.subTest(arguments):
                status, printed, errors = run(*arguments)
                self.assertEqual((status, printed), (2, ""))
                self.assertRegex(errors, r"\Acheck: [ -~]{9,71}\n\Z")

    def test_nobody_is_there(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            url = f"ws://127.0.0.1:{sock.getsockname()[1]}/"
            status, printed, errors = run(url)
            self.assertEqual((status, printed), (2, ""))
            self.assertEqual(errors.count("\n"), 1)
            self.assertIn(f"nobody is at {url}", errors)
            with self.assertRaises(NobodyError):
                check.check(url)

    def test_one_stage_and_json(self):
        with serving(make_server("mask")) as running:
            url = f"ws://127.0.0.1:{running.port}/a?b=c"
            status, printed, _ = run(url, "--json", "--seed", "7")
            self.assertEqual(status, 1)
            said = json.loads(printed)
            self.assertEqual(said["address"], url)
            self.assertEqual(said["seed"], 7)
            self.assertFalse(said["passed"])
            passed = [stage["passed"] for stage in said["stages"]]
            self.assertEqual(passed, [True, True, False])
            failure = said["stages"][2]["failure"]
            self.assertEqual(failure["rule"], "s5.1: a server must not mask")
            status, printed, _ = run(url, "--stage", "2")
            self.assertEqual(status, 0)
            self.assertEqual(len(re.findall(r" ok ", printed)), 1)

    def test_all_goes_on(self):
        with serving(make_server("drop")) as running:
            results = check_all(running.port, go_on=True, patience=SHORT)
        failed = [result.stage for result in results if not result.passed]
        self.assertEqual(failed, [7, 8])
        self.assertEqual(len(results), len(STAGES))

    def test_the_same_seed_sends_the_same_bytes(self):
        def sent():
            with serving(make_server("php")) as running:
                results = check_all(running.port, stages=[4], patience=SHORT)
                return results[0].failure.sent

        self.assertEqual(sent(), sent())

    def test_what_is_shown(self):
        with serving(make_server("mask")) as running:
            url = f"ws://127.0.0.1:{running.port}/"
            status, printed, errors = run(url, "--stage", "3", "--seed", "5")
        self.assertEqual((status, errors), (1, ""))
        self.assertEqual(printed.split("\n")[3:], MASK.split("\n"))

    def test_the_cuts_are_marked(self):
        with serving(make_server(keeps_nothing)) as running:
            result = check_all(running.port, stages=[5], patience=0.3)[0]
        self.assertIn("18 bytes in 2 pieces; | is a cut", result.text)
        self.assertRegex(result.text, r"\n  00[0-9a-f ]+\|[0-9a-f]{2} ")

    def test_a_program_is_started_and_ended(self):
        status, printed, errors = run(
            "--run", typed("server.py", "{port}"), "--stage", "1"
        )
        self.assertEqual((status, errors), (0, ""), printed)
        address = check.parse_address(printed.split(" ")[0])
        with self.assertRaises(NobodyError):
            check.reach(address, SHORT)

    def test_a_program_that_ends_at_once(self):
        command = typed("-c", "1/0", "{port}")
        status, printed, errors = run("--run", command)
        self.assertEqual((status, printed), (2, ""))
        self.assertIn("the server has ended, with exit status 1\n", errors)
        self.assertIn("  ZeroDivisionError: division by zero\n", errors)

    def test_a_program_that_ends_later(self):
        command = typed("-c", ENDS_LATER, "{port}")
        status, printed, errors = run("--run", command)
        self.assertEqual((status, errors), (1, ""))
        self.assertIn("the server has ended, with exit status 3\n", printed)
        self.assertIn("  that was too much\n", printed)

    def test_a_port_that_is_taken(self):
        with serving(make_server(None)) as running:
            url = f"ws://127.0.0.1:{running.port}/"
            command = typed("server.py")
            status, _, errors = run(url, "--run", command)
        self.assertEqual(status, 2)
        self.assertIn("is taken by another server", errors)

    def test_a_reader_that_has_gone(self):
        with serving(make_server(None)) as running:
            process = subprocess.Popen(
                [sys.executable, "-m", "lessons.check",
                 f"ws://127.0.0.1:{running.port}/", "--all"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
            )  # fmt: skip
            with process:
                process.stdout.close()
                errors = process.stderr.read()
            self.assertEqual((process.returncode, errors), (1, b""))


def keeps_nothing(house):
    """Throw away a read that is shorter than what is sent."""
    feed = house.Decoder.feed
    house.Decoder.feed = lambda self, data: (
        iter(()) if len(data) < 18 else feed(self, data)
    )


MASK = """\
Stage 3: One short frame comes back.
  NO      the RFC's own frame (s5.7), "Hello", comes back

sent      11 bytes in one piece
  0000  81                      FIN 1, RSV 0, opcode 1 TEXT
  0001  85                      MASK 1, length 5
  0002  37 fa 21 3d             masking key, 4 bytes
  0006  7f 9f 4d 51 58          5 bytes, "Hello"
expected  a text of 5 bytes, "Hello"
got       a frame that breaks a rule
  0000  81                      FIN 1, RSV 0, opcode 1 TEXT
  0001  85                      MASK 1 (masked), length 5
  0002  00 00 00 00             masking key, 4 bytes
  0006  48 65 6c 6c 6f          5 bytes, "Hello"
rule      RFC 6455 s5.1: a server must not mask
think     Which side masks its frames, and why only that one?
read      codec.py: encode_header(), encode_message()
          https://www.rfc-editor.org/rfc/rfc6455#section-5.1
again     with --stage 3 --seed 5
"""
ENDS_LATER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
listener.accept()[0].recv(1)
print("that was too much")
sys.exit(3)
"""


if __name__ == "__main__":
    unittest.main()
