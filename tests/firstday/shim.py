"""A program on the PATH that lets the day's process run a command which it has loaded already: `keyfront`, `aws`.

    python shim.py SOCKET PROGRAM ARGUMENT…

It passes on its arguments, environment, working folder, and standard streams, and exits as the command does.
"""

import json
import os
import socket
import sys

address, *words = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as day:
    day.connect(address)
    call = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(day, [len(call).to_bytes(4, "big")], [0, 1, 2])
    day.sendall(call)
    status = day.recv(1)
sys.exit(status[0] if status else 1)
