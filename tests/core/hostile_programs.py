"""Programs that want out, on, or more than is theirs. None of them defines `answer()` rightly, so none may pass its test.

Before each stand the names MARK (in every file and argument they leave), PARENT and ZYGOTE (process numbers), PORT and SOCKET
(where the test listens), SECRET and CANARY (files of the test). One that gets what it must not get prints ESCAPED.
"""

from __future__ import annotations

TESTS = "assert answer() == 42, 'wrong answer'"

# name -> (statuses that are right, program)
HOSTILE: dict[str, tuple[str, str]] = {
    # --- to use up
    "fork bomb": (
        "timeout",
        """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    ),
    "thread bomb": (
        "failed timeout memory",
        """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
""",
    ),
    "memory": ("memory", "x = [0] * 10**10"),
    "memory bit by bit": (
        "memory",
        """
x = []
while True:
    x.append(bytearray(1 << 22))
""",
    ),
    "memory that is never given up": (
        "timeout memory",
        """
x, size = [], 1 << 24
while True:
    try:
        x.append(bytearray(size))
    except MemoryError:
        size = max(1, size // 2)
""",
    ),
    "endless loop": ("timeout", "while True:\n    pass"),
    "endless loop that catches all": (
        "timeout",
        """
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
""",
    ),
    "endless loop in C": ("timeout memory", "x = 9 ** 9 ** 9"),
    "endless regular expression": ("timeout", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')"),
    "sleep": ("timeout", "import time\ntime.sleep(3600)"),
    "reading a fifo": ("timeout", "import os\nos.mkfifo('fifo')\nopen('fifo').read()"),
    "reading stdin": ("failed", "input()"),
    "a gigabyte of output": (
        "output timeout",
        """
import sys
for _ in range(1024):
    sys.stdout.write("a" * (1 << 20))
""",
    ),
    "a gigabyte of errors": (
        "output timeout",
        """
import os
while True:
    os.write(2, b"a" * 65536)
""",
    ),
    "huge file": (
        "failed",
        """
with open("huge", "wb") as stream:
    for _ in range(4096):
        stream.write(bytes(1 << 20))
""",
    ),
    "sparse file": ("failed", "with open('sparse', 'wb') as stream:\n    stream.truncate(1 << 40)"),
    "many files": (
        "failed timeout",
        """
i = 0
while True:
    i += 1
    with open(f"file{i}", "w") as stream:
        stream.write("x" * 4096)
""",
    ),
    "many open files": ("failed", "x = [open('/dev/null') for _ in range(100000)]"),
    "deep recursion": ("crashed failed memory timeout", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()"),
    "deep json": ("crashed failed memory timeout", "import json\njson.loads('[' * 10**6)"),
    "deep source": ("failed memory crashed", "x = " + "(" * 5000 + ")" * 5000),
    "deep repr": (
        "crashed failed memory timeout",
        """
import sys
sys.setrecursionlimit(10**6)
x = []
for _ in range(10**6):
    x = [x]
repr(x)
""",
    ),
    # --- to leave before the tests
    "os._exit": ("exited", "import os\nos._exit(0)"),
    "sys.exit": ("failed", "import sys\nsys.exit(0)"),
    "SystemExit in the tests": ("failed", "def answer():\n    raise SystemExit(0)"),
    "KeyboardInterrupt": ("failed", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(5)"),
    "abort": ("crashed", "import os\nos.abort()"),
    "null pointer": ("crashed", "import ctypes\nctypes.string_at(0)"),
    "SIGKILL": ("crashed", "import os\nos.kill(os.getpid(), 9)"),
    "SIGSTOP": ("timeout", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    "all signals ignored": (
        "timeout",
        """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
    ),
    "exec of true": ("exited", "import os\nos.execv('/bin/true', ['true'])"),
    "exec of an interpreter": (
        "exited",
        """
import os, sys
os.execv(sys.executable, [sys.executable, "-c", "import os; os.write(1, b'P'); print('passed')", MARK])
""",
    ),
    "atexit": ("failed", "import atexit, os\natexit.register(os._exit, 0)\natexit.register(print, 'passed')"),
    # --- to be taken for right
    "printed verdicts": (
        "failed",
        """
import os
for text in ("passed", "P", '{"status": "passed"}', "\\0" * 32 + "P", "ok", "1"):
    print(text, flush=True)
    os.write(2, text.encode())
""",
    ),
    "written to every descriptor": (
        "failed exited",
        """
import os
for end in range(3, 64):
    for text in (b"P", b"passed", b'{"status": "passed"}'):
        try:
            os.write(end, text)
        except OSError:
            pass
os._exit(0)
""",
    ),
    "a guessed nonce": (
        "failed exited",
        """
import os, secrets
for end in range(3, 64):
    try:
        os.write(end, secrets.token_hex(16).encode() + b"P")
    except OSError:
        pass
os._exit(0)
""",
    ),
    "a nonce searched in descriptors, frames and objects": (
        "failed exited",
        """
import gc, os, re, sys, threading
found = []
for end in range(3, 64):
    try:
        os.set_blocking(end, False)
        found.append(os.read(end, 1 << 16))
    except OSError:
        pass
seen = set()
def look(x, depth):
    if id(x) in seen or depth > 4:
        return
    seen.add(id(x))
    if isinstance(x, (bytes, str)) and len(x) < 4096:
        found.append(x if isinstance(x, bytes) else x.encode(errors="replace"))
    for y in gc.get_referents(x):
        look(y, depth + 1)
frame = sys._getframe()
while frame:
    look([frame.f_locals, frame.f_globals], 0)
    frame = frame.f_back
sys.setrecursionlimit(10000)
for x in gc.get_objects():
    if isinstance(x, (dict, list, tuple)) and len(x) < 1000:
        look(x, 3)
for nonce in {m for x in found for m in re.findall(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", x)}:
    for end in range(3, 64):
        try:
            os.write(end, nonce + b"P")
        except OSError:
            pass
os._exit(0)
""",
    ),
    "results closed": ("exited", "import os\nos.closerange(0, 4096)"),
    "results closed and replaced": (
        "exited failed",
        """
import os
os.closerange(3, 4096)
ends = [os.open("/dev/null", os.O_RDWR) for _ in range(40)]
""",
    ),
    "a fork that speaks for its parent": (
        "timeout exited failed",
        """
import os, time
if os.fork():
    time.sleep(3600)
def answer():
    return 42
""",
    ),
    "patched builtins": (
        "failed",
        """
import builtins
def nothing(*_, **__):
    return None
for name in ("exec", "compile", "AssertionError", "BaseException", "Exception", "len", "isinstance", "print", "type", "str"):
    setattr(builtins, name, nothing)
del builtins.__build_class__
__builtins__ = {}
def answer():
    return 41
""",
    ),
    "patched modules": (
        "failed exited",
        """
import json, os, pickle, sys, traceback, types
json.dumps = pickle.dumps = lambda *_, **__: b'{"status": "passed"}'
os._exit = sys.exit = os.write = lambda *_: 0
traceback.print_exception = types.ModuleType = None
sys.stdout = sys.stderr = None
sys.modules.clear()
""",
    ),
    "trace functions": (
        "failed",
        """
import sys
def skip(frame, event, _):
    frame.f_trace_lines = True
    return skip
try:
    sys._getframe(1).f_trace = skip
    sys.settrace(skip)
    print("ESCAPED")
except RuntimeError:
    pass
try:
    sys.setprofile(skip)
    print("ESCAPED")
except RuntimeError:
    pass
""",
    ),
    "an error that cannot be shown": (
        "failed",
        """
class Odd(Exception):
    def __str__(self):
        raise SystemExit(0)
    __repr__ = __str__
raise Odd
""",
    ),
    "an error that never ends": (
        "timeout",
        """
class Odd(Exception):
    def __str__(self):
        while True:
            pass
raise Odd
""",
    ),
    # --- to reach others
    "kill its parent and all": (
        "timeout exited failed crashed",
        """
import os, signal
for target in (os.getppid(), 1, -1, ZYGOTE, PARENT):
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(target, number)
        except OSError:
            pass
""",
    ),
    "ptrace": (
        "failed",
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for target in (os.getppid(), 1, ZYGOTE, PARENT):
    if libc.ptrace(16, target, None, None) == 0:
        print("ESCAPED")
""",
    ),
    "another's memory": (
        "failed",
        """
for target in ("self", PARENT, ZYGOTE, 1):
    for name in ("environ", "maps", "mem", "fd", "cwd/pyproject.toml", "root/etc/hostname"):
        try:
            with open(f"/proc/{target}/{name}", "rb") as stream:
                if target != "self":
                    print("ESCAPED", name, stream.read(1000))
        except OSError:
            pass
""",
    ),
    "the environment of the parent": (
        "failed",
        """
import os
for target in ("self", PARENT, ZYGOTE, os.getppid()):
    try:
        with open(f"/proc/{target}/environ", "rb") as stream:
            print(stream.read())
    except OSError:
        pass
print(dict(os.environ))
""",
    ),
    "limits of others": (
        "failed",
        """
import os, resource
for target in (os.getppid(), ZYGOTE, PARENT):
    try:
        resource.prlimit(target, resource.RLIMIT_CPU, (1, 1))
        print("ESCAPED")
    except (OSError, ValueError):
        pass
""",
    ),
    "higher limits": (
        "failed",
        """
import resource
for name in ("AS", "NPROC", "FSIZE", "CPU", "NOFILE"):
    try:
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print("ESCAPED", name)
    except (OSError, ValueError):
        pass
""",
    ),
    "another user": (
        "failed",
        """
import os
for call in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0), lambda: os.chroot(".")):
    try:
        call()
        print("ESCAPED")
    except OSError:
        pass
""",
    ),
    "namespaces of its own": (
        "failed",
        """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for flags in (0x10000000, 0x00020000, 0x20000000, 0x40000000):
    if libc.unshare(flags) == 0:
        print("ESCAPED", hex(flags))
if libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0 or libc.umount2(b"/tmp", 2) == 0:
    print("ESCAPED")
""",
    ),
    # --- to leave something behind
    "zombies": (
        "failed",
        """
import os
for _ in range(4):
    if os.fork() == 0:
        os._exit(0)
""",
    ),
    "a daemon": (
        "failed",
        """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid() if False else None
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(3600)", MARK])
    os._exit(0)
""",
    ),
    "a child that holds the output": (
        "failed",
        """
import os, time
if os.fork() == 0:
    try:
        os.setsid()
    except OSError:
        pass
    time.sleep(3600)
""",
    ),
    "a child that hops from process to process": (
        "failed",
        """
import os
if os.fork() == 0:
    while True:
        try:
            if os.fork():
                os._exit(0)
            os.setsid()
        except OSError:
            pass
""",
    ),
    "threads that stay": (
        "failed timeout",
        """
import threading
def work():
    while True:
        pass
for _ in range(3):
    threading.Thread(target=work).start()
""",
    ),
    "files outside": (
        "failed",
        """
import os
home, test = os.path.expanduser("~"), os.path.dirname(CANARY)
for folder in ("/tmp/..", "/", "/tmp", "/var/tmp", "/etc", "/usr/lib", "/dev/shm", home, test, "."):
    try:
        with open(f"{folder}/{MARK}", "w") as stream:
            stream.write("here")
    except OSError:
        pass
for path in (CANARY, os.__file__, "/etc/passwd"):
    try:
        with open(path, "a") as stream:
            print("ESCAPED", path)
    except OSError:
        pass
""",
    ),
    "reading what is not its own": (
        "failed",
        """
for path in (SECRET, "/etc/shadow", "/proc/1/environ"):
    try:
        with open(path) as stream:
            print("ESCAPED", path, stream.read(100))
    except OSError:
        pass
""",
    ),
    "symbolic links": (
        "failed",
        """
import os
for i, path in enumerate((CANARY, SECRET, os.path.dirname(CANARY))):
    os.symlink(path, f"link{i}")
for path in ("link0", "link1", f"link2/{MARK}"):
    try:
        with open(path, "a") as stream:
            stream.write("here")
        print("ESCAPED", path)
    except OSError:
        pass
""",
    ),
    "hard links": (
        "failed",
        """
import os
for path in (CANARY, SECRET, os.__file__):
    try:
        os.link(path, "hard")
        print("ESCAPED", path)
    except OSError:
        pass
""",
    ),
    "a folder that nobody may enter": (
        "failed",
        """
import os
os.makedirs("a/b/c")
open("a/b/file", "w").close()
os.symlink("/", "a/b/link")
for path in ("a/b/c", "a/b", "a", "."):
    os.chmod(path, 0)
""",
    ),
    "deep folders": (
        "failed",
        """
import os
for _ in range(300):
    os.mkdir("d" * 50)
    os.chdir("d" * 50)
""",
    ),
    "shared memory": (
        "failed",
        """
import ctypes, os
libc = ctypes.CDLL(None)
libc.shmget(0x7E57AB1E, 4096, 0o1666)
try:
    with open(f"/dev/shm/{MARK}", "w") as stream:
        stream.write("x")
except OSError:
    pass
""",
    ),
    # --- the network
    "connecting": (
        "failed",
        """
import socket
for kind in (socket.AF_INET, socket.AF_INET6):
    try:
        one = socket.socket(kind, socket.SOCK_STREAM)
        one.settimeout(1)
        one.connect(("127.0.0.1" if kind == socket.AF_INET else "::1", PORT))
        print("ESCAPED")
    except OSError:
        pass
try:
    one = socket.socket(socket.AF_UNIX)
    one.connect("\\0" + SOCKET)
    print("ESCAPED")
except OSError:
    pass
""",
    ),
    "listening and sending": (
        "failed",
        """
import socket
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9))
    print("ESCAPED")
except OSError:
    pass
try:
    one = socket.socket()
    one.bind(("0.0.0.0", 0))
    one.listen()
except OSError:
    pass
try:
    socket.gethostbyname("example.org")
    print("ESCAPED")
except OSError:
    pass
""",
    ),
    "raw sockets": (
        "failed",
        """
import socket
for kind in (socket.SOCK_RAW, socket.SOCK_PACKET if hasattr(socket, "SOCK_PACKET") else socket.SOCK_RAW):
    try:
        socket.socket(socket.AF_INET, kind, 1)
        print("ESCAPED")
    except OSError:
        pass
""",
    ),
}
