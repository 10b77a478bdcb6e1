"""Commands in forks of one process that has imported everything: torch, diffusers and the like take seconds each time.

    python -m studies.warm serve PARENT ADDRESS MODULE ...   # imports the modules, then runs what it is asked for
    python -m studies.warm -f FILE                           # a Jupyter kernel, as of `python -m ipykernel_launcher`

`publish.reproduce` starts one and names its address, a Unix socket, in the environment of the stages. A command that
finds the address there sends its arguments, folder, environment and open files, and waits for an exit code. Where there
is no address, or nobody answers, it runs as it always does.
"""

import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress

ADDRESS = "TUNE_A_VIDEO_WARM"  # of the environment
KERNEL = "ipykernel"
LONGEST = 1 << 20  # bytes of a request: an environment is some thousand
_in_fork = False


def ask(package: str, arguments: Sequence[str]) -> int | None:
    """Has the warm process run `python -m package arguments`; returns its exit code, None if nobody is there to do it.

    The command ends when this process does, and when the one that started this process does.
    """
    address = os.environ.get(ADDRESS)
    if not address or _in_fork:
        return None
    request = {"package": package, "arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)}
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
            connection.shutdown(socket.SHUT_WR)
            while not select.select([connection], [], [], 1)[0]:
                if os.getppid() != parent:
                    return 128 + signal.SIGHUP
            answer = connection.recv(16)
        except OSError:  # it went before it took the request
            return None
    return int(answer) if answer else 128 + signal.SIGKILL


def serve(parent: int, address: str, modules: Sequence[str]) -> None:
    """Imports the modules and answers at `address` while the process `parent`, which started this one, lives."""
    global _in_fork
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()  # who asks before everything is imported waits
        for module in modules:
            importlib.import_module(module)
        _in_fork = True
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks are not waited for
        while os.getppid() == parent:
            if not select.select([server], [], [], 1)[0]:
                continue
            connection, _ = server.accept()
            with connection:
                if not os.fork():
                    server.close()
                    _leave(lambda connection=connection: _answer(connection))


def _answer(connection: socket.socket) -> int:
    """Runs what is asked for in a fork, in a process group of its own that ends when nobody waits for it any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files, _, _ = socket.recv_fds(connection, LONGEST, 3)
    while part := connection.recv(LONGEST):
        request += part
    worker = os.fork()
    if not worker:
        connection.close()
        _leave(lambda: _work(json.loads(request), files))
    ended = os.pidfd_open(worker)
    watch = select.poll()
    watch.register(ended, select.POLLIN)
    watch.register(connection, 0)  # that it was closed is always told
    while ended not in (told := dict(watch.poll())):
        if told:
            for kill in (os.kill, os.killpg):  # it may not have its group yet
                with suppress(ProcessLookupError):
                    kill(worker, signal.SIGKILL)
            watch.unregister(connection)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with suppress(OSError):  # nobody waits any more
        connection.send(str(code if code >= 0 else 128 - code).encode())
    return 0


def _work(request: dict, files: list[int]) -> int:
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["package"], *request["arguments"]]
    if request["package"] == KERNEL:
        if pandas := sys.modules.get("pandas"):
            pandas.set_option("display.max_columns", 20)  # its default if it is imported in a kernel
        importlib.import_module("ipykernel.kernelapp").launch_new_instance()
        return 0
    main = importlib.import_module(f"{request['package']}.__main__").main
    return importlib.import_module("tav.interrupt").run(lambda: main(request["arguments"]))


def _leave(work: Callable[[], int]) -> None:
    """Ends a fork with the exit code that `work` returns, whatever happens in it."""
    code = 1
    try:
        code = work()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def main(arguments: list[str]) -> int:
    if arguments[0] == "serve":
        serve(int(arguments[1]), arguments[2], arguments[3:])
        return 0
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Jupyter interrupts every kernel before it shuts it down
    code = ask(KERNEL, arguments)
    if code is None:
        signal.signal(signal.SIGINT, before)
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments])
    return code


if __name__ == "__main__":
    from studies import warm  # as itself: what serves is what commands find

    sys.exit(warm.main(sys.argv[1:]))
