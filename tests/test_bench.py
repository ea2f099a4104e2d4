"""The benchmark's parts: it must notice what goes wrong. No times here."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import unittest
import xml.dom.minidom
from concurrent.futures import ThreadPoolExecutor

import codec
from tests import bench

SCENE = bench.Scene("test", 2, 1, 2)


def faulty_relay(spoil):
    """Relay for two users; spoil(block, n) changes what user n gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        users = [listener.accept()[0] for _ in range(2)]
        listener.close()
        try:
            for user in users:
                user.sendall(bench.WELCOME)
            while True:
                block = users[0].recv(65536)
                if not block:
                    break
                for number, user in enumerate(users):
                    user.sendall(spoil(block, number))
        except OSError:
            pass
        for user in users:
            user.close()

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


def play(spoil):
    """Play SCENE with a faulty relay; return the Load."""
    whom = bench.Contender("faulty", (), websocket=False)
    with bench.Load(SCENE, faulty_relay(spoil), whom) as load:
        load.begin()
        load.run(0.05)
        load.drain()
        return load


class TestLoad(unittest.TestCase):
    def test_hears_all(self):
        load = play(lambda block, number: block)
        self.assertGreater(load.counts[0], 2)
        self.assertTrue(load.latencies)

    def test_notices_what_is_wrong(self):
        size = load_frame_size()
        faults = {
            "a changed byte": lambda b, n: b[:40] + b"?" + b[41:],
            "changed for one user": lambda b, n: b[: -1 - n] + b[-1:] * (1 + n),
            "swapped": lambda b, n: b[size:] + b[:size],
            "doubled": lambda b, n: b[:size] + b,
            "lost": lambda b, n: b[size:],
            "something else": lambda b, n: b"\x89\x00" + b,
            "hung up": hang_up,
        }
        patience, bench.PATIENCE = bench.PATIENCE, 0.3
        self.addCleanup(setattr, bench, "PATIENCE", patience)
        for name, fault in faults.items():
            with self.subTest(name), self.assertRaises(bench.BenchError):
                play(fault)

    def test_frames_are_the_codecs(self):
        for size in (64, 200, 2**17):
            payload = bench.payload(1, 2, size)
            if 125 < size < 2**16:
                payload = b"x" * size
            message = payload.decode() if size < 2**16 else payload
            for key in (b"", b"\x01\x02\x03\x04"):
                with self.subTest(size=size, key=key):
                    self.assertEqual(
                        bench.frame(payload, key),
                        codec.encode_message(message, key),
                    )


def hang_up(block, number):
    """Fail for the second user."""
    if number:
        raise OSError
    return block


def load_frame_size():
    return len(bench.frame(bench.payload(0, 0, SCENE.size)))


def run_bench(*arguments):
    return subprocess.run(
        [sys.executable, str(bench.HERE), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def play_scene(scene):
    return run_bench(f"--scene={scene}", "--seconds=0.05", "--rounds=1")


class TestOutput(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scenes = "echo", "chat"
        with ThreadPoolExecutor() as pool:  # Each waits most of the time.
            cls.done = dict(zip(scenes, pool.map(play_scene, scenes)))

    def test_table(self):
        done = self.done["echo"]
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        names = [line.split()[1] for line in done.stdout.splitlines()]
        self.assertEqual(names, ["server", "relay", "server.py"])

    def test_the_room_in_its_own_messages(self):
        done = self.done["chat"]
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for line in done.stdout.splitlines():
            self.assertLess(len(line), 80)

    def test_bad_server_is_one_line(self):
        done = run_bench("--server", "server")
        self.assertEqual(done.returncode, 2)
        self.assertIn("{port} is missing", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)

    def test_bad_server_is_an_error(self):
        for words, why in (
            (("nowhere", "{port}"), "cannot run nowhere"),
            (
                (sys.executable, "-c", "raise SystemExit(3)", "{port}"),
                "status 3",
            ),
        ):
            with self.subTest(why), self.assertRaisesRegex(
                bench.BenchError, why
            ):
                bench.measure(bench.Contender("bad", words), SCENE, 0.05)

    def test_drawing_is_xml(self):
        curve = [5.0 + n for n in range(len(bench.PLOT_USERS))]
        drawing = bench.draw({"relay": curve, "server.py": curve})
        root = xml.dom.minidom.parseString(drawing).documentElement
        self.assertEqual(root.tagName, "svg")


if __name__ == "__main__":
    unittest.main()
